"""The unigram trainer: its sums against every segmentation written out, and what it learns."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.text import unigram
from unrolled.text.substrings import Stretches, repeated_substrings
from unrolled.text.tokenizers import SPECIALS, Tokenizer


def segmentations(word: str, pieces: set[str]) -> Iterator[tuple[str, ...]]:
    """Yield every way to write a word in pieces."""
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]
        parts = tuple(word[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
        if pieces.issuperset(parts):
            yield parts


@given(
    words=st.dictionaries(
        st.text("abc", min_size=1, max_size=5),
        st.integers(1, 4),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_expected_counts_are_those_over_all_segmentations(
    words: dict[str, int], seed: int
) -> None:
    texts = sorted(words)
    counts = np.array([words[text] for text in texts], float)
    stretches = Stretches.of(texts, counts)
    alphabet = sorted(set("".join(texts)))
    candidates, _ = repeated_substrings(stretches, 1, alphabet)
    chances = np.random.default_rng(seed).dirichlet(np.ones(len(candidates.texts)))
    given_ = dict(zip(candidates.texts, chances, strict=True))
    expected = Counter[str]()
    for text, count in words.items():
        splits = list(segmentations(text, set(given_)))
        weights = [math.prod(given_[part] for part in split) for split in splits]
        for split, weight in zip(splits, weights, strict=True):
            for part in split:
                expected[part] += count * weight / sum(weights)
    piece_counts = unigram._expected(chances, candidates.edges, stretches)
    np.testing.assert_allclose(
        piece_counts, [expected[text] for text in candidates.texts]
    )


def test_a_word_with_a_letter_outside_the_alphabet_teaches_nothing() -> None:
    words = Counter({"aab": 3, "azb": 5})
    stretches = Stretches.of(["azb", "aab"], np.array([5.0, 3.0]))
    candidates, _ = repeated_substrings(stretches, 2, ["a", "b"])
    chances = np.full(len(candidates.texts), 1 / len(candidates.texts))
    used = unigram._expected(chances, candidates.edges, stretches)
    alone = Stretches.of(["aab"], np.array([3.0]))
    candidates, _ = repeated_substrings(alone, 2, ["a", "b"])
    np.testing.assert_allclose(
        used, unigram._expected(chances, candidates.edges, alone)
    )
    assert {piece for piece, _ in unigram.train(words, 2)} == {"a", "b"}


def test_probabilities_add_up_and_letters_are_kept_first() -> None:
    words = Counter({"banana": 9, "bandana": 4, "cab": 1})
    pieces = unigram.train(words, 12)
    assert len(pieces) == 12
    assert sum(math.exp(score) for _, score in pieces) == pytest.approx(1, abs=1e-4)
    assert [score for _, score in pieces] == sorted(
        (score for _, score in pieces), reverse=True
    )
    assert set("bandc") <= {piece for piece, _ in pieces}
    assert {piece for piece, _ in unigram.train(words, 3)} == set("abn")
    assert {piece for piece, _ in unigram.train(words, 9, min_count=5)} >= set("abn")
    assert "c" not in {piece for piece, _ in unigram.train(words, 9, min_count=5)}
    assert unigram.train(Counter(), 9) == []


def test_the_best_split_is_that_of_all() -> None:
    rng = np.random.default_rng(3)
    word = "abcabcab"
    parts = {word[a:b] for a in range(8) for b in range(a + 1, 9)}
    scores = {part: float(rng.normal(-3)) for part in sorted(parts)}
    best = max(
        sum(scores[part] for part in way)
        for way in segmentations(word, parts)
        if len(way) > 1
    )
    assert unigram._best_split(word, scores) == pytest.approx(best)


def test_words_are_counted_with_their_blanks() -> None:
    counts = unigram.count_words(["a bc", "\u2581a", ""], "\u2581?[^\u2581]+|\u2581")
    assert counts == Counter({"\u2581a": 2, "\u2581bc": 1, "\u2581": 1})


def test_unigram_segments_at_the_words_of_a_made_up_language() -> None:
    words = ["kobu", "misa", "tele", "ranudi", "po"]
    texts = ["".join(words[(i * 7 + j * j) % 5] for j in range(4)) for i in range(400)]
    tokenizer = Tokenizer.fit("unigram", texts, 40)
    pieces = [tokenizer.token(id) for id in tokenizer.encode("kobu")]
    assert "".join(pieces) == "▁kobu"
    average = sum(map(len, tokenizer.encode_many(texts))) / len(texts)
    assert average <= 5  # four words and at most the mark of the first


def test_unigram_is_no_worse_than_the_library_at_its_own_aim() -> None:
    """Compare the tokens needed with a vocabulary of the library's own (slow, random) trainer."""
    texts = [
        f"{a}{b} {b}{c}다"
        for a in "가나다라마바"
        for b in ("영화", "음악")
        for c in "좋싫밉곱"
    ]
    ours = Tokenizer.fit("unigram", texts, 60)
    theirs = library.Tokenizer(library.models.Unigram())
    theirs.pre_tokenizer = library.pre_tokenizers.Metaspace()
    trainer = library.trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=list(SPECIALS),
        unk_token="<unk>",
        show_progress=False,
    )
    theirs.train_from_iterator(texts, trainer)
    count = sum(map(len, ours.encode_many(texts)))
    assert count <= 1.1 * sum(len(theirs.encode(text).ids) for text in texts)
