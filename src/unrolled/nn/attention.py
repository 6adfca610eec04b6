"""Multi-head attention over what was read so far, and where in a sequence a step stands.

Shapes: B rows, T steps of a chunk, S steps read including the chunk, W width, N heads,
K key-value heads, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.nn.state import CacheWriter


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
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


def rotation(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines (B, 1, T, E/2), fp32, by which a head of width E is turned.

    Su et al. (2021), eq. 15, with feature e paired with feature e + E/2 as in LLaMA.
    """
    half = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None, :, None].float() * 10000 ** (-half / width)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys (B, N, T, E) by :func:`rotation`."""
    cos, sin = (part.to(x.dtype) for part in turn)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


@dataclass(frozen=True, eq=False)
class Reading:
    """What every block of a stack needs to know about one call.

    Args:
        turn: rotations of the chunk's positions; None without rotary positions.
        allowed: bool (B or 1, 1, T, S), True where a step may look; None when ``causal`` says all.
        causal: step t looks at steps up to t of this chunk.
        cache: where keys and values are kept; None when no state is wanted.
    """

    turn: tuple[Tensor, Tensor] | None
    allowed: Tensor | None
    causal: bool
    cache: CacheWriter | None


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, with fewer key-value heads if wanted.

    Args:
        width: W.
        heads: N, which divides W.
        kv_heads: K, which divides N (Ainslie et al. 2023); N is plain multi-head attention.
        dropout: on the attention weights.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.size, bias=False)
        self.value = nn.Linear(width, kv_heads * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, layer: int, reading: Reading) -> Tensor:
        """Return (B, T, W) for x (B, T, W).

        Args:
            x: the chunk.
            layer: which layer of the cache is this block's.
            reading: the call.
        """

        def by_head(y: Tensor, heads: int) -> Tensor:
            return y.unflatten(2, (heads, self.size)).transpose(1, 2)

        q = by_head(self.query(x), self.heads)
        k, v = by_head(self.key(x), self.kv_heads), by_head(self.value(x), self.kv_heads)
        if reading.turn is not None:
            q, k = rotate(q, reading.turn), rotate(k, reading.turn)
        if reading.cache is not None:
            past_k, past_v = reading.cache.write(layer, k, v)
            if not reading.causal:
                k, v = past_k, past_v
        out = self._attend(q, k.to(q.dtype), v.to(q.dtype), reading)
        return self.out(out.transpose(1, 2).flatten(2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, reading: Reading) -> Tensor:
        """Return (B, N, T, E)."""
        groups = self.heads // self.kv_heads
        dropout = self.dropout if self.training else 0.0
        if q.shape[2] == 1 and groups > 1:
            # one step: the heads of a group stand where steps stand, so no key is copied
            q = q.unflatten(1, (self.kv_heads, groups)).squeeze(3)
            out = F.scaled_dot_product_attention(q, k, v, reading.allowed, dropout)
            return out.flatten(1, 2)[:, :, None]
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return F.scaled_dot_product_attention(
            q, k, v, reading.allowed, dropout, is_causal=reading.causal
        )
