"""Experiments over many runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrolled.studies.comparison import compare

__all__ = ["compare"]

_HOMES = {"compare": "unrolled.studies.comparison"}


def __getattr__(name: str) -> Any:
    # lazily: the command line must not pay for what it does not run
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unrolled.studies' has no attribute {name!r}")
