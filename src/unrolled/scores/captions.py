"""BLEU, ROUGE-L and CIDEr-D of image captions, as their reference scorer gives them.

That is pycocoevalcap, in whose numbers papers on captions report; its tokens are ``ptb_tokens``.
BLEU and ROUGE-L lie between 0 and 1, CIDEr-D between 0 and 10.

Legend: N answers, R right captions of an answer, U different n-grams in them, K in an answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.scores.ptb import ptb_tokens

Words = list[str]
NGram = tuple[str, ...]
Reals = NDArray[np.float64]
Indices = NDArray[np.int64]

ORDERS = 4  # of n-grams: one to four words
# added to numerators and denominators of BLEU, so that none is 0
TINY = 1e-15
SMALL = 1e-9
BETA = 1.2  # ROUGE-L: recall counts its square as much as precision
DEVIATION = 6.0  # CIDEr-D: how far lengths may differ


def caption_scores(
    answers: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Score N captions, each against its right ones.

    Args:
        answers: what a model wrote, N texts.
        references: the right captions of each, N lists of one or more. CIDEr-D weighs an n-gram by
            how few of these lists hold it, so that the score of an answer depends on all of them.

    Returns:
        ``bleu_1`` to ``bleu_4`` (Papineni et al. 2002), ``rouge_l`` (Lin 2004) and ``cider_d``
        (Vedantam et al. 2015) of the corpus; the last two are means over the answers.

    Raises:
        ValueError: no answer, as many references as answers are not given, or an answer has none.
    """
    if not answers or len(answers) != len(references):
        raise ValueError(
            f"expected answers and as many lists of right ones, got {len(answers)} answers and "
            f"{len(references)} lists"
        )
    _check(references)
    answer_tokens = list(map(ptb_tokens, answers))
    right_tokens = [list(map(ptb_tokens, right)) for right in references]
    answer_words = list(map(_words, answer_tokens))
    right_words = [list(map(_words, right)) for right in right_tokens]
    scores = _bleu(answer_words, right_words)
    scores["rouge_l"] = _mean(map(_rouge_l, answer_tokens, right_tokens))
    consensus = _Consensus(right_words)
    rows = range(len(answers))
    scores["cider_d"] = _mean(map(consensus.score, answer_words, rows))
    return scores


