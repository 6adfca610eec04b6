"""Bytes of a file to checked lines: encoding, line ends, damage, NFC."""

from __future__ import annotations

import codecs
import functools
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from unrolled.core.errors import DataError, nearest
from unrolled.data.archives import BROKEN, Origin, is_too_long, too_long
from unrolled.data.charsets import candidates

if TYPE_CHECKING:  # the formats are made of lines, and are imported after them
    from unrolled.data.formats.base import Format

Report = Callable[[DataError], None]
Fits = Callable[[], list[str]]
BLOCK = 1 << 18  # characters read at a time, and looked at to tell the format
LONGEST = 1 << 26  # characters of the longest line that is read
EMPTY = "the file is empty; give a file with text or rows"
SKIP_HINT = "or set data.on_error=skip to leave such rows out and count them"
_NUL = (
    "NUL bytes: this is a binary file; save it as text; if it is UTF-16 text set "
    "data.encoding=utf-16"
)
DAMAGE = re.compile("[\x00\ud800-\udfff]")


def nfc(text: str) -> str:
    """Return ``text`` in Unicode's composed form (NFC), in time linear in its length.

    CPython sorts a run of combining marks by insertion, which takes minutes on a megabyte of
    them; so long text is normalised in pieces, cut where no character joins the one before.
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    pieces = []
    start = 0
    while start < len(text):
        cut = _STARTER.search(text, start + 500, start + 1000)
        end = cut.start() if cut else start + 1000
        pieces.append(unicodedata.normalize("NFC", text[start:end]))
        start = end
    return "".join(pieces)


# characters that never compose with what stands before them
_STARTER = re.compile("[\x00-\x7f\u1100-\u115f\u3400-\u9fff\uac00-\ud7a3]")


def check_file(path: Path) -> None:
    """Raise DataError unless ``path`` is a file that holds something."""
    if not path.exists():
        folder = path.parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        guess = nearest(path.name, names)
        hint = f"did you mean {str(folder / guess)!r}?" if guess else "check the path"
        if not folder.is_dir():
            hint = f"the folder {str(folder)!r} does not exist either"
        raise DataError(f"there is no such file; {hint}", path)
    if not path.is_file():
        raise DataError(
            "this is not a regular file; save the data to a file first", path
        )
    if path.stat().st_size == 0:
        raise DataError(EMPTY, path)


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Stand in for bytes that do not decode: a lone surrogate, which no valid text contains."""
    assert isinstance(error, UnicodeDecodeError)
    return chr(0xDC00 + error.object[error.start]), error.end


codecs.register_error("unrolled-mark", _mark)


