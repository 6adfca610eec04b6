"""Encoded examples in memory: sequences of unequal length side by side in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.data.shards import Tokens

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences of unequal length: row i is ``flat[offsets[i]:offsets[i + 1]]``."""

    flat: NDArray[np.int32] | Tokens
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

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        """Return the sequences of one part after those of another."""
        lengths = np.concatenate(
            [np.zeros(1, np.int64), *(part.lengths for part in parts)]
        )
        flat = np.concatenate([np.zeros(0, np.int32), *(part.flat for part in parts)])
        return cls(flat, lengths.cumsum())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Length of each row, (N,)."""
        return np.diff(self.offsets)

    def pick(self, rows: Sequence[int]) -> Ragged:
        """Return some of the sequences."""
        starts = self.offsets[rows]
        lengths = self.lengths[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.flat[np.repeat(starts, lengths) + steps], offsets)

    def take(self, rows: Ints, pad: int) -> tuple[Tensor, Tensor]:
        """Return these rows padded at the right: ids (B, T) and lengths (B,), both int64."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        steps = np.arange(max(1, int(lengths.max(initial=0))))
        real = steps < lengths[:, None]
        ids = np.full(real.shape, pad, dtype=np.int64)
        ids[real] = self.flat[(starts[:, None] + steps)[real]]
        return torch.from_numpy(ids), torch.from_numpy(lengths)


@dataclass(frozen=True, slots=True)
class Spellings:
    """The distinct words of some rows: the id of each in the vocabulary, and those of its pieces.

    Rows then hold places in this list instead of ids, so that a batch spells each word once.
    """

    ids: Ints
    pieces: Ragged

    def take(
        self, rows: Tensor, lengths: Tensor, pad: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what a model reads for rows of places (B, T), padded at the right.

        Returns:
            The words' ids (B, T), and: the pieces of the U distinct words (U, C), how many are
            real (U,), and which of those words each one is (B, T).
        """
        real = torch.arange(rows.shape[1]) < lengths[:, None]
        distinct, inverse = torch.unique(rows[real], return_inverse=True)
        ids = torch.full_like(rows, pad)
        places = torch.zeros_like(rows)
        ids[real] = torch.from_numpy(self.ids)[distinct[inverse]]
        places[real] = inverse
        return ids, (*self.pieces.take(distinct.numpy(), pad), places)


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of one long array of steps; they may overlap, as windows do.

    Row i is ``flat[starts[i]:starts[i] + lengths[i]]`` of ``flat`` (S, D). ``lines`` (S,) tells
    where each step stands in its file, where that is known.
    """

    flat: NDArray[np.float32]
    starts: Ints
    lengths: Ints
    lines: Ints | None = None

    def take(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """Return these rows padded with zeros: steps (B, T, D) fp32 and lengths (B,) int64."""
        starts = self.starts[rows]
        lengths = self.lengths[rows]
        steps = np.arange(max(1, int(lengths.max(initial=0))))
        real = steps < lengths[:, None]
        found = np.zeros((*real.shape, self.flat.shape[1]), dtype=np.float32)
        found[real] = self.flat[(starts[:, None] + steps)[real]]
        return torch.from_numpy(found), torch.from_numpy(lengths)


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded rows of a data file.

    Exactly one of ``sequences``, ``vectors`` and ``frames`` holds the inputs; targets are class
    indices (N,) int64, values (N,) float32, or one class a step (Ragged). Without targets they can
    only be predicted. ``lines`` tells where each row stands in its file; ``characters`` holds the
    code points of each text, for models that read them beside its tokens. With ``spellings`` the
    sequences are places in its list of words.
    """

    lines: Ints
    sequences: Ragged | None = None
    vectors: NDArray[np.float32] | None = None
    targets: NDArray[np.int64] | NDArray[np.float32] | Ragged | None = None
    characters: Ragged | None = None
    spellings: Spellings | None = None
    frames: Spans | None = None

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def answers(self) -> int:
        """How many answers are scored: one a row, or one a step."""
        return len(self.targets.flat) if isinstance(self.targets, Ragged) else len(self)

    @property
    def lengths(self) -> Ints:
        """Steps of each input, (N,); 1 for a vector."""
        if self.frames is not None:
            return self.frames.lengths
        if self.sequences is None:
            return np.ones(len(self.lines), dtype=np.int64)
        return self.sequences.lengths

    @property
    def reach(self) -> Ints:
        """Steps of the longer of input and targets, (N,): what a batch is padded to."""
        if isinstance(self.targets, Ragged):
            return np.maximum(self.lengths, self.targets.lengths)
        return self.lengths
