"""Recurrent layers as ONNX has them, and as a loop over steps where it has no such cell.

Shapes: B rows, T steps, D input, H hidden, P output of one direction, L layers, R directions,
G gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.export.onnx.graph import Graph
from unrolled.nn.recurrent import Recurrent
from unrolled.ops.reference import Weights

# gates in torch's order, in the order of ONNX
ORDERS = {
    "rnn_tanh": (0,),
    "rnn_relu": (0,),
    "gru": (1, 0, 2),  # update, reset, candidate
    "lstm": (0, 3, 1, 2),  # input, output, forget, candidate
}
KINDS = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "lstm": "LSTM"}
# the gates that are normalised together; other cells: all
GROUPS = {"gru": (2, 1)}
States = tuple[str, ...]


def recurrent(
    graph: Graph,
    layer: Recurrent,
    x: str,
    lengths: str,
    state: States | None,
) -> tuple[str, States]:
    """Add a recurrent layer.

    Args:
        graph: where to.
        layer: plain, in evaluation mode.
        x: (B, T, D).
        lengths: real steps of each row (B,).
        state: h (L R, B, P), and c (L R, B, H) of an LSTM; None is zeros.

    Returns:
        the outputs (B, T, P R), zero at padding, and the state after each row's last step.
    """
    reader = _Reader(graph, layer, x, lengths)
    return reader.read(x, reader.start(x) if state is None else state)


@dataclass(frozen=True, slots=True)
class _Direction:
    """Weights of one layer in one direction, and the part of the state that is its own."""

    weights: Weights
    state: States
    size: int
    backward: bool


class _Reader:
    """Adds a layer to a graph, stacked layer by stacked layer, time first as ONNX has it."""

    def __init__(self, graph: Graph, layer: Recurrent, x: str, lengths: str) -> None:
        self.graph = graph
        self.layer = layer
        self.cell = layer.cell
        self.lengths = graph.apply("Cast", lengths, to=6)  # int32
        real = graph.apply("Transpose", graph.real_steps(x, lengths), perm=[1, 0])
        self.real = graph.apply("Unsqueeze", real, graph.ints(2))  # (T, B, 1)
        rows = graph.apply("Greater", lengths, graph.constant(0, np.int64))
        self.read_any = graph.apply("Unsqueeze", rows, graph.ints(0, 2))  # (1, B, 1)
        self.is_known = (
            layer.cell in KINDS
            and not layer.layer_norm
            and not layer.zoneout
            and not layer.proj_size
        )

    def start(self, x: str) -> States:
        """Return a state of zeros."""
        count = self.graph.ints(self.layer.num_layers * self.layer.directions)
        rows = self.graph.size(x, 0)
        sizes = map(self.graph.ints, self.layer.state_sizes())
        return tuple(self.graph.zeros(count, rows, size) for size in sizes)

    def read(self, x: str, state: States) -> tuple[str, States]:
        """Return outputs, batch first, and the state after them."""
        graph = self.graph
        directions = self.layer.directions
        y = graph.apply("Transpose", x, perm=[1, 0, 2])
        after: list[States] = []
        for number in range(self.layer.num_layers):
            group = [
                self._direction(number * directions + index, state)
                for index in range(directions)
            ]
            read = self._known if self.is_known else self._looped
            below = y
            y, new = read(y, group)
            if number and self.layer.residual:
                y = graph.apply("Add", y, below)
            after.append(new)
        if self.layer.last_size:
            after[-1] = tuple(self._widened(part) for part in after[-1])
        y = graph.apply("Transpose", y, perm=[1, 0, 2])
        parts = zip(*after, strict=True)
        return y, tuple(graph.joined(*part, axis=0) for part in parts)

    def _direction(self, index: int, state: States) -> _Direction:
        direction = self.layer._layer_directions[index]
        size = self.layer._size(direction.layer)
        own: list[str] = []
        for part in state:
            slot = self.graph.part(part, index, index + 1, 0)
            if size != self.layer.hidden_size:
                slot = self.graph.part(slot, 0, size, 2)
            own.append(slot)
        weights = self.layer._weights(direction)
        return _Direction(weights, tuple(own), size, direction.backward)

    def _widened(self, part: str) -> str:
        """Return the state (R, B, H) of a narrower last layer filled up with zeros."""
        room = self.layer.hidden_size - self.layer.last_size
        return self.graph.apply("Pad", part, self.graph.ints(0, 0, 0, 0, 0, room))

    # ------------------------------------------------------------------ cells that ONNX has

    def _known(self, x: str, group: list[_Direction]) -> tuple[str, States]:
        """Return outputs (T, B, H R) of x (T, B, D), and the state (R, B, H)."""
        graph = self.graph
        before = tuple(
            graph.joined(*parts, axis=0)
            for parts in zip(*(d.state for d in group), strict=True)
        )
        options: dict[str, Any] = {"hidden_size": group[0].size}
        options["direction"] = "bidirectional" if len(group) > 1 else "forward"
        if self.cell == "gru":
            options["linear_before_reset"] = 1  # the reset gate comes after the product
        if KINDS[self.cell] == "RNN":
            name = "Relu" if self.cell == "rnn_relu" else "Tanh"
            options["activations"] = [name] * len(group)
        weights = self._stacked(group)
        y, *after = graph.split_off(
            KINDS[self.cell],
            1 + len(before),
            x,
            *weights,
            self.lengths,
            *before,
            **options,
        )
        # the directions (T, R, B, H) side by side
        turned = graph.apply("Transpose", y, perm=[0, 2, 1, 3])
        y = graph.reshape(turned, 0, 0, -1)
        kept = zip(after, before, strict=True)
        return y, tuple(
            graph.apply("Where", self.read_any, new, old) for new, old in kept
        )

    def _stacked(self, group: list[_Direction]) -> list[str]:
        """Return weights (R, G H, D), (R, G H, H) and biases (R, 2 G H) in ONNX's order."""
        of_input = torch.stack([self._ordered(d.weights.ih) for d in group])
        of_state = torch.stack([self._ordered(d.weights.hh) for d in group])
        biases: list[Tensor] = []
        for direction in group:
            w = direction.weights
            pair = [w.bias_ih, w.bias_hh]
            zeros = w.ih.new_zeros(len(w.ih))
            kept = [zeros if bias is None else self._ordered(bias) for bias in pair]
            biases.append(torch.cat(kept))
        tensors = (of_input, of_state, torch.stack(biases))
        return [
            self.graph.constant(tensor.detach().float().numpy()) for tensor in tensors
        ]

    def _ordered(self, weight: Tensor) -> Tensor:
        """Return a weight (G H, ...) with its gates in the order of ONNX."""
        gates = weight.detach().chunk(self.layer.gates)
        return torch.cat([gates[index] for index in ORDERS[self.cell]])

    # ------------------------------------------------------------------ cells in a loop

    def _looped(self, x: str, group: list[_Direction]) -> tuple[str, States]:
        """Return the same of equations that are run step by step."""
        outputs: list[str] = []
        after: list[States] = []
        for direction in group:
            y, new = self._scan(x, direction)
            outputs.append(y)
            after.append(new)
        joined = self.graph.joined(*outputs) if len(outputs) > 1 else outputs[0]
        parts = zip(*after, strict=True)
        return joined, tuple(self.graph.joined(*part, axis=0) for part in parts)

    def _scan(self, x: str, direction: _Direction) -> tuple[str, States]:
        graph = self.graph
        w = direction.weights
        product = graph.product(x, graph.weight(w.ih), None)
        a = self._normalised(graph, product, w.norm_ih, direction.size)
        if w.bias_ih is not None:
            a = graph.apply("Add", a, graph.weight(w.bias_ih))
        before = [
            graph.apply("Squeeze", part, graph.ints(0)) for part in direction.state
        ]
        body = self._body(direction)
        turn = int(direction.backward)
        *after, y = graph.split_off(
            "Scan",
            len(before) + 1,
            *before,
            a,
            self.real,
            body=body,
            num_scan_inputs=2,
            scan_input_directions=[turn, turn],
            scan_output_directions=[turn],
        )
        kept = tuple(graph.apply("Unsqueeze", part, graph.ints(0)) for part in after)
        return y, kept

    def _body(self, direction: _Direction) -> Any:
        """Return one step: the state, what the input adds to the gates, whether it is real."""
        body = Graph(self.graph.numbers)
        number = next(body.numbers)
        old = [
            body.add_input(f"old_{number}_{index}", np.float32, None)
            for index in range(len(direction.state))
        ]
        a = body.add_input(f"added_{number}", np.float32, None)
        real = body.add_input(f"real_{number}", np.bool_, None)
        step = _STEPS[self.cell](self, body, a, old, direction)
        new = [self._zoned_out(body, *pair) for pair in zip(old, step, strict=True)]
        for index, pair in enumerate(zip(new, old, strict=True)):
            carried = body.apply("Where", real, *pair)
            body.add_output(f"new_{number}_{index}", carried, None)
        shown = body.apply("Where", real, new[0], body.constant(0.0))
        body.add_output(f"shown_{number}", shown, None)
        return body.body(f"{self.cell}_step")

    def _zoned_out(self, body: Graph, old: str, new: str) -> str:
        """Return the expectation of a state of which some units keep their old values."""
        share = self.layer.zoneout
        if not share:
            return new
        kept = body.apply("Mul", old, body.constant(share))
        taken = body.apply("Mul", new, body.constant(1 - share))
        return body.apply("Add", kept, taken)

    def _from_hidden(self, body: Graph, h: str, direction: _Direction) -> str:
        """Return what the old hidden vector adds to all gates (B, G H)."""
        w = direction.weights
        product = body.product(h, body.weight(w.hh), None)
        b = self._normalised(body, product, w.norm_hh, direction.size)
        return b if w.bias_hh is None else body.apply("Add", b, body.weight(w.bias_hh))

    def _normalised(self, graph: Graph, x: str, gain: Tensor | None, size: int) -> str:
        """Return the inputs of all gates (..., G H), normalised group by group."""
        if gain is None:
            return x
        groups = GROUPS.get(self.cell, (self.layer.gates,))
        sizes = [count * size for count in groups]
        parts = zip(graph.parts(x, sizes), gain.split(sizes), strict=True)
        normed = [graph.layer_norm(part, part_gain, None) for part, part_gain in parts]
        return graph.joined(*normed) if len(normed) > 1 else normed[0]

    def rnn(
        self, body: Graph, a: str, old: list[str], direction: _Direction
    ) -> list[str]:
        """Return h of Elman's network."""
        total = body.apply("Add", a, self._from_hidden(body, old[0], direction))
        return [body.activation(total, self.cell.removeprefix("rnn_"))]

    def lstm(
        self, body: Graph, a: str, old: list[str], direction: _Direction
    ) -> list[str]:
        """Return h and c of an LSTM."""
        w = direction.weights
        total = body.apply("Add", a, self._from_hidden(body, old[0], direction))
        i, f, g, o = body.parts(total, [direction.size] * 4)
        kept = body.apply("Mul", body.activation(f, "sigmoid"), old[1])
        candidate = body.activation(g, "tanh")
        added = body.apply("Mul", body.activation(i, "sigmoid"), candidate)
        c = body.apply("Add", kept, added)
        shown = c if w.norm_c is None else body.layer_norm(c, w.norm_c, w.norm_c_bias)
        h = body.apply(
            "Mul", body.activation(o, "sigmoid"), body.activation(shown, "tanh")
        )
        if w.hr is not None:
            h = body.product(h, body.weight(w.hr), None)
        return [h, c]

    def gru(
        self, body: Graph, a: str, old: list[str], direction: _Direction
    ) -> list[str]:
        """Return h of a GRU."""
        sizes = [direction.size] * 3
        of_input = body.parts(a, sizes)
        of_state = body.parts(self._from_hidden(body, old[0], direction), sizes)
        reset = body.activation(body.apply("Add", of_input[0], of_state[0]), "sigmoid")
        update = body.activation(body.apply("Add", of_input[1], of_state[1]), "sigmoid")
        part = body.apply("Mul", reset, of_state[2])
        candidate = body.activation(body.apply("Add", of_input[2], part), "tanh")
        return [_between(body, candidate, old[0], update)]

    def mingru(
        self, body: Graph, a: str, old: list[str], direction: _Direction
    ) -> list[str]:
        """Return h of a minGRU, whose gates see the input alone."""
        update_input, candidate = body.parts(a, [direction.size] * 2)
        update = body.activation(update_input, "sigmoid")
        return [_between(body, old[0], candidate, update)]


def _between(body: Graph, first: str, second: str, share: str) -> str:
    """Return (1 - share) first + share second."""
    rest = body.apply("Sub", body.constant(1.0), share)
    left = body.apply("Mul", rest, first)
    return body.apply("Add", left, body.apply("Mul", share, second))


_Step = Callable[[_Reader, Graph, str, list[str], _Direction], list[str]]
_STEPS: dict[str, _Step] = {
    "rnn_tanh": _Reader.rnn,
    "rnn_relu": _Reader.rnn,
    "lstm": _Reader.lstm,
    "gru": _Reader.gru,
    "mingru": _Reader.mingru,
}
