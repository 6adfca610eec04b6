"""RNN, LSTM and GRU: torch.nn's modules with ragged batches, a step form and more ways to drop.

Shapes: B rows, T steps, D input, H hidden, P output of one direction (H, or proj_size), L layers,
R directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from unrolled.nn.calling import call_like_torch
from unrolled.nn.dropout import LockedDropout, check_probability, locked_mask
from unrolled.nn.layer import Layer, checked
from unrolled.nn.state import RecurrentState, State
from unrolled.ops import recurrent as ops
from unrolled.ops.reference import Extras, Weights

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
_NORMS = ("norm_ih", "norm_hh", "norm_c", "norm_c_bias")


class Recurrent(Layer):
    """What RNN, LSTM and GRU share. The arguments are torch.nn's, then what torch lacks.

    Args:
        input_size: D.
        hidden_size: H.
        num_layers: L, each reading the outputs of the one below.
        bias: whether the gates have biases (two each, as in torch).
        batch_first: the layout that ``forward`` takes; ``unroll`` is always batch first.
        dropout: on the outputs of every layer but the last, drawn anew at every step.
        bidirectional: read each row both ways; outputs are set side by side.
        proj_size: LSTM only: project the hidden vector to this size (Sak et al. 2014); 0 does not.
        device: where the weights are.
        dtype: their precision.
        layer_norm: normalise the gates' inputs (Ba et al. 2016, eq. 20-28).
        zoneout: probability that a unit keeps its old value (Krueger et al. 2017).
        input_dropout: variational (Gal and Ghahramani 2016): on the inputs, one mask a sequence.
        recurrent_dropout: variational, on the hidden vector on its way to the next step.
        output_dropout: variational, on the outputs.
        weight_drop: DropConnect on the recurrent weights, drawn for each call (Merity et al. 2018).
        between_dropout: variational, on what every layer but the last says, instead of ``dropout``.
        residual: every layer but the first adds what it reads to what it says (Wu et al. 2016,
            eq. 6); the layers have one width then.
        orthogonal: draw the recurrent weights orthogonal (Saxe et al. 2014), not uniform.
        last_size: H of the last layer, at most that of the others; 0 is the same. The state keeps
            one shape: what the last layer does not use is zero.

    Raises:
        ValueError: a size below 1, or a probability outside [0, 1].
    """

    cell: ClassVar[str]
    gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        output_dropout: float = 0.0,
        weight_drop: float = 0.0,
        between_dropout: float = 0.0,
        residual: bool = False,
        orthogonal: bool = False,
        last_size: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(input_size, hidden_size, num_layers, proj_size)
        if last_size and (bidirectional or proj_size or residual or last_size > hidden_size):
            raise ValueError(
                f"expected last_size up to hidden_size {hidden_size}, without bidirectional, "
                f"proj_size and residual, got {last_size}; unset one of them"
            )
        check_probability("dropout", dropout)
        check_probability("zoneout", zoneout)
        check_probability("recurrent_dropout", recurrent_dropout)
        check_probability("weight_drop", weight_drop)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self.layer_norm, self.zoneout = layer_norm, float(zoneout)
        self.residual, self.orthogonal = residual, orthogonal
        self.recurrent_dropout, self.weight_drop = float(recurrent_dropout), float(weight_drop)
        self.input_dropout, self.output_dropout = (
            LockedDropout(input_dropout),
            LockedDropout(output_dropout),
        )
        self.between_dropout, self.last_size = LockedDropout(between_dropout), last_size
        self.directions = 2 if bidirectional else 1
        self.output_size = (last_size or proj_size or hidden_size) * self.directions
        self.causal = not bidirectional
        self.reverse_size = self.output_size // 2 if bidirectional else 0
        self._make_weights(device, dtype)
        self.reset_parameters()

    def _make_weights(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Register the weights under torch.nn's names, in torch.nn's order."""
        for layer, suffix in self._places():
            wide, out = self.gates * self._size(layer), self.proj_size or self._size(layer)
            below = (self.proj_size or self.hidden_size) * self.directions
            width = self.input_size if layer == 0 else below
            shapes: dict[str, tuple[int, ...]]
            shapes = {"weight_ih": (wide, width), "weight_hh": (wide, out)}
            if self.bias:
                shapes |= {"bias_ih": (wide,), "bias_hh": (wide,)}
            if self.proj_size:
                shapes |= {"weight_hr": (out, self.hidden_size)}
            if self.layer_norm:
                shapes |= {"norm_ih": (wide,), "norm_hh": (wide,)}
                if self.cell == "lstm":
                    shapes |= dict.fromkeys(("norm_c", "norm_c_bias"), (self._size(layer),))
            for name, shape in shapes.items():
                empty = torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(f"{name}{suffix}", nn.Parameter(empty))

    def _size(self, layer: int) -> int:
        """Return H of a layer."""
        last = layer + 1 == self.num_layers
        return self.last_size if last and self.last_size else self.hidden_size

    def _places(self) -> Iterator[tuple[int, str]]:
        """Yield every layer with the suffix of its weights' names, forward before backward."""
        for layer in range(self.num_layers):
            for direction in range(self.directions):
                yield layer, f"_l{layer}" + ("_reverse" if direction else "")

    def reset_parameters(self) -> None:
        """Draw the weights as torch.nn does: uniform within 1/sqrt(H). Gains are 1.

        With ``orthogonal`` the recurrent matrix of every gate is drawn orthogonal and halved, so
        that no direction dies or explodes at first; biases are 0, that of an LSTM's forget gate 1.
        """
        bound = 1 / math.sqrt(self.hidden_size)
        for name, weight in self.named_parameters():
            if name.startswith("norm_c_bias"):
                nn.init.zeros_(weight)
            elif name.startswith("norm"):
                nn.init.ones_(weight)
            else:
                nn.init.uniform_(weight, -bound, bound)
        if self.orthogonal:
            self._make_orthogonal()

    @torch.no_grad()
    def _make_orthogonal(self) -> None:
        for _, suffix in self._places():
            for gate in getattr(self, f"weight_hh{suffix}").chunk(self.gates):
                nn.init.orthogonal_(gate, gain=0.5)
            for name in ("bias_ih", "bias_hh") if self.bias else ():
                getattr(self, name + suffix).zero_()
            if self.bias and self.cell == "lstm":
                getattr(self, f"bias_ih{suffix}").chunk(4)[1].fill_(1)

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The weights of each layer and direction, as torch.nn lists them."""
        kinds = (*_WEIGHTS, *_NORMS)
        found = [[getattr(self, k + s, None) for k in kinds] for _, s in self._places()]
        return [[weight for weight in place if weight is not None] for place in found]

    def flatten_parameters(self) -> None:
        """Do nothing; torch.nn's method of this name, kept so that callers need not change."""

    def _weights(self, suffix: str) -> Weights:
        """Return the weights of one layer and direction, some recurrent ones dropped."""
        found: list[Any]
        found = [getattr(self, name + suffix, None) for name in (*_WEIGHTS, *_NORMS)]
        ih, hh, bias_ih, bias_hh, *rest = found
        if self.training and self.weight_drop:
            hh = F.dropout(hh, self.weight_drop, training=True)
        return Weights(ih, hh, bias_ih, bias_hh, *rest)

    def _extras(self, x: Tensor, layer: int) -> Extras:
        mask = None
        if self.training and self.recurrent_dropout:
            mask = locked_mask(x, self.proj_size or self._size(layer), self.recurrent_dropout)
        return Extras(self.zoneout, mask, self.training)

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RecurrentState:
        weight = next(self.parameters())
        places = self.num_layers * self.directions

        def zeros(size: int) -> Tensor:
            where, kind = device or weight.device, dtype or weight.dtype
            return torch.zeros(places, batch, size, device=where, dtype=kind)

        h = zeros(self.proj_size or self.hidden_size)
        return RecurrentState(h, zeros(self.hidden_size) if self.cell == "lstm" else None)

    def _run(
        self, x: Tensor, state: State | None, lengths: Tensor | None, final: bool
    ) -> tuple[Tensor, RecurrentState]:
        self._check(x, lengths, state)
        parts = self._parts(state if state is not None else self.initial_state(x.shape[0]))
        lengths = None if lengths is None else lengths.to(x.device)
        y, after, outputs = self.input_dropout(x), [], []
        below = y
        for place, (layer, suffix) in enumerate(self._places()):
            backward = place % self.directions == 1
            if not backward:
                below = y
                y = F.dropout(y, self.dropout, self.training) if layer and self.dropout else y
                y = self.between_dropout(y) if layer else y
            before = self._narrowed(parts, place, layer)
            w, extras = self._weights(suffix), self._extras(y, layer)
            out, new = ops.unroll(self.cell, y, before, w, lengths, backward, extras, final)
            outputs.append(out)
            after.append(new)
            if len(outputs) == self.directions:
                y, outputs = torch.cat(outputs, 2) if backward else out, []
                y = y + below if layer and self.residual else y
        return self.output_dropout(y), self._stacked(after)

    def _narrowed(self, parts: tuple[Tensor, ...], place: int, layer: int) -> tuple[Tensor, ...]:
        """Return the state of one layer and direction, of the width it uses."""
        if self._size(layer) == self.hidden_size:
            return tuple(part[place] for part in parts)
        return tuple(part[place, :, : self.last_size] for part in parts)

    def _stacked(self, after: list[tuple[Tensor, ...]]) -> RecurrentState:
        """Return the states of all layers as one, a narrower last one filled up with zeros."""
        if self.last_size:
            room = self.hidden_size - self.last_size
            after[-1] = tuple(F.pad(part, (0, room)) for part in after[-1])
        return RecurrentState(*(torch.stack(part) for part in zip(*after, strict=True)))

    def _parts(self, state: State) -> tuple[Tensor, ...]:
        """Return h, and c of an LSTM, or refuse a state that is not this layer's."""
        checked(state, RecurrentState, type(self).__name__)
        assert isinstance(state, RecurrentState)
        parts = (state.h,) if state.c is None else (state.h, state.c)
        places = self.num_layers * self.directions
        sizes = [self.proj_size or self.hidden_size, self.hidden_size][: 1 + (self.cell == "lstm")]
        expected = [(places, state.rows, size) for size in sizes]
        got = [tuple(part.shape) for part in parts]
        if got != expected:
            raise ValueError(
                f"expected a state of shapes {expected} (layers x directions, batch, size), got "
                f"{got}; start from initial_state"
            )
        return parts

    def unroll(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, RecurrentState]:
        return self._run(x, state, lengths, final=True)

    def read(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._run(x, None, lengths, final=False)[0]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, RecurrentState]:
        self._check_step(x, state)
        parts = self._parts(state)
        y, after = self.input_dropout(x[:, None])[:, 0], []
        for layer, suffix in self._places():
            below = y
            if layer and self.dropout:
                y = F.dropout(y, self.dropout, self.training)
            y = self.between_dropout(y[:, None])[:, 0] if layer else y
            before = self._narrowed(parts, layer, layer)
            new = ops.step(self.cell, y, before, self._weights(suffix), self._extras(y, layer))
            after.append(new)
            y = new[0] + below if layer and self.residual else new[0]
        return self.output_dropout(y[:, None])[:, 0], self._stacked(after)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run in torch.nn's call form.

        Args:
            input: (T, B, D), or (B, T, D) with batch_first, or (T, D), or a PackedSequence.
            hx: h (L*R, B, P), for an LSTM (h, c) with c (L*R, B, H); without B for (T, D); None
                starts from zeros.
            lengths: real steps of each row (B,), in place of packing.

        Returns:
            the outputs in the layout of the input, with P*R features, and the final state in that
            of ``hx``.

        Raises:
            ValueError: shapes that do not fit, or lengths beside a form that has its own.
        """
        return call_like_torch(self, input, hx, lengths)

    def extra_repr(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}"]
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        usual |= {"bidirectional": False, "proj_size": 0, "layer_norm": False, "zoneout": 0.0}
        usual |= {"recurrent_dropout": 0.0, "weight_drop": 0.0}
        usual |= {"residual": False, "orthogonal": False, "last_size": 0}
        for name, value in usual.items():
            if getattr(self, name) != value:
                shown.append(f"{name}={getattr(self, name)}")
        return ", ".join(shown)


def _check_sizes(input_size: int, hidden_size: int, num_layers: int, proj_size: int) -> None:
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected {name} of at least 1, got {size}; give a positive number")
    if not 0 <= proj_size < hidden_size:
        raise ValueError(
            f"expected proj_size from 0 (none) to {hidden_size - 1}, below hidden_size, got "
            f"{proj_size}; choose a smaller projection"
        )


class RNN(Recurrent):
    """Elman's network (1990), drop-in for torch.nn.RNN; ``nonlinearity`` is tanh or relu.

    Raises:
        ValueError: another nonlinearity, or what :class:`Recurrent` refuses.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **extras: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}")
        self.__dict__["cell"] = f"rnn_{nonlinearity}"
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype, **extras,
        )  # fmt: skip
        self.nonlinearity = nonlinearity


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), drop-in for torch.nn.LSTM."""

    cell, gates = "lstm", 4


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), drop-in for torch.nn.GRU.

    Raises:
        ValueError: what :class:`Recurrent` refuses.
    """

    cell, gates = "gru", 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **extras: Any,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype, **extras,
        )  # fmt: skip
