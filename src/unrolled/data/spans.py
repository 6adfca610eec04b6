"""Entities by position in a text to words with BIO tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from unrolled.core.errors import UserError, shown
from unrolled.data.json_values import json_value, without_comma

_KEYS = ("entities", "label", "labels", "spans", "ents")
_NAMES = ("label", "labels", "type", "entity")
Span = tuple[int, int, str]


def read(line: str) -> tuple[str, list[Span]]:
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
        names = (span[key] for key in _NAMES if key in span)
        name = next(names, None)
        if isinstance(name, list) and len(name) == 1:
            # as Label Studio has it
            name = name[0]
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


def tagged(text: str, spans: Sequence[Span]) -> tuple[list[str], list[str]]:
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
