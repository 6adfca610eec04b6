"""Batches of what a model writes itself while it learns, with what that earns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unrolled.data.batches import Batch, DivisibleSource, random

# makes of a batch, and a seed, one whose targets the model wrote, with their rewards
RollOut = Callable[[Batch, int], Batch]


@dataclass(frozen=True)
class Rollouts:
    """Batches of data for some epochs, then those that a model makes of them.

    What is drawn follows from (seed, epoch, index) and the weights at the time.

    Attributes:
        source: batches of data.
        after: epochs that are learnt from as they are.
        seed: of what is drawn.
        roll_out: writes the targets anew, and says what they earn.
    """

    source: DivisibleSource
    after: int
    seed: int
    roll_out: RollOut

    def length(self, epoch: int) -> int:
        """Return the number of batches in an epoch."""
        return self.source.length(epoch)

    def rows_of_batch(self, epoch: int, index: int) -> int:
        """Return how many rows of the data one batch has."""
        return self.source.rows_of_batch(epoch, index)

    def batch(self, epoch: int, index: int, part: slice = slice(None)) -> Batch:
        """Return one batch of an epoch, or some of its rows."""
        batch = self.source.batch(epoch, index, part)
        if epoch < self.after:
            return batch
        generator = random(self.seed, epoch, index, part.start or 0)
        return self.roll_out(batch, int(generator.integers(2**31)))
