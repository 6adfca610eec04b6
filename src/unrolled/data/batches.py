"""Batches: what is read together at each step, as a pure function of (seed, epoch, index).

Legend: B rows, T steps, D width of a vector.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.data.shards import Tokens

PAD = 0
IGNORED = -100  # the target of a step that is not scored; cross_entropy's own default


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and targets of one forward pass.

    ``inputs`` is ids (B, T) int64, vectors (B, D) or frames (B, T, D) float32, or images (B, 3, H,
    W) uint8; ``lengths`` (B,)
    counts the real steps, None when all are real; ``restart`` is true where no state may be carried
    in, and ``fresh`` marks single rows of which this holds, bool (B,); ``start`` is the token that
    a row of a text begins with where no state is carried in, and None where that stands there;
    ``starts`` is true where a document begins in rows of several, bool (B, T), whose first step
    goes on from the state that is carried in; None where a row holds one;
    ``rows`` are the indices of the examples (B,), for error messages and reports; ``extra`` is
    what a model reads beside inputs and lengths: features of other columns (B, D), or of each word
    (B, T, D), code points (B, C) and their number (B,), or the spelling of words. ``rewards`` (B,
    2) says what each target sequence earned and what it is compared with, where the targets were
    written by the model itself.
    """

    inputs: Tensor
    lengths: Tensor | None
    targets: Tensor | None
    rows: Ints
    restart: bool = True
    fresh: Tensor | None = None
    extra: tuple[Tensor, ...] = ()
    start: int | None = None
    starts: Tensor | None = None
    rewards: Tensor | None = None

    @property
    def steps(self) -> int:
        """Real steps of all rows; a vector is one step."""
        if self.lengths is not None:
            return int(self.lengths.sum())
        is_text = self.inputs.dtype == torch.int64
        return self.inputs.numel() if is_text else len(self.inputs)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on ``device``."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            inputs=self.inputs.to(device),
            lengths=move(self.lengths),
            targets=move(self.targets),
            fresh=move(self.fresh),
            starts=move(self.starts),
            rewards=move(self.rewards),
            extra=tuple(tensor.to(device) for tensor in self.extra),
        )


class BatchSource(Protocol):
    """Where a training loop takes its batches from."""

    def length(self, epoch: int) -> int:
        """Return the number of batches in an epoch."""
        ...

    def batch(self, epoch: int, index: int) -> Batch:
        """Return one batch; equal arguments give equal batches."""
        ...


@runtime_checkable
class DivisibleSource(BatchSource, Protocol):
    """Batches of which several processes read a part each."""

    def rows_of_batch(self, epoch: int, index: int) -> int:
        """Return how many rows, or images with all their rows, one batch has."""
        ...

    def batch(self, epoch: int, index: int, part: slice = slice(None)) -> Batch:
        """Return one batch, or some of its rows; equal arguments give equal batches."""
        ...


