"""Lists in the cells of tables, written by Python's and numpy's own formatting."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError, UserError
from unrolled.data.list_cells import read_list
from unrolled.data.schema import ColumnHints, infer

TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(st.lists(st.one_of(TEXTS, st.integers(-999, 999), st.booleans(), st.none())))
def test_lists_as_python_writes_them(values: list[Any]) -> None:
    assert read_list(str(values)) == values


@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=50))
def test_arrays_as_numpy_writes_them(values: list[float]) -> None:
    array = np.array(values)
    text = np.array2string(array, threshold=10**6, floatmode="unique")
    assert read_list(text) == pytest.approx(values)


@given(st.lists(st.from_regex(r"[a-zA-Z'-]{1,6}", fullmatch=True), min_size=2))
def test_arrays_of_words(words: list[str]) -> None:
    assert read_list(str(np.array(words))) == words or len(words) > 1000


@pytest.mark.parametrize(
    "text",
    [
        *("", "[deleted]", "[1, 2", "[1,,2]", "[1 2]]", "[,1]", "['a''b']", "[1.2.3]"),
        *("[{'a': 1}]", "[[[1]]]", "[__import__('os')]", "(1, 2)", "[" * 100_000, "5"),
    ],
)
def test_no_lists(text: str) -> None:
    with pytest.raises(UserError):
        read_list(text)


def test_a_list_that_was_cut_short_is_named() -> None:
    with pytest.raises(UserError, match="cut short"):
        read_list("[0.1 0.2 ... 0.3]")


def write(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_words_and_tags_of_pandas(tmp_path: Path) -> None:
    rows = [
        [["a", "film", "it's"][: n % 3 + 1], [0, 1, 2][: n % 3 + 1]] for n in range(30)
    ]
    path = write(tmp_path / "ner.csv", [["tokens", "ner_tags"], *rows])
    dataset = table(path)
    assert [list(row) for row in dataset.rows] == rows
    schema = infer(dataset, ColumnHints())
    assert (schema.task, schema.text, schema.answer) == ("tag", ("tokens",), "ner_tags")


def test_sequences_of_numbers(tmp_path: Path) -> None:
    rows = [[[n, n + 0.5], "ab"[n % 2]] for n in range(30)]
    path = write(tmp_path / "series.csv", [["values", "label"], *rows])
    schema = infer(table(path), ColumnHints())
    assert (schema.task, schema.numbers, schema.frames) == (
        "classify",
        ("values",),
        True,
    )


def test_lists_of_kinds_stay_texts(tmp_path: Path) -> None:
    rows = [[f"film {n}", ["war", "drama"][: n % 2 + 1], n] for n in range(30)]
    path = write(tmp_path / "films.csv", [["title", "genres", "rating"], *rows])
    assert table(path).rows[0][1] == "['war']"


def test_a_cell_that_is_no_list_is_named_by_its_line(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[[n, 1], "a"] for n in range(30)]
    rows[20][0] = "[1, 2"
    path = write(tmp_path / "broken.csv", [["values", "label"], *rows])
    with pytest.raises(DataError, match=r":22: column 'values' holds lists, but"):
        table(path)
