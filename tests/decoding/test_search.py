"""Beam search against exhaustive search, argmax loops and another library's search."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decoding.fakes import (
    END,
    START,
    Attending,
    Table,
    TableState,
    coverage,
    everything,
    greedy,
    run,
)
from unrolled.core.errors import UsageError
from unrolled.decoding.back_pointers import length_penalty
from unrolled.decoding.search import Search, search

QUICK = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("patience", [1.0, None])
def test_a_beam_as_wide_as_the_tree_finds_the_optimum(
    alpha: float, patience: float | None
) -> None:
    for seed in range(5):
        model = Table(4, seed, end=-1.0)
        best = everything(model, 3, 5, alpha)
        # 27 unfinished hypotheses of three tokens, 81 of four
        answers = run(
            model, [3], 5, beam=81, n_best=10, length_penalty=alpha, patience=patience
        )[0]
        assert [answer.tokens for answer in answers] == [
            tokens for _, tokens in best[:10]
        ]
        assert [answer.score for answer in answers] == pytest.approx(
            [score for score, _ in best[:10]], rel=1e-12
        )
        assert all(answer.finished for answer in answers)


def test_a_narrow_beam_can_miss_the_optimum() -> None:
    """So the test above says something."""
    missed = 0
    for seed in range(20):
        model = Table(4, seed, end=-1.0)
        answer = run(model, [3], 5, beam=1, length_penalty=0.0)[0][0]
        missed += answer.tokens != everything(model, 3, 5)[0][1]
    assert missed > 5


@QUICK
@given(
    st.integers(0, 1000),
    st.integers(2, 9),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.5, 1.0, None]),
)
def test_a_beam_of_one_is_greedy(
    seed: int, vocabulary: int, alpha: float, patience: float | None
) -> None:
    model = Table(vocabulary, seed)
    by_source = run(
        model, [1, 2, 3], 12, beam=1, length_penalty=alpha, patience=patience
    )
    for source, answers in zip([1, 2, 3], by_source, strict=True):
        tokens = greedy(model, source, 12)
        assert [answer.tokens for answer in answers] == [tokens]
        assert answers[0].finished == (len(tokens) < 12)


@QUICK
@given(st.data())
def test_a_batch_of_one_is_a_batch_of_many(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 2]))
    values: dict[str, Any] = {
        "beam": data.draw(st.sampled_from([2, 4])),
        "n_best": 2,
        "length_penalty": data.draw(st.sampled_from([0.0, 0.6])),
        "patience": data.draw(st.sampled_from([1.0, 2.0, None])),
        "diverse_groups": groups,
        "min_length": data.draw(st.integers(0, 3)),
        "banned": data.draw(st.lists(st.integers(1, 4), max_size=2)),
        "banned_phrases": data.draw(
            st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), max_size=3)
        ),
    }
    model = Table(7, data.draw(st.integers(0, 99)), end=1.0)
    if data.draw(st.booleans()):
        model.scores = model.scores.float()
    limits = [8, 3, 12, 5, 9]
    together = run(model, [0, 1, 2, 3, 4], limits=limits, **values)
    for source, limit in enumerate(limits):
        assert run(model, [source], limit, **values) == [together[source]]


@QUICK
@given(
    st.integers(0, 999),
    st.integers(2, 8),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.7]),
)
def test_log_probabilities_are_the_models_own(
    seed: int, vocabulary: int, beam: int, alpha: float
) -> None:
    model = Table(vocabulary, seed)
    values = {
        "min_length": 1,
        "banned": [3] if vocabulary > 3 else [],
        "length_penalty": alpha,
    }
    for source, answers in enumerate(
        run(model, [0, 1], 6, beam=beam, n_best=beam, **values)
    ):
        for answer in answers:
            tokens = [*answer.tokens, END] if answer.finished else answer.tokens
            expected = model.log_probabilities(source, tokens)
            assert answer.log_probabilities == pytest.approx(
                expected, rel=1e-12, abs=1e-12
            )
            assert answer.log_probability == pytest.approx(sum(expected), rel=1e-12)
            penalty = length_penalty(len(tokens), alpha)
            assert answer.score == pytest.approx(sum(expected) / penalty, rel=1e-12)


@QUICK
@given(st.integers(0, 999), st.integers(1, 8), st.sampled_from([1.0, 3.0, None]))
def test_answers_are_distinct_and_sorted(
    seed: int, beam: int, patience: float | None
) -> None:
    model = Table(5, seed, end=1.0)
    for answers in run(model, [0, 1, 2], 6, beam=beam, n_best=beam, patience=patience):
        assert len({tuple(answer.tokens) for answer in answers}) == len(answers) == beam
        keys = [(not answer.finished, -answer.score) for answer in answers]
        assert keys == sorted(keys)


@QUICK
@given(st.integers(0, 999), st.sampled_from([0.0, 0.6, 1.5]), st.integers(1, 3))
def test_stopping_at_the_bound_loses_nothing(
    seed: int, alpha: float, n_best: int
) -> None:
    """Against the same search with nothing to stop it but the limit."""
    model = Table(6, seed, end=1.0)
    values = {"beam": 3, "n_best": n_best, "length_penalty": alpha}
    stopped = run(model, [4], 15, patience=None, **values)
    steps = len(model.row_counts)
    model.row_counts = []
    assert stopped == run(model, [4], 15, patience=1000.0, max_length=99, **values)
    assert steps <= len(model.row_counts)


def test_the_bound_does_stop() -> None:
    model = Table(6, 0, end=2.0)
    run(model, [4], 500, beam=3, patience=None, length_penalty=0.0)
    assert len(model.row_counts) < 20


def test_done_sources_leave_at_once() -> None:
    model = Table(6, 1, end=1.0)
    limits = [2, 9, 4, 1, 6]
    run(model, [0, 1, 2, 3, 4], limits=limits, beam=3, min_length=8)
    # nothing may end before its limit; a step reads all rows of those that have not reached it
    expected = [5] + [3 * sum(limit > step for limit in limits) for step in range(1, 9)]
    assert model.row_counts == expected


def test_one_child_of_a_parent_keeps_its_place() -> None:
    model = Table(50, 2)
    moved = 0
    rows = 0
    state = model.start(list(range(8)))
    search(
        model, state, Search(beam=5), start=START, end=END, limits=[30] * 8, banned=[2]
    )
    moved = sum(state.log[1:])
    rows = sum(model.row_counts[1:])
    # in order of score two thirds of the rows would move
    assert 0 < moved < 0.5 * rows


def test_greedy_search_moves_nothing() -> None:
    model = Table(9, 0, end=-9.0)
    state = model.start([0, 1, 2])
    search(model, state, Search(beam=1), start=START, end=END, limits=[20, 20, 20])
    assert state.log == []


def test_length_limits() -> None:
    model = Table(5, 3, end=3.0)
    for shortest in (0, 1, 4):
        for answers in run(model, [0, 1, 2], 9, beam=3, n_best=3, min_length=shortest):
            assert all(len(answer.tokens) >= shortest for answer in answers)
            assert all(len(answer.tokens) + answer.finished <= 9 for answer in answers)
    never = Table(5, 3, end=-50.0)
    for answers in run(never, [0, 1], limits=[4, 7], beam=2, n_best=2):
        assert {answer.finished for answer in answers} == {False}
    assert [len(a[0].tokens) for a in run(never, [0, 1], limits=[4, 7], beam=2)] == [
        4,
        7,
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [51, 60, 150]),
        ({"max_length": 55}, [51, 55, 55]),
        ({"max_ratio": 0.5, "max_extra": 0}, [1, 5, 50]),
        ({"max_ratio": 2.5, "max_extra": 3}, [5, 28, 253]),
    ],
)
def test_the_limit_of_a_source(values: dict[str, Any], expected: list[int]) -> None:
    assert [Search(**values).limit(length) for length in (1, 10, 100)] == expected


@QUICK
@given(st.data())
def test_prefixes_are_kept_and_scored(data: st.DataObject) -> None:
    model = Table(6, data.draw(st.integers(0, 99)))
    word = st.integers(1, 5)
    prefixes = data.draw(
        st.lists(st.none() | st.lists(word, max_size=4), min_size=3, max_size=3)
    )
    values = {"beam": data.draw(st.integers(1, 4)), "sample": data.draw(st.booleans())}
    # what is banned may stand in a prefix
    by_source = run(
        model, [0, 1, 2], 7, prefixes=prefixes, banned=[2], seed=1, **values
    )
    for source, (prefix, (answer,)) in enumerate(zip(prefixes, by_source, strict=True)):
        size = len(prefix or ())
        assert answer.tokens[:size] == (prefix or [])
        assert 2 not in answer.tokens[size:]
        tokens = answer.tokens + [END] * answer.finished
        expected = model.log_probabilities(source, tokens)
        assert answer.log_probabilities == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_prefix_of_a_greedy_search_is_gone_on_with_greedily() -> None:
    model = Table(6, 5, end=-2.0)
    whole = greedy(model, 7, 9)
    assert len(whole) > 3
    assert run(model, [7], 9, beam=1, prefixes=[whole[:2]])[0][0].tokens == whole


@QUICK
@given(st.data())
def test_what_is_banned_does_not_occur(data: st.DataObject) -> None:
    words = st.lists(st.integers(1, 4), min_size=1, max_size=3)
    phrases = data.draw(st.lists(words, min_size=1, max_size=4))
    model = Table(5, data.draw(st.integers(0, 99)), end=-1.0)
    values: dict[str, Any] = {
        "beam": 3,
        "n_best": 3,
        "sample": data.draw(st.booleans()),
    }
    for answers in run(model, [0, 1], 9, banned_phrases=phrases, seed=3, **values):
        for answer in answers:
            text = answer.tokens
            for phrase in phrases:
                starts = range(len(text) - len(phrase) + 1)
                assert all(text[i : i + len(phrase)] != phrase for i in starts)


def test_banning_changes_no_more_than_it_must() -> None:
    """The best answer without the phrase, by a search wide enough to be exhaustive."""
    model = Table(4, 8, end=-1.0)
    best = everything(model, 0, 5)
    phrase = next(tokens for _, tokens in best if len(tokens) >= 2)[:2]
    left = [t for _, t in best if all(t[i : i + 2] != phrase for i in range(len(t)))]
    answers = run(
        model, [0], 5, beam=81, n_best=5, length_penalty=0.0, banned_phrases=[phrase]
    )[0]
    assert [answer.tokens for answer in answers] == left[:5]


def test_coverage_is_that_of_the_paper() -> None:
    for seed in range(3):
        model = Attending(4, seed, end=-1.0)
        best = sorted(
            (score + 0.8 * coverage(model, 2, [*tokens, END], 4), tokens)
            for score, tokens in everything(model, 2, 5, 0.6)
        )[::-1]
        values = {
            "beam": 81,
            "n_best": 5,
            "length_penalty": 0.6,
            "coverage_penalty": 0.8,
        }
        answers = run(model, [1, 2], 5, lengths=[4, 4], **values)[1]
        assert [answer.tokens for answer in answers] == [
            tokens for _, tokens in best[:5]
        ]
        assert [answer.score for answer in answers] == pytest.approx(
            [score for score, _ in best[:5]], rel=1e-9
        )


def test_groups_differ_and_the_first_is_a_beam_of_its_own() -> None:
    model = Table(8, 4)
    differs = 0
    for source in range(6):
        alone = run(model, [source], 8, beam=2, n_best=2)[0]
        groups = run(
            model,
            [source],
            8,
            beam=6,
            n_best=6,
            diverse_groups=3,
            diversity_penalty=2.0,
        )[0]
        plain = run(model, [source], 8, beam=6, n_best=6)[0]
        assert alone[0] in groups
        keys = [(not answer.finished, -answer.score) for answer in groups]
        assert keys == sorted(keys)
        texts = [tuple(answer.tokens) for answer in groups]
        assert len(set(texts)) == len(texts)
        starts = [
            len({text[:1] for text in part})
            for part in (texts, [tuple(a.tokens) for a in plain])
        ]
        differs += starts[0] > starts[1]
        for answer in groups:
            tokens = answer.tokens + [END] * answer.finished
            expected = sum(model.log_probabilities(source, tokens))
            assert answer.log_probability == pytest.approx(expected, rel=1e-12)
    assert differs > 2


def test_groups_without_a_penalty_all_search_the_same() -> None:
    model = Table(8, 4)
    for source in range(4):
        alone = run(model, [source], 8, beam=2, n_best=2)[0]
        by_source = run(
            model,
            [source],
            8,
            beam=6,
            n_best=2,
            diverse_groups=3,
            diversity_penalty=0.0,
        )
        assert by_source[0] == alone


class Ties(Table):
    """All tokens are equally likely after everything."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__(vocabulary)
        self.scores[:] = 0.0


