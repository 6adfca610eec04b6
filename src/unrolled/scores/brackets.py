"""Scores of parses: labelled brackets, as evalb counts them under its COLLINS.prm.

https://nlp.cs.nyu.edu/evalb: words with a tag of punctuation or of a trace are taken out, and
brackets that hold nothing else; TOP does not count (nor does ROOT here, its name in other
treebanks); ADVP and PRT are one label; brackets of equal label and words match one to one, so that
of two equal ones in a chain both must be predicted.
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
    """Brackets that match, are right, and were predicted; sentences, and those without an error."""

    matched: int = 0
    right: int = 0
    predicted: int = 0
    sentences: int = 0
    exact: int = 0

    def __add__(self, other: BracketCounts) -> BracketCounts:
        return BracketCounts(
            self.matched + other.matched,
            self.right + other.right,
            self.predicted + other.predicted,
            self.sentences + other.sentences,
            self.exact + other.exact,
        )

    @property
    def precision(self) -> float:
        """Share of the predicted brackets that match."""
        return self.matched / max(1, self.predicted)

    @property
    def recall(self) -> float:
        """Share of the right brackets that match."""
        return self.matched / max(1, self.right)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.matched / max(1, self.right + self.predicted)

    @property
    def complete(self) -> float:
        """Share of the sentences whose brackets are all right."""
        return self.exact / max(1, self.sentences)


def match(
    right: Iterable[Span], predicted: Iterable[Span], tags: Sequence[str]
) -> BracketCounts:
    """Compare two bracketings of one sentence.

    Args:
        right, predicted: the brackets, in any order.
        tags: the right tag of each word, traces included.

    Returns:
        The counts; all are 0 where no word is left, which evalb passes over.
    """
    # how many words that count stand before each word, and before the end
    kept = list(accumulate((tag not in DELETED for tag in tags), initial=0))
    if not kept[-1]:
        return BracketCounts()
    right_counts = _counted(right, kept)
    predicted_counts = _counted(predicted, kept)
    return BracketCounts(
        matched=(right_counts & predicted_counts).total(),
        right=right_counts.total(),
        predicted=predicted_counts.total(),
        sentences=1,
        exact=int(right_counts == predicted_counts),
    )


def _counted(spans: Iterable[Span], kept: Sequence[int]) -> Counter[Span]:
    """Return the brackets that count, over the words that do."""
    counted: Counter[Span] = Counter()
    for label, start, end in spans:
        label = EQUAL.get(label, label)
        if label not in OUTERMOST and label not in DELETED and kept[start] < kept[end]:
            counted[label, kept[start], kept[end]] += 1
    return counted
