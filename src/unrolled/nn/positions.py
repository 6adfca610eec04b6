"""Where in a sequence a step stands, as numbers that attention reads.

Shapes: B rows, T steps of a chunk, N heads, W width, E width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoid(positions: Tensor, width: int) -> Tensor:
    """Return the position vectors of Vaswani et al. (2017, section 3.5).

    Args:
        positions: (B, T).
        width: W.

    Returns:
        (B, T, W) in fp32, sines and cosines taking turns.
    """
    even = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * 10000 ** (-even / width)
    pairs = torch.stack([angles.sin(), angles.cos()], -1)
    return pairs.flatten(-2)[..., :width]


def rotation(
    positions: Tensor, width: int, base: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines (B, 1, T, E/2), fp32, by which a head of width E is turned.

    Su et al. (2021), eq. 15, with feature e paired with feature e + E/2 as in LLaMA,
    and ``base`` for its 10,000.
    """
    even = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None, :, None].float() * base ** (-even / width)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys (B, N, T, E) by :func:`rotation`."""
    cosines, sines = (part.to(x.dtype) for part in turn)
    first, second = x.chunk(2, -1)
    turned = [first * cosines - second * sines, second * cosines + first * sines]
    return torch.cat(turned, -1)