class CiderD:
    """CIDEr-D of any captions of the same images, as a reward wants it (Rennie et al. 2017).

    The right captions are cut and weighed once.

    Args:
        references: the right captions of each row, lists of one or more.

    Raises:
        ValueError: there is no row, or one without a right caption.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        _check(references)
        words = [list(map(_cut, right)) for right in references]
        self._consensus = _Consensus(words)

    def scores(self, answers: Sequence[str], rows: Sequence[int]) -> Reals:
        """Return the scores [N] of N captions, of which number i is one of row ``rows[i]``.

        A row may have any number of answers; as for all of them, how rare an n-gram is was counted
        in the right captions of all rows.

        Raises:
            ValueError: there are not as many rows as answers.
            IndexError: there is no such row.
        """
        if len(answers) != len(rows):
            raise ValueError(f"got {len(answers)} answers and {len(rows)} rows")
        words = map(_cut, answers)
        scores = map(self._consensus.score, words, rows)
        return np.array(list(scores), np.float64)


def _check(references: Sequence[Sequence[str]]) -> None:
    if not references or not all(references):
        raise ValueError(
            f"expected right captions of every row, got {len(references)} lists, "
            f"{sum(not right for right in references)} of them empty"
        )


def _words(tokens: list[str]) -> Words:
    """Return what n-grams are made of: a token with a no-break space in it is two words there."""
    return " ".join(tokens).split()


def _cut(text: str) -> Words:
    return _words(ptb_tokens(text))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _ngrams(words: Words) -> Counter[NGram]:
    """Count the n-grams of every order."""
    counts: Counter[NGram] = Counter()
    shifted: list[Words] = []
    for start in range(ORDERS):
        shifted.append(words[start:])
        # the shortest list, which begins last, ends them
        counts.update(zip(*shifted, strict=False))
    return counts


def _bleu(
    answers: Sequence[Words],
    references: Sequence[Sequence[Words]],
) -> dict[str, float]:
    """Return BLEU up to every order; of equally near reference lengths the shorter counts."""
    correct = [0] * ORDERS
    guessed = [0] * ORDERS
    length = 0
    right_length = 0
    for words, right in zip(answers, references, strict=True):
        size = len(words)
        length += size
        lengths = map(len, right)
        right_length += min(lengths, key=lambda other: (abs(other - size), other))
        for order in range(ORDERS):
            guessed[order] += max(0, size - order)
        allowed: Counter[NGram] = Counter()
        for reference in right:
            allowed |= _ngrams(reference)
        matched = _ngrams(words) & allowed
        for ngram, count in matched.items():
            correct[len(ngram) - 1] += count
    ratio = (length + TINY) / (right_length + SMALL)
    penalty = min(1.0, math.exp(1 - 1 / ratio))
    scores: dict[str, float] = {}
    product = 1.0
    for order in range(ORDERS):
        precision = (correct[order] + TINY) / (guessed[order] + SMALL)
        product *= precision
        geometric_mean = product ** (1 / (order + 1))
        scores[f"bleu_{order + 1}"] = geometric_mean * penalty
    return scores


def _rouge_l(answer: list[str], references: Sequence[list[str]]) -> float:
    """Return the F-measure of the best precision and the best recall, each of any reference."""
    # a caption without a token counts as one empty token
    answer = answer or [""]
    precision = 0.0
    recall = 0.0
    for reference in references:
        reference = reference or [""]
        common = _longest_common(answer, reference)
        precision = max(precision, common / len(answer))
        recall = max(recall, common / len(reference))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(first: list[str], second: list[str]) -> int:
    """Return the length of the longest common subsequence.

    A column of the table is an integer of a bit a row: 0 where it grows by one from the row above
    (Hyyrö 2004).
    """
    rows: dict[str, int] = {}
    for row, token in enumerate(first):
        rows[token] = rows.get(token, 0) | 1 << row
    mask = (1 << len(first)) - 1
    column = mask
    for token in second:
        same = column & rows.get(token, 0)
        column = (column + same | column - same) & mask
    return len(first) - column.bit_count()


@dataclass(frozen=True, slots=True)
class _Vector:
    """N-grams of a caption [K], their orders from 0 and weights, and the norm of every order."""

    ngrams: Indices
    orders: Indices
    weights: Reals
    norms: Reals


@dataclass(frozen=True, slots=True)
class _Right:
    """The right captions of a row: their n-grams [U] in order and what these weigh in each [U, R].

    ``scales`` [4, R] are one over the norms, or 0, and ``lengths`` [R] as ``_length`` has them.
    """

    ngrams: Indices
    weights: Reals
    scales: Reals
    lengths: Reals


class _Consensus:
    """CIDEr-D of captions that are cut into words."""

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        counts = [list(map(_ngrams, right)) for right in references]
        frequencies: Counter[NGram] = Counter()
        for right in counts:
            frequencies.update(set().union(*right))
        self._indices = {ngram: index for index, ngram in enumerate(frequencies)}
        # the last is for n-grams of no row, whose index is -1: they weigh as those of one row
        rows = np.array([*frequencies.values(), 1], np.float64)
        self._rarities = np.log(len(references)) - np.log(rows)
        self._rows = [
            self._right(right, words)
            for right, words in zip(counts, references, strict=True)
        ]

    def score(self, words: Words, row: int) -> float:
        """Return the score of a caption of this row."""
        right = self._rows[row]
        if not len(right.ngrams):
            return 0.0
        vector = self._vector(_ngrams(words))
        indices = np.searchsorted(right.ngrams, vector.ngrams)
        # what would stand behind the last is not there either
        indices = np.minimum(indices, len(right.ngrams) - 1)
        same = right.ngrams[indices] == vector.ngrams
        orders = vector.orders[same]
        weights = right.weights[indices[same]]
        # what is repeated counts as often as in the right caption
        clipped = np.minimum(vector.weights[same, None], weights)
        scales = right.scales * _inverse(vector.norms)[:, None]
        cosines = (clipped * weights * scales[orders]).sum(0)
        differences = right.lengths - _length(words)
        penalties = np.exp(-(differences**2) / (2 * DEVIATION**2))
        return float(10 * (cosines * penalties).mean() / ORDERS)

    def _vector(self, counts: Counter[NGram]) -> _Vector:
        size = len(counts)
        known = [self._indices.get(ngram, -1) for ngram in counts]
        ngrams = np.array(known, np.int64)
        orders = np.fromiter(map(len, counts), np.int64, size) - 1
        frequencies = np.fromiter(counts.values(), np.float64, size)
        weights = frequencies * self._rarities[ngrams]
        norms = np.sqrt(np.bincount(orders, weights**2, ORDERS))
        return _Vector(
            ngrams=ngrams,
            orders=orders,
            weights=weights,
            norms=norms,
        )

    def _right(
        self,
        counts: Sequence[Counter[NGram]],
        words: Sequence[Words],
    ) -> _Right:
        vectors = list(map(self._vector, counts))
        every = np.concatenate([vector.ngrams for vector in vectors])
        ngrams = np.unique(every)
        weights = np.zeros((len(ngrams), len(vectors)))
        norms = np.zeros((ORDERS, len(vectors)))
        for column, vector in enumerate(vectors):
            indices = np.searchsorted(ngrams, vector.ngrams)
            weights[indices, column] = vector.weights
            norms[:, column] = vector.norms
        lengths = list(map(_length, words))
        return _Right(
            ngrams=ngrams,
            weights=weights,
            scales=_inverse(norms),
            lengths=np.array(lengths, np.float64),
        )


def _length(words: Words) -> int:
    """Return how long CIDEr-D takes a caption to be: the scorer counts its pairs of words."""
    return max(0, len(words) - 1)


def _inverse(norms: Reals) -> Reals:
    """Return one over each norm, and 0 where it is 0."""
    return np.divide(
        1.0,
        norms,
        out=np.zeros_like(norms),
        where=norms > 0,
    )
