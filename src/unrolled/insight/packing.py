"""Arrays for a page: as whole numbers of 8 or 16 bits, together, compressed, as text."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np

from unrolled.insight.trace import Floats

FINE = 200_000  # numbers in all, up to which each has 16 bits


class Pack:
    """Arrays side by side in one text.

    Args:
        numbers: how many there will be, by which their precision is chosen.
    """

    def __init__(self, numbers: int) -> None:
        self.bits = 16 if numbers <= FINE else 8
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, array: Floats) -> dict[str, Any]:
        """Take in an array; return where it stands and how its numbers are read.

        A number is ``low + step * stored``; where numbers have two signs, 0 is one that is stored.
        """
        levels = 2**self.bits - 2
        low = float(array.min(initial=0.0))
        high = float(array.max(initial=0.0))
        if low < 0:
            high = max(high, -low)
            low = -high
        step = (high - low) / levels or 1.0
        kind = np.uint16 if self.bits == 16 else np.uint8
        stored = (
            np.round((array - low) / step).astype(kind).astype(f"<u{self.bits // 8}")
        )
        part = stored.tobytes()
        entry = {
            "at": self._size // (self.bits // 8),
            "shape": list(array.shape),
            "low": low,
            "step": step,
        }
        self._parts.append(part)
        self._size += len(part)
        return entry

    def to_json(self) -> dict[str, Any]:
        """Return what a page unpacks: gzip as base64, and how many bits a number has."""
        # without a time, so that equal inputs give equal pages
        packed = gzip.compress(b"".join(self._parts), mtime=0)
        return {"bits": self.bits, "gzip": base64.b64encode(packed).decode()}
