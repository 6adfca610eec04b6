"""One vector for a whole sequence.

Shapes: B rows, T steps, H features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unrolled.ops.masking import (
    Lengths,
    check_lengths,
    last_steps,
    real_steps,
    zero_padding,
)

KINDS = ("last", "mean", "max", "attention", "mean-max")


class Pooling(nn.Module):
    """Sums a sequence up, its real steps alone; a row without any gives zeros.

    Args:
        kind: last, mean, max, attention (a learnt weight for each step: Yang et al. 2016, eq. 5-7),
            or mean-max (both, side by side).
        size: H.
        reverse_size: how many of the H features, the last ones, were read backwards
            (``layer.reverse_size``); for "last" they are taken from the first step, which is where
            their reading ended.

    Attributes:
        output_size: H, or 2 H for mean-max.

    Raises:
        ValueError: an unknown kind, or sizes that do not fit.
    """

    def __init__(self, kind: str, size: int, reverse_size: int = 0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(
                f"expected a pooling out of {', '.join(KINDS)}, got {kind!r}"
            )
        if size < 1 or not 0 <= reverse_size <= size:
            raise ValueError(
                "expected size of at least 1 and reverse_size from 0 to size, got "
                f"{size} and {reverse_size}; pass layer.output_size and layer.reverse_size"
            )
        self.kind = kind
        self.size = size
        self.reverse_size = reverse_size
        self.output_size = 2 * size if kind == "mean-max" else size
        if kind == "attention":
            self.key = nn.Linear(size, size)
            self.query = nn.Linear(size, 1, bias=False)

    def forward(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """Return (B, H), or (B, 2 H) for mean-max.

        Args:
            x: (B, T, H), padded at the right.
            lengths: real steps of each row (B,); None when all T are.

        Raises:
            ValueError: shapes that do not fit.
        """
        if x.dim() != 3 or x.shape[2] != self.size:
            raise ValueError(
                f"expected x of shape (batch, time, {self.size}), got {tuple(x.shape)}; build with "
                "size=layer.output_size"
            )
        rows, steps, _ = x.shape
        if lengths is None:
            lengths = torch.full((rows,), steps, device=x.device)
        lengths = check_lengths(lengths, rows, steps)
        lengths = lengths.to(x.device)
        if not steps:
            return x.new_zeros(rows, self.output_size)
        if self.kind == "last":
            return self._last(x, lengths)
        if self.kind == "mean":
            return self._mean(x, lengths)
        if self.kind == "max":
            return self._max(x, lengths)
        if self.kind == "attention":
            return self._attention(x, lengths)
        mean = self._mean(x, lengths)
        highest = self._max(x, lengths)
        return torch.cat([mean, highest], 1)

    def _last(self, x: Tensor, lengths: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], x.shape[2])
        last = last_steps(x, lengths, zeros)
        if not self.reverse_size:
            return last
        # what was read backwards ended at the first step
        not_empty = lengths[:, None] > 0
        first = torch.where(not_empty, x[:, 0], 0)
        split = self.size - self.reverse_size
        return torch.cat([last[:, :split], first[:, split:]], 1)

    def _mean(self, x: Tensor, lengths: Tensor) -> Tensor:
        total = zero_padding(x, lengths).sum(1)
        counts = lengths.clamp(min=1)
        return total / counts[:, None].to(x.dtype)

    def _max(self, x: Tensor, lengths: Tensor) -> Tensor:
        real = real_steps(lengths, x.shape[1])
        masked = x.masked_fill(~real[:, :, None], -math.inf)
        not_empty = lengths[:, None] > 0
        return torch.where(not_empty, masked.amax(1), 0)

    def _attention(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = zero_padding(x, lengths)
        hidden = self.key(x).tanh()
        scores = self.query(hidden)
        scores = scores[:, :, 0]
        # lowest and not -inf: a row without steps would else be 0/0
        lowest = torch.finfo(scores.dtype).min
        real = real_steps(lengths, x.shape[1])
        weights = scores.masked_fill(~real, lowest).softmax(1)
        weighed = weights[:, :, None] * x
        return weighed.sum(1)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.size}, reverse_size={self.reverse_size}"
