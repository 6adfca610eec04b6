"""Where every step of a batch stands in memory, so that the native core reads it in place.

Shapes: B rows, T steps, N steps of all rows, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.ops.masking import check_lengths


def _count(size: int) -> Tensor:
    """Return 0, 1, 2 ... on the CPU, whatever torch's default device is."""
    return torch.arange(size, device="cpu")


class Layout(NamedTuple):
    """Which steps of which rows there are, the longest row first.

    Attributes:
        rows, steps, total: B, T and N.
        active: how many rows have a step t (T,); None when all have all.
        order: which row of the batch each is, longest first (B,); None when as they stand.
        offset: where step t begins (T,), when the steps stand packed (N, D) without padding.
    """

    rows: int
    steps: int
    total: int
    active: Tensor | None = None
    order: Tensor | None = None
    offset: Tensor | None = None

    def base(self, time_first: bool) -> Tensor | None:
        """Return where each row begins among the steps of a padded batch (B,)."""
        if self.order is None or self.offset is not None:
            return None
        if time_first:
            return self.order
        return self.order * self.steps

    def strides(self, time_first: bool) -> tuple[int, int]:
        """Return how many steps it is from one step to the next, and from one row to the next."""
        if self.offset is not None:
            return 0, 1
        if time_first:
            return self.rows, 1
        return 1, self.steps

    def lengths(self) -> Tensor | None:
        """Return how many steps each row of the batch has (B,); None when all have T."""
        if self.active is None:
            return None
        has_step = self.active[:, None] > _count(self.rows)
        longest_first = has_step.sum(0)
        if self.order is None:
            return longest_first
        lengths = torch.empty_like(longest_first)
        return lengths.scatter_(0, self.order, longest_first)

    def padded_positions(self) -> Tensor:
        """Return where each packed step (N,) stands among the B * T steps of a padded batch."""
        assert self.active is not None
        assert self.offset is not None
        # packed: all rows' step 0, longest row first, then their step 1, and so on
        step = _count(self.steps).repeat_interleave(self.active)
        step_begins = self.offset.repeat_interleave(self.active)
        row = _count(self.total) - step_begins
        if self.order is not None:
            row = self.order[row]
        return row * self.steps + step


def padded(x: Tensor, lengths: Tensor | None) -> Layout:
    """Describe x (B, T, D), of which each row has ``lengths`` (B,) real steps, or all T.

    Raises:
        ValueError: lengths that do not fit x.
    """
    rows, steps = x.shape[:2]
    if lengths is None:
        return Layout(rows, steps, rows * steps)
    lengths = check_lengths(lengths, rows, steps)
    longest_first, order = lengths.sort(descending=True, stable=True)
    shortest_first = longest_first.flip(0)
    # step t is real in the rows longer than t
    ended = torch.searchsorted(shortest_first, _count(steps), right=True)
    active = rows - ended
    total = int(active.sum())
    return Layout(rows, steps, total, active, order)


def packed(batch_sizes: Tensor, sorted_indices: Tensor | None) -> Layout:
    """Describe the data (N, D) of a PackedSequence.

    Raises:
        ValueError: batch sizes that grow, or an order that is none of its rows.
    """
    active = batch_sizes.contiguous()
    rows = int(active[0])
    grows = (active.diff() > 0).any()
    if bool(grows) or int(active[-1]) < 0:
        raise ValueError(
            "expected batch sizes that never grow; make the sequence by pack_sequence"
        )
    order = None if sorted_indices is None else sorted_indices.contiguous()
    if order is not None and not torch.equal(order.sort()[0], _count(rows)):
        raise ValueError(
            f"expected sorted indices that name each of {rows} rows once, got {order.tolist()}"
        )
    offset = active.cumsum(0) - active
    total = int(active.sum())
    return Layout(rows, len(active), total, active, order, offset)


def readable(tensor: Tensor) -> Tensor:
    """Return a tensor whose memory holds its numbers: torch may keep a sign or zeros apart."""
    if tensor.is_neg() or tensor._is_zerotensor():
        return tensor.clone()
    return tensor


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor whose memory can be handed to the library: its numbers, side by side."""
    return readable(tensor).contiguous()


def is_time_first(x: Tensor) -> bool:
    """Say whether x (B, T, D) stands in memory as (T, B, D)."""
    if x.dim() != 3 or x.is_contiguous():
        return False
    return x.transpose(0, 1).is_contiguous()


def laid(x: Tensor, time_first: bool) -> Tensor:
    """Return x (B, T, D) or (N, D) in that memory layout, x itself if it stands so already."""
    if not time_first:
        return dense(x)
    x = readable(x)
    if is_time_first(x):
        return x
    steps_first = x.transpose(0, 1).contiguous()
    return steps_first.transpose(0, 1)


def like(x: Tensor, size: int, time_first: bool, zero: bool) -> Tensor:
    """Return new numbers (B, T, size) or (N, size) in the memory layout of x.

    They are no view of anything, so that whoever gets them may change them in place.
    """
    if not time_first:
        shape = (*x.shape[:-1], size)
        return x.new_zeros(shape) if zero else x.new_empty(shape)
    rows, steps = x.shape[:2]
    shape = (rows, steps, size)
    strides = (size, rows * size, 1)
    made = x.new_empty_strided(shape, strides)
    return made.zero_() if zero else made
