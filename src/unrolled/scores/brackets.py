"""Scores of parses: labelled brackets, as evalb counts them under its COLLINS.prm.

https://nlp.cs.nyu.edu/evalb: words with a tag of punctuation or of a trace are taken out, and
brackets that hold nothing else; TOP does not count (nor does ROOT here, its name in other
treebanks); ADVP and PRT are one label; brackets of equal label and words match one to one, so that
of two equal ones in a chain both must be found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

Span = tuple[str, int, int]  # label, first word, the word after the last

DELETED = frozenset({"-NONE-", ",", ":", "``", "''", "."})
OUTERMOST = frozenset({"TOP", "ROOT", ""})
EQUAL = {"PRT": "ADVP"}


@dataclass(frozen=True, slots=True)
class BracketCounts:
    """Brackets that match, are right, and were found; sentences, and those without a fault."""

    matched: int = 0
    right: int = 0
    found: int = 0
    sentences: int = 0
    faultless: int = 0

    def __add__(self, other: BracketCounts) -> BracketCounts:
        return BracketCounts(
            self.matched + other.matched,
            self.right + other.right,
            self.found + other.found,
            self.sentences + other.sentences,
            self.faultless + other.faultless,
        )

    @property
    def precision(self) -> float:
        """Share of the found brackets that match."""
        return self.matched / max(1, self.found)

    @property
    def recall(self) -> float:
        """Share of the right brackets that match."""
        return self.matched / max(1, self.right)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.matched / max(1, self.right + self.found)

    @property
    def complete(self) -> float:
        """Share of the sentences whose brackets are all right."""
        return self.faultless / max(1, self.sentences)


def match(
    right: Iterable[Span], found: Iterable[Span], tags: Sequence[str]
) -> BracketCounts:
    """Compare two bracketings of one sentence.

    Args:
        right, found: the brackets, in any order.
        tags: the right tag of each word, traces included.

    Returns:
        The counts; all are 0 where no word is left, which evalb passes over.
    """
    kept = list(accumulate((tag not in DELETED for tag in tags), initial=0))
    if not kept[-1]:
        return BracketCounts()
    first = _counted(right, kept)
    second = _counted(found, kept)
    matched = (first & second).total()
    faultless = first == second
    return BracketCounts(matched, first.total(), second.total(), 1, int(faultless))


def _counted(spans: Iterable[Span], kept: Sequence[int]) -> Counter[Span]:
    """Return the brackets that count, over the words that do."""
    counted: Counter[Span] = Counter()
    for label, start, end in spans:
        label = EQUAL.get(label, label)
        if label not in OUTERMOST and label not in DELETED and kept[start] < kept[end]:
            counted[label, kept[start], kept[end]] += 1
    return counted
