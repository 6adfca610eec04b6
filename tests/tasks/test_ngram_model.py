"""N-gram models: interpolated counts that can be worked out by hand."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from unrolled.data.examples import Ragged
from unrolled.tasks.ngram_model import frequencies, ngram_nats, witten_bell

SIZE = 6
END = 3
Texts = list[list[int]]


def drawn(count: int, seed: int) -> Texts:
    draw = random.Random(seed)
    return [
        [*draw.choices([0, 1, 2, 4, 5], k=draw.randrange(0, 7)), END]
        for _ in range(count)
    ]


def by_hand(
    train: Texts, scored: Texts, order: int, kinds: tuple[list[int], list[int]] | None
) -> float:
    """The same, text by text, with dictionaries of contexts."""
    single = Counter(itertools.chain.from_iterable(train))
    total = sum(single.values())
    counts: defaultdict[tuple, Counter[int]] = defaultdict(Counter)
    known = kinds or ([0] * len(train), [0] * len(scored))
    lengths = range(0 if kinds else 1, order)

    def context(kind: int, text: list[int], at: int, length: int) -> tuple:
        padded = [None] * length + text
        return (kind, length, *padded[at : at + length])

    for kind, text in zip(known[0], train, strict=True):
        for at, token in enumerate(text):
            for length in lengths:
                counts[context(kind, text, at, length)][token] += 1
    nats = 0.0
    for kind, text in zip(known[1], scored, strict=True):
        for at, token in enumerate(text):
            probability = (single[token] + 1) / (total + SIZE)
            for length in lengths:
                followers = counts[context(kind, text, at, length)]
                times = sum(followers.values())
                if times:
                    trust = times / (times + len(followers))
                    own = followers[token] / times
                    probability = trust * own + (1 - trust) * probability
            nats -= math.log(probability)
    return nats


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("has_kinds", [False, True])
def test_nats_are_those_of_counts_by_hand(order: int, has_kinds: bool) -> None:
    train = drawn(40, 1)
    scored = drawn(15, 2)
    kinds = None
    arrays = None
    if has_kinds:
        kinds = ([n % 3 for n in range(40)], [n % 4 for n in range(15)])
        arrays = (np.array(kinds[0]), np.array(kinds[1]))
    nats = ngram_nats(Ragged.of(train), Ragged.of(scored), order, SIZE, arrays)
    assert nats == pytest.approx(by_hand(train, scored, order, kinds), rel=1e-12)


def test_probabilities_of_all_tokens_after_a_context_sum_to_one() -> None:
    train = drawn(30, 3)
    # one text a token, after the same beginning
    scored = [[1, 2, token] for token in range(SIZE)]
    nats = [
        ngram_nats(Ragged.of(train), Ragged.of([text]), 4, SIZE)
        - ngram_nats(Ragged.of(train), Ragged.of([text[:2]]), 4, SIZE)
        for text in scored
    ]
    assert sum(math.exp(-cost) for cost in nats) == pytest.approx(1)


def test_what_was_never_seen_falls_back_to_the_shorter_context() -> None:
    nothing = np.array([0])
    lower = np.array([0.25])
    assert witten_bell(nothing, nothing, nothing, lower) == 0.25
    # half of the weight to the counts, which are all of this token
    assert witten_bell(np.array([2]), np.array([2]), np.array([2]), lower) == 0.625
    assert frequencies(np.array([1, 1, 2]), 4).tolist() == [1 / 7, 3 / 7, 2 / 7, 1 / 7]
