"""Repeated substrings of words, and where they occur: all of them, counted one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.text.substrings import LONGEST, Stretches, repeated_substrings

words = st.dictionaries(
    st.text("ab가z", min_size=1, max_size=6), st.integers(1, 4), min_size=1, max_size=7
)


@given(words=words, least=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_all_that_occur_often_enough_are_there(
    words: dict[str, int], least: int
) -> None:
    alphabet = ["가", "b", "a"]  # z is no letter of it
    texts = sorted(words)
    stretches = Stretches.of(texts, np.array([words[t] for t in texts], float))
    candidates, weights = repeated_substrings(stretches, least, alphabet)
    counts = Counter[str]()
    occurrences = Counter[tuple[int, int, str]]()
    boundary = 0
    for text in texts:
        for start in range(len(text)):
            for end in range(start + 1, len(text) + 1):
                counts[text[start:end]] += words[text]
                occurrences[boundary + start, boundary + end, text[start:end]] += 1
        boundary += len(text) + 1
    expected = {
        part: count * len(part)
        for part, count in counts.items()
        if "z" not in part and (count >= least or len(part) == 1)
    }
    expected |= {letter: 0 for letter in alphabet if letter not in counts}
    weight_by_text = dict(zip(candidates.texts, weights.tolist(), strict=True))
    assert weight_by_text == expected
    assert candidates.single.tolist() == [len(part) == 1 for part in candidates.texts]
    assert list(map(len, candidates.texts)) == sorted(map(len, candidates.texts))
    edges = candidates.edges
    occurring = Counter(
        (start, end, candidates.texts[piece])
        for start, end, piece in zip(
            edges.start.tolist(), edges.end.tolist(), edges.piece.tolist(), strict=True
        )
    )
    assert occurring == Counter(
        {edge: count for edge, count in occurrences.items() if edge[2] in expected}
    )


@given(words=words)
@settings(max_examples=60, deadline=None)
def test_edges_of_a_group_share_no_boundary(words: dict[str, int]) -> None:
    texts = sorted(words)
    stretches = Stretches.of(texts, np.array([words[t] for t in texts], float))
    candidates, _ = repeated_substrings(stretches, 1, ["a", "b", "가"])
    for kept in (candidates, candidates.only(np.arange(0, len(candidates.texts), 2))):
        edges = kept.edges
        seen = 0
        for group in edges.groups:
            assert group.start == seen
            assert group.stop > group.start or not len(edges.start)
            seen = group.stop
            for side in (edges.start[group], edges.end[group]):
                assert len(set(side.tolist())) == len(side)
        assert seen == len(edges.start)


def test_some_of_the_pieces_are_numbered_anew() -> None:
    stretches = Stretches.of(["abab"], np.ones(1))
    candidates, _ = repeated_substrings(stretches, 2, ["a", "b"])
    assert candidates.texts == ["a", "b", "ab"]
    kept = candidates.only(np.array([0, 2]))
    assert kept.texts == ["a", "ab"]
    edges = kept.edges
    assert sorted(zip(edges.start, edges.end, edges.piece, strict=True)) == [
        (0, 1, 0),
        (0, 2, 1),
        (2, 3, 0),
        (2, 4, 1),
    ]


def test_none_is_longer_than_the_bound() -> None:
    word = "a" * (LONGEST + 4)
    candidates, _ = repeated_substrings(Stretches.of([word], np.ones(1)), 2, ["a"])
    assert max(map(len, candidates.texts)) == LONGEST
