"""Pictures in one archive, and lines of text beside it: how data of images is written here."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to an archive, without an owner and a time: equal pictures give equal bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def lines_of(texts: Iterable[str]) -> bytes:
    """Return texts as lines of UTF-8."""
    return "".join(f"{text}\n" for text in texts).encode()
