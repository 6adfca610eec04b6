"""The model and what follows its rows: candidates against plain sorts, and how rows move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decoding.fakes import END, START, Attending, Table, TableState
from unrolled.decoding.request import SearchRequest
from unrolled.decoding.search_state import SearchState
from unrolled.decoding.settings import Search
from unrolled.ops.search import MOST

QUICK = settings(max_examples=40, deadline=None)
V = 6


class Scores:
    """A model that says the same rows of scores at every step."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.rows.clone(), state


@dataclass
class Masks:
    """A constraint: rows of masks, and the order of its calls."""

    masks: Tensor
    calls: list[str] = field(default_factory=list)

    def allowed(self) -> Tensor:
        self.calls.append("allowed")
        return self.masks

    def advance(self, rows: Tensor, tokens: Tensor) -> Self:
        self.calls.append("advance")
        return type(self)(self.masks[rows], self.calls)

    def feed(self, tokens: Tensor) -> Tensor:
        self.calls.append("feed")
        return tokens + 50


def started(
    model: Any,
    state: Any = None,
    rows: int = 1,
    *,
    constraint: Any = None,
    lengths: Sequence[int] | None = None,
    banned: Sequence[int] = (),
    banned_phrases: Sequence[Sequence[int]] = (),
    phrases: Sequence[Any] = (),
    **values: Any,
) -> SearchState:
    """Return a search before its first step, with fields of ``Search`` mixed in."""
    limits = [9] * rows
    request = SearchRequest(
        Search(**values), END, limits, (), phrases, banned, banned_phrases
    )
    tokens = torch.full((rows,), START)
    return SearchState(model, state, request, tokens, lengths, constraint)


def best_of(
    scores: Sequence[float], allowed: Sequence[bool], k: int
) -> tuple[list[float], list[int]]:
    """Return log-probabilities over all tokens and the best allowed ones, equal ones in order."""
    norm = math.log(sum(math.exp(score) for score in scores))
    tokens = [token for token, is_allowed in enumerate(allowed) if is_allowed]
    tokens = sorted(tokens, key=lambda token: (-scores[token], token))[:k]
    return [scores[token] - norm for token in tokens], tokens


ROW = st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=V, max_size=V)
MASK = st.lists(st.booleans(), min_size=V, max_size=V)


