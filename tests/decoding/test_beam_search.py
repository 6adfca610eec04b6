"""Beam search against one that keeps its hypotheses as lists, and against all sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.fakes import END, Table, everything, run
from unrolled.decoding.back_pointers import length_penalty
from unrolled.decoding.search import Hypothesis, Search

QUICK = settings(max_examples=60, deadline=None)


@dataclass(frozen=True)
class FullHypothesis:
    """A hypothesis in full: its tokens, their log-probability, and whether it has ended."""

    tokens: tuple[int, ...]
    total: float
    finished: bool
    alpha: float

    @property
    def score(self) -> float:
        length = max(1, len(self.tokens) + self.finished)
        return self.total / float(length_penalty(length, self.alpha))


def extended(
    model: Table,
    source: int,
    search: Search,
    beam: list[FullHypothesis],
    taken: list[int],
) -> list[tuple[float, FullHypothesis]]:
    """Return what the rows of a group may become with the rank of each, best first."""
    candidates = []
    for row in beam:
        scores = [
            sum(model.log_probabilities(source, [*row.tokens, token]))
            for token in range(model.vocabulary)
        ]
        if len(row.tokens) < search.min_length:
            scores[END] = -math.inf
        best = sorted(range(model.vocabulary), key=lambda token: -scores[token])
        for token in best[: search.beam + 1]:
            penalty = search.diversity_penalty * taken.count(token)
            ended = token == END
            tokens = row.tokens if ended else (*row.tokens, token)
            hypothesis = FullHypothesis(
                tokens, scores[token], ended, search.length_penalty
            )
            candidates.append((scores[token] - penalty, hypothesis))
    possible = [pair for pair in candidates if pair[0] > -math.inf]
    return sorted(possible, key=lambda pair: -pair[0])


def is_done(
    search: Search, ended: list[FullHypothesis], beam: list[FullHypothesis], limit: int
) -> bool:
    """Return whether a group needs no further step."""
    width = search.beam // search.diverse_groups
    quota = math.ceil(search.n_best / search.diverse_groups)
    enough = math.inf if search.beam > 1 else 1
    if search.patience is not None:
        enough = max(quota, round(width * search.patience))
    if len(ended) >= enough:
        return True
    scores = sorted((answer.score for answer in ended), reverse=True)
    longest = float(length_penalty(limit, search.length_penalty))
    bound = max((row.total / longest for row in beam), default=-math.inf)
    return len(scores) >= quota and scores[quota - 1] >= bound


def by_answer(answer: FullHypothesis) -> tuple[bool, float]:
    """Return what answers are sorted by."""
    return not answer.finished, -answer.score


def in_turn(groups: list[list[FullHypothesis]], n_best: int) -> list[FullHypothesis]:
    """Return the best of each group, then the second best ..., each text once."""
    ranked = [sorted(group, key=by_answer) for group in groups]
    chosen: list[FullHypothesis] = []
    for rank in range(max(map(len, ranked))):
        row = [group[rank] for group in ranked if rank < len(group)]
        for answer in sorted(row, key=by_answer):
            if answer.tokens not in [known.tokens for known in chosen]:
                chosen.append(answer)
    return sorted(chosen[:n_best], key=by_answer)


def plainly(
    model: Table, source: int, limit: int, search: Search
) -> list[FullHypothesis]:
    """Search one source with lists of hypotheses, no row shared or moved."""
    groups = search.diverse_groups
    width = search.beam // groups
    start = FullHypothesis((), 0.0, False, search.length_penalty)
    beams = [[start] for _ in range(groups)]
    ended: list[list[FullHypothesis]] = [[] for _ in range(groups)]
    for step in range(1, limit + 1):
        taken: list[int] = []
        for group in range(groups):
            candidates = extended(model, source, search, beams[group], taken)
            ended[group] += [
                candidate for _, candidate in candidates[:width] if candidate.finished
            ]
            beams[group] = [
                candidate for _, candidate in candidates if not candidate.finished
            ][:width]
            taken += [candidate.tokens[-1] for candidate in beams[group]]
        if step == limit:
            answers = [[*ended[group], *beams[group]] for group in range(groups)]
            return in_turn(answers, search.n_best)
        pairs = zip(ended, beams, strict=True)
        if all(is_done(search, *pair, limit) for pair in pairs):
            break
    return in_turn(ended, search.n_best)


def same(answers: list[Hypothesis], expected: list[FullHypothesis]) -> None:
    assert [answer.tokens for answer in answers] == [
        list(answer.tokens) for answer in expected
    ]
    assert [answer.finished for answer in answers] == [
        answer.finished for answer in expected
    ]
    assert [answer.score for answer in answers] == pytest.approx(
        [answer.score for answer in expected], rel=1e-12
    )


@QUICK
@given(st.data())
def test_arrays_search_as_lists_do(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    beam = groups * data.draw(st.integers(1, 3))
    values: dict[str, Any] = {
        "beam": beam,
        "n_best": data.draw(st.integers(1, beam)),
        "diverse_groups": groups,
        "diversity_penalty": data.draw(st.sampled_from([0.3, 2.0])),
        "length_penalty": data.draw(st.sampled_from([0.0, 0.6, 2.0])),
        "patience": data.draw(st.sampled_from([0.5, 1.0, 2.0, None])),
        "min_length": data.draw(st.integers(0, 3)),
    }
    # more tokens than rows, so that no row is left without one
    vocabulary = beam + 2 + data.draw(st.integers(0, 3))
    end = data.draw(st.sampled_from([-1.0, 0.0, 2.0]))
    model = Table(vocabulary, data.draw(st.integers(0, 999)), end=end)
    limits = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    by_source = run(model, list(range(len(limits))), limits=limits, **values)
    for source, (limit, answers) in enumerate(zip(limits, by_source, strict=True)):
        same(answers, plainly(model, source, limit, Search(**values)))


def test_the_search_with_lists_finds_what_is_best_of_all_sequences() -> None:
    """So the test above says something: with room for every sequence both are exact."""
    model = Table(3, 5, end=-1.0)
    values = {"beam": 16, "n_best": 5, "length_penalty": 0.6, "patience": None}
    best = everything(model, 2, 5, 0.6)[:5]
    expected = plainly(model, 2, 5, Search(**values))
    assert [list(answer.tokens) for answer in expected] == [text for _, text in best]
    # fewer candidates than rows: those that only fill up the beam change nothing
    (answers,) = run(model, [2], 5, **values)
    same(answers, expected)


def test_a_finished_source_leaves_its_answers_behind() -> None:
    """Rows leave from the middle of the batch; pointers of the others still lead back."""
    model = Table(6, 3, end=-2.0)
    values = {"beam": 3, "n_best": 3, "length_penalty": 0.0}
    limits = [7, 2, 5, 1, 6]
    by_source = run(model, [0, 1, 2, 3, 4], limits=limits, **values)
    # three rows for every source that has not reached its limit
    assert model.row_counts == [5, 12, 9, 9, 9, 6, 3]
    for source, (limit, answers) in enumerate(zip(limits, by_source, strict=True)):
        same(answers, plainly(model, source, limit, Search(**values)))
        for answer in answers:
            tokens = answer.tokens + [END] * answer.finished
            expected = model.log_probabilities(source, tokens)
            assert answer.log_probabilities == pytest.approx(expected, rel=1e-12)
