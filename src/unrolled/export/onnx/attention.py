"""The attention layer in plain operators.

Shapes: B rows, T steps, W width, K key-value heads, N = K G heads, E width of a head.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn

from unrolled.export.onnx.graph import INFINITY, Graph
from unrolled.nn.attention import SelfAttention
from unrolled.nn.transformer import Attention, Block, FeedForward


def attention(graph: Graph, layer: Attention, x: str, lengths: str) -> str:
    """Add a stack of blocks over whole sequences.

    Args:
        graph: where to.
        layer: plain, without a memory, in evaluation mode.
        x: (B, T, D).
        lengths: real steps of each row (B,).

    Returns:
        the outputs (B, T, W), zero at padding.
    """
    real = graph.real_steps(x, lengths)
    positions = graph.positions(x)
    y = graph.zero_padding(x, real)
    if isinstance(layer.project, nn.Linear):
        y = graph.linear(y, layer.project)
    y = _placed(graph, layer, y, positions)
    stack = _Stack(graph, layer, positions, lengths)
    for module in layer.blocks:
        y = stack.block(y, cast(Block, module))
    return graph.zero_padding(graph.norm(y, layer.norm), real)


def _placed(graph: Graph, layer: Attention, y: str, positions: str) -> str:
    """Return y (B, T, W) with the vectors of positions added, where there are some."""
    if layer.position_table is not None:
        table = graph.weight(layer.position_table.weight)
        return graph.apply("Add", y, graph.apply("Gather", table, positions))
    if layer.positions != "sinusoidal":
        return y
    width = layer.output_size
    sines = graph.apply(
        "Unsqueeze", _angles(graph, positions, width, 10000.0), graph.ints(2)
    )
    both = [graph.apply(kind, sines) for kind in ("Sin", "Cos")]
    pairs = graph.reshape(graph.joined(*both), 0, -1)
    return graph.apply("Add", y, graph.part(pairs, 0, width, 1))


def _angles(graph: Graph, positions: str, width: int, base: float) -> str:
    """Return the angle of every pair of features at every position (T, E/2)."""
    even = torch.arange(0, width, 2, device="cpu", dtype=torch.float32)
    # the numbers that positions.py works out
    speeds = base ** (-even / width)
    steps = graph.apply("Cast", positions, to=1)  # fp32
    column = graph.apply("Unsqueeze", steps, graph.ints(1))
    return graph.apply("Mul", column, graph.constant(speeds.numpy()))


class _Stack:
    """What all blocks of a layer share: rotations, and where a step may look."""

    def __init__(
        self, graph: Graph, layer: Attention, positions: str, lengths: str
    ) -> None:
        self.graph = graph
        self.layer = layer
        self.turn: tuple[str, str] | None = None
        if layer.positions == "rotary":
            base = layer.variant.rotary_base
            angles = _angles(graph, positions, layer.head_size, base)
            self.turn = graph.apply("Cos", angles), graph.apply("Sin", angles)
        self.allowed = self._allowed(positions, lengths)

    def _allowed(self, positions: str, lengths: str) -> str:
        """Return where a step may look, bool, broadcast to (B, K, G, T, T)."""
        graph = self.graph
        query = graph.apply("Unsqueeze", positions, graph.ints(1))
        key = graph.apply("Unsqueeze", positions, graph.ints(0))
        distance = graph.apply("Sub", query, key)
        window = self.layer.variant.attention_window
        if self.layer.causal:
            # padding stands at the right, out of sight
            zero = graph.constant(0, np.int64)
            allowed = graph.apply("GreaterOrEqual", distance, zero)
            if window is None:
                return allowed
            return graph.apply("And", allowed, self._near(distance, window))
        one = graph.constant(1, np.int64)
        # a row without steps looks at its first: a softmax needs something
        some = graph.apply("Unsqueeze", graph.apply("Max", lengths, one), graph.ints(1))
        real = graph.apply("Less", key, some)
        real = graph.apply("Unsqueeze", real, graph.ints(1, 2, 3))
        if window is None:
            return real
        near = self._near(graph.apply("Abs", distance), window)
        itself = graph.apply("Equal", distance, graph.constant(0, np.int64))
        return graph.apply("Or", graph.apply("And", real, near), itself)

    def _near(self, distance: str, window: int) -> str:
        return self.graph.apply("Less", distance, self.graph.constant(window, np.int64))

    def block(self, x: str, block: Block) -> str:
        """Return (B, T, W) for x (B, T, W)."""
        graph = self.graph
        for norm, part in (
            (block.attention_norm, block.attention),
            (block.feedforward_norm, block.feedforward),
        ):
            read = graph.norm(x, norm) if block.norm_first else x
            if isinstance(part, SelfAttention):
                said = self._attend(read, part)
            else:
                said = self._feedforward(read, part)
            x = graph.apply("Add", x, said)
            x = x if block.norm_first else graph.norm(x, norm)
        return x

    def _attend(self, x: str, part: SelfAttention) -> str:
        graph = self.graph
        groups = part.heads // part.kv_heads
        q = self._heads(graph.linear(x, part.query), part, groups, part.query_norm)
        k = self._heads(graph.linear(x, part.key), part, 1, part.key_norm)
        v = self._by_head(graph.linear(x, part.value), part, 1)
        turned = graph.apply("Transpose", k, perm=[0, 1, 2, 4, 3])
        scaled = graph.apply("Mul", q, graph.constant(part.size**-0.5))
        scores = graph.apply("MatMul", scaled, turned)
        masked = graph.apply("Where", self.allowed, scores, graph.constant(INFINITY))
        weights = graph.apply("Softmax", masked, axis=-1)
        heads = graph.apply("MatMul", weights, v)
        steps = graph.apply("Transpose", heads, perm=[0, 3, 1, 2, 4])
        features = graph.reshape(steps, 0, 0, part.heads * part.size)
        return graph.linear(features, part.out)

    def _by_head(self, x: str, part: SelfAttention, groups: int) -> str:
        """Return features (B, T, K G E) by heads (B, K, G, T, E)."""
        heads = self.graph.reshape(x, 0, 0, part.kv_heads, groups, part.size)
        return self.graph.apply("Transpose", heads, perm=[0, 2, 3, 1, 4])

    def _heads(
        self, x: str, part: SelfAttention, groups: int, norm: nn.Module | None
    ) -> str:
        """Return queries or keys by heads, normalised and turned."""
        graph = self.graph
        heads = self._by_head(x, part, groups)
        if norm is not None:
            heads = graph.norm(heads, norm)
        if self.turn is None:
            return heads
        half = part.size // 2
        first, second = graph.parts(heads, [half, half])
        cosines, sines = self.turn
        left = graph.apply(
            "Sub", self._times(first, cosines), self._times(second, sines)
        )
        right = graph.apply(
            "Add", self._times(second, cosines), self._times(first, sines)
        )
        return graph.joined(left, right)

    def _times(self, x: str, factor: str) -> str:
        return self.graph.apply("Mul", x, factor)

    def _feedforward(self, x: str, part: FeedForward) -> str:
        graph = self.graph
        up = graph.linear(x, part.up)
        if not part.gated:
            return graph.linear(graph.activation(up, part.kind), part.out)
        size = part.out.in_features
        gate, value = graph.parts(up, [size, size])
        inner = graph.apply("Mul", graph.activation(gate, "silu"), value)
        return graph.linear(inner, part.out)
