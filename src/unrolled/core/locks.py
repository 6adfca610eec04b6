"""One process at a time: in a folder, or wherever a file stands for a lock.

The lock is the kernel's (flock), so it ends with the process that holds it, however that ends. A
system without such locks gets a file that names its owner instead; where the owner is a process of
this machine that is gone, it is taken over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.core.errors import UserError, cut
from unrolled.core.files import read_json, refused
from unrolled.core.words import option

LOCK = ".lock"
OWNER_BYTES = 4096  # of a file that names an owner
_BEGINNING = b'{"pid": '  # of every lock; one that the disk was too full for is empty
PAUSE = 0.05  # seconds between looks at a file that names an owner
LOOKS = 20  # at one without a name: it may be about to get one, or just gone


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that this process holds: the open file, or None where another one names its owner."""

    path: Path
    handle: int | None

    def is_held(self) -> bool:
        """Say whether the file still stands for this lock: its folder may have been removed."""
        if self.handle is not None:
            return _is_still(self.handle, self.path)
        owner = _owner(_owned(self.path))
        return (owner.get("pid"), owner.get("host")) == (
            os.getpid(),
            socket.gethostname(),
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Lock]:
    """Hold ``folder`` for this process, and make it where it is missing.

    Raises:
        UserError: another process holds it; the message names process, machine and time.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from error
    busy = f"{folder}: a training is at work here already"
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(
                held(folder / LOCK, busy, f"choose another {option('out')}")
            )
        except OSError as error:
            raise refused(folder / LOCK, error) from error
        try:
            yield lock
        finally:
            stack.close()
            with contextlib.suppress(OSError):
                folder.rmdir()  # where nothing was begun


@contextlib.contextmanager
def held(path: Path, busy: str, advice: str, *, wait: bool = False) -> Iterator[Lock]:
    """Hold the lock that the file ``path`` stands for; the file goes when nobody holds it.

    Args:
        path: the file, in a folder that is there.
        busy, advice: what to say where another process holds it, and what to do then.
        wait: stand in line for it. Only an owner of another machine, of which nobody here can tell
            whether it lives, is an error then, and only without the kernel's locks.

    Raises:
        UserError: another process holds it; the message names process, machine and time.
        OSError: the file cannot be made.
    """
    lock = Lock(path, _take(path, busy, advice, wait))
    try:
        yield lock
    finally:
        # unlinked while held: who opened it before finds another file, or none, under its name;
        # what somebody else put there since is his
        if lock.is_held():
            owned = _owned(path)
            for used in (owned, path):
                with contextlib.suppress(OSError):
                    if used == path or is_lock(used):
                        used.unlink()
        if lock.handle is not None:
            os.close(lock.handle)


def _take(path: Path, busy: str, advice: str, wait: bool) -> int | None:
    """Return the open file that holds the lock, or None where another file names its owner."""
    while True:
        handle = _opened(path)
        try:
            supported = _flock(handle, wait)
            if supported and _is_still(handle, path):
                with contextlib.suppress(
                    OSError
                ):  # held all the same where the disk is full
                    os.ftruncate(handle, 0)
                    os.write(handle, _me())
                return handle
        except BlockingIOError:
            os.close(handle)
            raise _busy(busy, advice, _owner(path)) from None
        except BaseException:  # a signal, while it waited
            os.close(handle)
            raise
        os.close(handle)
        if not supported:
            _own(_owned(path), busy, advice, wait)
            return None


def _opened(path: Path) -> int:
    """Open the file of a lock, and no other one. Raises UserError: a link or no file is there."""
    flags = (
        os.O_RDWR
        | os.O_CREAT
        | getattr(os, "O_NOFOLLOW", 0)
        | getattr(os, "O_NONBLOCK", 0)
    )
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: this is a link and no lock; remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(
            f"{path}: this is no file, and stands where a lock does; remove it"
        )
    if not _BEGINNING.startswith(os.read(handle, len(_BEGINNING))):
        os.close(handle)
        raise UserError(
            f"{path}: this is no lock, and stands where one does; move it elsewhere"
        )
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def is_lock(path: Path) -> bool:
    """Whether a file is a lock, held or left by a process that was killed."""
    with path.open("rb") as file:
        return _BEGINNING.startswith(file.read(len(_BEGINNING)))


def _flock(handle: int, wait: bool) -> bool:
    """Take the kernel's lock; False where there is none. Raises BlockingIOError: it is taken."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def _owned(path: Path) -> Path:
    """Return the file that names the owner where the kernel keeps no lock."""
    return path.with_name(f"{path.name}.owner")


def _is_still(handle: int, path: Path) -> bool:
    """Whether an open file is the one of this name: its last owner may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _own(path: Path, busy: str, advice: str, wait: bool) -> None:
    """Make the file that names the owner; take it over from a process of ours that is gone."""
    hint = f"{advice}; if that process has ended, remove {path}"
    nameless = 0
    while True:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            owner = _owner(path)
            nameless = 0 if owner else nameless + 1
            ours = owner.get("host") == socket.gethostname()
            if ours and not _lives(owner.get("pid")):
                path.unlink(missing_ok=True)
            elif (ours and wait) or 0 < nameless < LOOKS:
                time.sleep(PAUSE)
            else:
                raise _busy(busy, hint, owner) from None
        else:
            os.write(handle, _me())
            os.close(handle)
            return


def _lives(pid: Any) -> bool:
    if os.name == "nt":
        return True  # to ask would be to interrupt it there
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError, OverflowError):
        return False
    except OSError:
        return True  # it is another user's
    return True


def _me() -> bytes:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    told = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    return json.dumps(told).encode() + b"\n"


def _owner(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, OWNER_BYTES)
    except (OSError, ValueError):
        return {}


def _busy(busy: str, advice: str, owner: dict[str, Any]) -> UserError:
    pid, host, since = (
        cut(str(owner.get(name)), 60) for name in ("pid", "host", "since")
    )
    who = f"process {pid} on {host}, since {since}" if owner else "of another process"
    return UserError(f"{busy} ({who}); wait for it, stop it, or {advice}")
