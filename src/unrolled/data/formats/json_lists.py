"""Rows that are JSON lists: one a line, or all of them in one list of lists."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from unrolled.core.errors import DataError, UsageError, UserError, shown
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.formats.json_array import array_of, objects
from unrolled.data.formats.table import is_header
from unrolled.data.json_values import json_value, without_comma
from unrolled.data.lines import SKIP_HINT, Report, numbered_lines
from unrolled.data.sniff import fields, usual_width

_SNIFFED_LINES = 200  # that tell whether the first one names the columns
Lines = Iterable[tuple[int, str | None]]


class JsonListsFormat(FileFormat):
    """Lists of cells, such as ["what a film", "good"]."""

    kind = "json_lists"
    title = "JSON lists"
    names_columns = False

    def describe(self, format: Format) -> list[str]:
        return [self.title, "header" if format.header else "no header"]

    def sniff(self, head: Head) -> Sniffed | None:
        if not re.match(r"\s*\[", head.start):
            return None
        if array_of(head) == "[":
            pieces = objects(head.origin, head.packed, "[")
            written = list(itertools.islice(pieces, _SNIFFED_LINES))
        else:
            lines = enumerate(head.lines, 1)
            written = [line for line in lines if line[1].strip()]
        rows = [cells for _, cells in _lists(written, _ignore)]
        if not rows or len(rows) * 2 <= len(written):
            return None
        width, _ = usual_width(rows)
        texts: list[list[str]] = []
        for row in rows[:_SNIFFED_LINES]:
            if len(row) == width:
                texts.append([_text(cell) for cell in row])
        # one row by itself stands over nothing
        able = len(texts) > 1 and len(rows[0]) == width
        named = able and is_header(head, texts)
        format = replace(head.format, kind=self.kind, header=named)
        if named:
            return Sniffed(format, texts[0])
        numbers = range(1, width + 1)
        return Sniffed(format, [f"column{number}" for number in numbers])

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        lines: Lines = numbered_lines(file.origin, file.format, report)
        if array_of(Head(file.origin, file.format.encoding)) == "[":
            lines = objects(file.origin, file.format, "[")
        width = len(file.columns)

        def refuse(line: int, why: str) -> None:
            message = f"{why}, {SKIP_HINT}"
            report(DataError(message, file.name, line))

        rows = _lists(lines, refuse)
        if file.format.header:
            next(rows, None)
        for line, cells in rows:
            within = [isinstance(cell, dict) for cell in cells]
            if len(cells) != width:
                refuse(line, f"expected {fields(width)}, found {len(cells)}")
            elif any(within):
                name = file.columns[within.index(True)]
                refuse(line, f"{name} holds an object; write its text or number")
            else:
                yield line, tuple(cells)

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[Any, ...]:
        try:
            value = json_value(line)
        except UserError as error:
            raise UsageError(f"row {shown(line)}: {error}") from None
        if not isinstance(value, list) or len(value) > len(columns):
            most = fields(len(columns))
            raise UsageError(f"row {shown(line)} is no list of {most} at most")
        return tuple(value)


def _lists(
    lines: Lines, report: Callable[[int, str], None]
) -> Iterator[tuple[int, list[Any]]]:
    """Yield line and cells of each list."""
    for line, text in lines:
        if text is not None and not text.strip():
            continue
        try:
            if text is None:
                message = "a row with more bytes than one may have"
                raise UserError(message)
            bare = without_comma(text)
            value = json_value(bare)
        except UserError as error:
            report(line, str(error))
            continue
        if isinstance(value, list):
            yield line, value
        else:
            kind = type(value).__name__
            report(line, f"a JSON {kind} where a list is expected")


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _ignore(line: int, why: str) -> None:
    """Leave an error to when the rows are read."""
