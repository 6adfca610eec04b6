"""Rows of a file that hold what is read, and the errors of those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import table, write_csv
from unrolled.core.errors import DataError
from unrolled.fields.base import InvalidCell
from unrolled.fields.rows import numbered, valid_rows

ROWS = [("a", 1), ("b", -2), ("c", 3), ("d", -4), ("e", 5)]


def check(row: Sequence[Any]) -> int:
    """Return the number of a row."""
    count = int(row[1])
    if count < 0:
        raise InvalidCell(f"{count} is less than nothing")
    return count


def test_valid_rows_come_with_their_lines_and_the_others_are_kept(
    tmp_path: Path,
) -> None:
    read = table(write_csv(tmp_path / "a.csv", ROWS, ("name", "count")))
    errors: list[DataError] = []
    rows = valid_rows(numbered(read), read, check, "skip", errors)
    assert list(rows) == [(2, 1), (4, 3), (6, 5)]
    assert [error.line for error in errors] == [3, 5]
    assert "a.csv:3: -2 is less than nothing; mend the row" in str(errors[0])


def test_the_first_invalid_row_ends_the_reading_as_it_is_reached(
    tmp_path: Path,
) -> None:
    read = table(write_csv(tmp_path / "a.csv", ROWS, ("name", "count")))
    errors: list[DataError] = []
    rows = valid_rows(numbered(read), read, check, "stop", errors)
    # what stands before is given first
    assert next(rows) == (2, 1)
    with pytest.raises(DataError, match=r"a\.csv:3: -2 is less than nothing"):
        next(rows)
    assert errors == []


def test_an_invalid_row_of_a_folder_names_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    write_csv(folder / "a.csv", ROWS[:1], ("name", "count"))
    write_csv(folder / "b.csv", ROWS[1:3], ("name", "count"))
    read = table(folder)
    errors: list[DataError] = []
    valid = list(valid_rows(numbered(read), read, check, "skip", errors))
    assert [count for _, count in valid] == [1, 3]
    (error,) = errors
    assert (Path(error.path).name, error.line) == ("b.csv", 2)
