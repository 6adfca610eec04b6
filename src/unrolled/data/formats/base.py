"""What a format of text files is to the reader."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from unrolled.data.archives import Origin
from unrolled.data.lines import Report
from unrolled.data.sniff import Format

Row = tuple[int, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A format of text files.

    Attributes:
        kind: its name in ``Format.kind``.
        title: what people call it.
        objects: whether a row by itself is written as a JSON object.
        looks_like: says whether a file is written so, from its name and its first characters.
        columns: returns the names of the columns of a file. Raises DataError.
        rows: yields (line from 1, cells) of a file, from its columns and those without which a row
            is faulty (None: all); faulty rows go to the report.
    """

    kind: str
    title: str
    objects: bool
    looks_like: Callable[[str, str], bool]
    columns: Callable[[Origin, Format], list[str]]
    rows: Callable[
        [Origin, Format, list[str], Collection[str] | None, Report], Iterator[Row]
    ]
