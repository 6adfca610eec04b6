"""Multi-head attention over what was read so far, and where in a sequence a step stands.

Shapes: B rows, T steps of a chunk, S steps read including the chunk, W width, N heads,
K key-value heads, E width of a head, M steps of a source.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.nn.dropout import dropout
from unrolled.nn.memory import Memory
from unrolled.nn.state import CacheWriter
from unrolled.ops.derivatives import is_transformed
from unrolled.ops.modes import mode

SHORT = (
    2**18
)  # pairs of steps up to which plain products beat torch's gradients in bf16 on the CPU


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
class AttentionContext:
    """What every block of a stack needs to know about one call.

    Args:
        turn: rotations of the chunk's positions; None without rotary positions.
        allowed: bool (B or 1, 1, T, S), True where a step may look; None when ``causal`` says all.
        causal: step t looks at steps up to t of this chunk.
        cache: where keys and values are kept; None when no state is wanted.
        memory: what a decoder's blocks look at beside the sequence itself.
        looks: takes in, block by block, where each step looked in the memory (B, T, M), the mean
            over heads; None when nobody asks.
    """

    turn: tuple[Tensor, Tensor] | None
    allowed: Tensor | None
    causal: bool
    cache: CacheWriter | None
    memory: Memory | None = None
    looks: list[Tensor] | None = None


def at_least_fp32(x: Tensor) -> Tensor:
    """Return x in fp32, or in fp64 where it is: a softmax of bf16 scores is coarse."""
    return x if x.dtype == torch.float64 else x.float()


def by_head(x: Tensor, heads: int) -> Tensor:
    """Return features (B, T, N E) taken apart by heads (B, N, T, E)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def weigh(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, causal: bool, p: float
) -> Tensor:
    """Return values (B, N, T, E) weighed by softmax(q k / sqrt(E)) (Vaswani et al. 2017, eq. 1).

    Torch's fused attention, but where its gradients are slow: those in bf16 on the CPU take four to
    eight times as long as plain products up to some hundred steps, and with dropout it keeps no
    fused form there at all.

    Args:
        q: (B, N, T, E).
        k, v: (B, N, M, E).
        allowed: bool, broadcast to (B, N, T, M); True where a step may look.
        causal: step t looks at steps up to t; goes without ``allowed``.
        p: dropout on the weights.
    """
    gradients = torch.is_grad_enabled() and (
        q.requires_grad or k.requires_grad or v.requires_grad
    )
    short = q.shape[2] * k.shape[2] <= SHORT
    slow = q.is_cpu and gradients and short and (p or q.dtype == torch.bfloat16)
    # the fused kernel has neither forward mode nor second derivatives
    if not (slow or mode() == "reference" or is_transformed()):
        return F.scaled_dot_product_attention(q, k, v, allowed, p, is_causal=causal)
    scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    if causal:
        allowed = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).tril()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    weights = scores.softmax(-1)
    return (dropout(weights, p) if p else weights) @ v


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, with fewer key-value heads if wanted.

    Args:
        width: W.
        heads: N, which divides W.
        kv_heads: K, which divides N (Ainslie et al. 2023); N is plain multi-head attention.
        dropout: on the attention weights.
        bias: of all four products.
    """

    def __init__(
        self, width: int, heads: int, kv_heads: int, dropout: float, bias: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.kv_heads = kv_heads
        self.size = width // heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(width, kv_heads * self.size, bias)
        self.value = nn.Linear(width, kv_heads * self.size, bias)
        self.out = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, layer: int, reading: AttentionContext) -> Tensor:
        """Return (B, T, W) for x (B, T, W).

        Args:
            x: the chunk.
            layer: which layer of the cache is this block's.
            reading: the call.
        """
        q = by_head(self.query(x), self.heads)
        k = by_head(self.key(x), self.kv_heads)
        v = by_head(self.value(x), self.kv_heads)
        if reading.turn is not None:
            q = rotate(q, reading.turn)
            k = rotate(k, reading.turn)
        if reading.cache is not None:
            past_k, past_v = reading.cache.write(layer, k, v)
            if not reading.causal:
                k = past_k
                v = past_v
        out = self._attend(q, k.to(q.dtype), v.to(q.dtype), reading)
        return self.out(out.transpose(1, 2).flatten(2))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, reading: AttentionContext
    ) -> Tensor:
        """Return (B, N, T, E)."""
        groups = self.heads // self.kv_heads
        p = self.dropout if self.training else 0.0
        if q.shape[2] == 1 and groups > 1:
            # one step: the heads of a group stand where steps stand, so no key is copied
            q = q.unflatten(1, (self.kv_heads, groups)).squeeze(3)
            out = weigh(q, k, v, reading.allowed, False, p)
            return out.flatten(1, 2)[:, :, None]
        if groups > 1:
            k = k.repeat_interleave(groups, 1)
            v = v.repeat_interleave(groups, 1)
        return weigh(q, k, v, reading.allowed, reading.causal, p)


class CrossAttention(nn.Module):
    """Attention of a decoder's steps to the steps of their source.

    Args:
        width: W.
        heads: N, which divides W.
        memory_size: features of the source's steps.
        dropout: on the attention weights.
        bias: of all four products.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        memory_size: int,
        dropout: float,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(memory_size, width, bias)
        self.value = nn.Linear(memory_size, width, bias)
        self.out = nn.Linear(width, width, bias)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (S, N, M, E) of sources (S, M, D), made once a source."""
        both = (
            by_head(self.key(memory), self.heads),
            by_head(self.value(memory), self.heads),
        )
        if torch.is_grad_enabled():
            return both
        return both[0].contiguous(), both[1].contiguous()  # read again at every step

    def forward(self, x: Tensor, layer: int, reading: AttentionContext) -> Tensor:
        """Return (B, T, W) for x (B, T, W); ``layer`` is this block's place in the memory."""
        memory = reading.memory
        assert memory is not None
        q = by_head(self.query(x), self.heads)
        k = memory.keys[layer].to(q.dtype)
        v = memory.values[layer].to(q.dtype)
        allowed = memory.allowed(k.shape[2])
        if memory.each > 1:
            # the rows of a source stand where steps stand, so that no key is copied for them
            q = q.unflatten(0, (-1, memory.each)).transpose(1, 2).flatten(2, 3)
        elif not memory.each:
            k = memory.spread(k)
            v = memory.spread(v)
            allowed = None if allowed is None else memory.spread(allowed)
        mask = None if allowed is None else allowed[:, None, None]
        if reading.looks is not None:
            reading.looks.append(self._weights(q, k, mask, x.shape[:2]))
        out = weigh(q, k, v, mask, False, self.dropout if self.training else 0.0)
        if memory.each > 1:
            out = out.unflatten(2, (memory.each, -1)).transpose(1, 2).flatten(0, 1)
        return self.out(out.transpose(1, 2).flatten(2))

    def _weights(
        self, q: Tensor, k: Tensor, mask: Tensor | None, shape: torch.Size
    ) -> Tensor:
        """Return the attention weights (B, T, M), the mean over heads."""
        scores = at_least_fp32(q @ k.transpose(2, 3)) / q.shape[3] ** 0.5
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).mean(1).reshape(*shape, k.shape[2])
