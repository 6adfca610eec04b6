"""One step of a beam against plain loops over all candidates of a source."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.decoding.beams import OUT, Floats, Ints, Steps, arrange, expand, select

END = 0

# quarters collide often, so that ties are met, and their sums are exact
SCORE = st.integers(-8, 0).map(lambda n: n / 4)


def best_first(log_probs: Floats, k: int) -> tuple[Floats, Ints]:
    """Return the ``k`` best of each row (S, W, V) and their tokens; equal ones by token."""
    tokens = np.argsort(-log_probs, axis=2, kind="stable")[:, :, :k]
    return np.take_along_axis(log_probs, tokens, 2), tokens


def entries(steps: Steps) -> list[tuple[int, int, float, float]]:
    """Return those that are any, in order."""
    return [entry for entry in steps.tolist() if entry[3] > OUT]


@st.composite
def beams(draw: st.DrawFn) -> tuple[Floats, Floats, int]:
    """Draw totals (S, W), log-probabilities of all tokens (S, W, V), and how many go on."""
    sources = draw(st.integers(1, 3))
    n = draw(st.integers(1, 5))
    width = draw(st.sampled_from([1, n]))
    vocabulary = draw(st.integers(2, 8))
    # -inf: a row that only fills up the beam, a token that is ruled out
    total = st.sampled_from([0.0, -0.5, -1.0, OUT])
    score = SCORE | st.just(OUT)
    count = sources * width
    totals = draw(st.lists(total, min_size=count, max_size=count))
    size = count * vocabulary
    scores = draw(st.lists(score, min_size=size, max_size=size))
    shape = (sources, width, vocabulary)
    return np.array(totals).reshape(shape[:2]), np.array(scores).reshape(shape), n


@given(beams())
def test_what_goes_on_and_ends_is_the_best_of_all_candidates(
    beam: tuple[Floats, Floats, int],
) -> None:
    totals, scores, n = beam
    pool = expand(totals, *best_first(scores, n + 1), n)
    going, ended = select(pool, n, END)
    assert going.shape == ended.shape == (len(totals), n)
    for source in range(len(totals)):
        ranked = sorted(
            (-(totals[source, row] + scores[source, row, token]), row, token)
            for row in range(scores.shape[1])
            for token in range(scores.shape[2])
            if totals[source, row] + scores[source, row, token] > OUT
        )
        steps = [
            (row, token, scores[source, row, token], -cost)
            for cost, row, token in ranked
        ]
        assert entries(going[source]) == [step for step in steps if step[1] != END][:n]
        assert entries(ended[source]) == [step for step in steps[:n] if step[1] == END]


def test_a_penalty_ranks_and_leaves_the_totals_alone() -> None:
    scores = np.log([[[0.1, 0.5, 0.4], [0.1, 0.6, 0.3]]])
    pool = expand(np.log([[0.5, 0.5]]), *best_first(scores, 3), 2)
    plain, _ = select(pool, 2, END)
    assert [step[:2] for step in entries(plain[0])] == [(1, 1), (0, 1)]
    penalty = np.where(pool["token"] == 1, 1.0, 0.0)
    diverse, _ = select(pool, 2, END, penalty)
    assert [step[:2] for step in entries(diverse[0])] == [(0, 2), (1, 2)]
    totals = [math.exp(step[3]) for step in entries(diverse[0])]
    assert totals == pytest.approx([0.2, 0.15])


def test_a_small_vocabulary_leaves_room_that_nothing_fills() -> None:
    scores = np.log([[[0.2, 0.8]]])
    pool = expand(np.zeros((1, 1)), *best_first(scores, 2), 4)
    assert pool.shape == (1, 1, 8)
    going, ended = select(pool, 4, END)
    assert [step[1] for step in entries(going[0])] == [1]
    assert [step[1] for step in entries(ended[0])] == [END]
    assert (going["total"][0, 1:] == OUT).all()


@given(
    st.integers(1, 7).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, n - 1), min_size=n, max_size=n),
            min_size=1,
            max_size=3,
        )
    )
)
def test_a_parent_keeps_its_first_child_where_it_stood(
    parents: list[list[int]],
) -> None:
    orders = arrange(np.array(parents)).tolist()
    for row, order in zip(parents, orders, strict=True):
        assert sorted(order) == list(range(len(row)))
        for slot in set(row):
            assert order[slot] == row.index(slot)
        # the others fill what is left, in order: no child overtakes another
        others = [order[slot] for slot in range(len(row)) if slot not in row]
        assert others == sorted(others)


def test_the_order_of_rows_that_go_on() -> None:
    # rows 1 and 3 have two children, 0 and 2 none: the second children stand where these were
    parents = np.array([[3, 1, 1, 3], [0, 1, 2, 3], [2, 2, 2, 2]])
    assert arrange(parents).tolist() == [[2, 1, 3, 0], [0, 1, 2, 3], [1, 2, 0, 3]]
