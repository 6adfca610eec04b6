"""What a search is asked for, source by source: limits, prefixes, phrases, and when to stop.

Shapes: S sources in the batch, P tokens of the longest prefix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unrolled.decoding.back_pointers import length_penalty
from unrolled.decoding.beams import Ints
from unrolled.decoding.lexical import RequiredPhrases
from unrolled.decoding.phrases import Phrases
from unrolled.decoding.settings import Search


class SearchRequest:
    """What is asked for. Its arrays keep all sources, also those that have left the batch.

    Args:
        settings, end, banned, banned_phrases: see ``unrolled.decoding.search``.
        limits: the most tokens of an answer (S,).
        prefixes: what answers begin with, None for those that are free; empty where all are.
        phrases: what each source requires; empty where none does.
    """

    def __init__(
        self,
        settings: Search,
        end: int,
        limits: Sequence[int],
        prefixes: Sequence[Sequence[int] | None] = (),
        phrases: Sequence[Sequence[Sequence[int]]] = (),
        banned: Sequence[int] = (),
        banned_phrases: Sequence[Sequence[int]] = (),
    ) -> None:
        self.settings = settings
        self.end = end
        self.limits = np.array(limits)
        forced = [prefix or () for prefix in prefixes]
        self.prefixes = _padded(forced)
        self.banned = banned
        self.banned_phrases = banned_phrases
        groups = settings.diverse_groups
        self.width = settings.beam // groups  # rows of a group
        self.quota = math.ceil(settings.n_best / groups)  # answers that a group owes
        # ended hypotheses of a group that are enough (S, 1)
        enough = self._enough(self.width)
        self.enough = np.full((len(limits), 1), enough)
        self.required: dict[int, RequiredPhrases] = {}
        for source, of_source in enumerate(phrases):
            if not of_source:
                continue
            required = RequiredPhrases(Phrases(of_source), settings.beam, end)
            prefix = len(forced[source]) if forced else 0
            self._require(source, required, prefix)
        # divisor of a log-probability at the limit: the largest, and so that of the best score
        # that a row may still reach (S, 1)
        penalty = length_penalty(self.limits, settings.length_penalty)
        self.penalty = penalty[:, None]

    def _require(
        self,
        source: int,
        required: RequiredPhrases,
        prefix: int,
    ) -> None:
        """Let a source require phrases behind a prefix of so many tokens."""
        self.required[source] = required
        self.enough[source] = self._enough(required.complete_rows)
        limit = self.limits[source]
        shortest = prefix + required.size + 1  # with the end mark
        self.limits[source] = max(limit, shortest)

    def _enough(self, width: int) -> float:
        """Return at how many ended hypotheses to stop, where ``width`` rows may end at once."""
        patience = self.settings.patience
        if patience is not None:
            return max(self.quota, round(width * patience))
        # greedy goes one way: what has ended cannot become better
        return 1 if self.settings.beam == 1 else math.inf

    def forced(self, sources: Ints, step: int) -> Ints | None:
        """Return the token that each source must write now (S,), -1 where it is free.

        Args:
            sources: numbers of those that are still in the batch.
            step: 1 for the first token.
        """
        if step > self.prefixes.shape[1]:
            return None
        forced = self.prefixes[sources, step - 1]
        return forced if (forced >= 0).any() else None


def _padded(prefixes: Sequence[Sequence[int]]) -> Ints:
    """Return prefixes as rows (S, P), -1 behind their end; (0, 0) where there are none."""
    longest = max(map(len, prefixes), default=0)
    rows = np.full((len(prefixes), longest), -1, np.int64)
    for row, prefix in zip(rows, prefixes, strict=True):
        row[: len(prefix)] = prefix
    return rows
