"""unrolled: train sequence models on your own data, and see what they remember."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unrolled._version import __version__

if TYPE_CHECKING:
    from unrolled import nn as nn
    from unrolled import ops as ops
    from unrolled.core.errors import DataError, UsageError, UserError
    from unrolled.run import Run, load, train

__all__ = [
    "DataError",
    "Run",
    "UsageError",
    "UserError",
    "__version__",
    "load",
    "train",
]

_HOMES = {
    "DataError": "unrolled.core.errors",
    "Run": "unrolled.run",
    "UsageError": "unrolled.core.errors",
    "UserError": "unrolled.core.errors",
    "load": "unrolled.run",
    "train": "unrolled.run",
}


def __getattr__(name: str) -> Any:
    # lazily: `import unrolled.nn` and `unrolled --help` must not pay for training
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("nn", "ops"):
        return importlib.import_module(f"unrolled.{name}")
    raise AttributeError(f"module 'unrolled' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "nn", "ops"])
