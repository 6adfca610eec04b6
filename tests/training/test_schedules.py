"""Schedules equal torch's own and the formulas of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.optim import SGD, Optimizer, lr_scheduler

from unrolled.training.schedules import factor
from unrolled.training.settings import TrainingConfig

STEPS = 100


def settings(schedule: str, warmup: int, final: float = 0.1) -> TrainingConfig:
    return TrainingConfig.read(
        {"schedule": schedule, "warmup_steps": warmup, "final_share": final}
    )


def course(schedule: str, warmup: int, final: float = 0.1) -> list[float]:
    config = settings(schedule, warmup, final)
    return [factor(config, step, step / STEPS, 0) for step in range(STEPS + 1)]


def torchs(build: Callable[[Optimizer], lr_scheduler.LRScheduler]) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimizer)
    rates = []
    for _ in range(STEPS + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1))
    # torch multiplies its way from step to step: 100 roundings
    assert course("cosine", 0) == pytest.approx(expected, rel=1e-12)


def test_linear_is_torchs() -> None:
    expected = torchs(
        lambda o: lr_scheduler.LinearLR(
            o, start_factor=1.0, end_factor=0.1, total_iters=STEPS
        )
    )
    assert course("linear", 0) == pytest.approx(expected, rel=1e-12)


def test_warm_up_is_torchs_and_starts_above_zero() -> None:
    expected = torchs(lambda o: lr_scheduler.LinearLR(o, 1 / 20, total_iters=19))
    factors = course("constant", 20)
    assert factors == pytest.approx(expected, rel=1e-12)
    assert factors[0] == 1 / 20
    assert factors[19:] == [1.0] * (STEPS - 18)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_warm_up_multiplies_the_course(schedule: str) -> None:
    plain = course(schedule, 0)
    warm = course(schedule, 20)
    rise = [min(1.0, (step + 1) / 20) for step in range(STEPS + 1)]
    expected = [a * b for a, b in zip(plain, rise, strict=True)]
    assert warm == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_start_middle_and_end(schedule: str) -> None:
    config = settings(schedule, 0, final=0.2)
    assert factor(config, 0, 0.0, 0) == 1.0
    assert factor(config, 500, 0.5, 0) == pytest.approx(0.6, rel=1e-15)
    assert factor(config, 1000, 1.0, 0) == pytest.approx(0.2, rel=1e-15)
    # an overrun of the time limit does not rise or fall further
    assert factor(config, 1001, 1.5, 0) == factor(config, 1000, 1.0, 0)


def test_noam_is_the_formula_of_vaswani_et_al() -> None:
    warmup = 40
    width = 512
    config = settings("noam", 40)

    def paper(step: int) -> float:  # counted from 1
        return width**-0.5 * min(step**-0.5, step * warmup**-1.5)

    for step in (1, 7, 39, 40, 41, 160, 10_000):
        expected = paper(step) / paper(warmup)
        assert factor(config, step - 1, 0.0, 0) == pytest.approx(expected, rel=1e-14)
    assert factor(config, warmup - 1, 0.0, 0) == 1.0
    assert factor(config, 4 * warmup - 1, 0.0, 0) == pytest.approx(0.5, rel=1e-15)


def test_noam_without_warm_up_falls_from_the_start() -> None:
    config = settings("noam", 0)
    assert [factor(config, s, 0.0, 0) for s in (0, 3, 99)] == pytest.approx(
        [1, 0.5, 0.1], rel=1e-15
    )


def test_plateau_cuts_by_its_factor() -> None:
    config = TrainingConfig(schedule="plateau", warmup_steps=4, plateau_factor=0.3)
    assert factor(config, 10, 0.9, 0) == 1.0
    assert factor(config, 10, 0.9, 2) == pytest.approx(0.09, rel=1e-15)
    assert factor(config, 1, 0.0, 1) == pytest.approx(0.15, rel=1e-15)


def test_constant_does_not_depend_on_the_limit() -> None:
    config = settings("constant", 3)
    assert {factor(config, 50, progress, 0) for progress in (0.0, 0.3, 1.0)} == {1.0}


def test_rates_are_never_negative_or_above_the_peak() -> None:
    for schedule in ("constant", "cosine", "linear", "noam", "plateau"):
        for final in (0.0, 1.0):
            assert all(
                0 <= f <= 1 and math.isfinite(f) for f in course(schedule, 10, final)
            )