def test_ties_go_to_the_lower_token() -> None:
    values: dict[str, Any] = {"beam": 3, "n_best": 3, "length_penalty": 0.0}
    (answers,) = run(Ties(6), [0], 3, min_length=2, **values)
    assert [answer.tokens for answer in answers] == [[1, 1], [1, 1, 1], [1, 1, 2]]
    (answers,) = run(Ties(6), [0], 2, min_length=1, **values)
    assert [answer.tokens for answer in answers] == [[1], [1, 1], [1, 2]]
    assert run(Ties(6), [0], 3, beam=1, banned=[1, 2])[0][0].tokens == []


class Half(Table):
    """Scores in half precision."""

    def step(self, tokens: Tensor, state: TableState) -> tuple[Tensor, TableState]:
        logits, state = super().step(tokens, state)
        return logits.bfloat16(), state


def test_half_precision_scores_are_added_up_in_more() -> None:
    model = Half(6, 1)
    model.scores = model.scores.bfloat16().double()  # so that the table is what is read
    for answer in run(model, [0], 9, beam=4, n_best=4, banned=[3], min_length=2)[0]:
        tokens = answer.tokens + [END] * answer.finished
        expected = sum(model.log_probabilities(0, tokens))
        assert answer.log_probability == pytest.approx(expected, rel=1e-5)  # fp32


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("score", [math.nan, -math.inf])
@pytest.mark.parametrize("sample", [False, True])
def test_a_model_that_says_nothing_useful_ends_all_the_same(
    sample: bool, score: float, kind: torch.dtype
) -> None:
    model = Table(5, 0)
    model.scores = torch.full_like(model.scores, score, dtype=kind)
    for answers in run(model, [0, 1], 5, beam=2, sample=sample):
        assert answers[0].tokens == []
        assert not answers[0].finished


