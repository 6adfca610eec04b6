"""One JSON object of columns, as pandas writes a table: {"text": [...], "label": [...]}.

Columns are lists, or objects by the number of the row; also {"columns": [...], "data": [[...]]},
and an object of rows by their names. What stands in it comes to light at its end alone, so that a
file of this form is held in memory as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from unrolled.core.errors import DataError
from unrolled.data.formats.base import DataFile, FileFormat, Head, Row, Sniffed
from unrolled.data.formats.json_array import is_one_object
from unrolled.data.formats.jsonl import ObjectRows
from unrolled.data.json_values import composed, flattened
from unrolled.data.lines import Report

_LARGEST = 1 << 28  # bytes that are read at once
_BEGINNING = re.compile(r'\s*\{\s*"[^"]*"\s*:')


class JsonColumnsFormat(ObjectRows, FileFormat):
    """A table by its columns. Errors name the row, counted from 1, since lines tell nothing."""

    kind = "json_columns"
    title = "JSON columns"

    def sniff(self, head: Head) -> Sniffed | None:
        if not _BEGINNING.match(head.start) or not is_one_object(head):
            return None
        rows = _rows(_load(head.origin))
        if rows is None:
            return None
        columns: dict[str, None] = {}
        for row in rows:
            columns.update(dict.fromkeys(row))
        return Sniffed(replace(head.packed, kind=self.kind), list(columns))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        rows = _rows(_load(file.origin)) or []
        for number, row in enumerate(rows, 1):
            yield number, tuple(row.get(column) for column in file.columns)


def _load(origin: Any) -> Any:
    """Return what a file holds; None where it is no JSON, which other formats say better."""
    with origin.open() as raw:
        content = raw.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise DataError(
            f"a JSON object of more than {_LARGEST >> 20} MB would be held in memory as a whole; "
            "write one object a line",
            origin.name,
        )
    try:
        return composed(json.loads(content))
    except (ValueError, RecursionError):
        return None


def _are_objects(value: Any) -> bool:
    """Return whether a value is a list of several objects, as the rows of a table are."""
    several = isinstance(value, list) and len(value) > 1
    return several and all(isinstance(row, dict) for row in value)


def _rows(value: Any) -> list[dict[str, Any]] | None:
    """Return the rows of an object of columns, of rows, or of names and rows; None for another."""
    if not isinstance(value, dict) or not value:
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        names = list(map(str, value["columns"]))
        return [dict(zip(names, row, strict=False)) for row in value["data"]]
    columns = list(value.values())
    tables = [column for column in columns if _are_objects(column)]
    if len(tables) == 1:
        return [flattened(row) for row in tables[0]]
    if all(isinstance(column, list) for column in columns):
        if len(set(map(len, columns))) > 1 or len(columns[0]) < 2:
            return None
        return [
            dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)
        ]
    if not all(isinstance(column, dict) and column for column in columns):
        return None
    keys = list(columns[0])
    if any(list(column) != keys for column in columns):
        return None
    if all(key.isdigit() for key in keys):
        return [{name: value[name][key] for name in value} for key in keys]
    return [flattened(row) for row in columns]
