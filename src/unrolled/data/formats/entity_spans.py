"""Texts with their entities by position: {"text": ..., "entities": [[0, 3, "PER"]]}.

So spaCy, doccano and Label Studio write them. A text becomes a list of words, cut at blanks and
where an entity begins or ends, with a BIO tag for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from unrolled.core.errors import DataError, UserError, shown
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.json_values import json_value, without_comma
from unrolled.data.lines import SKIP_HINT, Report, numbered_lines

_KEYS = ("entities", "label", "labels", "spans", "ents")
_SNIFFED_LINES = 50
Span = tuple[int, int, str]


class EntitySpansFormat(FileFormat):
    kind = "entity_spans"
    title = "JSON lines with entities by position"
    names_columns = True

    def sniff(self, head: Head) -> Sniffed | None:
        start = head.start.lstrip()
        if not start.startswith(("{", "[")):
            return None
        lines = [line for line in head.lines if line.strip()]
        written = lines[:_SNIFFED_LINES]
        fitting = 0
        filled = 0
        for line in written:
            try:
                _, spans = _read(line)
            except UserError:
                continue
            fitting += 1
            filled += bool(spans)
        if not filled or fitting * 2 <= len(written):
            return None
        format = replace(head.format, kind=self.kind)
        return Sniffed(format, ["words", "ner"])

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        for line, text in numbered_lines(file.origin, file.format, report):
            if not text.strip():
                continue
            try:
                read, spans = _read(text)
                words, tags = _tagged(read, spans)
            except UserError as error:
                report(DataError(f"{error}, {SKIP_HINT}", file.name, line))
                continue
            if words:
                yield line, (words, tags)

    def parse_row(self, line: str, format: Format, columns: Any) -> tuple[list[str]]:
        return (line.split(),)


def _read(line: str) -> tuple[str, list[Span]]:
    """Return the text of a line and its entities. Raises UserError: it holds none."""
    value = json_value(without_comma(line))
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
        # as spaCy had its training data: [text, {"entities": [...]}]
        text, entities = value
        value = {"text": text, **entities}
    if not isinstance(value, dict):
        raise UserError('no object with "text" and "entities"')
    text = value.get("text")
    if not isinstance(text, str):
        raise UserError('no "text" beside "entities"')
    for key in _KEYS:
        spans = value.get(key)
        if isinstance(spans, list):
            return text, [_span(text, span) for span in spans]
    raise UserError('no list of entities; write "entities": [[first, end, "NAME"]]')


def _span(text: str, span: Any) -> Span:
    if isinstance(span, dict):
        name = span.get("label", span.get("type", span.get("entity")))
        span = [span.get("start"), span.get("end"), name]
    if not isinstance(span, list) or len(span) != 3:
        raise _no_span(span)
    first, end, name = span
    if type(first) is not int or type(end) is not int or not isinstance(name, str):
        raise _no_span(span)
    if not 0 <= first < end <= len(text):
        raise UserError(
            f"the entity {shown(span)} does not lie in the text of {len(text)} characters"
        )
    return first, end, name


def _no_span(span: Any) -> UserError:
    return UserError(f'{shown(span)} is no entity; write [first, end, "NAME"]')


def _tagged(text: str, spans: Sequence[Span]) -> tuple[list[str], list[str]]:
    """Return the words of a text and their tags.

    Raises:
        UserError: two entities overlap, which no tag can say.
    """
    ordered = sorted(spans)
    for before, after in pairwise(ordered):
        if after[0] < before[1]:
            raise UserError(f"the entities {shown(before)} and {shown(after)} overlap")
    edges: set[int] = set()
    for first, end, _ in ordered:
        edges.update((first, end))
    words: list[str] = []
    tags: list[str] = []
    for match in re.finditer(r"\S+", text):
        first = match.start()
        end = match.end()
        inner = {edge for edge in edges if first < edge < end}
        cuts = sorted(inner | {first, end})
        for start, stop in pairwise(cuts):
            words.append(text[start:stop])
            tags.append(_tag_of(start, stop, ordered, text))
    return words, tags


def _tag_of(first: int, end: int, spans: Sequence[Span], text: str) -> str:
    """Return the tag of the word between two positions."""
    for start, stop, name in spans:
        if start > first or end > stop:
            continue
        before = text[start:first]
        return f"I-{name}" if before.strip() else f"B-{name}"
    return "O"
