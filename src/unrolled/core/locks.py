"""One process at a time: in a folder, or wherever a file stands for a lock.

The lock is the kernel's, taken through filelock, so it ends with the process that holds it, however
that ends. A system without such locks gets a file that names its owner instead; where the owner is
a process of this machine that is gone, it is taken over.

Of filelock only the lock of an open file is used. Its ``FileLock`` opens the file itself: older
versions empty it, and with it the name of the owner or a file of the user's that happens to stand
there, and newer ones leave it behind. Its ``SoftFileLock`` does not keep since when a lock is held,
and not in every version on which machine. So files are opened, named and removed here.
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
PAUSE = 0.05  # seconds between attempts to take what another process holds
ATTEMPTS = (
    20  # at an owner's file without a name: it may be about to get one, or just gone
)


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that this process holds: the open file, or None where another one names its owner."""

    path: Path
    handle: int | None

    def is_held(self) -> bool:
        """Say whether the file still stands for this lock: its folder may have been removed."""
        if self.handle is not None:
            return _is_still(self.handle, self.path)
        owner = _owner(_owner_file(self.path))
        same_process = owner.get("pid") == os.getpid()
        return same_process and owner.get("host") == socket.gethostname()


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
            advice = f"choose another {option('out')}"
            lock = stack.enter_context(held(folder / LOCK, busy, advice))
        except OSError as error:
            raise refused(folder / LOCK, error) from error
        try:
            yield lock
        finally:
            stack.close()
            # succeeds where nothing was begun: it removes empty folders alone
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def held(
    path: Path, busy: str, advice: str, *, blocking: bool = False
) -> Iterator[Lock]:
    """Hold the lock that the file ``path`` stands for; the file goes when nobody holds it.

    Args:
        path: the file, in a folder that is there.
        busy, advice: what to say where another process holds it, and what to do then.
        blocking: wait until it is free. Only an owner of another machine, of which nobody here can
            tell whether it lives, is an error then, and only without the kernel's locks.

    Raises:
        UserError: another process holds it; the message names process, machine and time.
        OSError: the file cannot be made.
    """
    lock = Lock(path, _take(path, busy, advice, blocking))
    try:
        yield lock
    finally:
        # unlinked while held: who opened it before finds another file, or none, under its name;
        # what somebody else put there since is his
        if lock.is_held():
            owner_file = _owner_file(path)
            with contextlib.suppress(OSError):
                if is_lock(owner_file):
                    owner_file.unlink()
            with contextlib.suppress(OSError):
                path.unlink()
        if lock.handle is not None:
            os.close(lock.handle)


def _take(path: Path, busy: str, advice: str, blocking: bool) -> int | None:
    """Return the open file that holds the lock, or None where another file names its owner."""
    while True:
        handle = _opened(path)
        try:
            is_taken = _lock_file(handle, blocking)
            # whoever held it before may have removed the file between our opening and our lock of
            # it: then the lock is of a file without a name, which keeps nobody out
            if is_taken and _is_still(handle, path):
                # held all the same where the disk is full
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, 0)
                    os.write(handle, _own_name())
                return handle
        except BlockingIOError:
            os.close(handle)
            raise _busy(busy, advice, _owner(path)) from None
        except BaseException:  # a signal, while it waited
            os.close(handle)
            raise
        os.close(handle)
        if not is_taken:
            _write_owner(_owner_file(path), busy, advice, blocking)
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


def _lock_file(handle: int, blocking: bool) -> bool:
    """Take the kernel's lock of an open file; False where the system has none.

    Raises:
        BlockingIOError: another process holds it.
    """
    if os.name == "nt":
        return False  # a lock there hides the name of its owner from everybody else
    from filelock import lock_descriptor  # slow to import, and few commands lock

    try:
        is_taken = lock_descriptor(handle, blocking=blocking, poll_interval=PAUSE)
    except OSError:
        return False
    if not is_taken:
        raise BlockingIOError
    return True


def _owner_file(path: Path) -> Path:
    """Return the file that names the owner where the kernel keeps no lock."""
    return path.with_name(f"{path.name}.owner")


def _is_still(handle: int, path: Path) -> bool:
    """Whether an open file is the one of this name: its last owner may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _write_owner(path: Path, busy: str, advice: str, blocking: bool) -> None:
    """Make the file that names the owner; take it over from a process of ours that is gone."""
    hint = f"{advice}; if that process has ended, remove {path}"
    nameless = 0
    while True:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            owner = _owner(path)
            nameless = 0 if owner else nameless + 1
            is_local = owner.get("host") == socket.gethostname()
            if is_local and not _lives(owner.get("pid")):
                path.unlink(missing_ok=True)
            elif (is_local and blocking) or 0 < nameless < ATTEMPTS:
                time.sleep(PAUSE)
            else:
                raise _busy(busy, hint, owner) from None
        else:
            os.write(handle, _own_name())
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


def _own_name() -> bytes:
    """Return what a lock of this process holds: a line of JSON."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    return json.dumps(owner).encode() + b"\n"


def _owner(path: Path) -> dict[str, Any]:
    """Return whom a lock names; nobody where it cannot be read, or is not written yet."""
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
