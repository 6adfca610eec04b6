"""Words of messages that differ between a shell and Python: commands, options, arguments."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from unrolled.core.plugins import LOADED

_in_shell: ContextVar[bool] = ContextVar("unrolled.in_shell", default=False)


@contextmanager
def in_shell() -> Iterator[None]:
    """Let messages name commands and options, not Python's calls and arguments, in the block."""
    token = _in_shell.set(True)
    try:
        yield
    finally:
        _in_shell.reset(token)


def either(shell: str, python: str) -> str:
    """Return what the caller can use: words of a shell, or of Python."""
    return shell if _in_shell.get() else python


def command(*words: object) -> str:
    """Return a command line of ``unrolled``, each word quoted for a shell where it must be.

    The plugins that were loaded are part of it.
    """
    plugins: list[str] = []
    for path in LOADED:
        plugins += ["--plugin", path]
    return shlex.join(["unrolled", *map(str, words), *plugins])


def path_word(path: object) -> str:
    """Return a path as a word that no command takes for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def option(name: str) -> str:
    """Return how the caller gives an option: ``--out`` or ``out=``."""
    return either(f"--{name.replace('_', '-')}", f"{name}=")


def resume(folder: object) -> str:
    """Return how to go on with the run in a folder."""
    shell = command("train", path_word(folder), "--resume")
    return either(shell, f"unrolled.train({str(folder)!r}, resume=True)")


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: "1 row", "1,200 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
