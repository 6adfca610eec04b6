"""What stands above the rows of a table beside its names: groups of columns, and their units."""

from __future__ import annotations

from collections.abc import Sequence

from unrolled.data.dates import are_dates
from unrolled.data.numbers import MISSING, are_numbers, number
from unrolled.data.sniff import Cells, Rows, find_header
from unrolled.data.units import are_amounts, is_unit

HEADED = 20  # rows among which names are looked for
LONGEST = 40  # characters of a name


def find_units(rows: Rows, width: int) -> int | None:
    """Return which row, below the names, holds units of numbers alone; None where none does."""
    for index in range(1, min(HEADED, len(rows) - 1)):
        body = [row for row in rows[index + 1 :] if len(row) == width]
        even = len(rows[index]) == width == len(rows[index - 1])
        if even and body and _are_units(rows[index], body):
            return index
    return None


def _are_units(cells: Cells, body: Rows) -> bool:
    """Return whether cells are units, which stand over numbers, in brackets or known."""
    columns = list(zip(*body, strict=True))
    pairs = [
        (cell.strip(), column)
        for cell, column in zip(cells, columns, strict=True)
        if cell.strip() not in ("", "-")
    ]
    if not pairs or not all(is_unit(cell) for cell, _ in pairs):
        return False
    over = [are_numbers(column) for cell, column in pairs if cell[0] not in "[("]
    return all(over) and any(are_numbers(column) for _, column in pairs)


def find_groups(rows: Rows, width: int) -> int | None:
    """Return which row holds groups of columns, over a row of their names; None where none does.

    Such a row has names that are repeated or go on over empty cells, as those of Excel's merged
    cells do; the one below it is filled, and stands over numbers or dates.
    """
    for index in range(min(HEADED, len(rows) - 2)):
        groups = [cell.strip() for cell in rows[index]]
        names = [cell.strip() for cell in rows[index + 1]]
        body = [row for row in rows[index + 2 :] if len(row) == width]
        if len(groups) != width or len(names) != width or not body:
            continue
        if _are_groups(groups, names) and _stand_over_numbers(names, body):
            return index
    return None


def _are_groups(groups: Sequence[str], names: Sequence[str]) -> bool:
    filled = [name for name in groups if name]
    known = [name for name in names if name]
    if len(set(filled)) < 2 or set(filled) & set(known) or 2 * len(known) < len(names):
        return False
    if any(not (group or name) for group, name in zip(groups, names, strict=True)):
        return False  # a column without any name
    joined = joined_names(groups, names)
    if len(set(joined)) < len(joined):
        return False
    # of columns without a group only the first ones
    whole = _filled_on(groups)
    repeated = len(set(whole)) < len(whole)
    return repeated and len(set(known)) < len(known)


def _stand_over_numbers(names: Sequence[str], body: Rows) -> bool:
    """Return whether names are no values of the columns below them, some of which are numbers."""
    known = [name for name in names if name]
    if any(number(name) is not None or len(name) > LONGEST for name in known):
        return False
    if any(name.lower() in MISSING for name in known) or are_dates(known[:1]):
        return False
    columns = list(zip(*body, strict=True))
    over = any(are_amounts(column) or are_dates(column) for column in columns)
    return over and find_header([names, *body])


def joined_names(groups: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return one name a column: that of its group, where it has one, and its own."""
    pairs = zip(_filled_on(groups), names, strict=True)
    return [f"{group} {name.strip()}".strip() for group, name in pairs]


def _filled_on(groups: Sequence[str]) -> list[str]:
    """Return groups without empty cells: those behind the first name go on with the one before."""
    filled: list[str] = []
    last = ""
    for group in groups:
        last = group.strip() or last
        filled.append(last)
    return filled