def random(*key: int) -> np.random.Generator:
    """Return a generator that depends on ``key`` alone, not on what ran before."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def collate(examples: Examples, rows: Ints) -> Batch:
    """Put examples side by side, padded at the right."""
    inputs: Tensor
    lengths: Tensor | None = None
    if examples.sequences is not None:
        inputs, lengths = examples.sequences.take(rows, PAD)
    elif examples.frames is not None:
        inputs, lengths = examples.frames.take(rows)
    elif examples.images is not None:
        inputs = examples.images.take(rows)
        lengths = torch.ones(len(rows), dtype=torch.int64)
    elif examples.clips is not None:
        inputs, lengths = examples.clips.take(rows)
    else:
        assert examples.vectors is not None
        inputs = torch.from_numpy(examples.vectors[rows])
    targets: Tensor | None = None
    if isinstance(examples.targets, Ragged):
        targets, _ = examples.targets.take(rows, IGNORED)
        if lengths is None:
            # what a text is written for is a source of one place
            lengths = torch.ones(len(rows), dtype=torch.int64)
    elif examples.targets is not None:
        targets = torch.from_numpy(examples.targets[rows])
    extra: tuple[Tensor, ...] = ()
    if examples.vectors is not None and examples.sequences is not None:
        features = examples.vectors[rows]
        extra = (torch.from_numpy(features),)
    if examples.frames is not None and examples.sequences is not None:
        beside, _ = examples.frames.take(rows)
        extra += (beside,)
    if examples.images is not None and examples.sequences is not None:
        extra += (examples.images.take(rows),)
    if examples.characters is not None:
        extra += examples.characters.take(rows, PAD)
    elif examples.spellings is not None:
        assert lengths is not None
        inputs, spelt = examples.spellings.take(inputs, lengths, PAD)
        extra += spelt
    return Batch(
        inputs,
        lengths,
        targets,
        rows,
        extra=extra,
    )


def by_length(
    lengths: Ints,
    order: Ints,
    rows: int,
    tokens: int | None,
) -> list[Ints]:
    """Cut ``order`` into batches of at most ``rows`` rows and ``tokens`` padded steps.

    A row longer than ``tokens`` makes a batch of its own; an empty one is padded to one step.
    """
    batches = []
    start = 0
    longest = 0
    sizes = np.maximum(lengths[order], 1)
    for position, length in enumerate(sizes.tolist()):
        count = position - start
        grown = max(longest, length)
        over = tokens is not None and grown * (count + 1) > tokens
        if count and (count >= rows or over):
            batches.append(order[start:position])
            start = position
            grown = length
        longest = grown
    if start < len(order):
        batches.append(order[start:])
    return batches


@dataclass(frozen=True)
class Buckets:
    """Batches of rows of like length, so that little padding is computed.

    Every epoch shuffles the rows, sorts them by length within pools of ``pool`` batches and
    shuffles the batches of all pools. The first ``unlabelled`` epochs come without targets.
    """

    examples: Examples
    rows: int
    tokens: int | None
    seed: int
    pool: int = 64
    unlabelled: int = 0

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the plan of the current and the next epoch
    def plan(self, epoch: int) -> list[Ints]:
        """Return the rows of every batch of an epoch."""
        lengths = self.examples.reach
        generator = random(self.seed, epoch)
        order = generator.permutation(len(self.examples))
        mean = float(lengths.mean()) if len(lengths) else 1.0
        typical = max(1.0, mean)
        size = self.rows  # of a batch of rows of that length
        if self.tokens:
            size = min(
                size,
                int(self.tokens // typical) or 1,
            )
        count = round(len(order) / (size * self.pool))
        pools = np.array_split(order, max(1, count))
        batches = list[Ints]()
        for pool in pools:
            by_size = np.argsort(lengths[pool], kind="stable")
            batches += by_length(
                lengths,
                pool[by_size],
                self.rows,
                self.tokens,
            )
        shuffled = generator.permutation(len(batches))
        return [batches[index] for index in shuffled]

    def rows_of_batch(self, epoch: int, index: int) -> int:
        """Return how many rows one batch has."""
        return len(self.plan(epoch)[index])

    def __hash__(self) -> int:
        return id(self)

    def length(self, epoch: int) -> int:
        """Return the number of batches in an epoch."""
        return len(self.plan(epoch))

    def batch(
        self,
        epoch: int,
        index: int,
        part: slice = slice(None),
    ) -> Batch:
        """Return one batch of an epoch, or some of its rows."""
        rows = self.plan(epoch)[index]
        batch = collate(self.examples, rows[part])
        if epoch < self.unlabelled:
            return replace(batch, targets=None)
        return batch


@dataclass(frozen=True)
class Lanes:
    """Windows of one long text for truncated back-propagation.

    The text is cut into ``lanes`` equal parts that are read side by side, ``window`` tokens at a
    time; the state at the end of a window is carried into the next one, so a lane is read as one
    unbroken text. Each epoch starts the lanes elsewhere (the text is closed to a ring), so
    that the cuts fall elsewhere. ``start`` is the token that stands before a fresh start. With the
    probability ``reset`` a lane starts fresh at a window: who only ever reads on from a full state
    does not learn to begin.
    """

    tokens: NDArray[np.int32] | Tokens
    lanes: int
    window: int
    seed: int
    start: int
    reset: float = 0.0

    @property
    def lane_length(self) -> int:
        """Tokens in one lane."""
        return len(self.tokens) // min(self.lanes, len(self.tokens))

    @functools.lru_cache(maxsize=2)  # noqa: B019 - drawn once an epoch
    def shift(self, epoch: int) -> int:
        """Return where the ring is cut in an epoch."""
        size = len(self.tokens)
        # a text that one window holds is always read from its beginning
        whole = min(self.lanes, size) == 1 and self.lane_length <= self.window
        if whole or not epoch:
            return 0
        return int(random(self.seed, epoch).integers(size))

    def __hash__(self) -> int:
        return id(self)

    def length(self, epoch: int) -> int:
        """Return the number of windows in a lane."""
        return -(-self.lane_length // self.window)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return window ``index`` of every lane: inputs and next tokens, both (lanes, T)."""
        size = len(self.tokens)
        lanes = min(self.lanes, len(self.tokens))
        shift = self.shift(epoch)
        begin = index * self.window
        end = min(begin + self.window, self.lane_length)
        lane_starts = np.arange(lanes)[:, None] * self.lane_length
        # one token before the window: the first input
        positions = lane_starts + np.arange(begin - 1, end) + shift
        ids = self.tokens[positions % size].astype(np.int64)
        begins: Tensor | None = None
        if index == 0:
            ids[:, 0] = self.start
        elif self.reset:
            fresh = random(self.seed, epoch, index).random(lanes) < self.reset
            ids[fresh, 0] = self.start
            begins = torch.from_numpy(fresh) if fresh.any() else None
        # inputs and targets are one stretch of text, a step apart
        both = torch.from_numpy(ids)
        return Batch(
            both[:, :-1],
            None,
            both[:, 1:],
            np.arange(lanes),
            index == 0,
            begins,
            start=self.start,
        )


@dataclass(frozen=True)
class Windows:
    """Independent windows of one long text, for layers whose reach is limited.

    An epoch covers the text once: windows stand end to end from a random position, in random order.
    """

    tokens: NDArray[np.int32] | Tokens
    rows: int
    window: int
    seed: int
    start: int

    def length(self, epoch: int) -> int:
        """Return the number of batches that cover the text once."""
        size = self.rows * self.window
        return -(-len(self.tokens) // size)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - drawn once an epoch
    def plan(self, epoch: int) -> tuple[int, Ints]:
        """Return where the first window of an epoch starts, and the order of the windows."""
        generator = random(self.seed, epoch)
        shift = int(generator.integers(len(self.tokens)))
        return shift, generator.permutation(self.length(epoch) * self.rows)

    def __hash__(self) -> int:
        return id(self)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return windows of inputs and next tokens, both (rows, window)."""
        shift, order = self.plan(epoch)
        first = index * self.rows
        chosen = order[first : first + self.rows]
        starts = shift + chosen[:, None] * self.window
        positions = starts + np.arange(-1, self.window)
        ids = self.tokens[positions % len(self.tokens)].astype(np.int64)
        ids[:, 0] = self.start
        both = torch.from_numpy(ids)
        return Batch(
            both[:, :-1],
            None,
            both[:, 1:],
            chosen,
        )
