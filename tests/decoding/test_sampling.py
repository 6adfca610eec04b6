"""Every filter equals its formula in NumPy, and draws follow the probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from unrolled.core.errors import UsageError
from unrolled.decoding.sampling import (
    OUT,
    Sampling,
    choose,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise,
    probabilities_of,
)

Row = NDArray[np.float64]

# quarters collide often, so that ties are met
SCORES = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=1, max_size=12)


def softmax(row: Row) -> Row:
    raised = np.exp(row - row.max())
    return raised / raised.sum()


def kept(filtered: torch.Tensor) -> set[int]:
    return set(torch.isfinite(filtered[0]).nonzero().flatten().tolist())


def unchanged(filtered: torch.Tensor, scores: list[float]) -> bool:
    return all(filtered[0, i] == scores[i] for i in kept(filtered))


@given(SCORES, st.integers(1, 14))
def test_top_k(scores: list[float], k: int) -> None:
    filtered = keep_top_k(torch.tensor([scores]), k)
    # a token stays when fewer than k are likelier: ties at the border stay
    expected = {
        i for i, s in enumerate(scores) if sum(other > s for other in scores) < k
    }
    assert kept(filtered) == expected
    assert unchanged(filtered, scores)


@given(SCORES, st.floats(0.01, 1))
def test_top_p(scores: list[float], p: float) -> None:
    probability = softmax(np.array(scores))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    expected = set()
    mass = 0.0
    for index in order:
        # at the border itself fp32 and fp64 may differ
        assume(abs(mass - p) > 1e-5)
        if mass < p:
            expected.add(index)
        mass += probability[index]
    filtered = keep_top_p(torch.tensor([scores]), p)
    assert kept(filtered) == expected
    assert unchanged(filtered, scores)


def test_top_p_keeps_the_likeliest_whatever_p() -> None:
    assert kept(keep_top_p(torch.tensor([[0.0, 5.0, 1.0]]), 1e-9)) == {1}


@given(SCORES, st.floats(0, 1))
def test_min_p(scores: list[float], p: float) -> None:
    probability = softmax(np.array(scores))
    border = p * probability.max()
    assume(np.abs(probability - border).min() > 1e-6 * border or p in (0, 1))
    expected = set(np.flatnonzero(probability >= border * (1 - 1e-9)).tolist())
    filtered = keep_min_p(torch.tensor([scores]), p)
    assert kept(filtered) == expected
    assert unchanged(filtered, scores)


@given(SCORES, st.floats(0.2, 5), st.data())
def test_penalty_of_repetition(
    scores: list[float], penalty: float, data: st.DataObject
) -> None:
    said = data.draw(
        st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))
    )
    # CTRL, section 4.1, with the sign taken care of as in every implementation since
    expected = [
        (s / penalty if s > 0 else s * penalty) if was_said else s
        for s, was_said in zip(scores, said, strict=True)
    ]
    (weakened,) = penalise(torch.tensor([scores]), torch.tensor([said]), penalty)
    assert weakened.tolist() == pytest.approx(expected, rel=1e-6)  # one fp32 operation


@given(
    SCORES,
    st.floats(0.1, 5),
    st.none() | st.integers(1, 12),
    st.none() | st.floats(0.05, 1),
    st.none() | st.floats(0, 0.9),
    st.integers(0, 2**31),
)
def test_only_tokens_that_every_filter_keeps_are_drawn(
    scores: list[float],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int,
) -> None:
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    row = torch.tensor([scores]) / temperature
    if top_k is not None:
        row = keep_top_k(row, top_k)
    if top_p is not None:
        row = keep_top_p(row, top_p)
    if min_p is not None:
        row = keep_min_p(row, min_p)
    many = torch.tensor([scores] * 50)
    drawn = choose(many, sampling, None, torch.Generator().manual_seed(seed))
    assert drawn.shape == (50,)
    # a rounding of the border apart, which hypothesis has not met in fp32 quarters
    assert set(drawn.tolist()) <= kept(row)


SKEWED = [2.0, 1.0, 0.5, 0.0, -1.0, -2.0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, softmax(np.array(SKEWED))),
        ({"temperature": 0.5}, softmax(np.array(SKEWED) / 0.5)),
        ({"temperature": 3.0}, softmax(np.array(SKEWED) / 3)),
        ({"top_k": 3}, softmax(np.array([2, 1, 0.5, OUT, OUT, OUT]))),
        # 0.537 + 0.198 < 0.8 <= 0.537 + 0.198 + 0.120
        ({"top_p": 0.8}, softmax(np.array([2, 1, 0.5, OUT, OUT, OUT]))),
        # e^-1 = 0.37 of the likeliest stays, e^-1.5 = 0.22 does not
        ({"min_p": 0.3}, softmax(np.array([2, 1, OUT, OUT, OUT, OUT]))),
        # the temperature comes first: at 2, e^-0.75 = 0.47 and e^-1 = 0.37 stay too
        (
            {"min_p": 0.3, "temperature": 2.0},
            softmax(np.array([2, 1, 0.5, 0, OUT, OUT]) / 2),
        ),
    ],
)
def test_draws_follow_the_probabilities(
    settings: dict[str, Any], expected: Row
) -> None:
    count = 20_000
    many = torch.tensor(SKEWED).expand(count, -1)
    drawn = choose(many, Sampling(**settings), None, torch.Generator().manual_seed(1))
    observed = np.bincount(drawn.numpy(), minlength=6)
    possible = expected > 0
    assert observed[~possible].sum() == 0
    # one fixed seed of each case; a wrong law of this many draws is off by far more
    assert stats.chisquare(observed[possible], expected[possible] * count).pvalue > 1e-3


def test_the_penalty_comes_before_temperature_and_filters() -> None:
    logits = torch.tensor([[4.0, 3.0, 1.0]])
    said = torch.tensor([[True, False, False]])
    for temperature in (0.0, 0.1, 1.0):
        sampling = Sampling(repetition_penalty=2, temperature=temperature, top_k=1)
        assert choose(logits, sampling, said, None).item() == 1
        assert (
            choose(logits, sampling.changed(repetition_penalty=1), said, None).item()
            == 0
        )


@given(
    st.lists(
        SCORES.filter(lambda s: len(s) >= 3).map(lambda s: s[:3]),
        min_size=1,
        max_size=5,
    )
)
def test_temperature_zero_is_the_first_of_the_best(rows: list[list[float]]) -> None:
    tokens = choose(torch.tensor(rows), Sampling(temperature=0), None, None)
    assert tokens.tolist() == [row.index(max(row)) for row in rows]


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e-40, 1e-20, 1e-3])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = torch.tensor([[1.0, 90.0, 89.0, OUT]]).expand(200, -1)
    drawn = choose(logits, Sampling(temperature=temperature), None, None)
    assert set(drawn.tolist()) == {1}


@pytest.mark.parametrize("temperature", [1e8, 1e39, 1e300])
def test_a_huge_temperature_is_uniform_over_what_is_allowed(temperature: float) -> None:
    logits = torch.tensor([[1.0, 90.0, -50.0, OUT]]).expand(6000, -1)
    drawn = choose(
        logits,
        Sampling(temperature=temperature),
        None,
        torch.Generator().manual_seed(0),
    )
    observed = np.bincount(drawn.numpy(), minlength=4)
    assert observed[3] == 0
    assert stats.chisquare(observed[:3]).pvalue > 1e-3


def test_half_precision_scores_are_chosen_in_fp32() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.bfloat16)
    wide = logits.float()
    for seed in range(20):
        drawn = [
            choose(
                x, Sampling(top_p=0.9), None, torch.Generator().manual_seed(seed)
            ).item()
            for x in (logits, wide)
        ]
        assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    (key,) = values
    with pytest.raises(UsageError, match=f"^{key}="):
        Sampling.read(values)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.6, top_k=7),
        Sampling(temperature=1.4, top_p=0.7),
        Sampling(top_k=30, top_p=0.9, min_p=0.05),
        Sampling(repetition_penalty=1.5, min_p=0.1),
    ],
)
def test_one_row_is_drawn_as_its_probabilities_say(sampling: Sampling) -> None:
    """The path of a single row against the filters of many; chi-square over 4,000 draws."""
    draw = torch.Generator().manual_seed(4)
    # a few likely tokens among more than are sorted at first
    scores = torch.randn(1, 900, generator=draw)
    scores[0, :40] += 5
    scores[0, 7] = scores[0, 8]
    said = torch.rand(1, 900, generator=draw) < 0.2
    law = probabilities_of(scores, sampling, said)[0].double().numpy()
    tokens = [int(choose(scores, sampling, said, draw)) for _ in range(4000)]
    counts = np.bincount(tokens, minlength=900)
    assert not counts[law == 0].any()
    common = law * 4000 >= 5
    expected = np.append(law[common], law[~common].sum()) * 4000
    seen = np.append(counts[common], counts[~common].sum())
    kept = expected > 0
    result = stats.chisquare(seen[kept], expected[kept] * 4000 / expected[kept].sum())
    assert result.pvalue > 1e-4
