"""Recurrent layers as ONNX has them, and as a loop over steps where it has no such cell.

Shapes: B rows, T steps, D input, H hidden, P output of one direction, L layers, R directions,
G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.export.onnx.graph import Graph, Value
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
ACTIVATIONS = {"rnn_tanh": "Tanh", "rnn_relu": "Relu"}
# the gates that are normalised together; other cells: all
GROUPS = {"gru": (2, 1)}
States = tuple[Value, ...]


def recurrent(
    graph: Graph,
    layer: Recurrent,
    x: Value,
    lengths: Value,
    state: States | None,
) -> tuple[Value, States]:
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

    def __init__(
        self, graph: Graph, layer: Recurrent, x: Value, lengths: Value
    ) -> None:
        self.graph = graph
        self.layer = layer
        self.cell = layer.cell
        self.lengths = lengths.cast(np.int32)
        real = graph.real_steps(x, lengths)
        self.real = real.turned(1, 0).wider(2)  # (T, B, 1)
        not_empty = lengths > 0
        self.not_empty = not_empty.wider(0, 2)  # (1, B, 1)
        changed = layer.layer_norm or layer.zoneout or layer.proj_size
        self.is_known = layer.cell in KINDS and not changed

    def start(self, x: Value) -> States:
        """Return a state of zeros."""
        count = len(self.layer._layer_directions)
        zeros = [
            self.graph.zeros((count,), x.size(0), (size,))
            for size in self.layer.state_sizes()
        ]
        return tuple(zeros)

    def read(
        self,
        x: Value,
        state: States,
    ) -> tuple[Value, States]:
        """Return outputs, batch first, and the state after them."""
        directions = self.layer.directions
        read = self._known if self.is_known else self._looped
        y = x.turned(1, 0, 2)
        after: list[States] = []
        for number in range(self.layer.num_layers):
            first = number * directions
            group = [
                self._direction(index, state)
                for index in range(first, first + directions)
            ]
            out, new = read(y, group)
            y = out + y if number and self.layer.residual else out
            after.append(new)
        if self.layer.last_size:
            # the state keeps one shape: what the last layer does not use is zero
            room = self.layer.hidden_size - self.layer.last_size
            padding = (0, 0, 0, 0, 0, room)
            after[-1] = tuple(part.apply("Pad", padding) for part in after[-1])
        return y.turned(1, 0, 2), self._stacked(after)

    def _stacked(self, states: Sequence[States]) -> States:
        """Return states of several layers or directions as one."""
        parts = zip(*states, strict=True)
        return tuple(self.graph.joined(part, axis=0) for part in parts)

    def _direction(
        self,
        index: int,
        state: States,
    ) -> _Direction:
        direction = self.layer._layer_directions[index]
        size = self.layer._size(direction.layer)
        own: list[Value] = []
        for part in state:
            slot = part.part(index, index + 1, 0)
            if size != self.layer.hidden_size:
                slot = slot.part(0, size, 2)
            own.append(slot)
        weights = self.layer._weights(direction)
        return _Direction(weights, tuple(own), size, direction.backward)

    # ------------------------------------------------------------------ cells that ONNX has

    def _known(
        self,
        x: Value,
        group: list[_Direction],
    ) -> tuple[Value, States]:
        """Return outputs (T, B, H R) of x (T, B, D), and the state (R, B, H)."""
        before = self._stacked([direction.state for direction in group])
        options: dict[str, Any] = {"hidden_size": group[0].size}
        options["direction"] = "bidirectional" if len(group) > 1 else "forward"
        if self.cell == "gru":
            options["linear_before_reset"] = 1  # the reset gate comes after the product
        if self.cell in ACTIVATIONS:
            options["activations"] = [ACTIVATIONS[self.cell]] * len(group)
        weights = self._ordered_weights(group)
        inputs = (x, *weights, self.lengths, *before)
        kind = KINDS[self.cell]
        count = 1 + len(before)
        y, *after = self.graph.split_off(kind, count, *inputs, **options)
        # the directions (T, R, B, H) side by side
        sides = y.turned(0, 2, 1, 3)
        # of a row without steps the state would else be zero
        kept = [
            self.graph.chosen(self.not_empty, new, old)
            for new, old in zip(after, before, strict=True)
        ]
        return sides.reshaped(0, 0, -1), tuple(kept)

    def _ordered_weights(self, group: list[_Direction]) -> list[Value]:
        """Return weights (R, G H, D), (R, G H, H) and biases (R, 2 G H) in ONNX's order."""
        of_input = [self._ordered(direction.weights.ih) for direction in group]
        of_state = [self._ordered(direction.weights.hh) for direction in group]
        biases: list[Tensor] = []
        for direction in group:
            w = direction.weights
            zeros = w.ih.new_zeros(len(w.ih))
            pair = [zeros if bias is None else bias for bias in (w.bias_ih, w.bias_hh)]
            biases.append(torch.cat([self._ordered(bias) for bias in pair]))
        stacks = map(torch.stack, (of_input, of_state, biases))
        return [self.graph.weight(stack) for stack in stacks]

    def _ordered(self, weight: Tensor) -> Tensor:
        """Return a weight (G H, ...) with its gates in the order of ONNX."""
        gates = weight.detach().chunk(self.layer.gates)
        return torch.cat([gates[index] for index in ORDERS[self.cell]])

    # ------------------------------------------------------------------ cells in a loop

    def _looped(
        self,
        x: Value,
        group: list[_Direction],
    ) -> tuple[Value, States]:
        """Return the same of equations that are run step by step."""
        outputs: list[Value] = []
        after: list[States] = []
        for direction in group:
            y, new = self._scanned(x, direction)
            outputs.append(y)
            after.append(new)
        return self.graph.joined(outputs), self._stacked(after)

    def _scanned(
        self,
        x: Value,
        direction: _Direction,
    ) -> tuple[Value, States]:
        w = direction.weights
        product = x.times(w.ih)
        a = self._normalised(product, w.norm_ih, direction.size)
        if w.bias_ih is not None:
            a = a + w.bias_ih
        before = [part.narrower(0) for part in direction.state]
        turn = int(direction.backward)
        *after, y = self.graph.split_off(
            "Scan",
            len(before) + 1,
            *before,
            a,
            self.real,
            body=self._body(direction),
            num_scan_inputs=2,
            scan_input_directions=[turn, turn],
            scan_output_directions=[turn],
        )
        return y, tuple(part.wider(0) for part in after)

    def _body(self, direction: _Direction) -> Any:
        """Return one step: the state, what the input adds to the gates, whether it is real."""
        body = Graph(self.graph.numbers)
        number = next(body.numbers)
        old = [
            body.add_input(f"old_{number}_{index}", np.float32)
            for index in range(len(direction.state))
        ]
        a = body.add_input(f"added_{number}", np.float32)
        real = body.add_input(f"real_{number}", np.bool_)
        new = _STEPS[self.cell](self, a, old, direction)
        kept = self.layer.zoneout
        if kept:
            # the expectation of a state of which some units keep their old values
            pairs = zip(old, new, strict=True)
            new = [before * kept + after * (1 - kept) for before, after in pairs]
        for index, pair in enumerate(zip(new, old, strict=True)):
            carried = body.chosen(real, *pair)
            body.add_output(f"new_{number}_{index}", carried)
        shown = body.chosen(real, new[0], 0.0)
        body.add_output(f"shown_{number}", shown)
        return body.body(f"{self.cell}_step")

    def _from_hidden(
        self,
        h: Value,
        direction: _Direction,
    ) -> Value:
        """Return what the old hidden vector adds to all gates (B, G H)."""
        w = direction.weights
        product = h.times(w.hh)
        b = self._normalised(product, w.norm_hh, direction.size)
        return b if w.bias_hh is None else b + w.bias_hh

    def _normalised(
        self,
        x: Value,
        gain: Tensor | None,
        size: int,
    ) -> Value:
        """Return the inputs of all gates (..., G H), normalised group by group."""
        if gain is None:
            return x
        groups = GROUPS.get(self.cell, (self.layer.gates,))
        sizes = [count * size for count in groups]
        pairs = zip(x.parts(*sizes), gain.split(sizes), strict=True)
        normed = [part.layer_normed(part_gain) for part, part_gain in pairs]
        return x.graph.joined(normed)

    def rnn(
        self,
        a: Value,
        old: list[Value],
        direction: _Direction,
    ) -> list[Value]:
        """Return h of Elman's network."""
        total = a + self._from_hidden(old[0], direction)
        return [total.activated(self.cell.removeprefix("rnn_"))]

    def lstm(
        self,
        a: Value,
        old: list[Value],
        direction: _Direction,
    ) -> list[Value]:
        """Return h and c of an LSTM."""
        w = direction.weights
        h, c = old
        total = a + self._from_hidden(h, direction)
        gates = total.parts(*[direction.size] * 4)
        i, f, o = (gates[index].activated("sigmoid") for index in (0, 1, 3))
        c = f * c + i * gates[2].activated("tanh")
        shown = c
        if w.norm_c is not None:
            shown = c.layer_normed(w.norm_c, w.norm_c_bias)
        h = o * shown.activated("tanh")
        if w.hr is not None:
            h = h.times(w.hr)
        return [h, c]

    def gru(
        self,
        a: Value,
        old: list[Value],
        direction: _Direction,
    ) -> list[Value]:
        """Return h of a GRU."""
        sizes = [direction.size] * 3
        b = self._from_hidden(old[0], direction)
        reset_a, update_a, candidate_a = a.parts(*sizes)
        reset_b, update_b, candidate_b = b.parts(*sizes)
        reset = (reset_a + reset_b).activated("sigmoid")
        update = (update_a + update_b).activated("sigmoid")
        candidate = (candidate_a + reset * candidate_b).activated("tanh")
        return [(1.0 - update) * candidate + update * old[0]]

    def mingru(
        self,
        a: Value,
        old: list[Value],
        direction: _Direction,
    ) -> list[Value]:
        """Return h of a minGRU, whose gates see the input alone."""
        update_a, candidate = a.parts(direction.size, direction.size)
        update = update_a.activated("sigmoid")
        return [(1.0 - update) * old[0] + update * candidate]


_Step = Callable[[_Reader, Value, list[Value], _Direction], list[Value]]
_STEPS: dict[str, _Step] = {
    "rnn_tanh": _Reader.rnn,
    "rnn_relu": _Reader.rnn,
    "lstm": _Reader.lstm,
    "gru": _Reader.gru,
    "mingru": _Reader.mingru,
}
