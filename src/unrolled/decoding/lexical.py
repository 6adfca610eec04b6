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
from unrolled.decoding.phrases import Phrases

# Log-probability by row and token. The order of the entries says nothing: banks are sorted.
LogProbs = dict[tuple[int, int], float]
# What a row may go on with: cost (the total, negated), row, token, log-probability of the token.
# Sorted as they are, equal costs come by row, then by token.
Candidate = tuple[float, int, int, float]


def allocate(available: Sequence[int], beam: int) -> list[int]:
    """Return how many of ``beam`` rows each bank gets: even parts, the rest from the top down.

    Args:
        available: candidates of each bank, the lowest first; no bank gets more.
        beam: rows to allocate.
    """
    even = beam // len(available)
    sizes = [min(even, count) for count in available]
    for bank in reversed(range(len(available))):
        unused = available[bank] - sizes[bank]
        sizes[bank] += min(unused, beam - sum(sizes))
    return sizes


class RequiredPhrases:
    """The rows of one source that requires phrases, and how far each has come.

    ``rows`` has the progress of each row of the source, in the order of the search's own arrays:
    one before the first step, ``beam`` after it.

    Args:
        phrases: what it requires.
        beam: rows it has.
        end: the end mark.
    """

    def __init__(
        self,
        phrases: Phrases,
        beam: int,
        end: int,
    ) -> None:
        self.phrases = phrases
        self.beam = beam
        self.end = end
        self.rows = [phrases.start]
        self.size = phrases.size

    @property
    def complete_rows(self) -> int:
        """How many rows the complete hypotheses have while every bank is full."""
        of_lower_bank = self.beam // (self.size + 1)
        return self.beam - self.size * of_lower_bank

    def select(
        self,
        pool: Steps,
        totals: Floats,
        logits: Tensor,
        norms: Tensor,
    ) -> tuple[Steps, Steps]:
        """Choose what goes on and what ends, bank by bank: (beam,) each, best first.

        Args:
            pool: the candidates of each row (W, k).
            totals: log-probability of each row (W,).
            logits: scores of all tokens (W, V), -inf where ruled out.
            norms: what to take off these (W, 1) for log-probabilities.
        """
        log_probs: LogProbs = {}
        for row, token, log_prob, _ in pool.ravel().tolist():
            log_probs[row, token] = log_prob
        log_probs |= self._proposed(logits, norms)
        banks = self._banks(log_probs, totals)
        # the end mark takes no row of those that go on
        going = [
            [candidate for candidate in bank if candidate[2] != self.end]
            for bank in banks
        ]
        available = [len(bank) for bank in going]
        sizes = allocate(available, self.beam)
        chosen: list[Candidate] = []
        for bank, size in zip(going, sizes, strict=True):
            chosen += bank[:size]
        chosen.sort()
        # Only what is complete may end. As in a beam of its own it has to be among the first of the
        # highest bank, as many as the lower banks leave it rows, and one at least.
        of_lower_banks = sum(sizes[:-1])
        width = max(1, self.beam - of_lower_banks)
        complete = banks[-1][:width]
        ended = [candidate for candidate in complete if candidate[2] == self.end]
        return self._steps(chosen), self._steps(ended)

    def _proposed(self, logits: Tensor, norms: Tensor) -> LogProbs:
        """Return what brings a row on, likely or not."""
        pairs: list[tuple[int, int]] = []
        for row, progress in enumerate(self.rows):
            tokens = self.phrases.next_tokens(progress)
            pairs += [(row, token) for token in tokens]
        if not pairs:
            return {}
        indices = torch.tensor(pairs, device=logits.device)
        rows, columns = indices.unbind(1)
        scores = logits[rows, columns]
        log_probs = scores - norms[rows, 0]
        return dict(zip(pairs, log_probs.tolist(), strict=True))

    def _banks(
        self,
        log_probs: LogProbs,
        totals: Floats,
    ) -> list[list[Candidate]]:
        """Return the candidates that are possible by the bank they lead to, best first."""
        banks: list[list[Candidate]] = [[] for _ in range(self.size + 1)]
        for (row, token), log_prob in log_probs.items():
            progress = self.rows[row]
            total = float(totals[row])
            cost = -(total + log_prob)
            is_end = token == self.end
            if not is_end:
                progress = self.phrases.advance(progress, token)
            bank = self.phrases.bank(progress)
            may_follow = bank == self.size or not is_end
            if may_follow and cost < -OUT:
                candidate = (cost, row, token, log_prob)
                banks[bank].append(candidate)
        for candidates in banks:
            candidates.sort()
        return banks

    def _steps(self, candidates: list[Candidate]) -> Steps:
        """Return candidates as ``STEP`` (beam,), -inf where there are no more."""
        steps = np.zeros(self.beam, STEP)
        steps["total"] = OUT
        for index, candidate in enumerate(candidates):
            cost, row, token, log_prob = candidate
            steps[index] = row, token, log_prob, -cost
        return steps

    def follow(self, parents: Ints, tokens: Ints) -> None:
        """Go on: row i is now what row ``parents[i]`` of this source was, after ``tokens[i]``."""
        before = [self.rows[parent] for parent in parents.tolist()]
        self.rows = [
            self.phrases.advance(progress, token)
            for progress, token in zip(before, tokens.tolist(), strict=True)
        ]

    def complete(self) -> Bools:
        """Return which rows have written everything."""
        banks = [self.phrases.bank(progress) for progress in self.rows]
        return np.array([bank == self.size for bank in banks])
