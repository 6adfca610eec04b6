"""The keys under ``training``: limits, ranges, a warm-up that fits the run."""

from __future__ import annotations

from typing import Any

import pytest

from unrolled.core.errors import UsageError
from unrolled.training.settings import LIMITS, TrainingConfig


@pytest.mark.parametrize("limit", LIMITS)
def test_any_limit_bounds_a_run(limit: str) -> None:
    assert not TrainingConfig().bounded
    assert TrainingConfig.read({limit: 3}).bounded


@pytest.mark.parametrize(("steps", "warmup"), [(10, 1), (50, 5), (51, 50), (5, 0)])
def test_a_run_shorter_than_the_warm_up_takes_a_tenth(steps: int, warmup: int) -> None:
    assert TrainingConfig(max_steps=steps).warmup == warmup


@pytest.mark.parametrize(
    "values",
    [
        {"max_steps": 0},
        {"max_minutes": 0},
        {"learning_rate": 0},
        {"clip": 0},
        {"ema_decay": 1},
        {"label_smoothing": 1},
        {"keep": 0},
        {"accumulate": 0},
        {"schedule": "cosin"},
        {"optimizer": "adam"},
        {"precision": "fp16"},
    ],
)
def test_values_out_of_range_are_refused_by_name(values: dict[str, Any]) -> None:
    ((key, value),) = values.items()
    with pytest.raises(UsageError, match=f"^{key}={value!r}: "):
        TrainingConfig.read(values)
