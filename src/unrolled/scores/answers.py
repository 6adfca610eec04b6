"""How far a written answer says what a right one says.

Legend: N answers, R right ones of an answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def word_f1(answer: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Return the F1 of the words of an answer, against the right one that it is closest to.

    Words count as often as they stand in both (Rajpurkar et al. 2016, section 6.1). Two answers
    without words are equal.

    Args:
        answer: its words.
        right: the words of each of the R right answers.
    """
    return max((_overlap(answer, words) for words in right), default=0.0)


def _overlap(answer: Sequence[str], right: Sequence[str]) -> float:
    if not answer or not right:
        return float(len(answer) == len(right))
    common = (Counter(answer) & Counter(right)).total()
    return 2 * common / (len(answer) + len(right))


def pass_at(right: Sequence[int], drawn: int, attempts: int) -> float:
    """Return the chance that one of some attempts is right, unbiased (Chen et al. 2021, eq. 1).

    Args:
        right: how many of the texts of each question are right.
        drawn: texts of each.
        attempts: at most ``drawn``.
    """
    total = 0.0
    for count in right:
        wrong = drawn - count
        total += 1 - math.comb(wrong, attempts) / math.comb(drawn, attempts)
    return total / max(1, len(right))
