"""Modules that have the shapes of their weights and no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# of a tensor, in place
DRAWS = ("normal_", "uniform_", "bernoulli_", "exponential_", "random_")


class _NothingDrawn(TorchFunctionMode):
    """Leaves first weights undrawn: of numbers that are nowhere torch imports its compiler."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        is_first = getattr(func, "__module__", "") == "torch.nn.init"
        if is_first or getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Build modules without memory for their weights, on torch's device ``meta``."""
    with torch.device("meta"), _NothingDrawn():
        yield
