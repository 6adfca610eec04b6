"""Where the bytes of a data file come from: a file, its gzip, or a member of a zip archive.

Nothing is ever unpacked to disk, and an archive that would flood memory or time is refused.
"""

from __future__ import annotations

import gzip
import io
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, NoReturn, cast

from unrolled.core.errors import DataError, cut

RATIO = 500  # bytes that one packed byte may become; text stays far below, a bomb nears 1,000
LARGE = 1 << 26  # ... looked at from this many bytes on
MAX_ROW = 1_000_000  # bytes of a row, unless data.max_row says otherwise
# what the library raises where bytes of an archive are not what they should be
BROKEN = (
    EOFError,
    OSError,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
    IndexError,
    ValueError,
    struct.error,
)
UNPACK = "unpack it yourself and give the file in it"
TEXT_KINDS = "give text, CSV, TSV, JSON lines, CoNLL-U or Parquet"


@dataclass(frozen=True, slots=True)
class Origin:
    """A file, or with ``archive`` and ``member`` a part of a zip; ``gzip`` where it is packed.

    ``max_row`` are the most bytes of one of its rows, unless it is running text.
    """

    path: Path
    archive: zipfile.ZipFile | None = field(default=None, compare=False)
    member: str = ""
    info: zipfile.ZipInfo | None = field(default=None, compare=False)
    max_row: int = MAX_ROW
    gzip: bool = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.path}/{self.member}" if self.archive else str(self.path)

    def open(self) -> IO[bytes]:
        """Open the unpacked bytes. Raises DataError when the system refuses."""
        try:
            if self.archive is not None:
                return self.archive.open(self.info or self.member)
            return (
                cast(IO[bytes], _Gunzip(self.path))
                if self.gzip
                else self.path.open("rb")
            )
        except BROKEN as error:
            raise self.broken(error) from None

    def head(self, size: int = 512) -> bytes:
        """Return the first unpacked bytes."""
        try:
            with self.open() as raw:
                return raw.read(size)
        except BROKEN as error:
            raise self.broken(error) from None

    def broken(self, error: Exception, line: int | None = None) -> DataError:
        """Return the error for bytes that cannot be read."""
        why = getattr(error, "strerror", None) or error
        return DataError(f"cannot be read: {why}; copy it anew", self.name, line)


class _File(io.FileIO):
    """A file that many members are read from, closed when the last of them is let go."""

    def __del__(self) -> None:
        self.close()


class _Gunzip(gzip.GzipFile):
    """A gzip file that stops when it swells beyond what data does."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self.path = path

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(size))

    def _checked(self, data: bytes) -> bytes:
        made = self.tell()
        packed = cast(IO[bytes], self.fileobj)
        if made > LARGE and made > RATIO * packed.tell():
            raise DataError(_bomb("it"), self.path)
        return data


def _bomb(what: str) -> str:
    return (
        f"{what} unpacks to more than {RATIO} times its size, as a decompression bomb does; "
        + (UNPACK if what == "it" else "remove it")
    )


def too_long(most: int) -> str:
    """Return what to say of a row of more than ``most`` bytes."""
    return f"a row of more than {most:,} bytes; raise data.max_row to read such rows"


def is_too_long(text: str, most: int) -> bool:
    """Say whether a text has more than ``most`` bytes of UTF-8."""
    if len(text) > most:
        return True
    return 4 * len(text) > most and len(text.encode("utf-8", "surrogatepass")) > most


def find(path: Path, max_row: int = MAX_ROW) -> Origin:
    """Return where the bytes of a file are, with its gzip taken off. Raises DataError."""
    origin = Origin(path, max_row=max_row)
    return replace(origin, gzip=True) if origin.head(2) == b"\x1f\x8b" else origin


def members(path: Path, max_row: int = MAX_ROW) -> list[Origin]:
    """Return the files in a zip archive, without folders and hidden files.

    Raises:
        DataError: the archive is damaged, is a document of another program, or a member is
            encrypted, a link, a bomb, or would lie outside the archive; it names the member.
    """
    try:
        archive = zipfile.ZipFile(_File(path))
    except BROKEN as error:
        raise Origin(path).broken(error) from None
    infos = archive.infolist()
    _refuse_document(path, {info.filename for info in infos})
    for info in infos:
        reason = _refusal(info)
        if reason:
            raise DataError(reason, f"{path}/{info.filename}")
    size = path.stat().st_size
    if sum(info.file_size for info in infos) > max(LARGE, RATIO * size):
        raise DataError(_bomb("it"), path)
    seen: set[str] = set()
    origins = []
    for info in infos:
        if info.is_dir():
            continue
        name = _plain_name(info.filename)
        if name in seen:
            raise DataError(
                "two members have this name; make the archive anew",
                f"{path}/{shown_name(name)}",
            )
        seen.add(name)
        origins.append(Origin(path, archive, name, info, max_row=max_row))
    return origins


def _plain_name(name: str) -> str:
    """Return the name of a member without parts that name no folder: ``./a//b`` is ``a/b``."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def shown_name(name: str) -> str:
    """Return the name of a member as an error shows it."""
    return cut(name, 200)


