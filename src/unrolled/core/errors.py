"""Errors a user can mend. Each prints as one line; none shows a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LONGEST = 2000  # characters of a message: one that repeats a whole row tells nothing
LISTED = 20  # names that a message lists

# torch has no MemoryError: on the CPU it raises a bare RuntimeError that only its text tells apart
_NO_MEMORY = re.compile(
    r"(can'?t|cannot|can not|could not|unable to|failed to) allocate|out of memory"
    r"|not enough memory|storage size calculation overflowed",
    re.IGNORECASE,
)


class UserError(Exception):
    """A mistake outside the program: its message says what is wrong and what to do.

    Attributes:
        exit_code: what the command line returns: 1 for work that failed, 2 for wrong usage.
    """

    exit_code = 1

    def __str__(self) -> str:
        return cut(super().__str__(), LONGEST)


class UsageError(UserError):
    """A wrong word on the command line or in a recipe: a key, a value, a name."""

    exit_code = 2


class DataError(UserError):
    """Something in a data file, named by file and line.

    Args:
        message: what is wrong and what to do about it.
        path: the file.
        line: the line the faulty record starts on, from 1; None when the whole file is meant.

    Attributes:
        message, path, line: the same; ``path`` is a string.
    """

    def __init__(self, message: str, path: str | Path, line: int | None = None) -> None:
        # these are the error's ``args``, with which it is made again in another process
        super().__init__(message, str(path), line)
        self.message = message
        self.path = str(path)
        self.line = line

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {cut(self.message, LONGEST)}"


@dataclass(frozen=True, slots=True)
class DataWarning:
    """Something about a data file that a person should look at.

    Attributes:
        message: what was seen, and what was made of it.
        key: the key that settles it, or what else to do.
        line: where the first of it stands.
    """

    message: str
    key: str = ""
    line: int | None = None

    def __str__(self) -> str:
        key = f" ({self.key})" if self.key else ""
        return f"warning: {self.message}{key}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def cut(text: str, most: int) -> str:
    """Return ``text``, its middle left out where it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def shown(value: Any, most: int = 60) -> str:
    """Return a value as a message shows it: one line, escaped, at most about ``most`` characters.

    All of a value that came from a file or a row goes into a message by this.
    """
    if isinstance(value, str):
        return repr(cut(value, most))
    if isinstance(value, list | tuple | dict | set | frozenset) and len(value) > most:
        return f"{type(value).__name__} of {len(value):,} items"
    try:
        return cut(repr(value), most)
    except (RecursionError, ValueError):
        # nested too deeply, or a number of too many digits
        return f"{type(value).__name__}"


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate spelt most like ``name``, or None when none is near."""
    if len(name) > 200:  # the comparison takes time by its square
        return None
    matches = difflib.get_close_matches(name.lower(), list(candidates), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, candidates: Iterable[str]) -> str:
    """Return the sentence for a name that does not exist, with the nearest one that does."""
    names = list(candidates)
    guess = nearest(name, names)
    hint = f"did you mean {shown(guess)}?" if guess else f"known: {listed(names)}"
    return f"there is no {kind} {shown(name)}; {hint}"


def listed(names: Iterable[str]) -> str:
    """Return names side by side, the first ``LISTED`` of them."""
    every = list(names)
    more = f" and {len(every) - LISTED:,} more" if len(every) > LISTED else ""
    return ", ".join(cut(name, 60) for name in every[:LISTED]) + more


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error, of Python or of torch, means that memory could not be had."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))
