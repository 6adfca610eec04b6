"""What a column looks like: its kind, whether it counts rows, how labels are spelt."""

from __future__ import annotations

import random
from typing import Any

import pytest

from unrolled.data.columns import Column, counts, label, look, spelling

ROWS = 40
SHUFFLED = random.Random(1).sample(range(900), ROWS)


def cycle(*values: Any) -> list[Any]:
    return [values[row % len(values)] for row in range(ROWS)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([f"1.{row:03d},50 €" for row in range(ROWS)], "number"),
        ([*map(str, range(ROWS - 2)), "NA", "#N/A"], "number"),
        ([*map(str, range(ROWS - 2)), "ten", "-"], "number"),
        ([f"{row}_3" for row in range(ROWS)], None),
        ([f"2021-01-{1 + row % 28:02d}" for row in range(ROWS)], "date"),
        (["", *[f"{1 + row}.2.21" for row in range(28)]], "date"),
        (cycle("Busan", "Seoul", "Jeju"), "category"),
        (cycle("yes", "no", None), "category"),
        (cycle(True, False), "category"),
        ([f"{row} words of a film" for row in range(ROWS)], "text"),
        ([["a"]] * ROWS, "list"),
        ([[0.5, 1]] * ROWS, "frames"),
        ([[[0.5], [1]]] * ROWS, "frames"),
        (["", None], None),
    ],
)
def test_kinds(values: list[Any], kind: str | None) -> None:
    column = look("x", values)
    kinds = {
        "number": column.numeric,
        "date": column.dates,
        "category": column.category,
        "text": column.text and column.words >= 3,
        "list": column.lists and not column.frames,
        "frames": column.frames,
    }
    assert [name for name, is_so in kinds.items() if is_so] == ([kind] if kind else [])


def test_whole_numbers_and_their_marks() -> None:
    assert look("x", ["1", "2.0", "NA"]).whole
    assert not look("x", ["1", "2.5"]).whole
    assert look("x", ["1.234", "0,5"]).decimal == ","
    assert look("x", ["1.234"], ",").decimal == ","
    assert look("x", ["1.234"], ",").whole
    assert not look("x", ["1.234"], ".").whole


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("Unnamed: 0", range(ROWS), True),
        ("Unnamed: 0", SHUFFLED, True),  # rows that were drawn from a table
        ("unnamed_0", range(1, ROWS + 1), True),
        ("level_0", SHUFFLED, True),
        ("column1", range(ROWS), True),
        ("column1", SHUFFLED, False),
        ("", range(ROWS), True),
        ("row_id", range(ROWS), True),
        ("index", [f"{row}.0" for row in range(ROWS)], True),
        ("index", SHUFFLED, False),  # by its name no feature all the same
        ("...1", range(1, ROWS + 1), True),
        ("Unnamed: 0", [f"{row / 2}" for row in range(ROWS)], False),
        ("Unnamed: 0", cycle(0, 1), False),
        ("area", range(ROWS), False),
        ("Unnamed: 0", range(5), True),
        ("column1", range(5), False),  # too few to tell
        ("column1", range(2, ROWS), False),
    ],
)
def test_columns_that_count_rows(name: str, values: Any, expected: bool) -> None:
    assert look(name, list(map(str, values))).row_number is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("id", True), ("User_ID", True), ("label.id", True), ("agent", True)),
        *(("고객", True), (" ticket ", True), ("index", True), ("api_key", True)),
        *(("idea", False), ("label", False), ("humid", False), ("monkey", False)),
    ],
)
def test_names_of_marks_and_people(name: str, expected: bool) -> None:
    assert look(name, cycle("Kim", "Lee")).identity is expected


def test_labels_repeat() -> None:
    def kinds(values: list[Any]) -> Column:
        return look("x", values)

    assert kinds(cycle("a", "b")).labels
    assert kinds(cycle(*range(5))).labels
    assert not kinds(list(range(ROWS))).labels
    assert not kinds(["a"] * ROWS).labels
    assert not kinds(cycle("basic plan of the year")).category


def test_labels_as_text() -> None:
    cells = [True, 1.0, 1, 1.5, None, " pos ", "1.0"]
    assert [label(cell) for cell in cells] == [
        *("true", "1", "1", "1.5", "", "pos", "1.0"),
    ]
    assert counts(["a", "a ", None, 1.0]) == {"a": 2, "(empty)": 1, "1": 1}


@pytest.mark.parametrize(
    "names",
    [
        ["1", "1.0", "+1", "1.", "１"],
        ["-2", "-2.0"],
        ["true", "True", "TRUE", "ＴＲＵＥ"],
        ["False", "false\u200b"],
        ["so la", "so  la", " so\u00a0la", "so la\ufeff"],
        ["café", "cafe\u0301"],
        ["0.50", "0.5"],
    ],
)
def test_labels_that_are_surely_one(names: list[str]) -> None:
    assert len(set(map(spelling, names))) == 1


@pytest.mark.parametrize(
    "names",
    [
        ["pos", "Pos", "POS"],
        ["7", "007", "7_0", "70"],
        ["1", "true", "yes"],
        ["a b", "ab", "a-b"],
        ["1,5", "15", "1.5"],
        ["9007199254740993", "9007199254740992"],
    ],
)
def test_labels_that_may_be_several(names: list[str]) -> None:
    assert len(set(map(spelling, names))) == len(names)