def _refusal(info: zipfile.ZipInfo) -> str | None:
    """Return what is wrong with a member."""
    name = info.filename.replace("\\", "/")
    if not name:
        return "a member has no name; make the archive anew"
    if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
        return (
            "the name of this member leads outside the archive; make the archive anew"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        return "this member is a link; put the file itself into the archive"
    if info.flag_bits & 1:
        return f"this member is encrypted; {UNPACK}"
    if info.file_size > LARGE and info.file_size > RATIO * max(1, info.compress_size):
        return _bomb("this member")
    return None


# ---------------------------------------------------------------------- files of other programs

_SHEET = "save the sheet as CSV (File > Save As > CSV UTF-8) and give that file"
_MAGIC = (  # what a file starts with, what it is, what to do
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an Excel or Word file of the old kind",
        _SHEET,
    ),
    (b"\x1f\x8b", "packed twice", UNPACK),
    (b"PK\x03\x04", "an archive in an archive", UNPACK),
    (b"BZh", "packed by bzip2", UNPACK),
    (b"\xfd7zXZ\0", "packed by xz", UNPACK),
    (b"\x93NUMPY", "a NumPy array", "write its rows as CSV (numpy.savetxt)"),
    (b"\x89PNG\r\n", "a PNG image", TEXT_KINDS),
    (b"\xff\xd8\xff", "a JPEG image", TEXT_KINDS),
    (b"%PDF-", "a PDF document", "save its text as a plain text file"),
    (b"GIF89a", "a GIF image", TEXT_KINDS),
    *(
        (b"\x80" + bytes([n]), "a Python pickle", f"it can run code; {TEXT_KINDS}")
        for n in (2, 3)
    ),
    *(
        (
            b"\x80" + bytes([n, 0x95]),
            "a Python pickle",
            f"it can run code; {TEXT_KINDS}",
        )
        for n in (4, 5)
    ),
)


def refuse_binary(origin: Origin, head: bytes) -> None:
    """Raise DataError when the unpacked bytes start as a file of another program does."""
    for start, what, advice in _MAGIC:
        if head.startswith(start):
            _refuse(origin.name, what, advice)
    if head[257:262] == b"ustar":
        _refuse(origin.name, "a tar archive", UNPACK)


def _refuse_document(path: Path, names: set[str]) -> None:
    """Raise DataError for the zip archives that are documents of other programs."""
    if any(name.startswith("xl/") for name in names):
        _refuse(str(path), "an Excel workbook", _SHEET)
    if any(name.startswith("word/") for name in names):
        _refuse(str(path), "a Word document", "save it as plain text (UTF-8)")
    if {"mimetype", "content.xml"} <= names:
        _refuse(str(path), "an OpenDocument file", _SHEET)
    if any(name.endswith("/data.pkl") for name in names):
        _refuse(str(path), "a file of PyTorch", TEXT_KINDS)
    if any(name.endswith(".npy") for name in names):
        _refuse(
            str(path),
            "an archive of NumPy arrays",
            "write their rows as CSV (numpy.savetxt)",
        )


def unread_workbook(origin: Origin, reason: str) -> DataError:
    """Return what to say of a workbook that cannot be read here."""
    return DataError(f"this is an Excel workbook: {reason}; or {_SHEET}", origin.name)


def refuse_bomb(origin: Origin) -> None:
    """Raise DataError for a zip archive whose members unpack to far more than data does."""
    try:
        with zipfile.ZipFile(origin.path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except BROKEN as error:
        raise origin.broken(error) from None
    if unpacked > max(LARGE, RATIO * origin.path.stat().st_size):
        raise DataError(_bomb("it"), origin.name)


def _refuse(name: str, what: str, advice: str) -> NoReturn:
    raise DataError(f"this is {what}, no text: {advice}", name)
