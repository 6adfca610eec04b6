"""Scores of captions: the reference scorer's numbers, and second reckonings of drawn ones."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from unrolled.scores import captions
from unrolled.scores.captions import CiderD, caption_scores

FIXTURE = json.loads(Path(__file__).with_name("captions.json").read_text("utf-8"))
VOCABULARY = ["a", "dog", "cat", "runs", "on", "grass"]


def drawn(seed: int, count: int) -> tuple[list[str], list[list[str]]]:
    """Return captions of few different words, each with one to four right ones."""
    generator = random.Random(seed)

    def caption() -> str:
        return " ".join(generator.choices(VOCABULARY, k=generator.randint(1, 12)))

    references = [
        [caption() for _ in range(generator.randint(1, 4))] for _ in range(count)
    ]
    return [caption() for _ in range(count)], references


@pytest.mark.parametrize("case", FIXTURE["sets"], ids=lambda case: case["name"])
def test_the_scores_are_the_reference_scorers(case: Any) -> None:
    answers = case["answers"]
    references = case["references"]
    scores = caption_scores(answers, references)
    assert scores == pytest.approx(case["scores"], rel=1e-12, abs=1e-15)
    rewards = CiderD(references).scores(answers, range(len(answers)))
    assert rewards.dtype == np.float64
    assert rewards == pytest.approx(case["cider_d"], rel=1e-12, abs=1e-14)


def test_a_row_may_have_any_number_of_answers() -> None:
    answers, references = drawn(1, 30)
    reward = CiderD(references)
    once = reward.scores(answers, range(30))
    assert once.max() > 0.5
    rows = [7, 3, 7, 7, 29, 0]
    texts = [answers[7], answers[3], references[7][0], answers[7], answers[29], ""]
    scores = reward.scores(texts, rows)
    assert scores[[0, 1, 3, 4]] == pytest.approx(once[[7, 3, 7, 29]])
    assert scores[2] > scores[0]
    assert scores[5] == 0
    assert reward.scores([], []).shape == (0,)


def test_cider_d_of_hand_worked_cases() -> None:
    # each n-gram is of one row of two, and weighs log 2: of the same captions words and pairs of
    # words are as like as can be, and there are no longer n-grams
    reward = CiderD([["red dogs"], ["old cats sleep", "cats sleep"]])
    assert reward.scores(["red dogs"], [0]) == pytest.approx([10 * (1 + 1) / 4])
    # of "red", half as long: the cosine of one word of two; lengths of one and of no pair
    expected = 10 * math.sqrt(1 / 2) / 4 * math.exp(-1 / (2 * 6**2))
    assert reward.scores(["red"], [0]) == pytest.approx([expected])
    # repeated words are clipped in the product, but not in the norm
    expected = 10 * 1 / (2 * math.sqrt(2)) / 4
    assert reward.scores(["red red"], [0]) == pytest.approx([expected])
    # the mean over both right captions of the second row
    other = 10 * (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    same = 10 * (1 + 1) / 4
    assert reward.scores(["cats sleep"], [1]) == pytest.approx([(other + same) / 2])


def test_an_n_gram_of_every_row_weighs_nothing() -> None:
    reward = CiderD([["a dog", "a cat"], ["a bird"]])
    assert reward.scores(["a", "bird"], [0, 1]) == pytest.approx(
        [0, 10 / 4 * math.exp(-1 / 72)]
    )


def test_captions_without_a_token_are_scored() -> None:
    scores = caption_scores(["a dog", ""], [["."], ["", "!"]])
    assert scores["cider_d"] == 0
    # an empty caption is as like another as can be
    assert scores["rouge_l"] == 0.5


def test_an_unknown_word_is_no_word_of_another_row() -> None:
    reward = CiderD([["dogs"], ["cats"], ["dogs"]])
    assert reward.scores(["mice", "mice", "mice"], [0, 1, 2]).tolist() == [0, 0, 0]


def second_cider(answer: str, row: int, references: list[list[str]]) -> float:
    """Reckon CIDEr-D with a dictionary a caption."""
    counted = [[grams(caption) for caption in right] for right in references]
    rows = Counter(gram for right in counted for gram in set().union(*right))

    def weigh(counts: Counter[str]) -> dict[str, float]:
        weights = {}
        for gram, count in counts.items():
            weights[gram] = count * math.log(len(references) / max(1, rows[gram]))
        return weights

    total = 0.0
    first = weigh(grams(answer))
    for caption in references[row]:
        second = weigh(grams(caption))
        similar = 0.0
        for order in range(4):
            ours = {g: w for g, w in first.items() if g.count(" ") == order}
            theirs = {g: w for g, w in second.items() if g.count(" ") == order}
            norm = math.hypot(*ours.values()) * math.hypot(*theirs.values())
            product = sum(
                min(w, theirs.get(g, 0)) * theirs.get(g, 0) for g, w in ours.items()
            )
            similar += product / norm if norm else 0
        difference = answer.count(" ") - caption.count(" ")
        total += similar / 4 * math.exp(-(difference**2) / 72)
    return 10 * total / len(references[row])


def grams(caption: str) -> Counter[str]:
    words = caption.split()
    counts: Counter[str] = Counter()
    for order in range(1, 5):
        for start in range(len(words) - order + 1):
            counts[" ".join(words[start : start + order])] += 1
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_cider_d_is_that_of_a_second_reckoning(seed: int) -> None:
    answers, references = drawn(seed, 25)
    expected = [
        second_cider(answer, row, references) for row, answer in enumerate(answers)
    ]
    scores = CiderD(references).scores(answers, range(25))
    assert scores == pytest.approx(expected, abs=1e-12)
    mean = caption_scores(answers, references)["cider_d"]
    assert mean == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_bleu_is_sacrebleus_but_for_the_added_constants(seed: int, order: int) -> None:
    answers, references = drawn(seed, 200)
    # as sacrebleu takes references: the first of every answer, the second ...
    streams = [
        [right[i] if i < len(right) else None for right in references] for i in range(4)
    ]
    metric = BLEU(
        tokenize="none", smooth_method="none", max_ngram_order=order, force=True
    )
    expected = metric.corpus_score(answers, streams).score / 100
    assert 0.01 < expected < 0.99
    assert caption_scores(answers, references)[f"bleu_{order}"] == pytest.approx(
        expected, rel=1e-7
    )


def test_bleu_takes_the_shorter_of_equally_near_reference_lengths() -> None:
    # four words between two of two and six: no penalty
    scores = caption_scores(["a dog runs by"], [["a dog", "a dog runs by the sea"]])
    assert scores["bleu_1"] == pytest.approx(1)
    # three words against five, which are nearer than none
    scores = caption_scores(["a dog runs"], [["a dog runs by here"]])
    assert scores["bleu_1"] == pytest.approx(math.exp(1 - 5 / 3))


def test_rouge_l_of_a_hand_worked_case() -> None:
    # "a runs" is common, of three and of five words
    scores = caption_scores(["a dog runs"], [["a cat runs by here"]])
    precision = 2 / 3
    recall = 2 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert scores["rouge_l"] == pytest.approx(expected)
    # the best precision and the best recall may be of two references
    scores = caption_scores(["a dog runs"], [["a cat runs by here", "a"]])
    expected = (1 + 1.44) * precision / (1 + 1.44 * precision)
    assert scores["rouge_l"] == pytest.approx(expected)
    assert caption_scores(["a"], [["b"]])["rouge_l"] == 0


@given(
    st.lists(st.sampled_from("abc"), max_size=9),
    st.lists(st.sampled_from("abc"), max_size=9),
)
def test_the_longest_common_subsequence_is_that_of_the_table(
    first: list[str], second: list[str]
) -> None:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, token in enumerate(first):
        for j, other in enumerate(second):
            longer = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if token == other else longer
    assert captions._longest_common(first, second) == table[-1][-1]


def test_what_cannot_be_scored_says_so() -> None:
    with pytest.raises(ValueError, match="got 0 answers and 0 lists"):
        caption_scores([], [])
    with pytest.raises(ValueError, match="got 2 answers and 1 lists"):
        caption_scores(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="got 2 lists, 1 of them empty"):
        caption_scores(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="got 0 lists"):
        CiderD([])
    reward = CiderD([["a"], ["b"]])
    with pytest.raises(ValueError, match="1 answers and 2 rows"):
        reward.scores(["a"], [0, 1])
    for row in (-1, 2):
        with pytest.raises(IndexError, match="rows from 0 to 1"):
            reward.scores(["a"], [row])
