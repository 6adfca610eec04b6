"""Formats of text files that are told by their content: one file each, and a line in ``FORMATS``.

The first whose ``looks_like`` says so reads the file; tables and running text are what is left.
"""

from __future__ import annotations

from unrolled.data.formats import json_array
from unrolled.data.formats.base import TextFormat
from unrolled.data.sniff import KINDS, OBJECTS

FORMATS: list[TextFormat] = [
    json_array.FORMAT,
]

for _format in FORMATS:
    KINDS[_format.kind] = _format.title
    if _format.objects:
        OBJECTS.add(_format.kind)

__all__ = ["FORMATS", "TextFormat"]
