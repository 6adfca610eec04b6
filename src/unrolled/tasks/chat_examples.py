"""Talks as a model reads them: by themselves, in pairs of answers, as documents.

Legend: N talks or pairs, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from unrolled.data.batches import IGNORED
from unrolled.data.documents import Documents
from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.fields.talks import Talk

# what is read at each step of a talk, and what is to be written there
Steps = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class ChatExamples(Examples):
    """Talks of N rows: what is read of each, and which tokens the assistant has to write.

    ``prompts`` are the turns before the last answer, ``references`` that answer, empty where there
    is none.
    """

    prompts: tuple[Talk, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def answers(self) -> int:
        """One answer a row."""
        return len(self.lines)

    @property
    def answered(self) -> bool:
        """Whether there are answers to learn from."""
        return self.targets is not None

    def pick(self, rows: Any) -> ChatExamples:
        """Return some of the examples (M,), in that order."""
        # without super(): a class with slots is made anew
        picked = cast(ChatExamples, Examples.pick(self, rows))
        chosen = np.arange(len(self))[rows].tolist()
        return replace(
            picked,
            prompts=tuple(self.prompts[row] for row in chosen),
            references=tuple(self.references[row] for row in chosen),
        )

    @classmethod
    def of(
        cls, lines: Ints, talks: Sequence[Talk], steps: Sequence[Steps], answered: bool
    ) -> ChatExamples:
        """Return talks (N,) that stand on lines (N,), with the steps of each."""
        inputs, targets = zip(*steps, strict=True)
        prompts = [talk[:-1] if answered else talk for talk in talks]
        return cls(
            lines,
            Ragged.of(inputs),
            targets=Ragged.of(targets) if answered else None,
            prompts=tuple(prompts),
            references=tuple(talk[-1].text if answered else "" for talk in talks),
        )

    def documents(self) -> Documents:
        """Return talks as documents, without the token that each begins with."""
        assert self.sequences is not None
        assert isinstance(self.targets, Ragged)
        targets = self.targets.flat[:]
        ends = self.sequences.offsets[1:] - 1
        # what is read at the step after
        tokens = np.empty_like(targets)
        tokens[:-1] = self.sequences.flat[1:]
        tokens[ends] = targets[ends].clip(min=0)
        return Documents(tokens, self.sequences.offsets, targets != IGNORED)


@dataclass(frozen=True, slots=True)
class ChatPairs:
    """Pairs of talks (N,) that differ in their last answer, of which alone tokens are written."""

    chosen: ChatExamples
    rejected: ChatExamples

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lines(self) -> Ints:
        """The lines that the pairs stand on, (N,)."""
        return self.chosen.lines

    @property
    def answers(self) -> int:
        """One choice a pair."""
        return len(self.chosen)

    @property
    def answered(self) -> bool:
        """There are answers, of which one is the better."""
        return True

    def pick(self, rows: Any) -> ChatPairs:
        """Return some of the pairs (M,), in that order."""
        return ChatPairs(self.chosen.pick(rows), self.rejected.pick(rows))

    def both(self) -> Examples:
        """Return all talks: those of the better answers, then those of the others (2 N,)."""
        parts = (self.chosen, self.rejected)
        inputs = [part.sequences for part in parts if part.sequences is not None]
        targets = [part.targets for part in parts if isinstance(part.targets, Ragged)]
        return Examples(
            np.concatenate([part.lines for part in parts]),
            Ragged.join(inputs),
            targets=Ragged.join(targets),
        )
