"""Texts with their entities by position: {"text": ..., "entities": [[0, 3, "PER"]]}.

So spaCy, doccano and Label Studio write them. A text becomes a list of words, cut at blanks and
where an entity begins or ends, with a BIO tag for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from unrolled.core.errors import DataError, UserError
from unrolled.data.archives import too_long
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.formats.json_array import array_of, objects
from unrolled.data.lines import SKIP_HINT, Report, numbered_lines
from unrolled.data.spans import read, tagged

_FIRST = 50  # rows, most of which have entities, if only a list of none
_MORE = 1000  # rows in which there must be one


class EntitySpansFormat(FileFormat):
    kind = "entity_spans"
    title = "JSON with entities by position"
    names_columns = True

    def sniff(self, head: Head) -> Sniffed | None:
        start = head.start.lstrip()
        if not start.startswith(("{", "[")):
            return None
        opener = array_of(head)
        rows: Iterator[str | None]
        if opener is None:
            rows = (line for line in head.lines if line.strip())
        else:
            rows = (row for _, row in objects(head.origin, head.packed, opener))
        first = list(map(_count, itertools.islice(rows, _FIRST)))
        if sum(count is not None for count in first) * 2 <= len(first):
            return None
        counts = itertools.chain(first, map(_count, itertools.islice(rows, _MORE)))
        if not any(counts):
            return None
        format = replace(head.packed, kind=self.kind)
        return Sniffed(format, ["words", "ner"])

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        for line, text in _written(file, report):
            try:
                if text is None:
                    raise UserError(too_long(file.origin.max_row))
                content, spans = read(text)
                words, tags = tagged(content, spans)
            except UserError as error:
                report(DataError(f"{error}, {SKIP_HINT}", file.name, line))
                continue
            if words:
                yield line, (words, tags)

    def parse_row(self, line: str, format: Format, columns: Any) -> tuple[list[str]]:
        return (line.split(),)


def _count(row: str | None) -> int | None:
    """Return how many entities a row holds; None where it has no list of them."""
    try:
        return None if row is None else len(read(row)[1])
    except UserError:
        return None


def _written(file: DataFile, report: Report) -> Iterator[tuple[int, str | None]]:
    """Yield line and text of each row, which stands on a line or in an array."""
    opener = array_of(Head(file.origin, file.format.encoding))
    if opener is not None:
        yield from objects(file.origin, file.format, opener)
        return
    for line, text in numbered_lines(file.origin, file.format, report):
        if text.strip():
            yield line, text
