"""One JSON object of columns, as pandas writes a table: {"text": [...], "label": [...]}.

Columns are lists, or objects by the number of the row; also {"columns": [...], "data": [[...]]},
rows by their names, and rows beside what is said of all of them. What stands in it comes to light
at its end alone, so that a file of this form is held in memory as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from unrolled.core.errors import DataError, UserError
from unrolled.core.files import once
from unrolled.data.archives import Origin
from unrolled.data.formats.base import DataFile, FileFormat, Head, Row, Sniffed
from unrolled.data.formats.json_array import is_one_object
from unrolled.data.formats.jsonl import ObjectRows
from unrolled.data.json_tables import rows_of
from unrolled.data.json_values import composed, flattened
from unrolled.data.lines import Report

_LARGEST = 1 << 28  # bytes that are read at once
_BEGINNING = re.compile(r'\s*\{\s*"[^"]*"\s*:\s*[\[{]')


class JsonColumnsFormat(ObjectRows, FileFormat):
    """A table by its columns. Errors name the row, counted from 1, since lines tell nothing."""

    kind = "json_columns"
    title = "JSON columns"

    def sniff(self, head: Head) -> Sniffed | None:
        if not _BEGINNING.match(head.start) or not is_one_object(head):
            return None
        rows = _rows_of(head.origin, head.packed.encoding)
        if rows is None:
            return None
        columns: dict[str, None] = {}
        for row in rows:
            columns.update(dict.fromkeys(row))
        return Sniffed(replace(head.packed, kind=self.kind), list(columns))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        rows = _rows_of(file.origin, file.format.encoding) or []
        for number, row in enumerate(rows, 1):
            yield number, tuple(row.get(column) for column in file.columns)


def _rows_of(origin: Origin, encoding: str) -> list[dict[str, Any]] | None:
    try:
        rows = rows_of(_load(origin, encoding))
    except UserError as error:
        raise DataError(str(error), origin.name) from None
    return None if rows is None else list(map(flattened, rows))


def _load(origin: Origin, encoding: str) -> Any:
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
        text = content.decode(encoding).removeprefix("\ufeff")
        return composed(json.loads(text, object_pairs_hook=once))
    except (ValueError, RecursionError):
        return None
