"""Weights that came from another run: which are trained when, and at which rate.

Depths are groups of names, from the bottom of a model to its top (``nn.fitting.depths``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from unrolled.training.job import Position
from unrolled.training.settings import TrainingConfig

Depths = Sequence[Sequence[str]]


class Unfreezing:
    """Trains the top of a model at first, and one more group below it after each stretch.

    Gradual unfreezing of Howard and Ruder (2018), section 3.3. Frozen weights have no gradient, so
    that they neither decay nor leave a trace in the optimizer, and none is computed for them. What
    is trained follows from the position alone.

    Args:
        model: whose weights are frozen.
        depths: its groups.
        settings: ``unfreeze`` is the length of a stretch in epochs; None freezes nothing.
    """

    def __init__(
        self, model: nn.Module, depths: Depths, settings: TrainingConfig
    ) -> None:
        self.model = model
        self.depths = depths
        self.epochs = settings.unfreeze
        self.trained = len(depths)

    def follow(self, position: Position, length: int) -> None:
        """Freeze what is not trained at a position of an epoch of so many batches."""
        if self.epochs is None:
            return
        passed = position.epoch + position.index / length
        trained = min(len(self.depths), 1 + int(passed / self.epochs))
        if trained == self.trained:
            return
        self.trained = trained
        frozen = len(self.depths) - trained
        for height, names in enumerate(self.depths):
            for name in names:
                weight = self.model.get_parameter(name)
                weight.requires_grad_(height >= frozen)


def rate_factors(depths: Depths, decay: float) -> dict[str, float]:
    """Return what the learning rate of each weight is multiplied with.

    That of a group is ``decay`` times that of the one above it: discriminative fine-tuning of
    Howard and Ruder (2018), section 3.1.
    """
    factors: dict[str, float] = {}
    for distance, names in enumerate(reversed(depths)):
        factors |= dict.fromkeys(names, decay**distance)
    return factors
