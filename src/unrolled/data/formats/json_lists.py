"""Rows that are JSON lists: one a line, or all of them in one list of lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from unrolled.core.errors import DataError, UsageError, UserError, shown
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.json_values import json_value, without_comma
from unrolled.data.lines import SKIP_HINT, Report, numbered_lines
from unrolled.data.sniff import fields, find_header, usual_width

_SNIFFED_LINES = 200  # that tell whether the first one names the columns


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
        lists = _lists(enumerate(head.lines, 1), _ignore)
        rows = [cells for _, cells in lists]
        written = [line for line in head.lines if line.strip(" \r[],")]
        if not rows or len(rows) * 2 <= len(written):
            return None
        width, _ = usual_width(rows)
        texts: list[list[str]] = []
        for row in rows[:_SNIFFED_LINES]:
            if len(row) == width:
                texts.append([_text(cell) for cell in row])
        # one row by itself stands over nothing
        able = len(texts) > 1 and len(rows[0]) == width
        named = able and _is_header(head, texts)
        format = replace(head.format, kind=self.kind, header=named)
        if named:
            return Sniffed(format, texts[0])
        numbers = range(1, width + 1)
        return Sniffed(format, [f"column{number}" for number in numbers])

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        lines = numbered_lines(file.origin, file.format, report)
        width = len(file.columns)

        def refuse(line: int, why: str) -> None:
            report(_error(file, line, why))

        rows = _lists(lines, refuse)
        if file.format.header:
            next(rows, None)
        for line, cells in rows:
            if len(cells) == width:
                yield line, tuple(cells)
            else:
                refuse(line, f"expected {fields(width)}, found {len(cells)}")

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[Any, ...]:
        try:
            value = json_value(line)
        except UserError as error:
            raise UsageError(f"row {shown(line)}: {error}") from None
        if not isinstance(value, list) or len(value) > len(columns):
            raise UsageError(
                f"row {shown(line)} is no list of {fields(len(columns))} at most"
            )
        return tuple(value)


def _is_header(head: Head, rows: Sequence[Sequence[str]]) -> bool:
    if isinstance(head.header, bool):
        return head.header
    names = {name.casefold() for name in rows[0]}
    known = {name.casefold() for name in head.header or ()}
    return not names.isdisjoint(known) or find_header(rows)


def _lists(lines: Any, report: Any) -> Iterator[tuple[int, list[Any]]]:
    """Yield line and cells of each list; the brackets around all of them are passed over."""
    for line, text in lines:
        bare = without_comma(text.strip())
        opens = bare.startswith("[[")
        closes = bare.endswith("]]")
        if opens and not closes:
            bare = bare[1:]
        if closes and not opens:
            bare = bare[:-1]
        if bare in ("", "[", "]"):
            continue
        try:
            value = json_value(bare)
        except UserError as error:
            report(line, str(error))
            continue
        if _are_lists(value):
            for inner in value:
                yield line, inner
        elif isinstance(value, list):
            yield line, value
        else:
            report(line, f"a JSON {type(value).__name__} where a list is expected")


def _are_lists(value: Any) -> bool:
    several = isinstance(value, list) and len(value) > 0
    return several and all(isinstance(cells, list) for cells in value)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _ignore(line: int, why: str) -> None:
    """Leave an error to when the rows are read."""


def _error(file: DataFile, line: int, why: str) -> DataError:
    return DataError(f"{why}, {SKIP_HINT}", file.name, line)
