"""The attention layer in plain operators.

Shapes: B rows, T steps, W width, K key-value heads, N = K G heads, E width of a head.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import nn

from unrolled.export.onnx.graph import INFINITY, Graph, Value
from unrolled.nn.attention import SelfAttention
from unrolled.nn.positions import RotaryFrequencies
from unrolled.nn.transformer import Attention, Block, FeedForward


def attention(
    graph: Graph,
    layer: Attention,
    x: Value,
    lengths: Value,
) -> Value:
    """Add a stack of blocks over whole sequences.

    Args:
        graph: where to.
        layer: plain, without a memory, in evaluation mode.
        x: (B, T, D).
        lengths: real steps of each row (B,).

    Returns:
        the outputs (B, T, W), zero at padding.
    """
    positions = graph.positions(x)
    y = graph.zero_padding(x, lengths)
    if isinstance(layer.project, nn.Linear):
        y = y.linear(layer.project)
    y = _placed(graph, layer, y, positions)
    stack = _Stack(graph, layer, positions, lengths)
    for module in layer.blocks:
        y = stack.block(y, cast(Block, module))
    return graph.zero_padding(y.normed(layer.norm), lengths)


def _placed(
    graph: Graph,
    layer: Attention,
    y: Value,
    positions: Value,
) -> Value:
    """Return y (B, T, W) with the vectors of positions added, where there are some."""
    table = layer.position_table
    if table is not None:
        vectors = graph.weight(table.weight)
        return y + vectors.apply("Gather", positions)
    if layer.positions != "sinusoidal":
        return y
    width = layer.output_size
    angles = _angles(positions, RotaryFrequencies(width))
    column = angles.wider(2)
    pairs = graph.joined([column.apply("Sin"), column.apply("Cos")])
    flat = pairs.reshaped(0, -1)
    return y + flat.part(0, width, 1)


def _angles(positions: Value, frequencies: RotaryFrequencies) -> Value:
    """Return the angle of every pair of features at every position (T, E/2)."""
    column = positions.cast(np.float32).wider(1)
    return column * frequencies.inverse("cpu")


class _Stack:
    """What all blocks of a layer share: rotations, and where a step may look."""

    def __init__(
        self, graph: Graph, layer: Attention, positions: Value, lengths: Value
    ) -> None:
        self.graph = graph
        self.window = layer.variant.attention_window
        self.turn: tuple[Value, Value] | None = None
        if layer.positions == "rotary":
            angles = _angles(positions, layer.rotary)
            cosines = angles.apply("Cos")
            sines = angles.apply("Sin")
            gain = layer.rotary.attention_factor
            self.turn = (cosines, sines)
            if gain != 1:
                self.turn = (cosines * gain, sines * gain)
        keys = positions.wider(0)
        distance = positions.wider(1) - keys
        if layer.causal:
            self.allowed = self._behind(distance)
        else:
            self.allowed = self._both_ways(distance, keys, lengths)

    def _behind(self, distance: Value) -> Value:
        """Return where a step may look that sees no later one, bool (T, T)."""
        # padding stands at the right, out of sight
        behind = distance >= 0
        if self.window is None:
            return behind
        return behind & (distance < self.window)

    def _both_ways(
        self,
        distance: Value,
        keys: Value,
        lengths: Value,
    ) -> Value:
        """Return where a step may look that sees all, bool, broadcast to (B, K, G, T, T)."""
        # a row without steps looks at its first: a softmax needs something
        some = lengths.apply("Max", 1)
        real = keys < some.wider(1)
        real = real.wider(1, 2, 3)
        if self.window is None:
            return real
        near = distance.apply("Abs") < self.window
        # padding sees itself, where nothing else is near
        return real & near | distance.apply("Equal", 0)

    def block(
        self,
        x: Value,
        block: Block,
    ) -> Value:
        """Return (B, T, W) for x (B, T, W)."""
        read = x.normed(block.attention_norm) if block.norm_first else x
        x = x + self._attend(read, block.attention)
        if not block.norm_first:
            x = x.normed(block.attention_norm)
        read = x.normed(block.feedforward_norm) if block.norm_first else x
        x = x + _feedforward(read, block.feedforward)
        return x if block.norm_first else x.normed(block.feedforward_norm)

    def _attend(
        self,
        x: Value,
        part: SelfAttention,
    ) -> Value:
        groups = part.heads // part.kv_heads
        q = _by_head(x.linear(part.query), part, groups)
        k = _by_head(x.linear(part.key), part, 1)
        v = _by_head(x.linear(part.value), part, 1)
        q = self._rotated(q, part, part.query_norm) * part.size**-0.5
        k = self._rotated(k, part, part.key_norm)
        scores = q @ k.turned(0, 1, 2, 4, 3)
        masked = self.graph.chosen(self.allowed, scores, INFINITY)
        weights = masked.apply("Softmax", axis=-1)
        heads = weights @ v
        steps = heads.turned(0, 3, 1, 2, 4)
        features = steps.reshaped(0, 0, part.heads * part.size)
        return features.linear(part.out)

    def _rotated(
        self, heads: Value, part: SelfAttention, norm: nn.Module | None
    ) -> Value:
        """Return queries or keys (B, K, G, T, E) normalised and turned."""
        if norm is not None:
            heads = heads.normed(norm)
        if self.turn is None:
            return heads
        half = part.size // 2
        first, second = heads.parts(half, half)
        cosines, sines = self.turn
        left = first * cosines - second * sines
        right = second * cosines + first * sines
        return self.graph.joined([left, right])


def _by_head(
    x: Value,
    part: SelfAttention,
    groups: int,
) -> Value:
    """Return features (B, T, K G E) by heads (B, K, G, T, E)."""
    heads = x.reshaped(0, 0, part.kv_heads, groups, part.size)
    return heads.turned(0, 2, 3, 1, 4)


def _feedforward(x: Value, part: FeedForward) -> Value:
    up = x.linear(part.up)
    if not part.gated:
        return up.activated(part.kind).linear(part.out)
    size = part.out.in_features
    gate, value = up.parts(size, size)
    inner = gate.activated("silu") * value
    return inner.linear(part.out)
