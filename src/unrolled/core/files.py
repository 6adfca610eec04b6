"""Files that are either whole or absent: written beside their target, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unrolled.core.errors import UsageError, UserError, shown


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
def replacing(path: Path, parents: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; it becomes ``path`` if the block succeeds.

    A failure inside the block removes the temporary file and leaves the old file as it was.

    Args:
        path: what is to be replaced.
        parents: make its folder; without it one that was removed meanwhile stays removed.

    Raises:
        UserError: the disk refused it; the message names ``path``.
    """
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
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
    return UserError(
        f"{path}: this file could not be written ({cause_of(error)}){advice(error)}"
    )


def cause_of(error: BaseException) -> str:
    """Return what the system says of an error."""
    return str(getattr(error, "strerror", None) or error)


def advice(error: BaseException) -> str:
    """Return what to do about an error of the file system, after a semicolon; empty if unknown."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return "; free some space"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; see that the folder may be written to"
    if number == errno.ENAMETOOLONG:
        return "; choose a shorter name"
    if number in (errno.ENOTDIR, errno.EEXIST):
        return "; a file of another kind has this name: choose another one"
    return ""


def write_bytes(path: Path, data: bytes, parents: bool = True) -> None:
    """Write ``data`` to ``path`` atomically; see ``replacing``."""
    with replacing(path, parents) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str, parents: bool = True) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8 with the line ends it has.

    Bytes of a file's name that are no UTF-8 are escaped.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"), parents)


def write_json(path: Path, value: Any, parents: bool = True) -> None:
    """Write ``value`` to ``path`` atomically as indented JSON. Raises ValueError on NaN."""
    write_text(path, indented_json(value), parents)


def indented_json(value: Any) -> str:
    """Return JSON as files of this program hold it; what UTF-8 cannot hold is escaped.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half.group()):04x}", text)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


CONFIG_BYTES = 2**20  # of a recipe
# of a vocabulary, the largest file of a run that is no table of tensors
JSON_BYTES = 2**29
DEPTH = 100  # of nested lists and mappings


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: the system refuses it.
        ValueError: it is no regular file (a pipe, a device), or has more than ``most`` bytes.
    """
    # without blocking: a pipe that nobody writes to would never open
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def read_text(path: Path, most: int = CONFIG_BYTES) -> str:
    """Return the text of a regular file in UTF-8. Raises as ``read_bytes`` does."""
    return read_bytes(path, most).decode("utf-8")


def read_json(path: Path, most: int = JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file that this program wrote, which somebody may have altered.

    Raises:
        OSError: the system refuses it.
        ValueError: it is no regular file, too large, no UTF-8, no JSON, nested too deeply, names a
            key twice, or holds something else than an object.
    """
    return parsed_json(read_bytes(path, most))


def read_json_list(path: Path, most: int = JSON_BYTES) -> list[Any]:
    """Return the JSON list in such a file. Raises as ``read_json`` does."""
    values: list[Any] = _parsed(read_bytes(path, most), list, "list")
    return values


def parsed_json(data: bytes) -> dict[str, Any]:
    """Return the JSON object in some bytes. Raises ValueError as ``read_json`` does."""
    values: dict[str, Any] = _parsed(data, dict, "object")
    return values


def _parsed(data: bytes, kind: type, name: str) -> Any:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, kind):
        raise ValueError(f"it holds no JSON {name}")
    if depth_of(value) > DEPTH:
        raise ValueError("it is nested too deeply")
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError: a key stands in it twice, with two meanings."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return values


def depth_of(value: Any) -> int:
    """Return how deep lists and mappings are nested, 0 for anything else."""
    depth = 0
    level = [value]
    while True:
        collections = [part for part in level if isinstance(part, list | dict)]
        if not collections:
            return depth
        depth += 1
        if depth > DEPTH:
            return depth
        level = []
        for part in collections:
            level += part.values() if isinstance(part, dict) else part


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` as the user's home; of nobody's home the path as it stands."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def refuse_strange(path: Path, home: str, is_folder: bool = False) -> None:
    """Refuse a file of a run, before it is opened, that a file of a run cannot be.

    Args:
        path: the file.
        home: the real path of the run.
        is_folder: whether it is to be a folder.

    Raises:
        UserError: it is a link that leads out of the run or nowhere, a pipe, a device or a folder.
    """
    try:
        real = os.path.realpath(path, strict=True)
        mode = os.stat(real).st_mode
    except (OSError, RuntimeError):
        raise UserError(
            f"{path}: a link that leads nowhere; put the file itself there"
        ) from None
    if path.is_symlink() and not Path(real).is_relative_to(home):
        raise UserError(
            f"{path}: a link that leads out of the run; put the file itself there"
        )
    if not (stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode)):
        what = "a folder" if is_folder else "a regular file"
        raise UserError(f"{path}: this is not {what}; restore the run")


def path_of(value: Any, name: str) -> Path:
    """Return the path that an argument names. Raises UsageError: it is none, or empty.

    Args:
        value: what was given.
        name: what the argument is called.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(
            f"{name} is a {type(value).__name__}; give the path of a file, and write rows to a "
            "file first, such as rows.csv or rows.jsonl"
        )
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"{name} is {shown(text)}; give the path of a file or folder")
    return expanded(text)


def exists(path: Path) -> bool:
    """Say whether there is such a file or folder; of a name that no file can have, that not."""
    return os.path.exists(path)


class Watched:
    """A file or folder that must not change while it is read.

    What tells: size, times and inode of every file. The time of change (ctime) cannot be set back.

    Args:
        path: a file or a folder. A name that stands for neither, as one of the hub, never changes.

    Attributes:
        stamps: what was seen of every file: its path, size, times and inode.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamps = _stamps(path)

    def changed(self) -> bool:
        """Say whether it was written to, replaced or removed since."""
        return _stamps(self.path) != self.stamps

    def newest(self) -> float:
        """Return when any of the files changed last, in seconds; 0 where there is no file."""
        times = [max(stamp[1:3]) for _, stamp in self.stamps if stamp]
        return max(times, default=0) / 1e9


def _stamps(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    if not path.is_dir():
        return [(str(path), _stamp(path))]
    stamps: list[tuple[str, tuple[int, ...]]] = []
    for root, _, names in os.walk(path):
        for name in names:
            file = os.path.join(root, name)
            stamps.append((file, _stamp(Path(file))))
    return sorted(stamps)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
    )
