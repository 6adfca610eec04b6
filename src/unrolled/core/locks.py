"""One process at a time in a folder.

The lock is the kernel's (flock), so it ends with the process that holds it, however that ends. A
file system without such locks gets a file that names its owner instead; where the owner is a
process of this machine that is gone, it is taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unrolled.core.errors import UserError
from unrolled.core.files import refused

LOCK, OWNED = ".lock", ".lock.owner"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process, and make it where it is missing.

    Raises:
        UserError: another process holds it; the message names process, machine and time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = _take(path)
    try:
        yield
    finally:
        # unlinked while held: who opened it before finds another file, or none, under its name
        for name in (OWNED, LOCK):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        os.close(handle)
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was begun


def _take(path: Path) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise refused(path, error) from error
        try:
            supported = _flock(handle)
        except BlockingIOError:
            os.close(handle)
            raise _busy(path, _owner(path)) from None
        if not supported:
            _own(path.with_name(OWNED))
            return handle
        if _is_still(handle, path):
            with contextlib.suppress(OSError):  # held all the same where the disk is full
                os.ftruncate(handle, 0)
                os.write(handle, _me())
            return handle
        os.close(handle)


def _flock(handle: int) -> bool:
    """Take the kernel's lock; False where there is none. Raises BlockingIOError: it is taken."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def _is_still(handle: int, path: Path) -> bool:
    """Whether an open file is the one of this name: its last owner may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _own(path: Path) -> None:
    """Make the file that names the owner; take it over from a process of ours that is gone."""
    for _ in range(2):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            owner = _owner(path)
            if owner.get("host") != socket.gethostname() or _lives(owner.get("pid")):
                hint = f"; if that training has ended, remove {path}"
                raise _busy(path, owner, hint) from None
            path.unlink(missing_ok=True)
        else:
            os.write(handle, _me())
            os.close(handle)
            return
    raise _busy(path, _owner(path))


def _lives(pid: Any) -> bool:
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
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _busy(path: Path, owner: dict[str, Any], hint: str = "") -> UserError:
    who = (
        f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')}"
        if owner
        else "of another process"
    )
    return UserError(
        f"{path.parent}: a training is at work here already ({who}); wait for it, stop it, or "
        f"choose another --out{hint}"
    )
