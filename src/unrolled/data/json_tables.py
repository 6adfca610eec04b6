"""A JSON object of columns, of rows or of both to its rows, as pandas and others write tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unrolled.core.errors import UserError
from unrolled.data.sniff import fields

Rows = list[dict[str, Any]]


def rows_of(value: Any) -> Rows | None:
    """Return the rows of an object of columns, of rows, or of names and rows; None for another.

    Raises:
        UserError: its columns or rows are not equally long.
    """
    if not isinstance(value, dict) or not value:
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _split(list(map(str, value["columns"])), value["data"])
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns):
        return _lists(value)
    inner = [column for column in columns if _are_objects(column)]
    if len(inner) == 1:
        # rows beside what is said of all of them
        return list(inner[0])
    if not all(isinstance(column, dict) and column for column in columns):
        return None
    return rows_of(columns[0]) if len(columns) == 1 else _objects(value)


def _split(names: Sequence[str], rows: Sequence[Any]) -> Rows:
    """Return rows that are lists, by the names of their columns."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            raise UserError(
                f'row {number} of "data" is no list of {fields(len(names))}, as "columns" has; '
                "mend it"
            )
    return [dict(zip(names, row, strict=True)) for row in rows]


def _lists(value: Mapping[str, list[Any]]) -> Rows | None:
    lengths = {name: len(column) for name, column in value.items()}
    if max(lengths.values()) < 2:
        return None
    equal = len(set(lengths.values())) == 1
    inner = [column for column in value.values() if _are_objects(column)]
    if len(inner) == 1 and not (equal and len(value) > 1):
        return list(inner[0])
    if not equal:
        named = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise UserError(f"columns of one table have equally many cells, but {named}")
    return [
        dict(zip(value, cells, strict=True))
        for cells in zip(*value.values(), strict=True)
    ]


def _are_objects(column: Any) -> bool:
    listed = isinstance(column, list) and len(column) > 1
    return listed and all(isinstance(cell, dict) for cell in column)


def _objects(value: Mapping[str, dict[str, Any]]) -> Rows | None:
    """Return the rows of columns by the numbers of rows, or of rows by any names."""
    columns = list(value.values())
    keys: dict[str, None] = {}
    for column in columns:
        keys.update(dict.fromkeys(column))
    counted = all(key.isdigit() for key in keys)
    equal = all(column.keys() == columns[0].keys() for column in columns)
    # a table has more rows than columns
    if counted or (equal and len(keys) > len(columns)):
        return [{name: value[name].get(key) for name in value} for key in keys]
    numbered = all(name.isdigit() for name in value)
    return columns if equal or numbered else None
