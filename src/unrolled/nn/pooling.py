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
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        lengths = check_lengths(lengths, x.shape[0], x.shape[1]).to(x.device)
        if not x.shape[1]:
            return x.new_zeros(x.shape[0], self.output_size)
        if self.kind == "last":
            return self._last(x, lengths)
        if self.kind == "mean":
            return self._mean(x, lengths)
        if self.kind == "max":
            return self._max(x, lengths)
        if self.kind == "attention":
            return self._attention(x, lengths)
        return torch.cat([self._mean(x, lengths), self._max(x, lengths)], 1)

    def _last(self, x: Tensor, lengths: Tensor) -> Tensor:
        last = last_steps(x, lengths, x.new_zeros(x.shape[0], x.shape[2]))
        if not self.reverse_size:
            return last
        first = torch.where(lengths[:, None] > 0, x[:, 0], 0)
        split = self.size - self.reverse_size
        return torch.cat([last[:, :split], first[:, split:]], 1)

    def _mean(self, x: Tensor, lengths: Tensor) -> Tensor:
        return zero_padding(x, lengths).sum(1) / lengths.clamp(min=1)[:, None].to(
            x.dtype
        )

    def _max(self, x: Tensor, lengths: Tensor) -> Tensor:
        real = real_steps(lengths, x.shape[1])[:, :, None]
        highest = x.masked_fill(~real, -math.inf).amax(1)
        return torch.where(lengths[:, None] > 0, highest, 0)

    def _attention(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = zero_padding(x, lengths)
        scores = self.query(self.key(x).tanh())[:, :, 0]
        # lowest and not -inf: a row without steps would else be 0/0
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~real_steps(lengths, x.shape[1]), lowest).softmax(
            1
        )
        return (weights[:, :, None] * x).sum(1)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.size}, reverse_size={self.reverse_size}"
