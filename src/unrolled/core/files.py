"""Files that are either whole or absent: written beside their target, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unrolled.core.errors import UserError


def sync(path: Path) -> None:
    """Make a file's bytes, or a rename inside a folder, durable; not every system syncs folders."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; it becomes ``path`` if the block succeeds.

    A failure inside the block removes the temporary file and leaves the old file as it was.

    Raises:
        UserError: the disk refused it; the message names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise refused(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        open_up(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # an error that names another file, or a reader that left, is not this file's
        own = isinstance(error, OSError) and error.filename in (None, name, temporary)
        if own and not isinstance(error, ConnectionError):
            raise refused(path, error) from error
        raise


def open_up(path: Path) -> None:
    """Give a file made as 0600 the permissions that the user's umask gives any other file."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def refused(path: Path, error: BaseException) -> UserError:
    """Return what to say of a file that the disk refused."""
    cause = getattr(error, "strerror", None) or error
    return UserError(
        f"{path}: this file could not be written ({cause}); free some space and see that the "
        "folder may be written to"
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8 with the line ends it has."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically as indented JSON. Raises ValueError on NaN."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
