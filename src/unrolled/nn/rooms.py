"""Memory of KV caches, kept from one search to the next."""

from __future__ import annotations

import math
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from unrolled.nn.state import Buffer


class Rooms:
    """Memory of caches, lent anew when the buffer that had it is gone.

    Pages of new memory cost more than what is written to them.
    """

    def __init__(self) -> None:
        # memory, and the last buffer that it was lent to
        self._lent: list[tuple[Tensor, ReferenceType[Buffer]]] = []

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Return room for keys and for values, float32; what stands there is left over."""
        size = 2 * math.prod(shape)
        memory = self._free(size)
        if memory is None:  # what is free is too small by now, or far too large
            self._lent = [pair for pair in self._lent if pair[1]() is not None]
            # made in inference mode it could not be written outside of it
            with torch.inference_mode(False):
                memory = torch.empty(size, dtype=torch.float32, device="cpu")
        both = memory[:size].view(2, *shape)
        keys, values = both.unbind()
        buffer = Buffer(keys, values, 1)
        others = [pair for pair in self._lent if pair[0] is not memory]
        self._lent = [*others, (memory, ref(buffer))]
        return buffer

    def _free(self, size: int) -> Tensor | None:
        """Return the smallest memory that nobody holds and that fits ``size`` numbers well."""
        free = [memory for memory, holder in self._lent if holder() is None]
        fitting = [memory for memory in free if size <= memory.numel() <= 4 * size]
        return min(fitting, key=Tensor.numel, default=None)
