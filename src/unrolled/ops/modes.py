"""What :class:`use` and :class:`precision` chose: of the thread, and of the asyncio task, alone.

torch.compile cannot trace a context variable, so a second copy of each choice is kept per thread,
which it can trace and guard. Compiled code reads that copy: it follows every ``with`` block of its
thread, but not the task of an event loop whose blocks interleave with those of other tasks.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import ClassVar, NamedTuple

import torch

from unrolled.ops import native


class _Entry(NamedTuple):
    """A choice in force, and the block that made it; None of a plain call outside all blocks."""

    owner: _Choice | None
    name: str


# the plain choice first, then open blocks, the newest last
_Entries = tuple[_Entry, ...]
_AUTO: _Entries = (_Entry(None, "auto"),)


class _PerThread(threading.local):
    def __init__(self) -> None:
        # of the instance from the first: compiled code sets no guard on what a class holds
        self.mode = self.precision = "auto"


_per_thread = _PerThread()


class _Choice:
    """Chooses at once; as a ``with`` block, until its end.

    Blocks need not nest: a generator or a coroutine may end one while a later one is open. Each
    removes its own entry, so what is left is what the blocks still open chose.
    """

    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]]
    entries: ClassVar[ContextVar[_Entries]]

    def __init__(self, name: str) -> None:
        if name not in self.names:
            known = ", ".join(self.names)
            raise ValueError(f"expected a {self.kind} out of {known}, got {name!r}")
        self._name = name
        self._before = self.entries.get()
        newest = self._before[-1]
        self._mine: _Entries = (*self._before[:-1], newest._replace(name=name))
        self._set(self._mine)

    def _set(self, entries: _Entries) -> None:
        self.entries.set(entries)
        setattr(_per_thread, self.kind, entries[-1].name)

    def __enter__(self) -> _Choice:
        now = self.entries.get()
        outside = self._before if now is self._mine else now
        self._set((*outside, _Entry(self, self._name)))
        return self

    def __exit__(self, *error: object) -> None:
        left = list(self.entries.get())
        # from the newest: one object may have begun several blocks
        for index in reversed(range(len(left))):
            if left[index].owner is self:
                del left[index]
                break
        self._set(tuple(left))


class use(_Choice):  # a function to its callers, hence the small letter
    """Choose how recurrent cells run: ``use("reference")``, or for a block ``with use(...)``.

    The choice is that of this thread and, in asyncio, of this task: others keep theirs, and a
    thread that starts later begins with "auto".

    Args:
        name: "auto" (a fast path where there is one), "fast" (ValueError where there is none) or
            "reference" (the plain equations: second derivatives, torch.func.vmap).

    Raises:
        ValueError: no such mode.
    """

    kind = "mode"
    names = ("auto", "fast", "reference")
    entries = ContextVar("unrolled.ops.use", default=_AUTO)


class precision(_Choice):
    """Choose in what the native core multiplies, as ``use`` chooses the path.

    Args:
        name: "float32"; "bf16" (operands of 8 bits, sums and states in fp32); "int8" (weights of 8
            bits with a scale a column, and the same of what they meet; no gradients); or "auto",
            which is bf16 under autocast to it and for weights in it, and float32 otherwise.

    Raises:
        ValueError: no such precision.
    """

    kind = "precision"
    names = ("auto", *native.PRECISIONS)
    entries = ContextVar("unrolled.ops.precision", default=_AUTO)


def mode() -> str:
    """Return what :class:`use` chose last here."""
    return (
        _per_thread.mode
        if torch.compiler.is_compiling()
        else use.entries.get()[-1].name
    )


def chosen_precision() -> str:
    """Return what :class:`precision` chose last here."""
    if torch.compiler.is_compiling():
        return _per_thread.precision
    return precision.entries.get()[-1].name
