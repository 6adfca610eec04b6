"""Texts with their entities by position: {"text": ..., "entities": [[0, 3, "PER"]]}.

So spaCy, doccano and Label Studio write them. A text becomes a list of words, cut at blanks and
where an entity begins or ends, with a BIO tag for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
        if not head.start.lstrip().startswith(("{", "[")):
            return None
        written = [line for line in head.lines if line.strip()][:_SNIFFED_LINES]
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
        return Sniffed(replace(head.format, kind=self.kind), ["words", "ner"])

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        for line, text in numbered_lines(file.origin, file.format, report):
            if not text.strip():
                continue
            try:
                words, tags = _tagged(*_read(text))
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
        value = {"text": value[0], **value[1]}
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise UserError('no object with "text" and "entities"')
    key = next((key for key in _KEYS if isinstance(value.get(key), list)), None)
    if key is None:
        raise UserError('no list of entities; write "entities": [[first, end, "NAME"]]')
    return value["text"], [_span(value["text"], span) for span in value[key]]


def _span(text: str, span: Any) -> Span:
    if isinstance(span, dict):
        name = span.get("label", span.get("type", span.get("entity")))
        span = [span.get("start"), span.get("end"), name]
    numbers = isinstance(span, list) and len(span) == 3
    if not numbers or not (
        type(span[0]) is type(span[1]) is int and isinstance(span[2], str)
    ):
        raise UserError(f'{shown(span)} is no entity; write [first, end, "NAME"]')
    if not 0 <= span[0] < span[1] <= len(text):
        raise UserError(
            f"the entity {shown(span)} does not lie in the text of {len(text)} characters"
        )
    return span[0], span[1], span[2]


def _tagged(text: str, spans: list[Span]) -> tuple[list[str], list[str]]:
    """Return the words of a text and their tags.

    Raises:
        UserError: two entities overlap, which no tag can say.
    """
    ordered = sorted(spans)
    edges = {edge for first, end, _ in ordered for edge in (first, end)}
    for before, after in pairwise(ordered):
        if after[0] < before[1]:
            raise UserError(f"the entities {shown(before)} and {shown(after)} overlap")
    words: list[str] = []
    tags: list[str] = []
    for match in re.finditer(r"\S+", text):
        inner = {edge for edge in edges if match.start() < edge < match.end()}
        cuts = sorted({match.start(), match.end(), *inner})
        for first, end in pairwise(cuts):
            words.append(text[first:end])
            tags.append(_tag_of(first, end, ordered, text))
    return words, tags


def _tag_of(first: int, end: int, spans: list[Span], text: str) -> str:
    for start, stop, name in spans:
        if start <= first and end <= stop:
            is_first = not text[start:first].strip()
            return f"{'B' if is_first else 'I'}-{name}"
    return "O"