def blocks(origin: Origin, format: Format, report: Report) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, whole lines of checked NFC text), line ends unified."""
    line = 1
    longest = origin.max_row if format.row_format.bounded else LONGEST
    # many lines may be damaged, and one look tells for all
    fits = functools.cache(functools.partial(candidates, origin))
    with origin.open() as raw:
        text = io.TextIOWrapper(raw, encoding=format.encoding, errors="unrolled-mark")
        while True:
            try:
                block = _read_block(text, longest)
            # a codec that cannot go on after damage, as UTF-16
            except UnicodeError as error:
                message = _undecodable(format, str(error), fits())
                raise DataError(message, origin.name, line) from None
            except BROKEN as error:
                raise origin.broken(error, line) from None
            if not block:
                return
            if len(block) > LONGEST and block.rfind("\n") < len(block) - LONGEST:
                _refuse_long(origin, line + block.count("\n", 0, -1))
            if line == 1:
                block = block.removeprefix("\ufeff")
            checked = _checked(block, line, origin.name, format, report, fits)
            if longest != LONGEST and 4 * len(block) > longest:
                checked = _without_long(checked, line, origin, report)
            yield line, nfc(checked)
            line += block.count("\n")


def _read_block(text: TextIO, longest: int) -> str:
    """Return the next characters up to a line end; of a line that is too long its beginning."""
    block = text.read(BLOCK)
    if not block or block.endswith("\n"):
        return block
    block += text.readline(longest + 1)
    begin = block.rfind("\n") + 1
    if len(block) - begin > longest and longest != LONGEST:
        # the rest is passed over, a little at a time
        rest = text.readline(BLOCK)
        while rest and not rest.endswith("\n"):
            rest = text.readline(BLOCK)
        block += "\n"
    return block


def _without_long(block: str, line: int, origin: Origin, report: Report) -> str:
    """Return the block; lines of more bytes than a row may have are reported and emptied."""
    lines = block.split("\n")
    for index, text in enumerate(lines):
        if is_too_long(text, origin.max_row):
            message = f"{too_long(origin.max_row)}, {SKIP_HINT}"
            report(DataError(message, origin.name, line + index))
            lines[index] = ""
    return "\n".join(lines)


def _refuse_long(origin: Origin, line: int) -> NoReturn:
    raise DataError(
        f"a line of more than {LONGEST:,} characters; break the text into lines, a paragraph or a "
        "row each",
        origin.name,
        line,
    )


def _checked(
    block: str, line: int, name: str, format: Format, report: Report, fits: Fits
) -> str:
    """Return the block; lines that hold undecodable bytes are reported and emptied.

    Those of a format that keeps damaged lines, as tables do, only lose the bytes.
    """
    pieces = []
    kept = 0
    while damage := DAMAGE.search(block, kept):
        line += block.count("\n", kept, damage.start())
        if damage.group() == "\x00":
            message = f"{_NUL}{_skip_hint(format)}"
        else:
            byte = f"byte 0x{ord(damage.group()) & 0xFF:02x}"
            message = _undecodable(format, byte, fits())
        report(DataError(message, name, line))
        start = block.rfind("\n", kept, damage.start()) + 1
        pieces.append(block[kept:start])
        end = block.find("\n", damage.end())
        kept = end if end >= 0 else len(block)
        if format.row_format.keeps_damaged:
            pieces.append(DAMAGE.sub("", block[start:kept]))
    return "".join([*pieces, block[kept:]]) if pieces else block


def _undecodable(format: Format, what: str, fits: list[str]) -> str:
    return (
        f"not valid {format.encoding.upper()} text ({what}); mend the line, or say how the file "
        f"is encoded with data.encoding=NAME (its bytes would fit {', '.join(fits)})"
        f"{_skip_hint(format)}"
    )


def _skip_hint(format: Format) -> str:
    # no line of running text is left out: the text would go on without it
    return "" if format.row_format.running else f", {SKIP_HINT}"


def numbered_lines(
    origin: Origin, format: Format, report: Report
) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text) of each line; what is wrong with one goes to ``report``."""
    for line, block in blocks(origin, format, report):
        lines = block.split("\n")
        if not lines[-1]:
            lines.pop()
        yield from enumerate(lines, line)


def lines_with_errors(
    origin: Origin, format: Format
) -> tuple[Iterator[tuple[int, str]], Mapping[int, DataError]]:
    """Return the numbered lines, and what is wrong with those that were read so far.

    For rows over several lines: one damaged line is an error of its row, reported once.
    """
    errors: dict[int, DataError] = {}

    def keep(error: DataError) -> None:
        errors[error.line or 0] = error

    return numbered_lines(origin, format, keep), errors


def stop(error: DataError) -> None:
    """Raise the error: the report of those who stop at the first."""
    raise error


def newline_of(origin: Origin, format: Format) -> str:
    """Return the line end of the file's first block, "mixed" where it has several."""
    with origin.open() as raw:
        text = io.TextIOWrapper(
            raw, encoding=format.encoding, errors="replace", newline=""
        )
        try:
            ends = set(re.findall("\r\n?|\n", text.read(BLOCK)))
        except UnicodeError:  # whoever reads the lines tells what is wrong, and where
            return "\n"
    if not ends:
        return "\n"
    return ends.pop() if len(ends) == 1 else "mixed"
