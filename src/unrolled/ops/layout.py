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
        return self.order if time_first else self.order * self.steps

    def strides(self, time_first: bool) -> tuple[int, int]:
        """Return how many steps it is from one step to the next, and from one row to the next."""
        if self.offset is not None:
            return 0, 1
        return (self.rows, 1) if time_first else (1, self.steps)

    def lengths(self) -> Tensor | None:
        """Return how many steps each row of the batch has (B,); None when all have T."""
        if self.active is None:
            return None
        longest_first = (self.active[:, None] > _count(self.rows)).sum(0)
        if self.order is None:
            return longest_first
        return torch.empty_like(longest_first).scatter_(0, self.order, longest_first)

    def places(self) -> Tensor:
        """Return where each packed step (N,) stands among the B * T steps of a padded batch."""
        assert self.active is not None
        assert self.offset is not None
        step = _count(self.steps).repeat_interleave(self.active)
        row = _count(self.total) - self.offset.repeat_interleave(self.active)
        return (row if self.order is None else self.order[row]) * self.steps + step


def padded(x: Tensor, lengths: Tensor | None) -> Layout:
    """Describe x (B, T, D), of which each row has ``lengths`` (B,) real steps, or all T.

    Raises:
        ValueError: lengths that do not fit x.
    """
    rows, steps = x.shape[:2]
    if lengths is None:
        return Layout(rows, steps, rows * steps)
    longest_first, order = check_lengths(lengths, rows, steps).sort(
        descending=True, stable=True
    )
    ended = torch.searchsorted(longest_first.flip(0), _count(steps), right=True)
    active = rows - ended
    return Layout(rows, steps, int(active.sum()), active, order)


def packed(batch_sizes: Tensor, sorted_indices: Tensor | None) -> Layout:
    """Describe the data (N, D) of a PackedSequence.

    Raises:
        ValueError: batch sizes that grow, or an order that is none of its rows.
    """
    active = batch_sizes.contiguous()
    rows = int(active[0])
    if bool((active.diff() > 0).any()) or int(active[-1]) < 0:
        raise ValueError(
            "expected batch sizes that never grow; make the sequence by pack_sequence"
        )
    order = None if sorted_indices is None else sorted_indices.contiguous()
    if order is not None and not torch.equal(order.sort()[0], _count(rows)):
        raise ValueError(
            f"expected sorted indices that name each of {rows} rows once, got {order.tolist()}"
        )
    offset = active.cumsum(0) - active
    return Layout(rows, len(active), int(active.sum()), active, order, offset)


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
    return x.dim() == 3 and not x.is_contiguous() and x.transpose(0, 1).is_contiguous()


def laid(x: Tensor, time_first: bool) -> Tensor:
    """Return x (B, T, D) or (N, D) in that memory layout, x itself if it stands so already."""
    if time_first:
        x = readable(x)
        return x if is_time_first(x) else x.transpose(0, 1).contiguous().transpose(0, 1)
    return dense(x)


def like(x: Tensor, size: int, time_first: bool, zero: bool) -> Tensor:
    """Return new numbers (B, T, size) or (N, size) in the memory layout of x.

    They are no view of anything, so that whoever gets them may change them in place.
    """
    if time_first:
        rows, steps = x.shape[:2]
        made = x.new_empty_strided((rows, steps, size), (size, rows * size, 1))
        return made.zero_() if zero else made
    make = x.new_zeros if zero else x.new_empty
    return make(*x.shape[:-1], size)
