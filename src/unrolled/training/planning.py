"""How many steps a run makes, and how much of it is done."""

from __future__ import annotations

from dataclasses import dataclass

from unrolled.data.batches import BatchSource
from unrolled.training.job import Position
from unrolled.training.settings import TrainingConfig

COUNTED = 1000  # epochs whose batches are counted one by one


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The limits of a run.

    Attributes:
        total: steps in all; None where only time bounds the run.
        pretraining: the first of them, which learn from batches without targets.
        minutes: the limit in time, None without one.
    """

    total: int | None
    pretraining: int
    minutes: float | None

    def progress(self, position: Position) -> float:
        """Return how much of the run is done: the larger of its shares of steps and of time."""
        by_steps = position.step / self.total if self.total else 0.0
        return max(by_steps, self.time_progress(position))

    def time_progress(self, position: Position) -> float:
        """Return how much of the time limit is used up; 0 without one."""
        if not self.minutes:
            return 0.0
        return position.seconds / (60 * self.minutes)

    def phase_progress(self, position: Position) -> tuple[int, float]:
        """Return steps made and progress within the phase: pre-training ends a schedule too."""
        first = self.pretraining
        if position.step < first:
            return position.step, position.step / first
        made = position.step - first
        if not first or self.total is None or self.total <= first:
            return made, self.progress(position)
        by_steps = made / (self.total - first)
        return made, max(by_steps, self.time_progress(position))


def plan_steps(settings: TrainingConfig, source: BatchSource) -> StepPlan:
    """Return the plan of a run over a source."""
    return StepPlan(
        total=planned_steps(settings, source),
        pretraining=epoch_steps(settings, source, settings.pretrain_epochs),
        minutes=settings.max_minutes,
    )


def planned_steps(settings: TrainingConfig, source: BatchSource) -> int | None:
    """Return the number of steps a run is bounded by, or None when only time bounds it."""
    limits = [settings.max_steps] if settings.max_steps is not None else []
    epochs = settings.max_epochs
    # an epoch is a step at least: of so many more need not be counted
    if epochs is not None and (
        settings.max_steps is None or epochs < settings.max_steps
    ):
        limits.append(epoch_steps(settings, source, epochs))
    return min(limits) if limits else None


def epoch_steps(settings: TrainingConfig, source: BatchSource, epochs: int) -> int:
    """Return the number of steps in the first epochs.

    Those of more than ``COUNTED`` follow from the first ones: to plan them all may take hours.
    """
    counted = min(epochs, COUNTED)
    steps = sum(
        -(-source.length(epoch) // settings.accumulate) for epoch in range(counted)
    )
    return steps if counted == epochs else steps * epochs // counted
