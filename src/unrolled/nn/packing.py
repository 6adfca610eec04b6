"""Stacks of transformer blocks packed for the native core, and what about them would not be seen.

Shapes: L blocks, W width, N heads and K key-value heads of width E, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from unrolled.nn.attention import CrossAttention, SelfAttention
from unrolled.nn.dropout import Dropout
from unrolled.nn.forms import unlike
from unrolled.nn.transformer import Attention, Block, FeedForward
from unrolled.ops.decoder import FEEDFORWARDS, PackedDecoder, Shape

_NORMS = (nn.LayerNorm, nn.RMSNorm)
# of a block: what stands under each name, and its products
_ROLES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "attention": (SelfAttention, ("query", "key", "value", "out")),
    "cross": (CrossAttention, ("query", "key", "value", "out")),
    "feedforward": (FeedForward, ("up", "out")),
    "dropout": (Dropout, ()),
}
_BLOCK_NORMS = ("attention_norm", "cross_norm", "feedforward_norm")
_HEAD_NORMS = ("query_norm", "key_norm")


def blocks_of(layer: Attention) -> list[Block]:
    """Return the blocks of a stack."""
    return [cast(Block, block) for block in layer.blocks]


def changes_of_stack(layer: Attention) -> Iterator[str]:
    """Yield what makes a stack say something else than its weights do; empty where nothing."""
    yield unlike(layer, Attention)
    yield unlike(layer.dropout, Dropout)
    blocks = blocks_of(layer)
    for block in blocks:
        yield unlike(block, Block)
    for block in blocks:
        yield from _changes_of_block(block)
    norms: list[Any] = []
    for block in blocks:
        norms += [getattr(block, name) for name in _BLOCK_NORMS]
    if blocks[0].norm_first:
        norms.append(layer.norm)
    else:
        yield unlike(layer.norm, nn.Identity)
    norms = [norm for norm in norms if norm is not None]
    for norm in norms:
        yield unlike(norm, *_NORMS)
    if any(norm.weight is None or norm.eps is None for norm in norms):
        yield "a norm without weights or without eps"
    kinds = {(type(norm), norm.eps) for norm in norms}
    if len(kinds) > 1:
        yield "more than one kind of norm, or of its eps"
    sizes = {_sizes(block) for block in blocks}
    if len(sizes) > 1:
        yield "a block that is built in another way than the first"


def _changes_of_block(block: Block) -> Iterator[str]:
    """Yield why parts of a block say something else than their weights do, empty where not."""
    for name, (kind, products) in _ROLES.items():
        part = getattr(block, name)
        if part is None:
            continue
        yield unlike(part, kind)
        for product in products:
            yield unlike(getattr(part, product, part), nn.Linear)
    attention = block.attention
    linears = (attention.query, attention.key, attention.value)
    lacking = {getattr(linear, "bias", None) is None for linear in linears}
    if len(lacking) > 1:
        yield "a bias of some of query, key and value alone"
    for name in _HEAD_NORMS:
        norm = getattr(attention, name)
        if norm is None:
            continue
        yield unlike(norm, nn.RMSNorm)
        if norm.weight is None or norm.eps is None:
            yield "a norm without weights or without eps"


def _sizes(block: Block) -> tuple[object, ...]:
    """Return all that a block of the native core is built by."""
    cross = block.cross
    head_norms = [getattr(block.attention, name) for name in _HEAD_NORMS]
    return (
        block.attention.heads,
        block.attention.kv_heads,
        block.attention.size,
        0 if cross is None else cross.heads,
        block.feedforward.out.in_features,
        block.feedforward.kind,
        block.norm_first,
        *(None if norm is None else norm.eps for norm in head_norms),
    )


def unsupported_by_core(layer: Attention) -> Iterator[str]:
    """Yield what the core has not of an unchanged stack."""
    kind = blocks_of(layer)[0].feedforward.kind
    if kind not in FEEDFORWARDS:
        yield f"the core has no feedforward={kind}"


def pack_stack(
    layer: Attention, head: nn.Linear | None, precision: str
) -> PackedDecoder:
    """Return a stack and its output weights in the native core.

    Args:
        layer: of which ``changes_of_stack`` yields nothing.
        head: what stands above it; None: what the stack says is what a step says.
        precision: of the packed weights.
    """
    first = blocks_of(layer)[0]
    norm = cast(nn.LayerNorm | nn.RMSNorm, first.attention_norm)
    shape = Shape(
        layers=len(layer.blocks),
        width=layer.output_size,
        heads=first.attention.heads,
        kv_heads=layer.kv_heads,
        memory_heads=0 if first.cross is None else first.cross.heads,
        inner=first.feedforward.out.in_features,
        vocabulary=0 if head is None else head.out_features,
        norm="layer" if isinstance(norm, nn.LayerNorm) else "rms",
        feedforward=first.feedforward.kind,
        epsilon=cast(float, norm.eps),
        norm_first=first.norm_first,
        size=layer.head_size,
        window=layer.variant.attention_window,
        head_epsilon=_head_epsilon(first),
    )
    packed = PackedDecoder(shape, precision)
    for index, block in enumerate(layer.blocks):
        for part, weight, bias in _weights(cast(Block, block)):
            packed.load(index, part, weight, bias)
    if not isinstance(layer.norm, nn.Identity):
        last: Any = layer.norm
        packed.load(0, "last_norm", last.weight, getattr(last, "bias", None))
    if head is not None:
        packed.load(0, "head", head.weight, head.bias)
    return packed


def _head_epsilon(block: Block) -> float:
    norm: Any = block.attention.query_norm
    return 0.0 if norm is None else float(norm.eps)


def _weights(block: Block) -> list[tuple[str, Tensor, Tensor | None]]:
    """Return part, weight and bias of all that a block multiplies with."""
    attention = block.attention
    cross = block.cross
    inputs = (attention.query, attention.key, attention.value)
    weight = torch.cat([linear.weight for linear in inputs])
    bias = None
    if attention.query.bias is not None:
        bias = torch.cat([linear.bias for linear in inputs])
    parts: dict[str, Any] = {
        "self_out": attention.out,
        "up": block.feedforward.up,
        "down": block.feedforward.out,
        "self_norm": block.attention_norm,
        "feedforward_norm": block.feedforward_norm,
        "query_norm": attention.query_norm,
        "key_norm": attention.key_norm,
    }
    if cross is not None:
        parts["cross_in"] = cross.query
        parts["cross_out"] = cross.out
        parts["cross_norm"] = block.cross_norm
    weights: list[tuple[str, Tensor, Tensor | None]] = [("self_in", weight, bias)]
    for name, part in parts.items():
        if part is not None:
            weights.append((name, part.weight, getattr(part, "bias", None)))
    return weights
