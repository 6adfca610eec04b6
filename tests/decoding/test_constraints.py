"""A search under rules that follow its rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Self

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decoding.fakes import END, START, Table, TableState, everything, run
from unrolled.decoding.constraints import BannedPhrases

QUICK = settings(max_examples=25, deadline=None)
V = 5


@dataclass
class Exactly:
    """Token 1 occurs as often as its source says, and never twice in a row."""

    left: Tensor
    last: Tensor

    @classmethod
    def of(cls, counts: list[int]) -> Self:
        return cls(torch.tensor(counts), torch.zeros(len(counts), dtype=torch.int64))

    def allowed(self) -> Tensor:
        mask = torch.ones(len(self.left), V, dtype=torch.bool)
        mask[:, 1] = (self.left > 0) & (self.last != 1)
        mask[:, END] = self.left == 0
        return mask

    def advance(self, rows: Tensor, tokens: Tensor) -> Self:
        assert self.allowed()[rows, tokens].all()
        return replace(self, left=self.left[rows] - (tokens == 1).long(), last=tokens)

    def feed(self, tokens: Tensor) -> Tensor:
        return tokens


def keeps(tokens: list[int], count: int) -> bool:
    return tokens.count(1) == count and (1, 1) not in itertools.pairwise(tokens)


def test_a_wide_beam_finds_the_best_of_what_is_allowed() -> None:
    counts = [0, 1, 2]
    model = Table(V, 3, end=-1.0)
    by_source = run(
        model,
        counts,
        5,
        beam=128,
        n_best=4,
        length_penalty=0.0,
        constraint=Exactly.of(counts),
    )
    for count, answers in zip(counts, by_source, strict=True):
        left = [
            tokens for _, tokens in everything(model, count, 5) if keeps(tokens, count)
        ]
        assert [answer.tokens for answer in answers] == left[:4]


@QUICK
@given(st.data())
def test_a_constraint_holds_however_the_rows_move(data: st.DataObject) -> None:
    model = Table(V, data.draw(st.integers(0, 99)), end=1.0)
    counts = data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=3))
    beam = data.draw(st.sampled_from([1, 2, 4]))
    values: dict[str, Any] = {
        "beam": beam,
        "n_best": beam,
        "diverse_groups": data.draw(st.sampled_from([1, beam])),
        "sample": data.draw(st.booleans()),
        "banned_phrases": data.draw(st.sampled_from([[], [[2, 3]], [[2, 2, 1]]])),
    }
    by_source = run(
        model, [0, 1, 2], 30, constraint=Exactly.of(counts), seed=1, **values
    )
    for source, (count, answers) in enumerate(zip(counts, by_source, strict=True)):
        assert answers
        for answer in answers:
            assert not answer.finished or keeps(answer.tokens, count)
            tokens = answer.tokens + [END] * answer.finished
            expected = sum(model.log_probabilities(source, tokens))
            assert answer.log_probability == pytest.approx(expected, rel=1e-12)


@dataclass
class Placeholder(Exactly):
    """Where token 1 is chosen the model reads the next of 90, 91 ..."""

    number: int = 90

    def advance(self, rows: Tensor, tokens: Tensor) -> Self:
        return replace(super().advance(rows, tokens), number=self.number)

    def feed(self, tokens: Tensor) -> Tensor:
        return torch.where(tokens == 1, self.number - self.left, tokens)


class Reads(Table):
    """Notes what it reads."""

    def __init__(self) -> None:
        super().__init__(V, 2)
        self.read: set[int] = set()

    def step(self, tokens: Tensor, state: TableState) -> tuple[Tensor, TableState]:
        self.read |= set(tokens.tolist())
        return super().step(tokens, state)


@pytest.mark.parametrize("sample", [False, True])
def test_the_model_reads_what_the_constraint_feeds(sample: bool) -> None:
    model = Reads()
    constraint = Placeholder.of([3, 3])
    (first, _) = run(
        model,
        [0, 1],
        12,
        beam=3,
        constraint=constraint,
        banned=[4],
        sample=sample,
        seed=0,
    )
    assert {90, 89, 88} <= model.read <= {START, 2, 3, 90, 89, 88}
    assert first[0].tokens.count(1) == 3


class Nothing(Exactly):
    """After two tokens nothing is allowed, and nothing ends."""

    def allowed(self) -> Tensor:
        mask = torch.ones(len(self.left), V, dtype=torch.bool)
        mask[:, END] = False
        mask[self.left == 0] = False
        return mask

    def advance(self, rows: Tensor, tokens: Tensor) -> Self:
        return replace(self, left=self.left[rows] - 1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("sample", [False, True])
def test_a_dead_end_returns_what_stands(sample: bool, kind: torch.dtype) -> None:
    model = Table(V)
    model.scores = model.scores.to(kind)
    by_source = run(
        model,
        [0, 1],
        9,
        beam=2,
        n_best=2,
        constraint=Nothing.of([2, 4]),
        sample=sample,
        seed=0,
    )
    assert [[len(answer.tokens) for answer in answers] for answers in by_source] == [
        [2, 2],
        [4, 4],
    ]
    assert not any(answer.finished for answers in by_source for answer in answers)


@QUICK
@given(
    st.lists(
        st.lists(st.integers(0, 3), min_size=2, max_size=4), min_size=1, max_size=4
    ),
    st.lists(st.integers(0, 3), max_size=9),
)
def test_banned_phrases_rule_out_what_completes_them(
    phrases: list[list[int]], text: list[int]
) -> None:
    rule = BannedPhrases(phrases, 4, 1, torch.device("cpu"))
    for token in text:
        rule = rule.advance(torch.tensor([0]), torch.tensor([token]))
    expected = [all(([*text, t])[-len(p) :] != p for p in phrases) for t in range(4)]
    mask = rule.allowed()
    assert ([True] * 4 if mask is None else mask[0].tolist()) == expected
