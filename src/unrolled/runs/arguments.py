"""Arguments of the Python API that a person may get wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unrolled.core.errors import UsageError, shown

LARGEST = 2**63 - 1  # what torch counts and seeds with


def texts(name: str, values: Any) -> list[str]:
    """Return texts as a list, one by itself too, which is no list of its letters.

    Raises:
        UsageError: they are no texts; ``name`` is the argument.
    """
    several = [values] if isinstance(values, str) else values
    if isinstance(several, Iterable):
        several = list(several)
        if all(isinstance(text, str) for text in several):
            return several
    raise UsageError(f"{name} is {shown(values)}; give a text, or a list of them")


def whole(name: str, value: Any, most: int = LARGEST) -> None:
    """Raise UsageError for an argument that is no whole number from 0 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise UsageError(
            f"{name} is {shown(value)}; give a whole number from 0 to {most}"
        )
