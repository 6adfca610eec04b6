"""Bytes of a file to checked lines: encoding, byte order marks, line ends, NFC, gzip."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from unrolled.core.errors import DataError, UsageError, nearest
from unrolled.data.sniff import Format

Report = Callable[[DataError], None]
BLOCK = 1 << 18  # characters read at a time, and looked at to tell the format
SKIP_HINT = "or set data.on_error=skip to leave such rows out and count them"
DAMAGE = re.compile("[\x00\ud800-\udfff]")
_BOMS = (  # the UTF-32 marks first: one of them starts with a UTF-16 mark
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def nfc(text: str) -> str:
    """Return ``text`` in Unicode's composed form (NFC), in time linear in its length.

    CPython sorts a run of combining marks by insertion, which takes minutes on a megabyte of
    them; so long text is normalised in pieces, cut where no character joins the one before.
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    pieces, start = [], 0
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
    if path.is_dir():
        raise DataError("this is a folder; name a data file in it", path)
    if not path.exists():
        folder = path.parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        guess = nearest(path.name, names)
        hint = f"did you mean {str(folder / guess)!r}?" if guess else "check the path"
        if not folder.is_dir():
            hint = f"the folder {str(folder)!r} does not exist either"
        raise DataError(f"there is no such file; {hint}", path)
    if not path.is_file():
        raise DataError("this is not a regular file; save the data to a file first", path)
    if path.stat().st_size == 0:
        raise DataError("the file is empty; give a file with text or rows", path)


def is_gzip(path: Path) -> bool:
    """Return whether the file's first bytes are those of gzip."""
    with open_bytes(path, False) as raw:
        return raw.read(2) == b"\x1f\x8b"


def encoding_of(path: Path, zipped: bool) -> str:
    """Return the encoding that a byte order mark tells, else "utf-8"."""
    with open_bytes(path, zipped) as raw:
        try:
            start = raw.read(4)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"cannot be read: {error}; copy it anew", path) from None
    return next((name for bom, name in _BOMS if start.startswith(bom)), "utf-8")


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Stand in for bytes that do not decode: a lone surrogate, which no valid text contains."""
    assert isinstance(error, UnicodeDecodeError)
    return chr(0xDC00 + error.object[error.start]), error.end


codecs.register_error("unrolled-mark", _mark)


def check_encoding(name: str) -> str:
    """Return the codec's own name. Raises UsageError when there is no such text encoding."""
    try:
        info = codecs.lookup(name)
        "".encode(name)  # refuses codecs that are no text encodings, such as base64
    except (LookupError, ValueError):
        known = ["utf-8", "utf-16", "utf-32", "cp949", "euc-kr", "latin-1", "shift_jis", "gb18030"]
        guess = nearest(name, known)
        hint = f"did you mean {guess!r}?" if guess else f"for example {', '.join(known[:5])}"
        raise UsageError(f"data.encoding={name!r}: there is no such encoding; {hint}") from None
    return info.name


def open_bytes(path: Path, zipped: bool) -> IO[bytes]:
    """Open a file, unpacked if it is gzip. Raises DataError when the system refuses."""
    try:
        return cast(IO[bytes], gzip.open(path, "rb") if zipped else path.open("rb"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from None


def blocks(path: Path, format: Format, report: Report) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, whole lines of checked NFC text), line ends unified."""
    line = 1
    with open_bytes(path, format.gzip) as raw:
        text = io.TextIOWrapper(raw, encoding=format.encoding, errors="unrolled-mark")
        while True:
            try:
                block = text.read(BLOCK)
                if block and not block.endswith("\n"):
                    block += text.readline()
            except (EOFError, OSError, zlib.error) as error:
                raise DataError(f"cannot be read: {error}; copy it anew", path, line) from None
            except UnicodeError as error:  # a codec that cannot go on after damage, as UTF-16
                raise DataError(_undecodable(format, str(error)), path, line) from None
            if not block:
                return
            if line == 1:
                block = block.removeprefix("\ufeff")
            yield line, nfc(_checked(block, line, path, format, report))
            line += block.count("\n")


def _checked(block: str, line: int, path: Path, format: Format, report: Report) -> str:
    """Return the block; lines that hold undecodable bytes are reported and emptied."""
    pieces, kept = [], 0
    while damage := DAMAGE.search(block, kept):
        line += block.count("\n", kept, damage.start())
        if damage.group() == "\x00":
            advice = "save it as text; if it is UTF-16 text set data.encoding=utf-16"
            raise DataError(f"NUL bytes: this is a binary file; {advice}", path, line)
        byte = f"byte 0x{ord(damage.group()) & 0xFF:02x}"
        report(DataError(_undecodable(format, byte), path, line))
        start = block.rfind("\n", kept, damage.start()) + 1
        pieces.append(block[kept:start])
        end = block.find("\n", damage.end())
        kept = end if end >= 0 else len(block)
    return "".join([*pieces, block[kept:]]) if pieces else block


def _undecodable(format: Format, what: str) -> str:
    others = "cp949 for older Korean files, latin-1, utf-16"
    return (
        f"not valid {format.encoding.upper()} text ({what}); "
        f"say how it is encoded with data.encoding=NAME ({others})"
        + (f", {SKIP_HINT}" if format.kind != "text" else "")
    )


def stop(error: DataError) -> None:
    """Raise the error: the report of those who stop at the first fault."""
    raise error


def newline_of(path: Path, format: Format) -> str:
    """Return the line end of the file's first block, "mixed" where it has several."""
    with open_bytes(path, format.gzip) as raw:
        text = io.TextIOWrapper(raw, encoding=format.encoding, errors="replace", newline="")
        ends = set(re.findall("\r\n?|\n", text.read(BLOCK)))
    return ends.pop() if len(ends) == 1 else ("mixed" if ends else "\n")
