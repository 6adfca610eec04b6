"""Batches that a model writes itself come after those of the data, and follow from their seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from unrolled.data.batches import Batch, DivisibleSource
from unrolled.training.rollouts import Rollouts


class Counting:
    """Two batches an epoch, of four rows each."""

    def length(self, epoch: int) -> int:
        return 2

    def rows_of_batch(self, epoch: int, index: int) -> int:
        return 4

    def batch(self, epoch: int, index: int, part: slice = slice(None)) -> Batch:
        inputs = torch.full((4, 1), float(10 * epoch + index))[part]
        return Batch(inputs, None, None, np.arange(4)[part])


def rollouts(after: int, seed: int = 0) -> Rollouts:
    def roll_out(batch: Batch, seed: int) -> Batch:
        return replace(batch, rewards=torch.full((len(batch.rows), 2), float(seed)))

    return Rollouts(Counting(), after, seed, roll_out)


def test_epochs_of_data_come_first() -> None:
    source = rollouts(after=2)
    assert isinstance(source, DivisibleSource)
    assert source.length(0) == source.length(5) == 2
    for epoch in range(4):
        batch = source.batch(epoch, 1)
        assert (batch.rewards is None) == (epoch < 2)
        assert batch.inputs.eq(10 * epoch + 1).all()


def test_what_is_drawn_follows_from_seed_epoch_index_and_part() -> None:
    def drawn(seed: int, epoch: int, index: int, part: slice = slice(None)) -> float:
        rewards = rollouts(0, seed).batch(epoch, index, part).rewards
        assert rewards is not None
        return float(rewards[0, 0])

    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0, slice(1, None, 2))]
    seeds = [drawn(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert [drawn(*key) for key in keys] == seeds


def test_each_process_reads_its_rows() -> None:
    source = rollouts(after=0)
    assert source.rows_of_batch(0, 0) == 4
    assert source.batch(0, 0, slice(1, None, 2)).rows.tolist() == [1, 3]