def test_a_vocabulary_smaller_than_the_beam() -> None:
    model = Table(3, 0, end=-1.0)
    best = everything(model, 0, 5)
    answers = run(model, [0], 5, beam=40, n_best=4, length_penalty=0.0)[0]
    assert [answer.tokens for answer in answers] == [tokens for _, tokens in best[:4]]


def test_no_sources() -> None:
    assert run(Table(4), []) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam": 0}, "^beam=0"),
        ({"beam": 4, "diverse_groups": 3}, "does not divide into diverse_groups=3"),
        ({"beam": 2, "n_best": 3}, "n_best=3 needs a beam as wide"),
        ({"min_length": 5, "max_length": 5}, "min_length=5 leaves no room"),
        ({"length_penalty": -1}, "^length_penalty=-1"),
        ({"lenght_penalty": 1}, "did you mean 'length_penalty'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Search.read(values)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            {"coverage_penalty": 0.2, "lengths": [4]},
            UsageError,
            "attends to its source",
        ),
        ({"required": [[[1]]], "sample": True}, UsageError, "set sample=false"),
        ({"required": [[[1]]], "diverse_groups": 5}, UsageError, "diverse_groups=1"),
        ({"required": [[[1, 2]]], "banned": [2]}, UsageError, "holds a banned"),
        ({"required": [[[]]]}, UsageError, "is empty"),
        ({"required": []}, ValueError, "required of 1 sources, got 0"),
        ({"prefixes": [[1, END]]}, ValueError, "in a prefix"),
        ({"banned": [END]}, ValueError, "the end mark is banned"),
        ({"limits": [0]}, ValueError, "at least one token"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(Table(5), [0], **values)


def test_coverage_needs_lengths() -> None:
    with pytest.raises(ValueError, match="needs the lengths"):
        run(Attending(5), [0], coverage_penalty=0.2)


def test_weights_that_learn_may_be_searched_with() -> None:
    model = Table(20, 0)
    expected = run(model, [0], banned=[3])
    model.scores.requires_grad_()
    assert run(model, [0], banned=[3]) == expected
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
@pytest.mark.parametrize("banned", [(), (2,)])
def test_a_row_of_scores_without_bound_is_given_up(
    wrong: float, banned: tuple[int, ...]
) -> None:
    table = Table(6)
    table.scores[:, 4] = wrong
    (answers,) = search(
        table,
        table.start([1]),
        Search(beam=2),
        start=START,
        end=END,
        limits=[5],
        banned=banned,
    )
    assert [(answer.tokens, answer.finished) for answer in answers] == [([], False)]


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("beam", [1, 2])
def test_a_source_without_a_way_on_is_returned_as_it_stands(
    limit: int, beam: int
) -> None:
    settings = {
        "beam": beam,
        "min_length": 5,
        "banned": [1, 2, 3, 4, 5],
        "limits": [limit],
    }
    (answers,) = run(Table(6, 1), [0], **settings)  # at its very limit, and before
    assert [answer.tokens for answer in answers] == [[]]
    assert not answers[0].finished


def test_the_end_mark_banned_as_a_phrase_is_counted_once() -> None:
    values = {"beam": 1, "limits": [3], "min_length": 3}
    ((once,),), ((twice,),) = (
        run(Table(6, 1), [0], **values, **more)
        for more in ({}, {"banned_phrases": [[END]]})
    )
    assert once.log_probabilities == twice.log_probabilities
