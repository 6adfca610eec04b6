"""Where the bytes of an image are: a file, a stretch of an archive, or memory."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.core.files import expanded

LARGEST = 1 << 28  # bytes of one file


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image by the name that a row gives it, and where its bytes are.

    Attributes:
        name: as the file has it; what errors, reports and splits call it.
        path: the file, or the archive that holds it; None where none of that name was found.
        offset, size: of its bytes in an archive; None for a file of its own.
        content: the bytes themselves, where they were given.
        shared: several images have that name, so that none of them is meant.
    """

    name: str
    path: Path | None
    offset: int | None = None
    size: int | None = None
    content: bytes | None = None
    shared: bool = False

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, value: Any, folder: Path = Path()) -> ImageFile:
        """Return an image that is given by its bytes, or by its name in a folder."""
        if isinstance(value, cls):
            return value
        if isinstance(value, bytes):
            digest = hashlib.sha256(value).hexdigest()[:12]
            return cls(f"{len(value):,} bytes {digest}", None, content=value)
        name = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
        path = folder / expanded(name)
        return cls(name, path if is_file(path) else None)

    @property
    def is_there(self) -> bool:
        """Whether its bytes can be had."""
        return self.path is not None or self.content is not None

    def read(self) -> bytes:
        """Return the bytes. Raises OSError: they cannot be read; ValueError: there are too many."""
        if self.content is not None:
            return self.content
        if self.path is None:
            raise FileNotFoundError(f"no image is called {self.name}")
        with self.path.open("rb") as file:
            size = self.size
            if size is None:
                size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise ValueError(f"it has {size:,} bytes, more than {LARGEST:,}")
            file.seek(self.offset or 0)
            return file.read(size)


def is_file(path: Path) -> bool:
    """Whether a path, which may be any text of a cell, is that of a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False  # such as a name that is too long
