"""Required phrases: what each bank gets of a beam, and the search that uses it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.fakes import END, Table, everything, occurs, run
from unrolled.decoding.lexical import allocate

QUICK = settings(max_examples=40, deadline=None)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 12))
def test_shares(available: list[int], beam: int) -> None:
    sizes = allocate(available, beam)
    assert sum(sizes) == min(beam, sum(available))
    even = beam // len(available)
    for size, count in zip(sizes, available, strict=True):
        assert min(even, count) <= size <= count
    # whoever has candidates at the top is heard, however many banks there are
    top = max((bank for bank, count in enumerate(available) if count), default=None)
    assert top is None or sizes[top] > 0


@QUICK
@given(st.data())
def test_required_phrases_occur(data: st.DataObject) -> None:
    model = Table(
        6, data.draw(st.integers(0, 99)), end=data.draw(st.sampled_from([-2.0, 2.0]))
    )
    words = st.lists(st.integers(1, 5), min_size=1, max_size=3)
    required = data.draw(st.lists(st.lists(words, max_size=3), min_size=3, max_size=3))
    beam = data.draw(st.integers(1, 8))
    prefixes = data.draw(st.none() | st.just([[1, 2], None, [3]]))
    limits = data.draw(st.sampled_from([[1, 1, 1], [14, 14, 14]]))
    by_source = run(
        model,
        [0, 1, 2],
        limits=limits,
        beam=beam,
        n_best=beam,
        required=required,
        prefixes=prefixes,
    )
    for source, answers in enumerate(by_source):
        assert answers
        best = answers[0]
        assert all(occurs(phrase, best.tokens) for phrase in required[source])
        for answer in answers:
            if answer.finished:
                assert all(occurs(phrase, answer.tokens) for phrase in required[source])
            tokens = answer.tokens + [END] * answer.finished
            expected = model.log_probabilities(source, tokens)
            assert answer.log_probabilities == pytest.approx(
                expected, rel=1e-12, abs=1e-12
            )
        assert len({tuple(answer.tokens) for answer in answers}) == len(answers)


def test_sources_without_phrases_are_searched_as_ever() -> None:
    model = Table(6, 3, end=1.0)
    values = {"beam": 4, "n_best": 3}
    plain = run(model, [0, 1, 2], **values)
    mixed = run(model, [0, 1, 2], required=[[], [[4, 4]], []], **values)
    assert [mixed[0], mixed[2]] == [plain[0], plain[2]]
    assert mixed[1] != plain[1]
    alone = run(model, [1], required=[[[4, 4]]], **values)
    assert alone == [mixed[1]]


def test_a_wide_beam_finds_the_best_answer_that_holds_the_phrase() -> None:
    for seed in range(4):
        model = Table(4, seed, end=-1.0)
        left = [
            t
            for _, t in everything(model, 0, 5)
            if occurs([2, 1], t) and occurs([3], t)
        ]
        answers = run(
            model,
            [0],
            5,
            beam=300,
            n_best=5,
            length_penalty=0.0,
            patience=None,
            required=[[[2, 1], [3]]],
        )[0]
        assert [answer.tokens for answer in answers] == left[:5]


def test_overlapping_occurrences_count() -> None:
    model = Table(4, 0, end=3.0)
    by_source = run(
        model, [0], 4, beam=40, required=[[[1, 1, 2], [2, 3]]], prefixes=[[1, 1, 1]]
    )
    assert by_source[0][0].tokens[:5] == [1, 1, 1, 2, 3]


class Closing:
    """A constraint that lets no answer end, and nothing follow two tokens."""

    def __init__(self, step: int = 0) -> None:
        self.step = step

    def allowed(self) -> torch.Tensor:
        allowed = torch.ones(1, 6, dtype=torch.bool)
        allowed[:, END] = False
        return allowed & (self.step < 2)

    def advance(self, rows: torch.Tensor, tokens: torch.Tensor) -> Closing:
        return Closing(self.step + 1)

    def feed(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_of_answers_without_a_way_on_those_that_lack_a_phrase_come_last(
    seed: int,
) -> None:
    values = {
        "beam": 4,
        "n_best": 4,
        "limits": [9],
        "required": [[[5]]],
        "constraint": Closing(),
    }
    (answers,) = run(Table(6, seed), [0], **values)
    held = [5 in answer.tokens for answer in answers]
    assert any(held)
    assert held == sorted(held, reverse=True)
    assert {len(answer.tokens) for answer in answers} == {2}
