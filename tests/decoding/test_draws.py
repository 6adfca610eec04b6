"""Draws instead of search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from decoding.fakes import END, Attending, Table, coverage, greedy, run


def test_draws_follow_the_distribution_of_whole_answers() -> None:
    model = Table(3, 1, scale=0.7)
    count = 4000
    answers = run(model, [5], 3, sample=True, n_best=count, seed=1)[0]
    texts: dict[tuple[int, ...], float] = {}
    for size in range(4):
        for number in range(2**size):
            tokens = [1 + (number >> bit) % 2 for bit in range(size)]
            end = [END] if size < 3 else []
            texts[tuple(tokens)] = math.exp(
                sum(model.log_probabilities(5, tokens + end))
            )
    assert sum(texts.values()) == pytest.approx(1)
    drawn = [tuple(answer.tokens) for answer in answers]
    assert len(drawn) == count
    observed = np.array([drawn.count(text) for text in texts])
    # one fixed seed; a wrong law of this many draws is off by far more
    assert (
        stats.chisquare(observed, np.array(list(texts.values())) * count).pvalue > 1e-3
    )


def test_draws_repeat_under_a_seed_alone() -> None:
    model = Table(8, 2)
    values = {"sample": True, "n_best": 3}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = run(model, [0, 1], seed=4, **values)
    assert torch.equal(torch.get_rng_state(), before)
    assert (
        run(model, [0, 1], seed=4, **values)
        == first
        != run(model, [0, 1], seed=5, **values)
    )
    torch.manual_seed(0)
    free = run(model, [0, 1], **values)
    torch.manual_seed(0)
    assert run(model, [0, 1], **values) == free


def test_the_filters_of_sampling_apply_and_log_probabilities_are_the_models_own() -> (
    None
):
    model = Table(8, 2)
    cold = run(model, [0, 1], 9, sample=True, sampling={"temperature": 0})
    assert [answers[0].tokens for answers in cold] == [
        greedy(model, s, 9) for s in (0, 1)
    ]
    narrow = run(model, [0], 9, sample=True, n_best=50, sampling={"top_k": 2}, seed=0)[
        0
    ]
    for answer in narrow:
        tokens = answer.tokens + [END] * answer.finished
        expected = model.log_probabilities(0, tokens)
        assert answer.log_probabilities == pytest.approx(expected, rel=1e-12)
        for index, token in enumerate(tokens):
            said = [
                model.log_probabilities(0, [*tokens[:index], t])[-1] for t in range(8)
            ]
            assert sorted(said)[-2] <= said[token]


def test_a_repetition_penalty_counts_what_each_row_said() -> None:
    model = Table(9, 4, scale=0.1)
    model.scores += 20  # the penalty divides what is above zero
    values = {"sample": True, "n_best": 4, "seed": 0, "min_length": 8}
    for penalty, expected in ((1.0, False), (1e6, True)):
        by_source = run(
            model, [0, 1], 9, sampling={"repetition_penalty": penalty}, **values
        )
        distinct = [
            len(set(a.tokens)) == len(a.tokens) == 8 for part in by_source for a in part
        ]
        assert all(distinct) == expected


def test_draws_are_sorted_and_keep_the_limits() -> None:
    model = Table(6, 0, end=1.0)
    by_source = run(
        model, [0, 1, 2], limits=[3, 7, 1], sample=True, n_best=9, min_length=1, seed=2
    )
    for limit, answers in zip([3, 7, 1], by_source, strict=True):
        assert len(answers) == 9
        keys = [(not answer.finished, -answer.score) for answer in answers]
        assert keys == sorted(keys)
        for answer in answers:
            assert 1 <= len(answer.tokens) <= limit - answer.finished
    # every row leaves by itself
    assert model.row_counts[0] == 3
    assert model.row_counts[1:] == sorted(model.row_counts[1:], reverse=True)
    assert model.row_counts[-1] < 9


def test_coverage_of_draws() -> None:
    model = Attending(5, 0)
    values = {"sample": True, "n_best": 4, "seed": 3, "lengths": [4, 4]}
    plain = run(model, [0, 1], **values)
    covered = run(model, [0, 1], coverage_penalty=0.5, **values)
    for source, (without, answers) in enumerate(zip(plain, covered, strict=True)):
        score = {tuple(answer.tokens): answer.score for answer in without}
        assert {tuple(answer.tokens) for answer in answers} == set(score)
        for answer in answers:
            tokens = answer.tokens + [END] * answer.finished
            expected = score[tuple(answer.tokens)] + 0.5 * coverage(
                model, source, tokens, 4
            )
            assert answer.score == pytest.approx(expected, rel=1e-9)
