"""What a training needs, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from unrolled.data.batches import BatchSource
from unrolled.data.examples import Ints
from unrolled.training import parallel, sharding
from unrolled.training.averaging import Weights
from unrolled.training.objectives import Objective
from unrolled.training.parallel import ProcessGroup
from unrolled.training.precision import ComputeDevice
from unrolled.training.progress import Progress
from unrolled.training.settings import TrainingConfig

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """All that a training needs.

    ``evaluate`` scores the model on the dev part (dropout off, averaged weights applied), or is
    None; ``metric`` names the score that chooses the best weights and ``higher`` its direction;
    ``keep_best`` is called with the weights whenever they are the best so far; ``lines`` tells
    where rows of the source stand in their file, where they stand in one; ``world`` is this process
    among those that train together, of which the first evaluates and writes; ``begun`` are plain
    values that every checkpoint keeps; ``still_ours`` says whether the run's folder is the one that
    the training began in; ``depths`` are the names of weights in groups, from the bottom of the
    model to its top, where it begins with weights of another run.
    """

    model: nn.Module
    objective: Objective
    source: BatchSource
    settings: TrainingConfig
    compute_device: ComputeDevice
    seed: int
    folder: Path
    metric: str
    higher: bool
    evaluate: Callable[[nn.Module], Scores] | None
    keep_best: Callable[[Weights], None]
    progress: Progress
    lines: Callable[[Ints], list[int]] | None = None
    world: ProcessGroup = field(default_factory=parallel.world)
    begun: dict[str, Any] = field(default_factory=dict)
    still_ours: Callable[[], bool] = lambda: True
    depths: Sequence[Sequence[str]] = ()

    @property
    def sharded(self) -> bool:
        """Whether the weights are divided among the processes."""
        return sharding.is_sharded(self.settings, self.world)


@dataclass(slots=True)
class Position:
    """Where a run stands; all of it is in the checkpoint.

    ``index`` is the next batch of the ``epoch``; ``epoch_ended`` says that its last batch was read
    and none of the next epoch. ``stale`` counts the evaluations since the best one, and
    ``cut_stale`` those since the best one or the last cut of the learning rate.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    cuts: int = 0
    cut_stale: int = 0
    stopped: str = ""
    scores: Scores = field(default_factory=dict)
    best_scores: Scores = field(default_factory=dict)
    epoch_ended: bool = False
