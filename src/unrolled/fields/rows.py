"""Rows of a file that hold what a task reads, and the errors of those that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from unrolled.core.errors import DataError
from unrolled.data.sources import Table
from unrolled.fields.base import InvalidCell, MissingCell, invalid_row

Checked = TypeVar("Checked")
NumberedRow = tuple[int, Sequence[Any]]


class Positions(Protocol):
    """What knows in which file a line is, and on which line there: a table, or its reader."""

    def position(self, line: int) -> tuple[str, int]:
        """Return the file of a line, and the line in it."""
        ...


def numbered(table: Table) -> Iterator[NumberedRow]:
    """Yield each row of a table with its line."""
    return zip(table.lines, table.rows, strict=True)


def valid_rows(
    rows: Iterable[NumberedRow],
    positions: Positions,
    check: Callable[[Sequence[Any]], Checked],
    on_error: str,
    errors: list[DataError],
) -> Iterator[tuple[int, Checked]]:
    """Yield the line of each valid row, and what ``check`` makes of its cells.

    Args:
        rows: lines and cells.
        positions: tells the file of a line.
        check: raises InvalidCell for cells that do not fit.
        on_error: ``stop`` raises the error of the first invalid row, ``skip`` leaves such rows out;
            one that lacks a value and is to be left out for it always is.
        errors: takes the error of each row that is left out.

    Raises:
        DataError: a row is invalid and ``on_error`` is not ``skip``.
    """
    for line, row in rows:
        try:
            checked = check(row)
        except InvalidCell as error:
            row_error = invalid_row(error, *positions.position(line))
            if on_error != "skip" and not isinstance(error, MissingCell):
                raise row_error from None
            errors.append(row_error)
            continue
        yield line, checked
