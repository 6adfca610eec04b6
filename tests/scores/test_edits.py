"""Edits from the nearest right answer: against the table of Levenshtein, and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.scores.edits import distance, nearest, symbol_error_rate, word_error_rate


def table(first: str, second: str) -> int:
    """Return the distance by the whole table, a cell at a time."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above = row
        row = [i]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@given(st.text("abc", max_size=80), st.text("abc", max_size=80))
@settings(max_examples=400, deadline=None)
def test_the_distance_is_that_of_the_table(first: str, second: str) -> None:
    assert distance(first, second) == distance(second, first) == table(first, second)


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("", "", 0),
        ("flaw", "lawn", 2),
        ("가나", "나", 1),
    ],
)
def test_known_distances(first: str, second: str, edits: int) -> None:
    assert distance(first, second) == edits


def test_lists_are_compared_by_their_symbols() -> None:
    assert distance(["K", "AE1", "T"], ["K", "AA1", "T", "S"]) == 2
    assert distance(["ab"], ["a", "b"]) == 2


def test_long_strings_are_compared_too() -> None:
    first = "ab" * 5_000
    assert distance(first, first[1:] + "x") == 2


def test_the_nearest_right_answer_counts_and_of_equally_near_ones_the_longest() -> None:
    assert nearest("abcd", ["xxxx", "abxd"]) == (1, 4)
    assert nearest("abc", ["ab", "abcd"]) == (1, 4)
    with pytest.raises(ValueError, match="at least one right answer"):
        nearest("abc", [])


def test_error_rates_by_hand() -> None:
    answers = ["color", "katz", "dog", ""]
    references = [["colour", "color"], ["cats"], ["dog"], ["a"]]
    assert word_error_rate(answers, references) == 2 / 4
    # 0 of color's 5, 2 of 4, 0 of 3, 1 of 1
    assert symbol_error_rate(answers, references) == 3 / 13
    assert word_error_rate([["K", "AE"]], [[("K", "AE")]]) == 0
    assert word_error_rate([], []) == symbol_error_rate([], []) == 0
    with pytest.raises(ValueError, match="zip"):
        word_error_rate(["a"], [])
