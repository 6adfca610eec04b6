"""Training of a unigram vocabulary (Kudo 2018): expectation maximisation over word pieces.

The trainer of the library `tokenizers` gives another vocabulary on every run, since it sums in the
order of a hash table with a random seed; this one is a function of its texts alone, and faster.
Only the training is done here: the result is a plain model of the library.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LONGEST = (
    16  # characters of a piece; longer words are trained on in stretches of this length
)
POSITIONS = (
    1_000_000  # characters of distinct words looked at, the commonest words first
)
FLOOR = (
    1e-15  # least probability of a piece: 16 of them in a row still fit in a float64
)
SEEDS = 8  # candidates to start from, for each piece wanted
KEPT = 0.6  # share of the candidates that survives a round of pruning


@dataclass(frozen=True, slots=True)
class Edges:
    """Every occurrence of every candidate inside the distinct words.

    A word of n characters has n + 1 boundaries, numbered on from word to word. ``start``, ``end``
    and ``piece`` are (E,): piece number ``piece`` spans those boundaries. ``groups`` are slices of
    the edges within which no end and no start is repeated, in order of the offset they end at.
    """

    start: Ints
    end: Ints
    piece: Ints
    groups: list[slice]

    def only(self, kept: Ints) -> Edges:
        """Return the edges of the pieces numbered ``kept`` (sorted), numbered anew."""
        new = np.full(int(self.piece.max()) + 1, -1, np.int64)
        new[kept] = np.arange(len(kept))
        piece = new[self.piece]
        chosen = piece >= 0
        before = np.concatenate([[0], np.cumsum(chosen)])
        groups = [slice(int(before[g.start]), int(before[g.stop])) for g in self.groups]
        groups = [group for group in groups if group.start < group.stop]
        return Edges(self.start[chosen], self.end[chosen], piece[chosen], groups)


def train(
    words: Counter[str], size: int, min_count: int = 1
) -> list[tuple[str, float]]:
    """Return the pieces that best explain the words.

    Args:
        words: how often each word occurs. No piece crosses the edge of a word.
        size: pieces wanted at most. Single characters are always kept as far as they fit, the
            commonest first, so that nothing seen ``min_count`` times becomes unknown.
        min_count: a character or piece seen less often is left out.

    Returns:
        (piece, natural logarithm of its probability), the most probable first.
    """
    texts, counts, letters = _clip(words)
    seen = [letter for letter in letters if letters[letter] >= min_count]
    alphabet = sorted(seen, key=lambda letter: (-letters[letter], letter))[:size]
    if not alphabet:
        return []
    pieces, weights, edges, ends, firsts = _candidates(
        texts, counts, max(2, min_count), alphabet
    )
    single = np.array([len(piece) == 1 for piece in pieces])
    kept = _best(weights, single, SEEDS * size)
    pieces, weights, single, edges = _take(kept, pieces, weights, single, edges)
    chances = weights / weights.sum()
    while True:
        for _ in range(2):
            expected = _expected(chances, edges, counts, firsts, ends)
            chances = _maximised(expected, single)
        if len(pieces) <= size:
            break
        loss = expected * _log_gain(pieces, chances)
        kept = _best(loss, single, max(size, int(len(pieces) * KEPT)))
        pieces, chances, single, edges = _take(kept, pieces, chances, single, edges)
    found = {
        piece: math.log(chance) for piece, chance in zip(pieces, chances, strict=True)
    }
    for letter in alphabet:  # a letter of words beyond POSITIONS was never weighed
        found.setdefault(letter, math.log(FLOOR))
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [(piece, round(score, 6)) for piece, score in ordered]


def _clip(words: Counter[str]) -> tuple[list[str], Floats, Counter[str]]:
    """Return stretches of at most LONGEST characters, their counts, and all letters' counts."""
    letters: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
        for start in range(0, len(word), LONGEST):
            parts[word[start : start + LONGEST]] += count
    texts = []
    total = 0
    for text in sorted(parts, key=lambda text: (-parts[text], text)):
        total += len(text)
        if total > POSITIONS:
            break
        texts.append(text)
    return texts, np.array([parts[text] for text in texts], np.float64), letters


