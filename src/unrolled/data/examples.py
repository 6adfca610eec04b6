"""Encoded examples in memory: sequences of unequal length side by side in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences of unequal length: row i is ``flat[offsets[i]:offsets[i + 1]]``."""

    flat: NDArray[np.int32]
    offsets: Ints

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Ragged:
        """Lay sequences of ids side by side."""
        rows = list(rows)
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        flat = np.empty(int(offsets[-1]), dtype=np.int32)
        for row, start, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
            flat[start:end] = row
        return cls(flat, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Length of each row, (N,)."""
        return np.diff(self.offsets)

    def take(self, rows: Ints, pad: int) -> tuple[Tensor, Tensor]:
        """Return these rows padded at the right: ids (B, T) and lengths (B,), both int64."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        steps = np.arange(max(1, int(lengths.max(initial=0))))
        real = steps < lengths[:, None]
        ids = np.full(real.shape, pad, dtype=np.int64)
        ids[real] = self.flat[(starts[:, None] + steps)[real]]
        return torch.from_numpy(ids), torch.from_numpy(lengths)


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded rows of a data file.

    Exactly one of ``sequences`` and ``vectors`` holds the inputs; targets are class indices (N,)
    int64, values (N,) float32, or one class a step (Ragged). Without targets they can only be
    predicted. ``lines`` tells where each row stands in its file; ``characters`` holds the code
    points of each text, for models that read them beside its tokens.
    """

    lines: Ints
    sequences: Ragged | None = None
    vectors: NDArray[np.float32] | None = None
    targets: NDArray[np.int64] | NDArray[np.float32] | Ragged | None = None
    characters: Ragged | None = None

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def lengths(self) -> Ints:
        """Steps of each input, (N,); 1 for a vector."""
        if self.sequences is None:
            return np.ones(len(self.lines), dtype=np.int64)
        return self.sequences.lengths
