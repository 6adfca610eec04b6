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

# tokens matched of each phrase; all of them once it has occurred
Progress = tuple[int, ...]
# what a row may go on with: cost (the total, negated), row, token, log-probability of the token;
# sorted as they are, equal costs come by row, then by token
Candidate = tuple[float, int, int, float]


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
        after = []
        machines = zip(progress, self.phrases, self.borders, strict=True)
        for matched, phrase, borders in machines:
            if matched < len(phrase):
                while matched and phrase[matched] != token:
                    matched = borders[matched - 1]
                matched += phrase[matched] == token
            after.append(matched)
        return tuple(after)

    def bank(self, progress: Progress) -> int:
        """Return the tokens of the phrases that occurred, and of the one furthest begun."""
        occurred = 0
        begun = 0
        for matched, phrase in zip(progress, self.phrases, strict=True):
            if matched == len(phrase):
                occurred += matched
            else:
                begun = max(begun, matched)
        return occurred + begun

    def next_tokens(self, progress: Progress) -> list[int]:
        """Return the tokens that bring a phrase on, in order."""
        pairs = zip(progress, self.phrases, strict=True)
        return sorted(
            {phrase[matched] for matched, phrase in pairs if matched < len(phrase)}
        )


def _borders(phrase: list[int]) -> list[int]:
    """Return for each beginning how much of its end is a beginning too (and not all of it)."""
    borders = [0]
    for token in phrase[1:]:
        matched = borders[-1]
        while matched and phrase[matched] != token:
            matched = borders[matched - 1]
        borders.append(matched + (phrase[matched] == token))
    return borders


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

    def __init__(self, phrases: Phrases, beam: int, end: int) -> None:
        self.phrases = phrases
        self.beam = beam
        self.end = end
        self.rows = [phrases.start]
        self.size = phrases.size

    @property
    def complete_rows(self) -> int:
        """How many rows the complete hypotheses have while every bank is full."""
        return self.beam - self.size * (self.beam // (self.size + 1))

    def select(
        self, pool: Steps, totals: Floats, logits: Tensor, norms: Tensor
    ) -> tuple[Steps, Steps]:
        """Choose what goes on and what ends, bank by bank: (beam,) each, best first.

        Args:
            pool: the candidates of each row (W, k).
            totals: log-probability of each row (W,).
            logits: scores of all tokens (W, V), -inf where ruled out.
            norms: what to take off these (W, 1) for log-probabilities.
        """
        log_probs = {
            (row, token): log_prob for row, token, log_prob, _ in pool.ravel().tolist()
        }
        log_probs |= self._proposed(logits, norms)
        banks = self._banks(log_probs, totals)
        # the end mark takes no row of those that go on
        going = [
            [candidate for candidate in bank if candidate[2] != self.end]
            for bank in banks
        ]
        sizes = allocate([len(bank) for bank in going], self.beam)
        chosen: list[Candidate] = []
        for bank, size in zip(going, sizes, strict=True):
            chosen += bank[:size]
        # Only what is complete may end. As in a beam of its own it has to be among the first of the
        # highest bank, as many as the lower banks leave it rows, and one at least.
        complete = banks[-1][: max(1, self.beam - sum(sizes[:-1]))]
        ended = [candidate for candidate in complete if candidate[2] == self.end]
        return self._steps(sorted(chosen)), self._steps(ended)

    def _proposed(self, logits: Tensor, norms: Tensor) -> dict[tuple[int, int], float]:
        """Return row, token and log-probability of what brings a row on, likely or not."""
        pairs: list[tuple[int, int]] = []
        for row, progress in enumerate(self.rows):
            pairs += [(row, token) for token in self.phrases.next_tokens(progress)]
        if not pairs:
            return {}
        rows, tokens = torch.tensor(pairs, device=logits.device).unbind(1)
        log_probs = logits[rows, tokens] - norms[rows, 0]
        return dict(zip(pairs, log_probs.tolist(), strict=True))

    def _banks(
        self, log_probs: dict[tuple[int, int], float], totals: Floats
    ) -> list[list[Candidate]]:
        """Return the candidates that are possible by the bank they lead to, best first."""
        banks: list[list[Candidate]] = [[] for _ in range(self.size + 1)]
        for (row, token), log_prob in log_probs.items():
            progress = self.rows[row]
            cost = -(float(totals[row]) + log_prob)
            is_end = token == self.end
            if not is_end:
                progress = self.phrases.advance(progress, token)
            bank = self.phrases.bank(progress)
            if cost < -OUT and (not is_end or bank == self.size):
                banks[bank].append((cost, row, token, log_prob))
        for candidates in banks:
            candidates.sort()
        return banks

    def _steps(self, candidates: list[Candidate]) -> Steps:
        """Return candidates as ``STEP`` (beam,), -inf where there are no more."""
        steps = np.zeros(self.beam, STEP)
        steps["total"] = OUT
        for index, (cost, row, token, log_prob) in enumerate(candidates):
            steps[index] = row, token, log_prob, -cost
        return steps

    def follow(self, parents: Ints, tokens: Ints) -> None:
        """Go on: row i is now what row ``parents[i]`` of this source was, after ``tokens[i]``."""
        steps = zip(parents.tolist(), tokens.tolist(), strict=True)
        self.rows = [
            self.phrases.advance(self.rows[parent], token) for parent, token in steps
        ]

    def complete(self) -> Bools:
        """Return which rows have written everything."""
        banks = [self.phrases.bank(progress) for progress in self.rows]
        return np.array([bank == self.size for bank in banks])
