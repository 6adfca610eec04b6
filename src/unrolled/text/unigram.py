"""Training of a unigram vocabulary (Kudo 2018): expectation maximisation over word pieces.

The trainer of the library `tokenizers` gives another vocabulary on every run, since it sums in the
order of a hash table with a random seed; this one is a function of its texts alone, and faster.
Only the training is done here: the result is a plain model of the library.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from unrolled.text.substrings import (
    LONGEST,
    Edges,
    Floats,
    Ints,
    Mask,
    Stretches,
    repeated_substrings,
    sums,
)

# characters of distinct words looked at, the commonest words first
POSITIONS = 1_000_000
# least probability of a piece: LONGEST of them in a row still fit in a float64
FLOOR = 1e-15
SEEDS = 8  # candidates to start from, for each piece of the vocabulary
KEPT = 0.6  # share of the candidates that survives a round of pruning
IMPOSSIBLE = -1e9  # log-probability of what no pieces make up
ROUNDS = 2  # of expectation and maximisation between two prunings


def train(
    words: Counter[str], size: int, min_count: int = 1
) -> list[tuple[str, float]]:
    """Return the pieces that best explain the words.

    Args:
        words: how often each word occurs. No piece crosses the edge of a word.
        size: pieces at most. Single characters are always kept as far as they fit, the
            commonest first, so that nothing seen ``min_count`` times becomes unknown.
        min_count: a character or piece seen less often is left out.

    Returns:
        (piece, natural logarithm of its probability), the most probable first.
    """
    stretches, letters = _clip(words)
    seen = [letter for letter in letters if letters[letter] >= min_count]
    alphabet = _highest_first(letters, seen)[:size]
    if not alphabet:
        return []
    candidates, weights = repeated_substrings(stretches, max(2, min_count), alphabet)
    kept = _best(weights, candidates.single, SEEDS * size)
    candidates = candidates.only(kept)
    weights = weights[kept]
    chances = weights / weights.sum()
    while True:
        for _ in range(ROUNDS):
            expected = _expected(chances, candidates.edges, stretches)
            chances = _maximised(expected, candidates.single)
        count = len(candidates.texts)
        if count <= size:
            break
        loss = expected * _log_gain(candidates.texts, chances)
        left = max(size, int(count * KEPT))
        kept = _best(loss, candidates.single, left)
        candidates = candidates.only(kept)
        chances = chances[kept]
    logarithms = map(math.log, chances)
    scores = dict(zip(candidates.texts, logarithms, strict=True))
    for letter in alphabet:  # a letter of words beyond POSITIONS was never weighed
        scores.setdefault(letter, math.log(FLOOR))
    ranked = _highest_first(scores, scores)
    return [(piece, round(scores[piece], 6)) for piece in ranked]


def _highest_first(values: Mapping[str, float], texts: Iterable[str]) -> list[str]:
    """Return texts by their values; those of equal value in the order of their characters."""
    return sorted(texts, key=lambda text: (-values[text], text))


def _clip(words: Counter[str]) -> tuple[Stretches, Counter[str]]:
    """Return stretches of at most LONGEST characters, and how often each letter occurs."""
    letters: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
        for start in range(0, len(word), LONGEST):
            parts[word[start : start + LONGEST]] += count
    texts = []
    total = 0
    for text in _highest_first(parts, parts):
        total += len(text)
        if total > POSITIONS:
            break
        texts.append(text)
    counts = [parts[text] for text in texts]
    stretches = Stretches.of(texts, np.array(counts, np.float64))
    return stretches, letters


def _best(values: Floats, single: Mask, size: int) -> Ints:
    """Return the sorted numbers of ``size`` pieces: all single characters, then the best."""
    numbers = np.arange(len(values))
    order = np.lexsort((numbers, -values, ~single))
    return np.sort(order[: max(size, 1)])


def _expected(chances: Floats, edges: Edges, words: Stretches) -> Floats:
    """Return how often each piece is used, averaged over all segmentations (forward-backward).

    Plain probabilities, no logarithms: a stretch is so short that they cannot underflow.
    """
    weight = chances[edges.piece]
    boundaries = int(words.ends[-1]) + 1
    forward = np.zeros(boundaries)
    forward[words.firsts] = 1.0
    for group in edges.groups:
        start = edges.start[group]
        end = edges.end[group]
        forward[end] += forward[start] * weight[group]
    backward = np.zeros_like(forward)
    total = forward[words.ends]
    # a word with an unknown character has no segmentation and teaches nothing
    none = np.zeros_like(total)
    possible = total > 0
    shares = np.divide(words.counts, total, out=none, where=possible)
    backward[words.ends] = shares
    for group in reversed(edges.groups):
        start = edges.start[group]
        end = edges.end[group]
        backward[start] += backward[end] * weight[group]
    before = forward[edges.start]
    after = backward[edges.end]
    used = before * weight * after
    return sums(edges.piece, used, len(chances))


def _maximised(expected: Floats, single: Mask) -> Floats:
    """Return the new probabilities; rare pieces are pushed down as a sparse prior would do."""
    softened = np.maximum(expected - 0.5, 0.0)
    # exp(digamma(n)) is n - 1/2 for all but the smallest n
    at_least = np.maximum(softened, 0.1)
    softened = np.where(single, at_least, softened)
    shares = softened / softened.sum()
    chances: Floats = np.maximum(shares, FLOOR)
    return chances


def _log_gain(pieces: list[str], chances: Floats) -> Floats:
    """Return how much likelier each piece is than its best split into other pieces (in nats)."""
    logarithms = np.log(chances).tolist()
    scores = dict(zip(pieces, logarithms, strict=True))
    gains = np.zeros(len(pieces))
    for number, piece in enumerate(pieces):
        if len(piece) > 1:
            gains[number] = scores[piece] - _best_split(piece, scores)
    return gains


def _best_split(piece: str, scores: dict[str, float]) -> float:
    """Return the log-probability of the best segmentation into at least two pieces."""
    best = [0.0]  # of the beginnings of the piece
    for end in range(1, len(piece) + 1):
        highest = IMPOSSIBLE
        first = 1 if end == len(piece) else 0  # the whole piece is no split of it
        for start in range(first, end):
            score = scores.get(piece[start:end])
            if score is not None and best[start] + score > highest:
                highest = best[start] + score
        best.append(highest)
    return best[-1]


def count_words(texts: Iterable[str], split: str) -> Counter[str]:
    """Count the words that the regular expression ``split`` finds, blanks written as "▁"."""
    find = re.compile(split).findall
    words: Counter[str] = Counter()
    for text in texts:
        marked = text.replace(" ", "▁")
        # the library marks the first word as it does all others, once
        if not marked.startswith("▁"):
            marked = f"▁{marked}"
        words.update(find(marked))
    return words
