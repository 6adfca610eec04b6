"""What stands between a bad batch and the weights.

A loss or a gradient that is not finite, and on request a loss far above the others, costs its step
and nothing else. All that is counted here is in the checkpoint, so a resumed run skips what the
run that was never stopped skips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unrolled.training.settings import TrainingConfig

DECAY = 0.98  # of the running mean and variance: about the last fifty losses
SETTLED = 50  # losses that are read before one can be called a spike
CUT = 0.5  # what a return to a checkpoint multiplies the learning rate with
BUDGET = 0.1  # share of all steps that may be skipped


@dataclass(slots=True)
class Guard:
    """Steps skipped in all and in a row, returns to a checkpoint, and how losses ran lately.

    ``good`` is the step of the checkpoint to return to, -1 before there is one: the last that came
    by its turn and not in a row of skips, so that it does not hang on where a run was stopped.
    """

    skipped: int = 0
    in_row: int = 0
    rollbacks: int = 0
    good: int = -1
    seen: int = 0
    mean: float = 0.0
    variance: float = 0.0

    @property
    def rate(self) -> float:
        """What the learning rate is multiplied with."""
        return CUT**self.rollbacks

    def reason_to_skip(self, loss: float, norm: float, spike: float | None) -> str:
        """Return why a step must not be made, else an empty text.

        Args:
            loss: mean loss of the step.
            norm: norm of its gradient before clipping.
            spike: standard deviations above the running mean from which a loss is a spike, and it
                must then be above twice the mean too; None lets every finite loss pass.
        """
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        if spike is None or self.seen < SETTLED:
            return ""
        limit = max(spike * math.sqrt(self.variance), abs(self.mean), 1e-12)
        if loss - self.mean > limit:
            return f"the loss spikes ({loss:.4g})"
        return ""

    def made(self, loss: float) -> None:
        """Take in the loss of a step that was made.

        A plain mean at first, then an exponential one (Finch 2009, section 9).
        """
        self.in_row = 0
        weight = max(1 - DECAY, 1 / (self.seen + 1))
        above = loss - self.mean
        self.mean += weight * above
        self.variance = (1 - weight) * (self.variance + weight * above * above)
        self.seen += 1

    def skip(self) -> None:
        """Count a step that was not made."""
        self.skipped = self.skipped + 1
        self.in_row = self.in_row + 1

    def checkpoint_due(self, step: int, every: int) -> bool:
        """Whether a checkpoint is due; in a row of skips it waits for the next step made."""
        return step // every > max(0, self.good) // every and not self.in_row

    def forget(self) -> None:
        """Start the running mean anew: what follows is another loss."""
        self.seen = 0
        self.mean = 0.0
        self.variance = 0.0

    def spent(self, step: int, settings: TrainingConfig) -> bool:
        """Whether more was skipped than a run may: too many in a row, or too large a share."""
        most = settings.max_skips
        return self.in_row > most or self.skipped > max(most, BUDGET * step)
