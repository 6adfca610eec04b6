"""The constraint of trees: what it allows is exactly the trees, and every walk under it ends."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from unrolled.core.errors import UserError
from unrolled.data.trees import spans_of
from unrolled.decoding.brackets import Alphabet, TreeConstraint
from unrolled.decoding.search import search
from unrolled.decoding.settings import Search

# 0 to 2 are never written; two labels
ALPHABET = Alphabet(word=4, close=5, end=3, first=6, size=8)
NAMES = {4: "XX", 5: ")", 6: "(A", 7: "(B"}


def over(words: list[int], limits: list[int], run: int = 3) -> TreeConstraint:
    decoder_inputs = torch.arange(100, 100 + max(words)).expand(len(words), -1)
    return TreeConstraint.over(
        ALPHABET, decoder_inputs, torch.tensor(words), torch.tensor(limits), run
    )


def walk(words: int, limit: int, run: int) -> set[tuple[int, ...]]:
    """Return everything that can be written, by following every allowed token."""
    trees = set()
    front = [((), over([words], [limit], run))]
    while front:
        written, rule = front.pop()
        (allowed,) = rule.allowed()
        for token in allowed.nonzero()[:, 0].tolist():
            if token == ALPHABET.end:
                trees.add(written)
            else:
                after = rule.advance(torch.tensor([0]), torch.tensor([token]))
                front.append(((*written, token), after))
    return trees


def is_tree(tokens: tuple[int, ...], words: int, run: int) -> bool:
    names = [NAMES[token] for token in tokens]
    try:
        spans_of(names)
    except UserError:
        return False
    between = "".join(
        "(" if n[0] == "(" else " " if n == "XX" else "" for n in names
    ).split()
    return names.count("XX") == words and max(map(len, between)) <= run


@pytest.mark.parametrize(
    ("words", "limit", "run"), [(1, 8, 3), (2, 8, 2), (3, 8, 1), (1, 6, 9)]
)
def test_what_is_allowed_is_exactly_the_trees(words: int, limit: int, run: int) -> None:
    tokens = range(4, 8)
    trees = {
        written
        for length in range(limit)  # the end mark counts
        for written in itertools.product(tokens, repeat=length)
        if is_tree(written, words, run)
    }
    assert walk(words, limit, run) == trees
    assert trees


class Random:
    """A model that scores at random, and prefers brackets that open: the worst case."""

    def __init__(self, bonus: float) -> None:
        self.bonus = bonus
        self.read: list[int] = []

    def step(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        self.read += tokens.tolist()
        scores = torch.randn(len(tokens), ALPHABET.size)
        scores[:, ALPHABET.first :] += self.bonus
        return scores, state


class Nothing:
    """A state that remembers nothing."""

    def reorder(self, rows: torch.Tensor, keep: bool = True) -> Nothing:
        return self


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("bonus", [-3.0, 0.0, 9.0])
def test_every_search_ends_in_a_tree_over_the_words(beam: int, bonus: float) -> None:
    torch.manual_seed(0)
    words = [1, 2, 5, 9, 3]
    limits = [4, 30, 12, 40, 50]
    model = Random(bonus)
    by_source = search(
        model,
        Nothing(),
        Search(beam=beam),
        start=2,
        end=ALPHABET.end,
        limits=limits,
        constraint=over(words, limits),
    )
    for hypotheses, count, limit in zip(by_source, words, limits, strict=True):
        best = hypotheses[0]
        assert best.finished
        assert is_tree(tuple(best.tokens), count, 3)
        assert len(best.tokens) < limit
    # for a word the model read the word itself
    assert ALPHABET.word not in model.read
    assert set(range(100, 109)) <= set(model.read)


def test_rows_may_leave_and_repeat() -> None:
    rule = over([1, 2], [9, 9])
    rule = rule.advance(torch.tensor([1, 0, 1]), torch.tensor([6, 7, 7]))
    rule = rule.advance(torch.tensor([0, 2]), torch.tensor([4, 6]))
    # the first has written a word of two and must not close; the second has nothing to close
    assert rule.allowed().tolist() == [
        [False, False, False, False, True, False, True, True],
        [False, False, False, False, True, False, True, True],
    ]
    rule = rule.advance(torch.tensor([0]), torch.tensor([4]))
    assert rule.feed(torch.tensor([4])).tolist() == [101]
    assert rule.allowed()[0].nonzero()[:, 0].tolist() == [5]
    rule = rule.advance(torch.tensor([0]), torch.tensor([5]))
    assert rule.feed(torch.tensor([5])).tolist() == [5]
    assert rule.allowed()[0].nonzero()[:, 0].tolist() == [3]


@pytest.mark.parametrize(
    ("words", "limits", "run"), [([0], [9], 3), ([3], [5], 3), ([1], [9], 0)]
)
def test_what_cannot_be_written_is_refused(
    words: list[int], limits: list[int], run: int
) -> None:
    with pytest.raises(ValueError, match="at least one word a source"):
        over([1, *words], [9, *limits], run)
