"""Errors a user can mend. Each prints as one line; none shows a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake outside the program: its message says what is wrong and what to do.

    ``exit_code`` is what the command line returns: 1 for work that failed, 2 for wrong usage.
    """

    exit_code = 1


class UsageError(UserError):
    """A wrong word on the command line or in a recipe: a key, a value, a name."""

    exit_code = 2


class DataError(UserError):
    """Something in a data file, named by file and line (1 is the first line).

    Args:
        message: what is wrong and what to do about it.
        path: the file.
        line: the line the faulty record starts on; None when the whole file is meant.
    """

    def __init__(self, message: str, path: str | Path, line: int | None = None) -> None:
        self.path, self.line = str(path), line
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {message}")


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate spelt most like ``name``, or None when none is near."""
    found = difflib.get_close_matches(name.lower(), list(candidates), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(kind: str, name: str, candidates: Iterable[str]) -> str:
    """Return the sentence for a name that does not exist, with the nearest one that does."""
    names = list(candidates)
    guess = nearest(name, names)
    hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(names)}"
    return f"there is no {kind} {name!r}; {hint}"
