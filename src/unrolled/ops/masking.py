"""Which steps of a padded batch are real.

Shapes: B rows, T steps, D features. Sequences start at step 0; padding stands at the right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# real steps of each row (B,): integers of any width, or a list
Lengths = Tensor | Sequence[int]


def check_lengths(lengths: Lengths, rows: int, steps: int) -> Tensor:
    """Return lengths (B,) as int64, where they fit a batch of ``rows`` rows and ``steps`` steps.

    Raises:
        ValueError: wrong shape, not integers, or (on the CPU, where looking is free) out of range.
    """
    if not isinstance(lengths, Tensor):
        listed = torch.as_tensor(lengths, device="cpu")
        # an empty list says no type
        lengths = listed if listed.numel() else listed.long()
    if lengths.shape != (rows,):
        raise ValueError(
            f"expected lengths of shape ({rows},), one for each row of x, got "
            f"{tuple(lengths.shape)}; pass the number of real steps of every sequence"
        )
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"expected integer lengths, got {lengths.dtype}; pass lengths.long()"
        )
    lengths = lengths.long()
    if lengths.device.type != "cpu" or torch.compiler.is_compiling() or not rows:
        return lengths
    if torch._C._are_functorch_transforms_active():
        return lengths  # the numbers are out of reach under vmap
    low = int(lengths.min())
    high = int(lengths.max())
    if low < 0 or high > steps:
        raise ValueError(
            f"expected lengths from 0 to {steps}, the width of x, got {low} to {high}; pad x to "
            "the longest sequence"
        )
    return lengths


def real_steps(lengths: Tensor, steps: int) -> Tensor:
    """Return (B, T) bool: True where step t of row b is real."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (B, T, D) with zeros at padding, through which no gradient flows back."""
    if lengths is None:
        return x
    return x.masked_fill(~real_steps(lengths, x.shape[1])[:, :, None], 0)


def reverse_rows(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (B, T, D) with the real steps of each row in the opposite order.

    Padding stays where it is. Doing it twice gives x again.
    """
    if lengths is None:
        return x.flip(1)
    step = torch.arange(x.shape[1], device=x.device)
    mirrored = lengths[:, None] - 1 - step
    source = torch.where(mirrored >= 0, mirrored, step)  # (B, T)
    return x.gather(1, source[:, :, None].expand_as(x))


def last_steps(x: Tensor, lengths: Tensor, empty: Tensor) -> Tensor:
    """Return (B, D): the last real step of each row of x (B, T, D), ``empty`` where there is none.

    Args:
        x: (B, T, D), T >= 1.
        lengths: (B,).
        empty: (B, D), taken for rows of length 0.
    """
    last = (lengths - 1).clamp(min=0)
    indices = last[:, None, None].expand(-1, 1, x.shape[2])
    is_read = lengths[:, None] > 0
    return torch.where(is_read, x.gather(1, indices)[:, 0], empty)
