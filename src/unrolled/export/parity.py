"""Whether an exported model says what ours says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unrolled.data.batches import PAD
from unrolled.data.examples import Ragged
from unrolled.models import Unaligned
from unrolled.text.tokenizers import BOS, EOS, SPECIALS

# of a log-probability, fp32 on both sides: sums may be ordered otherwise
TOLERANCE = 1e-4
# of a score, as a share of the largest: fp32 keeps seven digits, of which deep stacks lose two
SHARE = 1e-5
# texts, tokens of the longest
BATCHES = (
    (1, 1),
    (1, 12),
    (2, 5),
    (5, 24),
    (16, 40),
    (3, 90),
)
Ids = Sequence[Sequence[int]]
Scores = list[list[float]]  # a log-probability for each token of each text
Texts = list[tuple[list[int], float]]  # tokens, and the log-probability of all of them


class Exported(Protocol):
    """The exported model at work, by our ids; neither sources nor targets hold end marks."""

    def score(self, sources: Ids, targets: Ids) -> Scores:
        """Return the log-probability of each token of each target, and of the end mark."""
        ...

    def write(self, sources: Ids, most: int) -> Texts:
        """Return what it writes itself, at most so many tokens, and the log-probability of all.

        The end mark is one of them where it was written.
        """
        ...


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two models are apart.

    Attributes:
        largest: of the values; of log-probabilities those of a token, and of what the exported
            model writes by itself the mean over its tokens.
        count: how many were compared.
        lengths: of the shortest and the longest input.
        values: what was compared.
        unit: what inputs are made of.
        notes: lines on what was done beside, or could not be.
        tolerance: how far they may be apart.
    """

    largest: float
    count: int
    lengths: tuple[int, int]
    values: str = "log-probabilities"
    unit: str = "token"
    notes: tuple[str, ...] = ()
    tolerance: float = TOLERANCE

    def __str__(self) -> str:
        sizes = sorted({count for count, _ in BATCHES})
        batches = ", ".join(map(str, sizes))
        return (
            f"{self.count:,} {self.values} differ by at most {self.largest:.1e} (inputs of "
            f"{self.lengths[0]} to {self.lengths[1]} {self.unit}s, batches of {batches})"
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
    generator = np.random.default_rng(0)
    # an end mark follows
    limits = [limit - 1 for limit in (model.limit, model.longest) if limit]
    gaps = [0.0]
    tokens = 0
    longest = 0
    for count, most in BATCHES:
        length = min(most, *limits) if limits else most
        longest = max(longest, length)
        sources = _texts(generator, count, length, source)
        targets = _texts(generator, count, length, target)
        ended = [[*text, EOS] for text in targets]
        ours = score(model, sources, ended)
        theirs = exported.score(sources, targets)
        for our_row, their_row in zip(ours, theirs, strict=True):
            differences = np.abs(np.subtract(our_row, their_row))
            gaps.append(float(differences.max()))
            tokens += len(our_row)
        generated = exported.write(sources, length)
        texts = [text for text, _ in generated]
        ours = score(model, sources, texts)
        for our_row, (_, their_sum) in zip(ours, generated, strict=True):
            difference = abs(sum(our_row) - their_sum)
            gaps.append(difference / len(our_row))
            tokens += len(our_row)
    # a maximum of Python's would pass over a NaN
    largest = float(np.max(gaps))
    return Difference(largest, tokens, (1, longest))


@torch.inference_mode()
def score(model: Unaligned, sources: Ids, targets: Ids) -> Scores:
    """Return the log-probability of each token of each target by our model, on the CPU.

    The end mark is added to sources; to targets it is not.
    """
    ended = [[*source, EOS] for source in sources]
    ids, lengths = _padded(ended)
    shifted = [[BOS, *target[:-1]] for target in targets]
    decoder_inputs, _ = _padded(shifted)
    target_ids, _ = _padded(targets)
    logits = model(ids, lengths, decoder_inputs).double()
    log_probabilities = logits.log_softmax(-1)
    of_targets = log_probabilities.gather(2, target_ids[:, :, None])
    scores: Scores = []
    for row, target in zip(of_targets[:, :, 0], targets, strict=True):
        scores.append(row[: len(target)].tolist())
    return scores


def _padded(texts: Ids) -> tuple[Tensor, Tensor]:
    """Return texts side by side (S, T), and how long they are (S,)."""
    ragged = Ragged.of(texts)
    rows = np.arange(len(texts))
    return ragged.take(rows, PAD)


def _texts(
    generator: np.random.Generator, count: int, longest: int, size: int
) -> list[list[int]]:
    """Return texts of random tokens, the first as long as may be."""
    shorter = generator.integers(1, longest + 1, count - 1)
    texts: list[list[int]] = []
    for length in [longest, *shorter.tolist()]:
        tokens = generator.integers(len(SPECIALS), size, length)
        texts.append(tokens.tolist())
    return texts
