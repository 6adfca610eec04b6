"""BLEU, ROUGE-L and CIDEr-D of image captions, as their reference scorer gives them.

That is pycocoevalcap, whose numbers papers on captions give; ``ptb_tokens`` has its tokens. BLEU
and ROUGE-L lie between 0 and 1, CIDEr-D between 0 and 10.

Legend: N answers; M rows of right captions, R in a row at most; K n-grams, L of them in the rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
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
    rouge = list(map(_rouge_l, answer_tokens, right_tokens))
    scores["rouge_l"] = float(np.mean(rouge))
    consensus = _Consensus(right_words)
    cider = consensus.scores(answer_words, range(len(answers)))
    scores["cider_d"] = float(cider.mean())
    return scores


class CiderD:
    """CIDEr-D of any captions of the same images (Vedantam et al. 2015).

    The right captions are cut and weighed once, so that it may be the reward of captions that a
    model draws while it learns (Rennie et al. 2017).

    Args:
        references: the right captions of each row, M lists of one or more.

    Raises:
        ValueError: there is no row, or one without a right caption.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        _check(references)
        words = [list(map(_cut, right)) for right in references]
        self._consensus = _Consensus(words)

    def scores(self, answers: Sequence[str], rows: Sequence[int]) -> Reals:
        """Return the scores [N] of N captions, of which number i is scored by row ``rows[i]``.

        A row may have any number of answers. How rare an n-gram is follows from the right captions
        of all rows, whichever are scored.

        Raises:
            ValueError: there are not as many rows as answers.
            IndexError: there is no such row.
        """
        if len(answers) != len(rows):
            raise ValueError(f"got {len(answers)} answers and {len(rows)} rows")
        return self._consensus.scores(list(map(_cut, answers)), rows)


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
class _Vectors:
    """The n-grams of some captions, one after the other.

    ``captions`` [K] says whose each is, ``orders`` [K] counts from 0, and ``scales`` [captions, 4]
    are one over the norms of the weights.
    """

    captions: Indices
    ngrams: Indices
    orders: Indices
    weights: Reals
    scales: Reals


@dataclass(frozen=True, slots=True)
class _Table:
    """The right captions of all rows.

    ``keys`` [L] in order are the n-grams of the rows, and ``weights`` [L, R] what each weighs in
    every caption of its row; ``scales`` [M, R, 4] are as in ``_Vectors``, ``lengths`` [M, R] in
    words. Where a row has fewer than R captions there is 0.
    """

    keys: Indices
    weights: Reals
    scales: Reals
    lengths: Reals


class _Consensus:
    """CIDEr-D of captions that are cut into words."""

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        counts: list[Counter[NGram]] = []
        lengths: list[int] = []
        frequencies: Counter[NGram] = Counter()
        for right in references:
            of_row = list(map(_ngrams, right))
            counts.extend(of_row)
            lengths.extend(map(len, right))
            frequencies.update(set().union(*of_row))
        self._indices = {ngram: index for index, ngram in enumerate(frequencies)}
        # the last is for n-grams of no row, whose index is -1: they weigh as those of one row
        rows = np.array([*frequencies.values(), 1], np.float64)
        self._rarities = np.log(len(references)) - np.log(rows)
        self._sizes = np.array(
            list(map(len, references)),
            np.int64,
        )
        self._table = self._tabulated(self._vectors(counts), lengths)

    def _vectors(self, counts: list[Counter[NGram]]) -> _Vectors:
        captions: list[int] = []
        ngrams: list[int] = []
        orders: list[int] = []
        frequencies: list[int] = []
        for caption, count in enumerate(counts):
            captions += [caption] * len(count)
            ngrams += [self._indices.get(ngram, -1) for ngram in count]
            orders += [len(ngram) - 1 for ngram in count]
            frequencies += count.values()
        owners = np.array(captions, np.int64)
        kinds = np.array(ngrams, np.int64)
        order = np.array(orders, np.int64)
        weights = np.array(frequencies, np.float64) * self._rarities[kinds]
        squares = np.bincount(
            owners * ORDERS + order,
            weights**2,
            len(counts) * ORDERS,
        )
        norms = np.sqrt(squares).reshape(-1, ORDERS)
        return _Vectors(
            captions=owners,
            ngrams=kinds,
            orders=order,
            weights=weights,
            # of no weight at all, nothing is like anything
            scales=np.divide(
                1.0,
                norms,
                out=np.zeros_like(norms),
                where=norms > 0,
            ),
        )

    def _keys(self, rows: Indices, ngrams: Indices) -> Indices:
        """Return a number for every n-gram of every row; that of an unknown one is no other's."""
        return rows * len(self._rarities) + ngrams

    def _tabulated(self, vectors: _Vectors, lengths: list[int]) -> _Table:
        sizes = self._sizes
        most = sizes.max()
        rows = np.repeat(
            np.arange(len(sizes)),
            sizes,
        )
        starts = np.cumsum(sizes) - sizes
        columns = np.arange(len(rows)) - starts[rows]
        keys = self._keys(
            rows[vectors.captions],
            vectors.ngrams,
        )
        lines = np.unique(keys)
        table = _Table(
            keys=lines,
            weights=np.zeros((len(lines), most)),
            scales=np.zeros((len(sizes), most, ORDERS)),
            lengths=np.zeros((len(sizes), most)),
        )
        line = np.searchsorted(lines, keys)
        table.weights[line, columns[vectors.captions]] = vectors.weights
        table.scales[rows, columns] = vectors.scales
        table.lengths[rows, columns] = lengths
        return table

    def scores(self, answers: Sequence[Words], rows: Sequence[int]) -> Reals:
        """Return the score [N] of each answer, as a caption of its row."""
        row = np.array(rows, np.int64)
        last = len(self._sizes) - 1
        if ((row < 0) | (row > last)).any():
            raise IndexError(f"expected rows from 0 to {last}")
        vectors = self._vectors(list(map(_ngrams, answers)))
        cosines = self._cosines(vectors, row)
        lengths = np.array(
            list(map(len, answers)),
            np.float64,
        )
        differences = self._table.lengths[row] - lengths[:, None]
        penalties = np.exp(-(differences**2) / (2 * DEVIATION**2))
        totals = (cosines * penalties).sum(1)
        return 10 * totals / (ORDERS * self._sizes[row])

    def _cosines(self, vectors: _Vectors, rows: Indices) -> Reals:
        """Return how like each answer is to each right caption [N, R], summed over the orders."""
        table = self._table
        cosines = np.zeros((len(rows), table.weights.shape[1]))
        if not len(table.keys):
            return cosines
        keys = self._keys(
            rows[vectors.captions],
            vectors.ngrams,
        )
        lines = np.searchsorted(table.keys, keys)
        # what would stand behind the last is not there either
        lines = np.minimum(lines, len(table.keys) - 1)
        same = np.flatnonzero(table.keys[lines] == keys)
        captions = vectors.captions[same]
        orders = vectors.orders[same]
        weights = table.weights[lines[same]]
        # what is repeated counts as often as in the right caption
        clipped = np.minimum(
            vectors.weights[same, None],
            weights,
        )
        scales = vectors.scales[captions, orders]
        right_scales = table.scales[rows[captions], :, orders]
        products = clipped * weights
        products *= right_scales
        products *= scales[:, None]
        np.add.at(cosines, captions, products)
        return cosines