@QUICK
@given(
    st.lists(st.tuples(ROW, MASK), min_size=1, max_size=4),
    st.sets(st.integers(1, V - 1), max_size=3),
    st.integers(1, V + 1),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_candidates_are_the_best_allowed_with_the_models_own_numbers(
    rows: list[tuple[list[float], list[bool]]],
    banned: set[int],
    k: int,
    early: bool,
    dtype: torch.dtype,
) -> None:
    scores = torch.tensor([row for row, _ in rows], dtype=dtype)
    masks = torch.tensor([mask for _, mask in rows])
    state = started(
        Scores(scores),
        rows=len(rows),
        constraint=Masks(masks),
        banned=[*banned, *banned],  # named twice, it is banned once
        min_length=int(early),
    )
    candidates = state.candidates(k)
    ruled_out = banned | {END} if early else banned
    assert state.banned().tolist() == sorted(ruled_out)
    assert candidates.log_probs.shape == (len(rows), min(k, V))
    for index, (row, mask) in enumerate(rows):
        allowed = [mask[token] and token not in ruled_out for token in range(V)]
        log_probs, tokens = best_of(row, allowed, k)
        count = len(tokens)
        assert candidates.tokens[index, :count].tolist() == tokens
        assert candidates.log_probs[index, :count].tolist() == pytest.approx(
            log_probs, abs=1e-5 if dtype == torch.float32 else 1e-12
        )
        assert (candidates.log_probs[index, count:] == -math.inf).all()
        # the other numbers that the search may look at: all scores, and what norms them
        if count:
            assert candidates.logits is not None
            assert candidates.norms is not None
            normed = candidates.logits[index, tokens] - candidates.norms[index]
            torch.testing.assert_close(normed, candidates.log_probs[index, :count])


@pytest.mark.parametrize("banned", [(), (2, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rule_of_one_row_changes_no_digit_of_another(
    dtype: torch.dtype, banned: tuple[int, ...]
) -> None:
    generator = torch.manual_seed(0)
    scores = 3 * torch.randn(40, 50, dtype=dtype, generator=generator)
    masks = torch.ones(40, 50, dtype=torch.bool)
    masks[30:, 7:] = False
    plain, ruled = (
        started(Scores(scores), rows=40, banned=banned, constraint=rule).candidates(5)
        for rule in (None, Masks(masks))
    )
    assert torch.equal(plain.log_probs[:30], ruled.log_probs[:30])
    assert plain.norms is not None
    assert ruled.norms is not None
    assert torch.equal(plain.norms[:30], ruled.norms[:30])
    assert (ruled.tokens[30:] < 7).all()
    assert not (plain.tokens[30:] < 7).all()


def test_a_forced_token_stands_alone_and_may_be_banned() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    state = started(Scores(scores), rows=2, banned=[1])
    candidates = state.candidates(3, np.array([1, -1]))
    expected = scores.log_softmax(1)
    torch.testing.assert_close(candidates.log_probs[0, 0], expected[0, 1])
    assert candidates.log_probs[0, 1:].tolist() == [-math.inf] * 2
    assert candidates.tokens[0, 0] == 1
    assert candidates.tokens[1].tolist() == [3, 2, 0]
    torch.testing.assert_close(candidates.log_probs[1], expected[1, [3, 2, 0]])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("banned", [(), (3,)])
def test_a_row_of_scores_without_bound_has_no_candidates(
    wrong: float, banned: tuple[int, ...]
) -> None:
    scores = torch.tensor([[0.0, 1.0, wrong, 0.0], [0.0, 1.0, 2.0, 0.0]])
    candidates = started(Scores(scores), rows=2, banned=banned).candidates(2)
    assert candidates.log_probs[0].tolist() == [-math.inf] * 2
    assert candidates.log_probs[1].isfinite().all()


class Choosing(Table):
    """A table that chooses the best next tokens itself, and counts how often."""

    def __init__(self) -> None:
        super().__init__(V, 1)
        self.choices: list[list[int]] = []

    def best(
        self, tokens: Tensor, state: TableState, k: int, banned: Tensor
    ) -> tuple[Tensor, Tensor, TableState]:
        self.choices.append(banned.tolist())
        logits, state = self.step(tokens, state)
        log_probs = logits.log_softmax(1).index_fill(1, banned, math.nan)
        order = log_probs.nan_to_num(-math.inf).argsort(descending=True)[:, :k]
        return log_probs.gather(1, order), order, state


def test_a_model_that_chooses_is_asked_where_nothing_needs_all_scores() -> None:
    model = Choosing()
    state = started(model, model.start([3]), banned=[2], min_length=1)
    chosen = state.candidates(4)
    assert state.step == 1
    assert model.choices == [[END, 2]]
    assert chosen.logits is chosen.norms is None
    plain = Table(V, 1)
    expected = started(plain, plain.start([3]), banned=[2], min_length=1).candidates(4)
    assert chosen.tokens.tolist() == expected.tokens.tolist()
    torch.testing.assert_close(chosen.log_probs, expected.log_probs)
    # what may not be written is no candidate, whatever the model calls it
    everything = started(model, model.start([3]), banned=[2]).candidates(V)
    assert everything.log_probs[0, -1] == -math.inf


@pytest.mark.parametrize(
    "values",
    [
        {"constraint": Masks(torch.ones(1, V, dtype=torch.bool))},
        {"banned_phrases": [[1, 2]]},
        {"phrases": [[[1]]]},
    ],
)
def test_a_rule_has_to_see_all_scores(values: dict[str, Any]) -> None:
    model = Choosing()
    started(model, model.start([3]), **values).candidates(4)
    assert model.choices == []
    assert model.row_counts == [1]


def test_forced_tokens_and_wide_beams_are_chosen_here() -> None:
    model = Choosing()
    started(model, model.start([3])).candidates(4, np.array([1]))
    started(model, model.start([3])).candidates(MOST + 1)
    assert model.choices == []
    started(model, model.start([3]), banned_phrases=[[4]]).candidates(MOST)
    assert model.choices == [[4]]  # a phrase of one token is a banned token


def test_rows_that_stay_copy_nothing() -> None:
    model = Table(V)
    first = model.start([0, 1, 2])
    state = started(model, first, rows=3)
    state.candidates(2)
    state.follow(np.array([0, 1, 2]), np.array([3, 3, 3]))
    assert first.log == []
    for rows in ([0, 2, 1], [0, 1], [0, 0, 1, 1]):
        state.candidates(2)
        state.follow(np.array(rows), np.full(len(rows), 3))
    assert len(first.log) == 3


def test_everything_follows_the_rows() -> None:
    """Rows change places, repeat and leave: every row keeps what its own history made of it."""
    model = Attending(V, 2)
    constraint = Masks(torch.eye(V, dtype=torch.bool)[:2])
    state = started(
        model,
        model.start([5, 8]),
        rows=2,
        constraint=constraint,
        lengths=[4, 4],
        coverage_penalty=0.5,
    )
    sources = [0, 1]  # of each row
    sums = [np.zeros(4), np.zeros(4)]  # attention of each row so far
    for rows in ([1, 0, 1], [2, 0], [1]):
        state.candidates(2)
        hashes = state.state.hashes
        weights = model.attention_weights(hashes).numpy()[:, :4]
        sums = [before + now for before, now in zip(sums, weights, strict=True)]
        expected = [0.5 * np.log(np.clip(seen, 0, 1)).sum() for seen in sums]
        count = len(sums)
        assert state.coverage(np.arange(count)) == pytest.approx(expected)
        assert state.coverage(np.array([count - 1])) == pytest.approx(expected[-1:])
        state.follow(np.array(rows), np.array(rows) + 1)
        sums = [sums[row] for row in rows]
        sources = [sources[row] for row in rows]
        assert state.state.hashes.tolist() == hashes[rows].tolist()
        assert state.rules[0].allowed().int().argmax(1).tolist() == sources
        # the constraint says what is read for a token
        assert state.tokens.tolist() == [row + 51 for row in rows]
    assert sources == [1]
    calls = [call for call in constraint.calls if call != "allowed"]
    assert calls == ["advance", "feed"] * 3


def test_padding_is_never_ignored() -> None:
    model = Attending(V, 2)  # looks at four positions and calls two more padding
    for length in (1, 4):
        state = started(model, model.start([5]), lengths=[length], coverage_penalty=1.0)
        state.candidates(2)
        weights = model.attention_weights(state.state.hashes)[0, :length]
        expected = float(weights.log().sum())
        assert state.coverage(np.array([0]))[0] == pytest.approx(expected)


def test_nothing_is_ignored_without_a_coverage_penalty() -> None:
    model = Attending(V, 2)
    state = started(model, model.start([5]))
    state.candidates(2)
    assert state.coverage(np.array([0])) == 0.0
