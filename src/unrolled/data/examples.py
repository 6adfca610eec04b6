"""Encoded examples in memory: sequences of unequal length side by side in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.data.shards import Tokens

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences of unequal length: row i is ``flat[offsets[i]:offsets[i + 1]]``."""

    flat: NDArray[np.int32] | Tokens
    offsets: Ints

    @classmethod
    def of(
        cls,
        rows: Iterable[Sequence[int]],
    ) -> Ragged:
        """Lay sequences of ids side by side."""
        rows = list(rows)
        lengths = [len(row) for row in rows]
        offsets = _offsets(lengths)
        size = int(offsets[-1])
        flat = np.empty(size, dtype=np.int32)
        starts = offsets[:-1]
        ends = offsets[1:]
        for row, start, end in zip(rows, starts, ends, strict=True):
            flat[start:end] = row
        return cls(flat, offsets)

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        """Return the sequences of one part after those of another."""
        # nothing, which is what there is without any part
        no_lengths = np.zeros(0, np.int64)
        no_ids = np.zeros(0, np.int32)
        lengths = np.concatenate([no_lengths, *(part.lengths for part in parts)])
        flat = np.concatenate([no_ids, *(part.flat for part in parts)])
        return cls(flat, _offsets(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Length of each row, (N,)."""
        return np.diff(self.offsets)

    def pick(self, rows: Sequence[int] | Ints) -> Ragged:
        """Return some of the sequences."""
        starts = self.offsets[rows]
        lengths = self.lengths[rows]
        offsets = _offsets(lengths)
        size = offsets[-1]
        steps = np.arange(size)
        steps -= np.repeat(offsets[:-1], lengths)  # from the start of each sequence
        positions = np.repeat(starts, lengths) + steps
        return Ragged(self.flat[positions], offsets)

    def take(self, rows: Ints, pad: int) -> tuple[Tensor, Tensor]:
        """Return these rows padded at the right: ids (B, T) and lengths (B,), both int64."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        positions, real = _steps(starts, lengths)
        ids = np.full(real.shape, pad, dtype=np.int64)
        positions = positions[real]
        ids[real] = self.flat[positions]
        return torch.from_numpy(ids), torch.from_numpy(lengths)


def _offsets(lengths: Sequence[int] | Ints) -> Ints:
    """Return where each row starts, and where the last one ends, (N + 1,)."""
    offsets = np.zeros(
        len(lengths) + 1,
        dtype=np.int64,
    )
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _steps(starts: Ints, lengths: Ints) -> tuple[Ints, Mask]:
    """Return where the steps of padded rows stand in a flat array, and which are real, (B, T).

    A batch has one step at least, so that it can be read where all rows are empty.
    """
    longest = lengths.max(initial=0)
    count = max(1, int(longest))
    steps = np.arange(count)
    positions = starts[:, None] + steps
    real = steps < lengths[:, None]
    return positions, real


@dataclass(frozen=True, slots=True)
class Spellings:
    """The distinct words of some rows: the id of each in the vocabulary, and those of its pieces.

    Rows then hold indices of this list instead of ids, so that a batch spells each word once.
    """

    ids: Ints
    pieces: Ragged

    def take(
        self, rows: Tensor, lengths: Tensor, pad: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what a model reads for rows of indices (B, T), padded at the right.

        Returns:
            The words' ids (B, T), and: the pieces of the U distinct words (U, C), how many are
            real (U,), and which of those words each one is (B, T).
        """
        steps = torch.arange(rows.shape[1])
        real = steps < lengths[:, None]
        distinct, inverse = torch.unique(rows[real], return_inverse=True)
        vocabulary_ids = torch.from_numpy(self.ids)
        ids = torch.full_like(rows, pad)
        ids[real] = vocabulary_ids[distinct[inverse]]
        word_indices = torch.zeros_like(rows)
        word_indices[real] = inverse
        words = distinct.numpy()
        pieces, piece_counts = self.pieces.take(words, pad)
        return ids, (pieces, piece_counts, word_indices)


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of one long array of steps; they may overlap, as windows do.

    Row i is ``flat[starts[i]:starts[i] + lengths[i]]`` of ``flat`` (S, D). ``lines`` (S,) tells
    where each step stands in its file, where that is known.
    """

    flat: Floats
    starts: Ints
    lengths: Ints
    lines: Ints | None = None

    def pick(self, rows: Ints) -> Spans:
        """Return some of the stretches."""
        return replace(
            self,
            starts=self.starts[rows],
            lengths=self.lengths[rows],
        )

    def take(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """Return these rows padded with zeros: steps (B, T, D) fp32 and lengths (B,) int64."""
        starts = self.starts[rows]
        lengths = self.lengths[rows]
        positions, real = _steps(starts, lengths)
        width = self.flat.shape[1]
        shape = (*real.shape, width)
        steps = np.zeros(shape, dtype=np.float32)
        positions = positions[real]
        steps[real] = self.flat[positions]
        return torch.from_numpy(steps), torch.from_numpy(lengths)


@dataclass(frozen=True, slots=True)
class Images:
    """Images that rows read, each kept once: row i reads ``pixels[rows[i]]``.

    ``pixels`` (I, 3, H, W) are bytes; or features that a network made of them (I, M, C), float16.
    """

    pixels: NDArray[Any]
    rows: Ints

    def pick(self, rows: Ints) -> Images:
        """Return the images of some of the rows."""
        return replace(self, rows=self.rows[rows])

    def by_image(self) -> list[list[int]]:
        """Return the rows of each of the I images, in their order."""
        rows: list[list[int]] = [[] for _ in self.pixels]
        for row, image in enumerate(self.rows.tolist()):
            rows[image].append(row)
        return rows

    def take(self, rows: Ints) -> Tensor:
        """Return the image of each row (B, 3, H, W) uint8, or its features (B, M, C) float32."""
        return self.distinct(self.rows[rows])

    def distinct(self, images: Ints) -> Tensor:
        """Return images by their own indices, as ``take`` does."""
        taken = torch.from_numpy(np.ascontiguousarray(self.pixels[images]))
        return taken if taken.dtype == torch.uint8 else taken.float()


@dataclass(frozen=True, slots=True)
class FrameSpans:
    """Stretches of one long array of frames: row i is ``pixels[starts[i]:starts[i] + lengths[i]]``.

    ``pixels`` (S, C, H, W) are bytes.
    """

    pixels: NDArray[np.uint8]
    starts: Ints
    lengths: Ints

    def pick(self, rows: Ints) -> FrameSpans:
        """Return some of the stretches."""
        return replace(
            self,
            starts=self.starts[rows],
            lengths=self.lengths[rows],
        )

    def take(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """Return these rows padded with zeros: (B, T, C, H, W) uint8 and lengths (B,) int64."""
        starts = self.starts[rows]
        lengths = self.lengths[rows]
        positions, real = _steps(starts, lengths)
        frames = np.zeros(
            (*real.shape, *self.pixels.shape[1:]),
            dtype=np.uint8,
        )
        frames[real] = self.pixels[positions[real]]
        return torch.from_numpy(frames), torch.from_numpy(lengths)

    def stretches(
        self,
        rows: Ints,
        size: int,
    ) -> Iterator[Tensor]:
        """Yield the frames of these rows one after another, at most ``size`` at a time."""
        positions, real = _steps(self.starts[rows], self.lengths[rows])
        in_order = positions[real]
        for start in range(0, len(in_order), size):
            stretch = self.pixels[in_order[start : start + size]]
            yield torch.from_numpy(np.array(stretch))


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded rows of a data file.

    One of ``sequences``, ``vectors`` and ``frames`` holds the inputs; next to sequences, vectors
    hold what other columns say of a row, and frames what they say of its steps. Targets are class
    indices (N,) int64, values (N,) float32, or one class a step (Ragged). Without targets they can
    only be predicted. ``lines`` tells where each row stands in its file; ``characters`` holds the
    code points of each text, for models that read them beside its tokens. With ``spellings`` the
    sequences are indices of its list of words. ``images`` are read instead, or next to sequences;
    ``clips`` are frames of images.
    """

    lines: Ints
    sequences: Ragged | None = None
    vectors: Floats | None = None
    targets: Ints | Floats | Ragged | None = None
    characters: Ragged | None = None
    spellings: Spellings | None = None
    frames: Spans | None = None
    images: Images | None = None
    clips: FrameSpans | None = None

    def __len__(self) -> int:
        return len(self.lines)

    def pick(self, rows: Ints) -> Examples:
        """Return some of the examples (M,), in that order."""

        def some(part: Any) -> Any:
            if part is None:
                return None
            return part.pick(rows) if hasattr(part, "pick") else part[rows]

        return replace(
            self,
            lines=self.lines[rows],
            sequences=some(self.sequences),
            vectors=some(self.vectors),
            targets=some(self.targets),
            characters=some(self.characters),
            frames=some(self.frames),
            images=some(self.images),
            clips=some(self.clips),
        )

    @property
    def answers(self) -> int:
        """How many answers are scored: one a row, or one a step."""
        if isinstance(self.targets, Ragged):
            return len(self.targets.flat)
        return len(self)

    @property
    def lengths(self) -> Ints:
        """Steps of each input, (N,); 1 for a vector."""
        if self.frames is not None:
            return self.frames.lengths
        if self.clips is not None:
            return self.clips.lengths
        if self.sequences is None:
            count = len(self.lines)
            return np.ones(count, dtype=np.int64)
        return self.sequences.lengths

    @property
    def reach(self) -> Ints:
        """Steps of the longer of input and targets, (N,): what a batch is padded to."""
        if isinstance(self.targets, Ragged):
            return np.maximum(
                self.lengths,
                self.targets.lengths,
            )
        return self.lengths
