"""Phrases that must occur: dynamic beam allocation (Post and Vilar 2018).

A beam is shared out among banks: bank c holds hypotheses that have written c tokens of what is
required. Each row also proposes the tokens that would bring it on, so a higher bank is reached in
every step, and only a hypothesis with everything written may end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unrolled.decoding.beams import OUT, STEP, Bools, Floats, Ints, Steps

Progress = tuple[
    int, ...
]  # tokens written of each phrase; all of them once it has occurred


class Phrases:
    """What one source requires: a state machine a phrase, all followed at once.

    A phrase once written counts for good. One begun and not gone on with falls back to what is
    still right of it (Knuth, Morris and Pratt 1977; the paper falls back to nothing, and so would
    miss "a a b" in "a a a b"). Phrases may overlap; one that is named twice must occur once.

    Args:
        phrases: sequences of tokens; none is empty.
    """

    def __init__(self, phrases: Sequence[Sequence[int]]) -> None:
        self.phrases = [list(phrase) for phrase in dict.fromkeys(map(tuple, phrases))]
        self.borders = [_borders(phrase) for phrase in self.phrases]
        self.size = sum(map(len, self.phrases))
        self.start: Progress = (0,) * len(self.phrases)

    def advance(self, progress: Progress, token: int) -> Progress:
        """Return the progress after one more token."""
        found = []
        for at, phrase, border in zip(
            progress, self.phrases, self.borders, strict=True
        ):
            if at < len(phrase):
                while at and phrase[at] != token:
                    at = border[at - 1]
                at += phrase[at] == token
            found.append(at)
        return tuple(found)

    def met(self, progress: Progress) -> int:
        """Return the bank: tokens of the phrases that occurred, and of the one furthest begun."""
        pairs = [
            (at, len(phrase)) for at, phrase in zip(progress, self.phrases, strict=True)
        ]
        begun = max((at for at, size in pairs if at < size), default=0)
        return sum(size for at, size in pairs if at == size) + begun

    def wanted(self, progress: Progress) -> list[int]:
        """Return the tokens that bring a phrase on."""
        pairs = zip(progress, self.phrases, strict=True)
        return sorted({phrase[at] for at, phrase in pairs if at < len(phrase)})


def _borders(phrase: list[int]) -> list[int]:
    """Return for each beginning how much of its end is a beginning too (and not all of it)."""
    borders = [0]
    for token in phrase[1:]:
        at = borders[-1]
        while at and phrase[at] != token:
            at = borders[at - 1]
        borders.append(at + (phrase[at] == token))
    return borders


def share_out(available: Sequence[int], beam: int) -> list[int]:
    """Return how many of ``beam`` rows each bank gets: even parts, the rest from the top down."""
    shares = [min(beam // len(available), count) for count in available]
    for bank in reversed(range(len(available))):
        shares[bank] += min(available[bank] - shares[bank], beam - sum(shares))
    return shares


class Required:
    """The rows of one source that requires phrases.

    Args:
        phrases: what it requires.
        beam: rows it has.
        end: the end mark.
    """

    def __init__(self, phrases: Phrases, beam: int, end: int) -> None:
        self.phrases = phrases
        self.beam = beam
        self.end = end
        self.rows = [phrases.start]
        self.size = phrases.size

    @property
    def top(self) -> int:
        """How many rows the complete hypotheses have while every bank is full."""
        return self.beam - self.size * (self.beam // (self.size + 1))

    def select(
        self, pool: Steps, total: Floats, logits: Tensor, norm: Tensor
    ) -> tuple[Steps, Steps]:
        """Choose what goes on and what ends, bank by bank: (beam,) each.

        Args:
            pool: the candidates of each row (W, k).
            total: log-probability of each row (W,).
            logits: scores of all tokens (W, V), -inf where ruled out.
            norm: what to take off these (W, 1) for log-probabilities.
        """
        candidates = {
            (row, token): value for row, token, value, _ in pool.ravel().tolist()
        }
        pairs = enumerate(self.rows)
        wanted = [
            (row, token) for row, at in pairs for token in self.phrases.wanted(at)
        ]
        if wanted:
            rows, tokens = torch.tensor(wanted, device=logits.device).unbind(1)
            values = (logits[rows, tokens] - norm[rows, 0]).tolist()
            candidates |= dict(zip(wanted, values, strict=True))
        banks: list[list[tuple[float, int, int, float]]] = [
            [] for _ in range(self.size + 1)
        ]
        for (row, token), value in candidates.items():
            at = self.rows[row]
            cost = -(float(total[row]) + value)
            if token != self.end:
                at = self.phrases.advance(at, token)
            written = self.phrases.met(at)
            if cost < -OUT and (token != self.end or written == self.size):
                banks[written].append((cost, row, token, value))
        for bank in banks:
            bank.sort()
        going = [
            [candidate for candidate in bank if candidate[2] != self.end]
            for bank in banks
        ]
        shares = share_out([len(bank) for bank in going], self.beam)
        on: list[tuple[float, int, int, float]] = []
        for bank, share in zip(going, shares, strict=True):
            on += bank[:share]
        first = banks[-1][: max(1, self.beam - sum(shares[:-1]))]
        ended = [candidate for candidate in first if candidate[2] == self.end]
        return self._steps(sorted(on)), self._steps(ended)

    def _steps(self, candidates: list[tuple[float, int, int, float]]) -> Steps:
        steps = np.zeros(self.beam, STEP)
        steps["total"] = OUT
        for index, (cost, row, token, value) in enumerate(candidates):
            steps[index] = row, token, value, -cost
        return steps

    def follow(self, parents: Ints, tokens: Ints) -> None:
        """Note what the rows have become."""
        steps = zip(parents.tolist(), tokens.tolist(), strict=True)
        self.rows = [
            self.phrases.advance(self.rows[row], token) for row, token in steps
        ]

    def complete(self) -> Bools:
        """Return which rows have written everything."""
        return np.array([self.phrases.met(at) == self.size for at in self.rows])