def _candidates(
    texts: list[str], counts: Floats, min_count: int, alphabet: list[str]
) -> tuple[list[str], Floats, Edges, Ints, Ints]:
    """Return all repeated substrings, their weights (count x length) and where they stand.

    Also (words,) the last and the first boundary of every word.
    """
    joined = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(
        np.int64
    )
    lengths = np.array([len(text) for text in texts], np.int64)
    word = np.repeat(np.arange(len(texts)), lengths)
    stop = np.repeat(np.cumsum(lengths), lengths)
    offset = np.arange(len(joined)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    codes = np.array(sorted(map(ord, alphabet)), np.int64)
    letter = np.searchsorted(codes, joined).clip(0, len(codes) - 1)
    position = np.flatnonzero(codes[letter] == joined)
    gram = letter[position]
    pieces: list[str] = [chr(code) for code in codes]
    weights = [_sums(gram, counts[word[position]], len(codes))]
    spans = [(position, gram, 1)]
    base = 0
    known = np.full(len(joined), -1, np.int64)
    known[position] = gram
    for length in range(2, LONGEST + 1):
        inner = position + length - 1 < stop[position]
        position = position[inner]
        gram = gram[inner]
        following = known[position + length - 1]
        position, gram, following = (
            a[following >= 0] for a in (position, gram, following)
        )
        _, first, gram = np.unique(
            gram * len(codes) + following, return_index=True, return_inverse=True
        )
        count = _sums(gram, counts[word[position]], len(first))
        fresh = np.cumsum(count >= min_count) - 1
        chosen = count[gram] >= min_count
        if not chosen.any():
            break
        starts = position[first[count >= min_count]]
        base += len(weights[-1])
        pieces += [_piece(joined, int(start), length) for start in starts]
        weights.append(count[count >= min_count] * length)
        position = position[chosen]
        gram = fresh[gram[chosen]]
        spans.append((position, gram + base, length))
    edges = _edges(spans, word, offset)
    ends = np.cumsum(lengths) + np.arange(len(texts))
    return pieces, np.concatenate(weights), edges, ends, ends - lengths


def _sums(group: Ints, values: Floats, groups: int) -> Floats:
    """Return (groups,): the sum of the values of each group."""
    return np.bincount(group, values, groups).astype(np.float64)


def _piece(joined: Ints, start: int, length: int) -> str:
    return "".join(map(chr, joined[start : start + length].tolist()))


def _edges(spans: list[tuple[Ints, Ints, int]], word: Ints, offset: Ints) -> Edges:
    """Order the occurrences by the offset in the word they end at, then by length."""
    position = np.concatenate([span[0] for span in spans])
    piece = np.concatenate([span[1] for span in spans])
    length = np.concatenate(
        [np.full(len(span[0]), span[2], np.int64) for span in spans]
    )
    key = (offset[position] + length) * (LONGEST + 1) + length
    order = np.argsort(key, kind="stable")
    key = key[order]
    position = position[order]
    piece = piece[order]
    length = length[order]
    start = (
        position + word[position]
    )  # one more boundary than characters in every word before
    cuts = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)]
    groups = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    return Edges(start, start + length, piece, groups)


def _take(
    kept: Ints,
    pieces: list[str],
    values: Floats,
    single: NDArray[np.bool_],
    edges: Edges,
) -> tuple[list[str], Floats, NDArray[np.bool_], Edges]:
    return [pieces[i] for i in kept], values[kept], single[kept], edges.only(kept)


def _best(values: Floats, single: NDArray[np.bool_], size: int) -> Ints:
    """Return the sorted numbers of ``size`` pieces: all single characters, then the best."""
    order = np.lexsort((np.arange(len(values)), -values, ~single))
    return np.sort(order[: max(size, 1)])


def _expected(
    chances: Floats, edges: Edges, counts: Floats, firsts: Ints, ends: Ints
) -> Floats:
    """Return how often each piece is used, averaged over all segmentations (forward-backward).

    Plain probabilities, no logarithms: a stretch is so short that they cannot underflow.
    """
    weight = chances[edges.piece]
    forward = np.zeros(int(ends[-1]) + 1)
    forward[firsts] = 1.0
    for group in edges.groups:
        forward[edges.end[group]] += forward[edges.start[group]] * weight[group]
    backward = np.zeros_like(forward)
    total = forward[ends]
    # a word with an unknown character has no segmentation and teaches nothing
    backward[ends] = np.divide(counts, total, out=np.zeros_like(total), where=total > 0)
    for group in reversed(edges.groups):
        backward[edges.start[group]] += backward[edges.end[group]] * weight[group]
    used = forward[edges.start] * weight * backward[edges.end]
    return _sums(edges.piece, used, len(chances))


def _maximised(expected: Floats, single: NDArray[np.bool_]) -> Floats:
    """Return the new probabilities; rare pieces are pushed down as a sparse prior would do."""
    softened = np.maximum(expected - 0.5, 0.0)
    # exp(digamma(n)) is n - 1/2 for all but the smallest n
    softened = np.where(single, np.maximum(softened, 0.1), softened)
    chances: Floats = np.maximum(softened / softened.sum(), FLOOR)
    return chances


def _log_gain(pieces: list[str], chances: Floats) -> Floats:
    """Return how much likelier each piece is than its best split into other pieces (in nats)."""
    scores = dict(zip(pieces, np.log(chances).tolist(), strict=True))
    gains = np.zeros(len(pieces))
    for number, piece in enumerate(pieces):
        if len(piece) > 1:
            gains[number] = scores[piece] - _best_split(piece, scores)
    return gains


def _best_split(piece: str, scores: dict[str, float]) -> float:
    """Return the log-probability of the best segmentation into at least two pieces."""
    best = [0.0]
    for end in range(1, len(piece) + 1):
        found = -1e9
        for start in range(1 if end == len(piece) else 0, end):
            score = scores.get(piece[start:end])
            if score is not None and best[start] + score > found:
                found = best[start] + score
        best.append(found)
    return best[-1]


def count_words(texts: Iterable[str], split: str) -> Counter[str]:
    """Count the words that the regular expression ``split`` finds, blanks written as "▁"."""
    find = re.compile(split).findall
    words: Counter[str] = Counter()
    for text in texts:
        marked = text.replace(" ", "▁")
        # the library marks the first word as it does all others, once
        words.update(find(marked if marked.startswith("▁") else "▁" + marked))
    return words
