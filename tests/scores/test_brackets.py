"""Labelled brackets: numbers that evalb gives, and a second reckoning on drawn trees."""

from __future__ import annotations

import itertools
import random
from functools import reduce
from operator import add
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.trees import parse, plain
from unrolled.scores.brackets import BracketCounts, Span, match

# right tree, found tree, and the counts of evalb.c under COLLINS.prm (its reading, matching and
# totals, compiled by themselves): matched brackets, right ones, found ones
CASES = {
    "a phrase attached too high": (
        "(S (NP (DT the) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT the) (NN mat)))) (. .))",
        "(S (NP (DT the) (NN cat)) (VP (VBD sat) (PP (IN on)) (NP (DT the) (NN mat))) (. .))",
        (4, 5, 5),
    ),
    "ADVP and PRT are one label": (
        "(S (NP (NN x)) (VP (VBZ y) (PRT (RP up))))",
        "(S (NP (NN x)) (VP (VBZ y) (ADVP (RP up))))",
        (4, 4, 4),
    ),
    "nothing but punctuation is passed over": ("(X (. .))", "(X (. .))", (0, 0, 0)),
    "punctuation is taken out, and of two equal brackets one is missed": (
        "(S (`` ``) (NP (NP (NN a))) (, ,) (VP (VB b) (ADVP (RB c)) (PRN (: -) (: -))) ('' ''))",
        "(S (`` ``) (NP (NN a)) (, ,) (VP (VB b) (PRN (ADVP (RB c)) (: -) (: -))) ('' ''))",
        (4, 5, 5),
    ),
    "traces, functions and TOP go": (
        "(TOP (S-1 (NP-SBJ=2 (PRP it)) (VP (VBZ is) (ADJP-PRD (JJ so) (SBAR (-NONE- 0) "
        "(S (-NONE- *T*-1)))))))",
        "(TOP (S (NP (PRP it)) (VP (VBZ is) (ADJP (JJ so)))))",
        (4, 4, 4),
    ),
    "one bracket is split": (
        "(FRAG (NP (NN a) (NN b) (NN c)))",
        "(FRAG (NP (NN a) (NN b)) (NP (NN c)))",
        (1, 2, 3),
    ),
}


def compare(right: str, predicted: str) -> BracketCounts:
    first = plain(parse(right))
    second = plain(parse(predicted))
    assert first.words == second.words
    return match(first.spans, second.spans, first.tags)


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_the_counts_of_evalb(case: str) -> None:
    right, predicted, (matched, of_right, of_predicted) = CASES[case]
    counts = compare(right, predicted)
    assert (counts.matched, counts.right, counts.predicted) == (
        matched,
        of_right,
        of_predicted,
    )


def test_the_totals_are_those_of_evalb() -> None:
    total = reduce(
        add, (compare(right, predicted) for right, predicted, _ in CASES.values())
    )
    # Recall 85.00, Precision 80.95, FMeasure 82.93, Complete match 40.00, 1 of 6 skipped
    assert round(100 * total.recall, 2) == 85.00
    assert round(100 * total.precision, 2) == 80.95
    assert round(100 * total.f1, 2) == 82.93
    assert round(100 * total.complete, 2) == 40.00
    assert (total.sentences, total.exact) == (5, 2)


def test_root_does_not_count() -> None:
    counts = compare(
        "(ROOT (S (NP (NN a)) (NP (NN b))))", "(ROOT (NP (NN a)) (NP (NN b)))"
    )
    assert (counts.matched, counts.right, counts.predicted) == (2, 3, 2)


def test_nothing_found_and_no_sentence_score_0() -> None:
    nothing = match([("S", 0, 1)], [], ["NN"])
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.complete) == (
        0,
        0,
        0,
        0,
    )
    assert BracketCounts().f1 == BracketCounts().complete == 0


# ---------------------------------------------------------------------- the second reckoning

LABELS = ["S", "NP", "ADVP", "PRT", "X", "TOP"]
TAGS = ["NN", "VB", ",", ".", "``", "''", ":", "-LRB-", "$"]


def draw(generator: random.Random, start: int, end: int, depth: int = 0) -> list[Any]:
    """Return a drawn tree over leaves: [label, child, ...], a leaf an integer."""
    if end - start == 1 and (depth > 3 or generator.random() < 0.6):
        return [generator.choice(LABELS), start]
    cuts = sorted(generator.sample(range(start + 1, end), min(end - start - 1, 2)))
    edges = [start, *cuts, end]
    children: list[Any] = [
        i
        if j - i == 1 and generator.random() < 0.5
        else draw(generator, i, j, depth + 1)
        for i, j in itertools.pairwise(edges)
    ]
    return [generator.choice(LABELS), *children]


def spans_of(tree: Any) -> list[Span]:
    def leaves(node: Any) -> list[int]:
        return (
            [node]
            if isinstance(node, int)
            else [x for child in node[1:] for x in leaves(child)]
        )

    if isinstance(tree, int):
        return []
    own = (tree[0], min(leaves(tree)), max(leaves(tree)) + 1)
    return [own, *(span for child in tree[1:] for span in spans_of(child))]


def reckon(right: Any, predicted: Any, tags: list[str]) -> tuple[int, int, int]:
    """Count as evalb's loops do: delete from the trees, then pair each right bracket greedily."""
    deleted = {"TOP", "-NONE-", ",", ":", "``", "''", "."}

    def brackets(
        tree: Any,
    ) -> tuple[list[tuple[str, tuple[int, ...]]], tuple[int, ...]]:
        if isinstance(tree, int):
            return [], (() if tags[tree] in deleted else (tree,))
        parts = [brackets(child) for child in tree[1:]]
        words = tuple(word for _, some in parts for word in some)
        own = [(tree[0], words)] if words and tree[0] not in deleted else []
        return own + [bracket for some, _ in parts for bracket in some], words

    def same(a: str, b: str) -> bool:
        return a == b or {a, b} == {"ADVP", "PRT"}

    first = brackets(right)[0]
    second = brackets(predicted)[0]
    free = list(second)
    matched = 0
    for label, words in first:
        hit = next((b for b in free if b[1] == words and same(b[0], label)), None)
        if hit is not None:
            free.remove(hit)
            matched += 1
    return matched, len(first), len(second)


@given(st.integers(0, 10**9), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_counts_are_those_of_the_second_reckoning(seed: int, words: int) -> None:
    generator = random.Random(seed)
    tags = generator.choices(TAGS, k=words)
    right = draw(generator, 0, words)
    predicted = draw(generator, 0, words)
    counts = match(spans_of(right), spans_of(predicted), tags)
    expected = reckon(right, predicted, tags)
    assert (counts.matched, counts.right, counts.predicted) == expected
    # evalb passes over a sentence without words
    left = sum(tag not in {",", ".", "``", "''", ":"} for tag in tags)
    assert counts.sentences == bool(left)
    assert counts.exact == (left > 0 and expected[0] == expected[1] == expected[2])
