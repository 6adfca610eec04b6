"""Memory that a step frees, kept in the process for the next step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

# what glibc's mallopt calls its settings (malloc.h)
_TRIM_THRESHOLD = -1
_MAPPING_THRESHOLD = -3
_MAPPINGS = -4
# where glibc's own adjusting ends, and how many mappings it makes (mallopt(3))
_LARGEST_THRESHOLD = 32 * 2**20
_MOST_MAPPINGS = 65536
_NEVER = -1


class _Holders:
    """How many trainings of this process keep memory now."""

    lock = threading.Lock()
    count = 0


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let freed memory stay with the process inside, and be given back to the system after it.

    glibc maps every large block anew and unmaps it when it is freed, so that each step of a
    training has the same pages zeroed again, which costs most where a vocabulary is large.
    Elsewhere (macOS, musl) nothing is done. The setting is one of the process: it holds until the
    last of several trainings in threads has ended.
    """
    with _Holders.lock:
        if not _Holders.count:
            _set({_MAPPINGS: 0, _TRIM_THRESHOLD: _NEVER})
        _Holders.count += 1
    try:
        yield
    finally:
        with _Holders.lock:
            _Holders.count -= 1
            if not _Holders.count:
                _give_back()


def _give_back() -> None:
    limits = {_MAPPING_THRESHOLD: _LARGEST_THRESHOLD, _MAPPINGS: _MOST_MAPPINGS}
    _set({**limits, _TRIM_THRESHOLD: 2 * _LARGEST_THRESHOLD})
    trim = getattr(_library(), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _set(options: dict[int, int]) -> None:
    mallopt = getattr(_library(), "mallopt", None)
    if mallopt is None:
        return
    for name, value in options.items():
        mallopt(name, value)


def _library() -> ctypes.CDLL | None:
    """Return the C library of this process; None where there is no such thing."""
    return ctypes.CDLL(None) if os.name == "posix" else None
