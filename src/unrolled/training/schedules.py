"""The learning rate as a pure function of progress."""

from __future__ import annotations

import math

from unrolled.training.settings import TrainingConfig


def factor(settings: TrainingConfig, step: int, progress: float, cuts: int) -> float:
    """Return what the peak learning rate is multiplied with.

    Args:
        settings: the schedule and its warm-up.
        step: updates made so far, 0 before the first.
        progress: how much of the run is done, 0 to 1 (the larger of its shares of steps and time).
        cuts: times the plateau schedule has cut the rate.

    ``noam`` is the inverse square root of Vaswani et al. 2017, section 5.3, scaled so that its
    peak, at the end of the warm-up, is 1.
    """
    warmup = settings.warmup
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if settings.schedule == "noam":
        return min(rise, math.sqrt(max(1, warmup) / (step + 1)))
    if settings.schedule == "plateau":
        return rise * settings.plateau_factor**cuts
    if settings.schedule == "constant":
        return rise
    progress = min(1.0, max(0.0, progress))
    if settings.schedule == "cosine":
        fall = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        fall = 1 - progress
    return rise * (settings.final_share + (1 - settings.final_share) * fall)
