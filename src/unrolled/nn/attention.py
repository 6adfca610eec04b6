"""Multi-head attention over what was read so far, and of a decoder over its source.

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
from unrolled.nn.positions import rotate
from unrolled.nn.state import CacheWriter
from unrolled.nn.variant import USUAL, Variant
from unrolled.ops import recording
from unrolled.ops.derivatives import is_transformed
from unrolled.ops.modes import mode

# numbers of attention weights that are recorded at once
RECORDED = 2**24
# pairs of steps up to which plain products beat torch's gradients in bf16 on the CPU
SHORT = 2**18


@dataclass(frozen=True, eq=False)
class AttentionContext:
    """What every block of a stack needs to know about one call.

    Args:
        turn: rotations of the chunk's positions; None without rotary positions.
        allowed: bool (B or 1, 1, T, S), True where a step may look; None when ``causal`` says all.
        causal: step t looks at steps up to t of this chunk.
        cache: where keys and values are kept; None when no state is wanted.
        memory: what a decoder's blocks look at beside the sequence itself.
        attention_weights: takes in, block by block, the weights of each step over the memory
            (B, T, M), the mean over heads; None when nobody asks.
    """

    turn: tuple[Tensor, Tensor] | None
    allowed: Tensor | None
    causal: bool
    cache: CacheWriter | None
    memory: Memory | None = None
    attention_weights: list[Tensor] | None = None


def at_least_fp32(x: Tensor) -> Tensor:
    """Return x in fp32, or in fp64 where it is: a softmax of bf16 scores is coarse."""
    return x if x.dtype == torch.float64 else x.float()


def by_head(x: Tensor, heads: int) -> Tensor:
    """Return features (B, T, N E) taken apart by heads (B, N, T, E)."""
    parts = x.unflatten(2, (heads, -1))
    return parts.transpose(1, 2)


def side_by_side(heads: Tensor) -> Tensor:
    """Return heads (B, N, T, E) put together again (B, T, N E)."""
    parts = heads.transpose(1, 2)
    return parts.flatten(2)


def weigh(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | None,
    causal: bool,
    p: float,
    observer: recording.Observer | None = None,
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
        observer: takes in the weights.
    """
    if observer is not None:
        _observe(q, k, allowed, causal, observer)
    # the fused kernel has neither forward mode nor second derivatives
    must_be_plain = mode() == "reference" or is_transformed()
    if not must_be_plain and not _is_faster_plain(q, k, v, p):
        return F.scaled_dot_product_attention(q, k, v, allowed, p, is_causal=causal)
    weights = _weights(q, k, _causal(q, k) if causal else allowed)
    if p:
        weights = dropout(weights, p)
    return weights @ v


def _causal(q: Tensor, k: Tensor) -> Tensor:
    """Return where each of T queries may look among M steps, up to its own (T, M)."""
    every = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    return every.tril()


def _weights(q: Tensor, k: Tensor, allowed: Tensor | None) -> Tensor:
    """Return softmax(q k / sqrt(E)) (B, N, T, M) over the steps that are allowed."""
    scale = q.shape[3] ** -0.5
    scaled = q * scale
    scores = scaled @ k.transpose(2, 3)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1)


