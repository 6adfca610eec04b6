"""Where in a sequence a step stands, as numbers that attention reads.

Shapes: B rows, T steps of a chunk, N heads, W width, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from unrolled.nn.variant import Variant


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


@dataclass(frozen=True, slots=True)
class RotaryFrequencies:
    """How far each pair of features of a head is turned from one step to the next.

    Attributes:
        size: E.
        base: for the 10,000 of Su et al. (2021).
        divisors: of the frequencies (E/2,), which stretch positions; none leaves them.
        attention_factor: by which turned queries and keys are multiplied.
    """

    size: int
    base: float = 10000.0
    divisors: tuple[float, ...] = ()
    attention_factor: float = 1.0

    @classmethod
    def of(cls, variant: Variant, size: int) -> Self:
        """Return those of a stack. Raises ValueError: its scaling is of heads of another width."""
        scaling = variant.rotary_scaling
        divisors = scaling.divisors(size, variant.rotary_base)
        gain = scaling.attention_factor or 1.0
        return cls(size, variant.rotary_base, divisors, gain)

    def inverse(self, device: torch.device | str) -> Tensor:
        """Return the radians of a step (E/2,) in fp32: inverse frequencies as they are called."""
        even = torch.arange(0, self.size, 2, device=device, dtype=torch.float32)
        radians = self.base ** (-even / self.size)
        if not self.divisors:
            return radians
        divisors = torch.tensor(self.divisors, device=device, dtype=torch.float32)
        return radians / divisors


def rotation(
    positions: Tensor, frequencies: RotaryFrequencies
) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines (B, 1, T, E/2), fp32, by which a head of width E is turned.

    Su et al. (2021), eq. 15, with feature e paired with feature e + E/2 as in LLaMA.
    """
    steps = positions[:, None, :, None].float()
    angles = steps * frequencies.inverse(positions.device)
    gain = frequencies.attention_factor
    if gain == 1:
        return angles.cos(), angles.sin()
    return angles.cos() * gain, angles.sin() * gain


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys (B, N, T, E) by :func:`rotation`."""
    cosines, sines = (part.to(x.dtype) for part in turn)
    first, second = x.chunk(2, -1)
    turned = [first * cosines - second * sines, second * cosines + first * sines]
    return torch.cat(turned, -1)
