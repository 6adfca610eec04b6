"""Speculative decoding: a cheap draft guesses some tokens, the model checks them all at once.

Leviathan et al. (2023), algorithm 1: a guess x, drawn with probability q(x), is kept with
probability min(1, p(x) / q(x)), where p is what the model itself says; the first that is not kept
is drawn anew from max(0, p - q). So the text has the distribution that it has without a draft.

Legend: V tokens of the vocabulary, G guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

GUESSES = 6  # tokens that are guessed at once
LONGEST = 4  # tokens that are looked for in what was written
LONGEST_WAIT = 64  # tokens without a guess
Distribution = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Guess:
    """What a draft guesses.

    Attributes:
        tokens: in order.
        probabilities: what each was drawn from (G, V); None where nothing was drawn.
    """

    tokens: list[int]
    probabilities: Tensor | None = None


class Drafter(Protocol):
    """What guesses how a text goes on."""

    def guess(
        self, recent: Sequence[int], count: int, distribution: Distribution
    ) -> Guess:
        """Guess up to ``count`` tokens after ``recent``.

        Args:
            recent: what the model has read, the newest token last.
            count: the most guesses.
            distribution: of scores (1, V): with what probability each token is chosen (1, V).
        """
        ...


class RepeatDraft:
    """Guesses that what followed the last few tokens before follows them again.

    Saxena (2023), prompt lookup decoding: the longest of up to four last tokens that stood before,
    where they stood last. After guesses none of which was kept it waits, each time twice as long,
    so that a text that does not repeat is written about as fast as without.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, ...], int] = {}
        self._seen: list[int] = []
        self._guessed: list[int] = []
        self._from = 0  # where the last guess was made
        self._wait = 0  # tokens to wait after the next guess that fails
        self._until = 0  # where guessing begins again

    def guess(
        self, recent: Sequence[int], count: int, distribution: Distribution
    ) -> Guess:
        self._note(recent)
        self._learn(recent)
        if len(recent) < self._until:
            return Guess([])
        for size in range(min(LONGEST, len(recent)), 0, -1):
            at = self._last.get(tuple(recent[-size:]))
            if at is not None:
                self._guessed = list(recent[at : at + count])
                self._from = len(recent)
                return Guess(self._guessed)
        return Guess([])

    def _learn(self, recent: Sequence[int]) -> None:
        """Wait for longer or not at all, by what became of the last guess."""
        if not self._guessed or len(recent) <= self._from:
            return
        kept = recent[self._from] == self._guessed[0]
        self._guessed = []
        self._wait = 0 if kept else min(2 * self._wait + 2, LONGEST_WAIT)
        self._until = len(recent) + self._wait

    def _note(self, recent: Sequence[int]) -> None:
        """Remember where runs of tokens end, but for those at the very end."""
        known = len(self._seen)
        if known > len(recent) or list(recent[:known]) != self._seen:
            # the text was cut: its window slid
            self._last.clear()
            self._seen = []
            self._guessed = []
            self._until = 0
            known = 0
        for end in range(max(1, known), len(recent)):
            for size in range(1, min(LONGEST, end) + 1):
                self._last[tuple(recent[end - size : end])] = end
        self._seen = list(recent)


class DraftReader(Protocol):
    """What a draft by a model asks of its reader; see ``generate.TokenReader``."""

    context: int | None

    @property
    def logits(self) -> Tensor: ...

    def feed(self, token: Tensor) -> None: ...

    def become(self, recent: Sequence[int]) -> None: ...


class ModelDraft:
    """Guesses as a smaller model over the same vocabulary draws, as far as its context reaches.

    Args:
        reader: of the smaller model.
        generator: source of randomness.
    """

    def __init__(self, reader: DraftReader, generator: torch.Generator | None) -> None:
        self._reader = reader
        self._generator = generator

    def guess(
        self, recent: Sequence[int], count: int, distribution: Distribution
    ) -> Guess:
        reader = self._reader
        if reader.context is not None:
            count = min(count, reader.context - len(recent))
        if count < 1:
            return Guess([])
        reader.become(recent)
        tokens: list[int] = []
        drawn_from: list[Tensor] = []
        while len(tokens) < count:
            probabilities = distribution(reader.logits)
            token = torch.multinomial(probabilities, 1, generator=self._generator)[0]
            drawn_from.append(probabilities)
            tokens.append(int(token))
            if len(tokens) < count:
                reader.feed(token)
        return Guess(tokens, torch.cat(drawn_from) if drawn_from else None)


def check(
    guess: Guess, probabilities: Tensor, generator: torch.Generator | None
) -> tuple[int, int]:
    """Return how many guesses are kept, and the token that follows those.

    Args:
        guess: G tokens.
        probabilities: what the model says of each, and of what follows them all (G + 1, V).
        generator: source of randomness.
    """
    device = probabilities.device
    for number, token in enumerate(guess.tokens):
        own = probabilities[number]
        drawn = torch.rand(1, generator=generator, device=device)
        of_draft = 1.0
        if guess.probabilities is not None:
            of_draft = float(guess.probabilities[number, token])
        if float(drawn) * of_draft < float(own[token]):
            continue
        rest = own.clone()
        if guess.probabilities is None:
            rest[token] = 0
        else:
            rest = (own - guess.probabilities[number]).clamp(min=0)
        if not float(rest.sum()):
            # rounding: the two are one distribution
            rest = own
        return number, int(torch.multinomial(rest, 1, generator=generator))
    last = probabilities[len(guess.tokens)]
    return len(guess.tokens), int(torch.multinomial(last, 1, generator=generator))
