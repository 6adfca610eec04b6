"""JSON lines: one object a line, each with the same keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from unrolled.core.errors import DataError, UsageError, UserError, shown
from unrolled.data.formats.base import (
    DataFile,
    FileFormat,
    Format,
    Head,
    Row,
    RowFormat,
    Sniffed,
)
from unrolled.data.json_values import json_object, json_rows, keys_of, without_comma
from unrolled.data.lines import Report, numbered_lines

_SNIFFED_LINES = 50  # lines that tell


class ObjectRows(RowFormat):
    """Rows that are written as JSON objects when they stand by themselves."""

    objects = True

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[Any, ...]:
        try:
            cells = json_object(line)
        except UserError as error:
            raise UsageError(f"row {shown(line)}: {error}") from None
        return tuple(cells.get(column) for column in columns)


class JsonLinesFormat(ObjectRows, FileFormat):
    kind = "jsonl"
    title = "JSON lines"
    suffixes = ("jsonl", "ndjson")
    tabular = True

    def sniff(self, head: Head) -> Sniffed | None:
        if not looks_like_jsonl(head.lines):
            return None
        columns, optional = keys_of(head.lines)
        format = replace(head.format, kind=self.kind, optional=optional)
        return Sniffed(format, columns)

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        lines = numbered_lines(file.origin, file.format, report)
        written = ((line, text) for line, text in lines if text.strip())
        yield from json_rows(
            written,
            file.origin,
            file.columns,
            file.needed,
            report,
            file.format.optional,
        )


def looks_like_jsonl(lines: Sequence[str]) -> bool:
    """Return whether most of the lines that are not blank are JSON objects (or were meant to be).

    A line that only starts with a brace and does not parse counts as an error of the file, not as
    text, when the file's other lines are objects.
    """
    written = [line.strip() for line in lines if line.strip()][:_SNIFFED_LINES]
    if not written:
        return False
    objects = sum(_is_object(line) for line in written)
    meant = sum(line.startswith('{"') for line in written)
    return objects > 0 and max(objects, meant) * 2 > len(written)


def _is_object(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(without_comma(line)), dict)
    except (ValueError, RecursionError):
        return False


def refuse_object(head: Head) -> None:
    """Raise DataError where a file is one object over several lines, which holds no rows."""
    if re.match(r"\s*\{\s*\n\s*\"", head.text):
        message = (
            "this is JSON, but neither JSON lines, nor an array of rows, nor an object that holds "
            "one, nor one of columns; write one object a line"
        )
        raise DataError(message, head.name, 1)