@torch.no_grad()
def _observe(
    q: Tensor,
    k: Tensor,
    allowed: Tensor | None,
    causal: bool,
    observer: recording.Observer,
) -> None:
    """Show the weights to an observer, some queries at a time, so that memory is bounded."""
    allowed = _causal(q, k) if causal else allowed
    size = max(1, RECORDED // (q.shape[0] * q.shape[1] * max(1, k.shape[2])))
    for first in range(0, q.shape[2], size):
        chunk = slice(first, first + size)
        part = allowed
        if part is not None and part.shape[-2] > 1:
            part = part[..., chunk, :]
        observer.attended(_weights(q[:, :, chunk], k, part))


def _is_faster_plain(q: Tensor, k: Tensor, v: Tensor, p: float) -> bool:
    """Say whether plain products, with their gradients, beat torch's fused attention."""
    if not q.is_cpu or not torch.is_grad_enabled():
        return False
    if not (q.requires_grad or k.requires_grad or v.requires_grad):
        return False
    if q.shape[2] * k.shape[2] > SHORT:
        return False
    return p > 0 or q.dtype == torch.bfloat16


def _head_norm(variant: Variant, size: int) -> nn.Module | None:
    """Return the norm of queries or keys of E features, if they have one."""
    if not variant.query_key_norm:
        return None
    eps = variant.norm_eps or 1e-6
    return nn.RMSNorm(size, eps=eps)


def _normed(norm: nn.Module | None, heads: Tensor) -> Tensor:
    """Return queries or keys (B, N, T, E) normalised, in their precision."""
    if norm is None:
        return heads
    features = at_least_fp32(heads)
    normed = norm(features)
    return normed.to(heads.dtype)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, with fewer key-value heads if wanted.

    Args:
        width: W.
        heads: N, which divides W.
        kv_heads: K, which divides N (Ainslie et al. 2023); N is plain multi-head attention.
        dropout: on the attention weights.
        bias: of all four products, where ``variant`` does not say otherwise.
        variant: its width of a head, biases, and norms of queries and keys.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        dropout: float,
        bias: bool = False,
        variant: Variant = USUAL,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.kv_heads = kv_heads
        self.size = variant.head_size or width // heads
        self.dropout = dropout
        inner_bias, outer_bias = variant.biases(bias)
        inner_width = heads * self.size
        kv_width = kv_heads * self.size
        self.query = nn.Linear(width, inner_width, inner_bias)
        self.key = nn.Linear(width, kv_width, inner_bias)
        self.value = nn.Linear(width, kv_width, inner_bias)
        self.out = nn.Linear(inner_width, width, outer_bias)
        self.query_norm = _head_norm(variant, self.size)
        self.key_norm = _head_norm(variant, self.size)

    def forward(self, x: Tensor, layer: int, context: AttentionContext) -> Tensor:
        """Return (B, T, W) for x (B, T, W).

        Args:
            x: the chunk.
            layer: which layer of the cache is this block's.
            context: the call.
        """
        q = by_head(self.query(x), self.heads)
        k = by_head(self.key(x), self.kv_heads)
        v = by_head(self.value(x), self.kv_heads)
        q = _normed(self.query_norm, q)
        k = _normed(self.key_norm, k)
        if context.turn is not None:
            q = rotate(q, context.turn)
            k = rotate(k, context.turn)
        if context.cache is not None:
            past_k, past_v = context.cache.write(layer, k, v)
            if not context.causal:
                k = past_k
                v = past_v
        # a cache may keep another precision than this call computes in
        k = k.to(q.dtype)
        v = v.to(q.dtype)
        heads = self._attend(q, k, v, context)
        features = side_by_side(heads)
        return self.out(features)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        context: AttentionContext,
    ) -> Tensor:
        """Return (B, N, T, E)."""
        groups = self.heads // self.kv_heads
        p = self.dropout if self.training else 0.0
        observer = recording.observer(self, "attention")
        if q.shape[2] == 1 and groups > 1 and observer is None:
            # one step: the heads of a group stand where steps stand, so no key is copied
            q = q.unflatten(1, (self.kv_heads, groups))
            q = q.squeeze(3)
            out = weigh(q, k, v, context.allowed, False, p)
            heads = out.flatten(1, 2)
            return heads[:, :, None]
        if groups > 1:
            k = k.repeat_interleave(groups, 1)
            v = v.repeat_interleave(groups, 1)
        return weigh(q, k, v, context.allowed, context.causal, p, observer)


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
        keys = by_head(self.key(memory), self.heads)
        values = by_head(self.value(memory), self.heads)
        if torch.is_grad_enabled():
            return keys, values
        # a search reads them again at every step
        return keys.contiguous(), values.contiguous()

    def forward(self, x: Tensor, layer: int, context: AttentionContext) -> Tensor:
        """Return (B, T, W) for x (B, T, W); ``layer`` is the index of this block's memory."""
        memory = context.memory
        assert memory is not None
        q = by_head(self.query(x), self.heads)
        keys = memory.keys[layer]
        values = memory.values[layer]
        k = keys.to(q.dtype)
        v = values.to(q.dtype)
        allowed = memory.allowed(k.shape[2])
        beams = memory.rows_per_source
        if beams > 1:
            # the rows of a source stand where steps stand, so that no key is copied for them
            q = q.unflatten(0, (-1, beams))
            q = q.transpose(1, 2).flatten(2, 3)
        elif not beams:
            k = memory.gather_rows(k)
            v = memory.gather_rows(v)
            allowed = None if allowed is None else memory.gather_rows(allowed)
        mask = None if allowed is None else allowed[:, None, None]
        if context.attention_weights is not None:
            weights = self._weights(q, k, mask)
            # rows that stood as steps of their source are rows again
            weights = weights.reshape(*x.shape[:2], k.shape[2])
            context.attention_weights.append(weights)
        p = self.dropout if self.training else 0.0
        observer = recording.observer(self, "attention")
        out = weigh(
            q,
            k,
            v,
            mask,
            False,
            p,
            observer,
        )
        if beams > 1:
            out = out.unflatten(2, (beams, -1))
            out = out.transpose(1, 2).flatten(0, 1)
        features = side_by_side(out)
        return self.out(features)

    @staticmethod
    def _weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention weights of each query, the mean over heads."""
        products = q @ k.transpose(2, 3)
        scores = at_least_fp32(products) / q.shape[3] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).mean(1)
