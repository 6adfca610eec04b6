"""Lines of a table to its fields: delimiters, quotes, cells over several lines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from unrolled.core.errors import DataError, UserError, shown
from unrolled.data.archives import MAX_ROW
from unrolled.data.lines import SKIP_HINT, Report
from unrolled.data.sniff import is_number

if TYPE_CHECKING:  # the format of tables is made of records, and is imported after them
    from unrolled.data.formats.base import Format

LOOK = 64  # lines of a field between looks at how long it is


class BadQuoteError(UserError):
    """A quoted field that does not end as one."""


def records(
    lines: Iterable[tuple[int, str]],
    format: Format,
    path: str,
    report: Report,
    lost: Mapping[int, DataError],
    strip: bool = True,
    max_row: int = MAX_ROW,
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) for every record; blank lines are passed over.

    Args:
        lines: the numbered lines of the file.
        format, path: how it is written, and its name for errors.
        report: takes the errors, one a record.
        lost: what is wrong with the lines that lack bytes; a record with one is left out.
        strip: take the blanks around numbers off.
        max_row: the most characters of a record.
    """
    source = iter(lines)
    put_back: list[tuple[int, str]] = []
    while True:
        number, line = put_back.pop() if put_back else next(source, (0, ""))
        if number == 0:
            return
        if (not line or line.isspace()) and number not in lost:
            continue
        taken: list[tuple[int, str]] = []
        more = functools.partial(
            _next_line, source, put_back, taken, max_row - len(line)
        )
        try:
            cells = split(line, format, more, strip)
        except BadQuoteError as error:
            broken = DataError(f"{error}, {SKIP_HINT}", path, number)
            report(lost.get(number, broken))
            # only the line that opens the quote is lost, not all that it swallowed
            put_back += reversed(taken)
            continue
        # ``lost`` is nearly always empty, and this runs for every record
        span = (number, *(n for n, _ in taken)) if lost else ()
        damage = next((lost[n] for n in span if n in lost), None)
        if damage is None:
            yield number, cells
        else:
            report(damage)


def _next_line(
    source: Iterator[tuple[int, str]],
    put_back: list[tuple[int, str]],
    taken: list[tuple[int, str]],
    room: int,
) -> str | None:
    following = put_back.pop() if put_back else next(source, None)
    if following is None:
        return None
    taken.append(following)
    if len(taken) % LOOK == 0 and sum(len(text) for _, text in taken) > room:
        raise BadQuoteError(
            "a double quote opens here and its field has more characters than a row may have; "
            "close it, or raise data.max_row"
        )
    return following[1]


def split(
    line: str, format: Format, more: Callable[[], str | None], strip: bool = True
) -> list[str]:
    """Return the fields of a record that starts with ``line``; ``more()`` gives its next line."""
    delimiter = format.delimiter
    if format.quoted and '"' in line:
        return _split_quoted(line, delimiter or "\n", more, strip)
    cells = line.split(delimiter) if delimiter else [line]
    return [_bare(cell) for cell in cells] if strip and " " in line else cells


def _bare(cell: str) -> str:
    """Return a cell without the blanks around it when it is a number."""
    padded = cell[:1] == " " or cell[-1:] == " "
    return cell.strip() if padded and is_number(cell) else cell


def _split_quoted(
    line: str, delimiter: str, more: Callable[[], str | None], strip: bool
) -> list[str]:
    cells: list[str] = []
    position = 0
    while True:
        start = position
        while line[start : start + 1] == " ":
            start += 1
        if line[start : start + 1] == '"':
            cell, line, position = _quoted_cell(line, start + 1, delimiter, more)
        else:
            end = line.find(delimiter, position)
            end = len(line) if end < 0 else end
            cell = line[position:end]
            position = end
            cell = _bare(cell) if strip else cell
        cells.append(cell)
        if position >= len(line):
            return cells
        position += 1


def _quoted_cell(
    line: str, position: int, delimiter: str, more: Callable[[], str | None]
) -> tuple[str, str, int]:
    """Return (content, the line it ends on, the position of the delimiter after it)."""
    parts: list[str] = []
    while True:
        end = line.find('"', position)
        if end < 0:
            parts += (line[position:], "\n")
            following = more()
            if following is None:
                raise BadQuoteError(
                    "a double quote opens here and is never closed; close it"
                )
            line = following
            position = 0
        elif line[end + 1 : end + 2] == '"':
            parts.append(line[position : end + 1])
            position = end + 2
        else:
            parts.append(line[position:end])
            after = end + 1
            while line[after : after + 1] == " ":
                after += 1
            if after < len(line) and line[after] != delimiter:
                raise BadQuoteError(
                    f"a quoted field opens here and {shown(line[end + 1 : end + 13])} follows its "
                    'closing quote; write "" for a quote inside a field'
                )
            return "".join(parts), line, after
