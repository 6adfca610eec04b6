"""What more rows are worth: curves that are known, and what cannot be said."""

from __future__ import annotations

import numpy as np
import pytest

from unrolled.studies.growth import next_rows

SIZES = [100, 300, 1000, 3000]


def test_a_power_law_without_noise_gives_its_own_gain() -> None:
    scores = [1 - 0.9 * n**-0.2 for n in SIZES]
    estimate = next_rows(SIZES, scores, higher=True)
    gain = 0.9 * 3000**-0.2 - 0.9 * 4000**-0.2
    assert (estimate.rows, estimate.more) == (3000, 1000)
    assert [estimate.low, estimate.middle, estimate.high] == pytest.approx([gain] * 3)
    assert estimate.is_clear


def test_a_loss_that_falls_as_a_power_law_falls_on() -> None:
    losses = [3.0 * n**-0.1 for n in SIZES]
    estimate = next_rows(SIZES, losses, higher=False)
    assert estimate.middle == pytest.approx(3.0 * (4000**-0.1 - 3000**-0.1))
    assert estimate.is_clear


def test_scores_of_no_bound_follow_the_logarithm() -> None:
    scores = [5 * np.log(n) for n in SIZES]
    estimate = next_rows(SIZES, scores, higher=True)
    assert estimate.middle == pytest.approx(5 * np.log(4000 / 3000))


def test_scores_without_a_trend_say_that_nothing_can_be_said() -> None:
    sizes = [size for size in SIZES for _ in range(3)]
    draw = np.random.default_rng(1)
    estimate = next_rows(sizes, 0.5 + 0.1 * draw.standard_normal(12), higher=True)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < 0 < estimate.high
    assert not estimate.is_clear


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    sizes = np.repeat(SIZES, 3)
    truth = 0.9 * 3000**-0.2 - 0.9 * 4000**-0.2
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        noise = np.exp(0.05 * draw.standard_normal(len(sizes)))
        estimate = next_rows(sizes.tolist(), 1 - 0.9 * sizes**-0.2 * noise, higher=True)
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= truth <= estimate.high
    assert 0.85 <= hits / 200 <= 1


@pytest.mark.parametrize(
    ("sizes", "scores", "reason"),
    [
        ([100, 1000], [0.5, 0.6], "it takes 3 sizes, and 2 were tried"),
        ([10, 20, 30], [0.5, 0.5, 0.5], "all scores are the same"),
    ],
)
def test_what_cannot_be_said_has_a_reason(
    sizes: list[int], scores: list[float], reason: str
) -> None:
    estimate = next_rows(sizes, scores, higher=True)
    assert estimate.reason == reason
    assert estimate.middle is None
    assert not estimate.is_clear


def test_nothing_is_said_of_more_than_twice_what_was_tried() -> None:
    assert next_rows([10, 20, 40], [0.5, 0.6, 0.7], higher=True).more == 40
