"""Two text files whose lines stand beside each other: sentence n of one translates n of the other.

A line is a line, whatever it holds: commas and tabs make no table of it. Lines are read one by one
in constant memory, and a line that cannot be read is an error of that line, not of the file.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from unrolled.core.errors import DataError
from unrolled.data.archives import (
    BROKEN,
    MAX_ROW,
    find,
    is_too_long,
    refuse_binary,
    too_long,
)
from unrolled.data.charsets import check_encoding, encoding_of
from unrolled.data.formats import Format
from unrolled.data.lines import DAMAGE, SKIP_HINT, check_file, newline_of, nfc
from unrolled.data.sources import OnError, Table

# the names of the two columns
SOURCE = "source"
TARGET = "target"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, from 1: its NFC text without the line end, or what is wrong with it."""

    number: int
    text: str
    error: str = ""


class Lines:
    """The lines of a plain or gzipped text file, as often as they are asked for.

    Raises:
        DataError: there is no such file, it is a file of another program, or its gzip is damaged.
        UsageError: the encoding does not exist.
    """

    def __init__(
        self, path: str | Path, encoding: str | None = None, max_row: int = MAX_ROW
    ) -> None:
        self.path = str(path)
        self.longest = max_row
        given = None if encoding is None else check_encoding(encoding)
        check_file(Path(path))
        self._origin = find(Path(path))
        refuse_binary(self._origin, self._origin.head())
        name = encoding_of(self._origin) if given is None else given
        self.format = Format("text", encoding=name, gzip=self._origin.gzip)
        end = newline_of(self._origin, self.format)
        # one lone carriage return within a sentence must not shift all lines that follow
        self._end = end if end == "\r" else "\n"

    def __iter__(self) -> Iterator[Line]:
        number = 0
        with self._origin.open() as raw:
            text = io.TextIOWrapper(
                raw, self.format.encoding, errors="unrolled-mark", newline=self._end
            )
            try:
                while line := _next(text, self._end, self.longest):
                    number += 1
                    yield self._checked(number, line)
            # a codec that cannot go on after damage, as UTF-16
            except UnicodeError as error:
                message = self._undecodable(str(error))
                raise DataError(message, self.path, number + 1) from None
            except BROKEN as error:
                raise self._origin.broken(error, number + 1) from None

    def _checked(self, number: int, line: str) -> Line:
        line = line.removesuffix("\n").removesuffix("\r")
        if is_too_long(line, self.longest):
            return Line(number, "", too_long(self.longest))
        line = line.removeprefix("\ufeff") if number == 1 else line
        damage = DAMAGE.search(line)
        if damage is None:
            return Line(number, nfc(line))
        if damage.group() == "\x00":
            return Line(number, "", "it holds a NUL character")
        byte = f"byte 0x{ord(damage.group()) & 0xFF:02x}"
        return Line(number, "", self._undecodable(byte))

    def _undecodable(self, what: str) -> str:
        name = self.format.encoding.upper()
        return f"not valid {name} text ({what}); data.encoding=NAME names another"


def _next(text: TextIO, end: str, longest: int) -> str:
    """Return the next line, of one that is too long only its beginning."""
    most = longest + 2  # with its end
    line = rest = text.readline(most)
    while len(rest) == most and not rest.endswith(end):
        rest = text.readline(most)
    return line


def read_aligned(
    source: str | Path,
    target: str | Path,
    *,
    encoding: str | None = None,
    on_error: OnError = "stop",
    limit: int | None = None,
    columns: tuple[str, str] = (SOURCE, TARGET),
    max_row: int = MAX_ROW,
) -> Table:
    """Read two aligned files as one table of two columns.

    Args:
        source, target: plain text, also gzipped.
        encoding: that of both files; None for what each file's bytes say.
        on_error: stop at the first line that is empty or cannot be read on either side, or leave
            such pairs out and list them.
        limit: read only the first N lines.
        columns: what to call the columns.
        max_row: the most bytes of a line.

    Raises:
        DataError: a file is missing, a pair cannot be read, or one file has more lines.
    """
    sides = Lines(source, encoding, max_row), Lines(target, encoding, max_row)
    rows: list[tuple[str, str]] = []
    lines: list[int] = []
    skipped: list[DataError] = []
    for pair in itertools.islice(itertools.zip_longest(*sides), limit):
        if None in pair:
            _refuse_unequal(sides)
        error = _error(sides, pair)
        if error is None:
            rows.append((pair[0].text, pair[1].text))
            lines.append(pair[0].number)
        elif on_error == "stop":
            raise error
        else:
            skipped.append(error)
    if not rows:
        raise skipped[0] if skipped else DataError("there is no line", source)
    return Table(sides[0].path, sides[0].format, list(columns), rows, lines, skipped)


def _error(sides: tuple[Lines, Lines], pair: tuple[Line, Line]) -> DataError | None:
    """Return what is wrong with a pair of lines, at the file and line where it is."""
    for side, line in zip(sides, pair, strict=True):
        reason = line.error
        if not reason and not line.text.strip():
            reason = "this line is empty"
        if reason:
            message = f"{reason}; mend the line, {SKIP_HINT}"
            return DataError(message, side.path, line.number)
    return None


def _refuse_unequal(sides: tuple[Lines, Lines]) -> None:
    counts = [sum(1 for _ in side) for side in sides]
    raise DataError(
        f"{counts[0]:,} lines, but {sides[1].path} has {counts[1]:,}: line n of one file has to "
        "stand beside line n of the other; make them equally long",
        sides[0].path,
        min(counts) + 1,
    )
