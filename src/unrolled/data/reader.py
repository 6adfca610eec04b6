"""One data file to rows: the first format that recognises its content reads it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from unrolled.core.errors import DataError, DataWarning
from unrolled.data.archives import Origin
from unrolled.data.formats import FORMATS
from unrolled.data.formats.base import DataFile, Format, Head, HeaderHint, Row
from unrolled.data.lines import Report, blocks, stop

EXAMINED_ROWS = 20  # that tell what the columns of a table name


@dataclass(frozen=True, slots=True)
class Reader:
    """How the rows of one source are read; whoever calls ``rows`` says what an error does.

    Attributes:
        name: what errors call the source.
        format, columns: how it is written, and the names of its columns.
        rows: yields (line from 1, cells), and reports malformed rows.
        text: yields the whole of a running text.
        warnings: what is doubtful about how it is read.
    """

    name: str
    format: Format
    columns: list[str]
    rows: Callable[[Report], Iterator[Row]]
    text: Callable[[], Iterator[str]] | None = None
    warnings: tuple[DataWarning, ...] = ()


def first_rows(reader: Reader) -> list[tuple[Any, ...]]:
    """Return the rows that tell what the columns of a table name; none where a row is faulty.

    Whoever reads on says what is wrong.
    """

    def ignored(error: DataError) -> None:
        pass

    try:
        first = itertools.islice(reader.rows(ignored), EXAMINED_ROWS)
        return [row for _, row in first]
    except DataError:
        return []


def reader_of(
    origin: Origin,
    encoding: str | None,
    needed: Collection[str] | None = None,
    header: HeaderHint = None,
    sheet: str | None = None,
) -> Reader:
    """Return how a file is read, from its content; its name only tips doubtful cases.

    Args:
        origin: the file.
        encoding: the name of its encoding, None to tell it.
        needed: the columns without which a row of JSON lines is malformed; None: all of them.
        header, sheet: see ``sources.read``.

    Raises:
        DataError: the file is empty, binary, or JSON of another form.
    """
    head = Head(origin, encoding, needed, header, sheet)
    for known in FORMATS:
        sniffed = known.sniff(head)
        if sniffed is None:
            continue
        format, columns, warnings = sniffed
        file = DataFile(origin, format, columns, needed)
        rows = functools.partial(known.rows, file)
        text = functools.partial(_text, file) if known.running else None
        return Reader(origin.name, format, columns, rows, text, warnings)
    raise AssertionError("running text, the last of the formats, takes every file")


def _text(file: DataFile) -> Iterator[str]:
    for _, block in blocks(file.origin, file.format, stop):
        yield block
