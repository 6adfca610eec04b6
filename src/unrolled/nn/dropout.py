"""Dropout: quickly drawn, and such that leaves out the same features at every step of a sequence.

Shapes: B rows, T steps, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_probability(name: str, value: float) -> None:
    """Refuse what is no probability.

    Raises:
        ValueError: ``value`` is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(
            f"expected {name} from 0 to 1, got {value}; it is a probability"
        )


def dropout(x: Tensor, p: float) -> Tensor:
    """Return x with a share p of its numbers left out, the others divided by 1 - p.

    On the CPU a byte is drawn for each number, where torch draws a double: three times as fast in
    all. p is rounded to a multiple of 1/256 there.
    """
    out = round(256 * p)
    # compiled code draws by itself
    if torch.compiler.is_compiling():
        return nn.functional.dropout(x, p, training=True)
    if not x.is_cpu or not 0 < out < 256:
        return nn.functional.dropout(x, p, training=True)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(
        -(2**63), None
    )
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= out
    return x * kept.to(x.dtype).mul_(256 / (256 - out))


class Dropout(nn.Module):
    """:func:`dropout` while training.

    Args:
        p: probability of leaving a number out.

    Raises:
        ValueError: p is no probability.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        check_probability("p", p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return x of any shape, some numbers left out; x itself when evaluating."""
        return dropout(x, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def locked_mask(x: Tensor, size: int, p: float) -> Tensor:
    """Draw one mask (B, size) for each row of x, zeros and 1/(1-p)."""
    mask = torch.ones(x.shape[0], size, dtype=x.dtype, device=x.device)
    return nn.functional.dropout(mask, p, training=True)


class LockedDropout(Dropout):
    """Variational dropout (Gal and Ghahramani 2016): one mask a sequence, alike at every step."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, T, D) with some features of each row left out; x itself when evaluating."""
        if not self.training or not self.p:
            return x
        return x * locked_mask(x, x.shape[2], self.p)[:, None]
