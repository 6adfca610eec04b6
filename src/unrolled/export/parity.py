"""Whether an exported model says what ours says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from unrolled.data.batches import PAD
from unrolled.data.examples import Ragged
from unrolled.models import Unaligned
from unrolled.text.tokenizers import BOS, EOS, SPECIALS

TOLERANCE = (
    1e-4  # of a log-probability, fp32 on both sides: sums may be ordered otherwise
)
BATCHES = (
    (1, 1),
    (1, 12),
    (2, 5),
    (5, 24),
    (16, 40),
    (3, 90),
)  # texts, tokens of the longest
Ids = Sequence[Sequence[int]]


class Exported(Protocol):
    """The exported model at work, by our ids; neither sources nor targets hold end marks."""

    def score(self, sources: Ids, targets: Ids) -> list[list[float]]:
        """Return the log-probability of each token of each target, and of the end mark."""
        ...

    def write(self, sources: Ids, most: int) -> list[tuple[list[int], float]]:
        """Return what it writes itself, at most so many tokens, and the log-probability of all.

        The end mark is one of them where it was written.
        """
        ...


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two models are apart.

    Attributes:
        largest: of the log-probabilities of a token; of what the exported model writes by itself
            the mean over its tokens.
        tokens: how many were compared.
        lengths: of the shortest and the longest text.
    """

    largest: float
    tokens: int
    lengths: tuple[int, int]

    def __str__(self) -> str:
        batches = ", ".join(
            str(count) for count in sorted({count for count, _ in BATCHES})
        )
        return (
            f"log-probabilities of {self.tokens:,} tokens differ by at most {self.largest:.1e} "
            f"(texts of {self.lengths[0]} to {self.lengths[1]} tokens, batches of {batches})"
        )


def compare(
    model: Unaligned, exported: Exported, source: int, target: int
) -> Difference:
    """Compare two models on random texts of several lengths, in batches of several sizes.

    Both score the same targets; and ours scores what the other writes by itself, token by token.

    Args:
        model: ours, in evaluation mode, on the CPU.
        exported: the other.
        source, target: sizes of the vocabularies.
    """
    draw = np.random.default_rng(0)
    gaps = [0.0]
    tokens = 0
    limits = [
        limit - 1 for limit in (model.limit, model.longest) if limit
    ]  # an end mark follows
    longest = [min(most, *limits) if limits else most for _, most in BATCHES]
    for (count, _), most in zip(BATCHES, longest, strict=True):
        sources, targets = (
            _texts(draw, count, most, size) for size in (source, target)
        )
        ours = score(model, sources, [[*each, EOS] for each in targets])
        theirs = exported.score(sources, targets)
        gaps += [
            float(np.abs(np.subtract(a, b)).max())
            for a, b in zip(ours, theirs, strict=True)
        ]
        written = exported.write(sources, most)
        told = score(model, sources, [each for each, _ in written])
        gaps += [
            abs(sum(mine) - total) / len(mine)
            for mine, (_, total) in zip(told, written, strict=True)
        ]
        tokens += sum(map(len, ours + told))
    # a maximum of Python's would pass over a NaN
    return Difference(float(np.max(gaps)), tokens, (1, max(longest)))


@torch.inference_mode()
def score(model: Unaligned, sources: Ids, targets: Ids) -> list[list[float]]:
    """Return the log-probability of each token of each target by our model, on the CPU.

    The end mark is added to sources; to targets it is not.
    """
    rows = np.arange(len(sources))
    ids, lengths = Ragged.of([[*each, EOS] for each in sources]).take(rows, PAD)
    inputs, _ = Ragged.of([[BOS, *each[:-1]] for each in targets]).take(rows, PAD)
    chosen, _ = Ragged.of(targets).take(rows, PAD)
    found = (
        model(ids, lengths, inputs)
        .double()
        .log_softmax(-1)
        .gather(2, chosen[:, :, None])
    )
    return [
        row[: len(each)].tolist()
        for row, each in zip(found[:, :, 0], targets, strict=True)
    ]


def _texts(
    draw: np.random.Generator, count: int, longest: int, size: int
) -> list[list[int]]:
    """Return texts of random tokens, the first as long as may be."""
    lengths = [longest, *draw.integers(1, longest + 1, count - 1).tolist()]
    return [draw.integers(len(SPECIALS), size, each).tolist() for each in lengths]
