"""RNN, LSTM and GRU: torch.nn's modules with ragged batches, a step form and more ways to drop.

Shapes: B rows, T steps, D input, H hidden, P output of one direction (H, or proj_size), L layers,
R directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from unrolled.nn.calling import call_like_torch
from unrolled.nn.dropout import (
    LockedDropout,
    check_probability,
    dropout,
    locked_mask,
)
from unrolled.nn.forms import has_hooks, overrides
from unrolled.nn.layer import Layer, checked
from unrolled.nn.sizes import check_last_size, check_positive, check_projection
from unrolled.nn.state import RecurrentState, State
from unrolled.ops import recording
from unrolled.ops import recurrent as ops
from unrolled.ops.layout import Layout
from unrolled.ops.masking import Lengths
from unrolled.ops.reference import Extras, Weights

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
_NORMS = ("norm_ih", "norm_hh", "norm_c", "norm_c_bias")


class _LayerDirection(NamedTuple):
    """One layer in one direction, forward before backward, and its weights' names or None."""

    layer: int
    backward: bool
    names: tuple[str | None, ...]


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
    # whether its gates do; else there are no recurrent weights
    reads_state: ClassVar[bool] = True

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
        check_positive(input_size=input_size, num_layers=num_layers)
        check_projection(proj_size, hidden_size)
        alone = not (bidirectional or proj_size or residual)
        check_last_size(last_size, hidden_size, alone)
        if weight_drop or recurrent_dropout or orthogonal or proj_size:
            self._check_has_recurrent_weights()
        check_probability("dropout", dropout)
        check_probability("zoneout", zoneout)
        check_probability("recurrent_dropout", recurrent_dropout)
        check_probability("weight_drop", weight_drop)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.layer_norm = layer_norm
        self.zoneout = float(zoneout)
        self.residual = residual
        self.orthogonal = orthogonal
        self.recurrent_dropout = float(recurrent_dropout)
        self.weight_drop = float(weight_drop)
        self.input_dropout = LockedDropout(input_dropout)
        self.output_dropout = LockedDropout(output_dropout)
        self.between_dropout = LockedDropout(between_dropout)
        self.last_size = last_size
        self.directions = 2 if bidirectional else 1
        self.output_size = (last_size or proj_size or hidden_size) * self.directions
        self.causal = not bidirectional
        self.reverse_size = self.output_size // 2 if bidirectional else 0
        self._layer_directions = tuple(self._make_weights(device, dtype))
        self.reset_parameters()

    def _check_has_recurrent_weights(self) -> None:
        if not self.reads_state:
            raise ValueError(
                f"expected no weight_drop, recurrent_dropout, orthogonal or proj_size, since "
                f"{type(self).__name__} has no recurrent weights; unset them"
            )

    def _make_weights(
        self, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> Iterator[_LayerDirection]:
        """Register the weights under torch.nn's names, in torch.nn's order; yield their names."""
        for index in range(self.num_layers * self.directions):
            layer, backward = divmod(index, self.directions)
            suffix = f"_l{layer}"
            if backward:
                suffix += "_reverse"
            shapes = self._shapes(layer)
            for name, shape in shapes.items():
                empty = torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(f"{name}{suffix}", nn.Parameter(empty))
            names = tuple(
                name + suffix if name in shapes else None
                for name in (*_WEIGHTS, *_NORMS)
            )
            yield _LayerDirection(layer, backward == 1, names)

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights of a layer in one direction, in torch.nn's order."""
        size = self._size(layer)
        wide = self.gates * size
        out = self.proj_size or size
        below = (self.proj_size or self.hidden_size) * self.directions
        width = self.input_size if layer == 0 else below
        shapes: dict[str, tuple[int, ...]]
        shapes = {"weight_ih": (wide, width), "weight_hh": (wide, out)}
        if self.bias:
            shapes |= {"bias_ih": (wide,), "bias_hh": (wide,)}
        if self.proj_size:
            shapes["weight_hr"] = (out, self.hidden_size)
        if not self.reads_state:
            of_input = [name for name in shapes if not name.endswith("_hh")]
            shapes = {name: shapes[name] for name in of_input}
        elif self.layer_norm:
            shapes["norm_hh"] = (wide,)
        if self.layer_norm:
            shapes["norm_ih"] = (wide,)
            if self.cell == "lstm":
                shapes |= {"norm_c": (size,), "norm_c_bias": (size,)}
        return shapes

    def _size(self, layer: int) -> int:
        """Return H of a layer."""
        last = layer + 1 == self.num_layers
        return self.last_size if last and self.last_size else self.hidden_size

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
        for direction in self._layer_directions:
            w = self._weights(direction)
            for gate in w.hh.chunk(self.gates):
                nn.init.orthogonal_(gate, gain=0.5)
            if w.bias_ih is not None and w.bias_hh is not None:
                w.bias_ih.zero_()
                w.bias_hh.zero_()
                if self.cell == "lstm":
                    w.bias_ih.chunk(4)[1].fill_(1)

    def depths(self) -> list[list[nn.Parameter]]:
        """Return the weights of each stacked layer, both directions together."""
        groups: list[list[nn.Parameter]] = [[] for _ in range(self.num_layers)]
        for direction, weights in zip(
            self._layer_directions, self.all_weights, strict=True
        ):
            groups[direction.layer] += weights
        return groups

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The weights of each layer and direction, as torch.nn lists them."""
        return [
            [getattr(self, name) for name in direction.names if name]
            for direction in self._layer_directions
        ]

    @property
    def mode(self) -> str:
        """The name that torch.nn gives the cell: RNN_TANH, RNN_RELU, LSTM or GRU."""
        return self.cell.upper()

    def flatten_parameters(self) -> None:
        """Do nothing; torch.nn's method of this name, kept so that callers need not change."""

    def _weights(self, direction: _LayerDirection) -> Weights:
        """Return the weights of one layer and direction."""
        # torch's own look-up takes as long as an operator; pruned weights are found by it alone
        own = self._parameters
        weights: list[Any] = []
        for name in direction.names:
            if name is None:
                weights.append(None)
            elif name in own:
                weights.append(own[name])
            else:
                weights.append(getattr(self, name))
        if weights[1] is None:
            weights[1] = weights[0].new_empty(0)
        return Weights(*weights)

    def _check_precision(self, x: Tensor) -> None:
        weight: Any = self._parameters.get("weight_ih_l0")
        weight = self.weight_ih_l0 if weight is None else weight
        if x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type):
            return
        raise ValueError(
            f"expected x in {weight.dtype}, as the weights are, got {x.dtype}; pass "
            f"x.to({weight.dtype}), or convert the layer with .to({x.dtype})"
        )

    def _dropped(self, w: Weights) -> Weights:
        """Return weights, some recurrent ones dropped while training."""
        if self.training and self.weight_drop:
            return w._replace(hh=dropout(w.hh, self.weight_drop))
        return w

    def _extras(self, x: Tensor, direction: _LayerDirection, rows: int) -> Extras:
        mask = None
        layer, backward, _ = direction
        if self.training and self.recurrent_dropout:
            size = self.proj_size or self._size(layer)
            mask = locked_mask(x.new_empty(rows, 0), size, self.recurrent_dropout)
        observer = recording.observer(self, self.cell, layer, backward)
        return Extras(self.zoneout, mask, self.training, observer)

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RecurrentState:
        weight: Any = self.weight_ih_l0
        device = device or weight.device
        dtype = dtype or weight.dtype
        count = len(self._layer_directions)
        shapes = [(count, batch, size) for size in self.state_sizes()]
        parts = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]
        return RecurrentState(*parts)

    def state_sizes(self) -> list[int]:
        """Return the width of h, and that of c of an LSTM."""
        sizes = [self.proj_size or self.hidden_size, self.hidden_size]
        return sizes if self.cell == "lstm" else sizes[:1]

    def unroll_without_hooks(
        self,
        x: Tensor,
        state: State | None,
        lengths: Lengths | None,
        final: bool = True,
    ) -> tuple[Tensor, RecurrentState]:
        """Run :meth:`unroll` where the module's hooks run already, as in ``forward``.

        Args:
            x, state, lengths: see ``unroll``.
            final: False when the state afterwards is not needed, which is then perhaps not right.
        """
        lengths = self._check(x, lengths, state)
        x = self._masked("input_dropout", x)
        y, after = self._read(x, state, lengths, final, None)
        return self._masked("output_dropout", y), after

    def _masked(self, name: str, x: Tensor) -> Tensor:
        """Return x (B, T, D) after a dropout; a module that would do nothing is not called."""
        drop: Any = self._modules[name]
        masked: Tensor = drop(x) if drop.p or has_hooks(drop) else x
        return masked

    def unroll_packed(
        self, x: Tensor, layout: Layout, state: State | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Read packed steps x (N, D) where they stand; ``reads_packed`` says whether it can.

        Returns:
            y (N, P*R) and the state after each row's last step, in the order of the batch.

        Raises:
            ValueError: shapes that do not fit.
        """
        self._check(x[None], None, None)
        if state is not None and state.rows != layout.rows:
            raise ValueError(
                f"expected a state of {layout.rows} rows, as many as x, got {state.rows}"
            )
        return self._read(x, state, None, True, layout)

    def unroll_documents(
        self, x: Tensor, starts: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        checked(state, RecurrentState, "a recurrent layer")
        own = cast(RecurrentState | None, state)
        if has_hooks(self) or not self.reads_packed(x, own):
            return super().unroll_documents(x, starts, state)
        rows = self._documents(x, starts, state)
        return rows.unroll_packed(self.unroll_packed, x)

    def reads_packed(self, x: Tensor, state: RecurrentState | None) -> bool:
        """Say whether packed steps (N, D) can be read without padding them first."""
        masked = (self.input_dropout, self.between_dropout, self.output_dropout)
        if overrides(self, Recurrent, "unroll"):
            return False
        if torch.compiler.is_compiling() or (
            self.training and any(drop.p for drop in masked)
        ):
            return False
        return all(path.name == "native" for path, _ in self._paths(x, state))

    def _paths(
        self, x: Tensor, state: RecurrentState | None
    ) -> Iterator[tuple[ops.Path, Weights]]:
        """Yield which path runs each layer and direction over such an x, and its weights."""
        for direction in self._layer_directions:
            w = self._weights(direction)
            size = self.proj_size or self._size(direction.layer)
            like = x.new_empty(1, 1, w.ih.shape[1])
            masked = self.training and self.recurrent_dropout
            extras = Extras(
                self.zoneout, like.new_ones(1, size) if masked else None, self.training
            )
            h = (w.ih if state is None else state.h).new_empty(1, size)
            yield ops.path(self.cell, like, h, w, extras), w

    def explain(self) -> str:
        """Say which path runs each layer and direction now, and why: a line each.

        Paths are native (with its instruction level and precision), torch and reference. Second
        derivatives of the native one come from the reference.

        Raises:
            ValueError: ``ops.use("fast")`` was chosen and no fast path runs this.
        """
        paths = self._paths(next(self.parameters()), None)
        lines = []
        for direction, (path, w) in zip(self._layer_directions, paths, strict=True):
            backward = " backward" if direction.backward else ""
            described = ops.describe(path, w)
            lines.append(f"layer {direction.layer}{backward}: {described}")
        return "\n".join(lines)

    def _read(
        self,
        x: Tensor,
        state: State | None,
        lengths: Tensor | None,
        final: bool,
        layout: Layout | None,
    ) -> tuple[Tensor, RecurrentState]:
        """Run all layers over x (B, T, D), or (N, D) as ``layout`` says."""
        rows = x.shape[0] if layout is None else layout.rows
        states = self._zeros(rows) if state is None else self._split(self._parts(state))
        layout = ops.shared_layout(x, lengths) if layout is None else layout
        y = x
        after = []
        outputs = []
        below = y
        for direction, before in zip(self._layer_directions, states, strict=True):
            layer, backward, _ = direction
            if not backward:
                below = y
                y = self._between(y) if layer else y
            w = self._dropped(self._weights(direction))
            extras = self._extras(y, direction, rows)
            out, new = ops.unroll(
                self.cell, y, before, w, lengths, backward, extras, final, layout
            )
            outputs.append(out)
            after.append(new)
            if len(outputs) == self.directions:
                y = torch.cat(outputs, -1) if backward else out
                outputs = []
                y = y + below if layer and self.residual else y
        return y, self._stacked(after)

    def _between(self, y: Tensor) -> Tensor:
        """Return what one layer said, (B, T, H), as the next one reads it."""
        # torch's own draws, so that a seed gives what it gives in torch.nn
        y = F.dropout(y, self.dropout, self.training) if self.dropout else y
        return self._masked("between_dropout", y)

    def _split(self, parts: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """Return the states of all layers and directions, of the widths they use."""
        return self._narrowed(
            list(zip(*(part.unbind() for part in parts), strict=True))
        )

    def _zeros(self, rows: int) -> list[tuple[Tensor, ...]]:
        """Return the same of a state of zeros: one tensor stands for all layers."""
        weight: Any = self.weight_ih_l0
        zeros = tuple([weight.new_zeros(rows, size) for size in self.state_sizes()])
        return self._narrowed([zeros] * len(self._layer_directions))

    def _narrowed(self, states: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        if self.last_size:
            states[-1] = tuple(part[:, : self.last_size] for part in states[-1])
        return states

    def _stacked(self, after: list[tuple[Tensor, ...]]) -> RecurrentState:
        """Return the states of all layers as one, a narrower last one filled up with zeros."""
        if self.last_size:
            room = self.hidden_size - self.last_size
            after[-1] = tuple(F.pad(part, (0, room)) for part in after[-1])
        pairs = zip(*after, strict=True)
        return RecurrentState(
            *(p[0][None] if len(p) == 1 else torch.stack(p) for p in pairs)
        )

    def _parts(self, state: State) -> tuple[Tensor, ...]:
        """Return h, and c of an LSTM, or refuse a state that is not this layer's."""
        checked(state, RecurrentState, type(self).__name__)
        assert isinstance(state, RecurrentState)
        parts = (state.h,) if state.c is None else (state.h, state.c)
        count = len(self._layer_directions)
        expected = [(count, state.rows, size) for size in self.state_sizes()]
        got = [tuple(part.shape) for part in parts]
        if got != expected:
            raise ValueError(
                f"expected a state of shapes {expected} (layers x directions, batch, size), got "
                f"{got}; start from initial_state"
            )
        return parts

    def unroll(
        self, x: Tensor, state: State | None = None, lengths: Lengths | None = None
    ) -> tuple[Tensor, RecurrentState]:
        return self.unroll_without_hooks(x, state, lengths)

    def read(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        if has_hooks(self) or overrides(self, Recurrent, "unroll"):
            return super().read(x, lengths)
        return self.unroll_without_hooks(x, None, lengths, final=False)[0]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, RecurrentState]:
        self._check_step(x, state)
        parts = self._parts(state)
        y = self._masked("input_dropout", x[:, None])[:, 0]
        after = []
        states = self._split(parts)
        for direction, before in zip(self._layer_directions, states, strict=True):
            below = y
            layer = direction.layer
            y = self._between(y[:, None])[:, 0] if layer else y
            w = self._dropped(self._weights(direction))
            extras = self._extras(y, direction, len(y))
            new = ops.step(self.cell, y, before, w, extras)
            after.append(new)
            y = new[0] + below if layer and self.residual else new[0]
        if len(after) == 1:
            # the state of one layer is not copied, and an output may be changed
            y = y.clone()
        return self._masked("output_dropout", y[:, None])[:, 0], self._stacked(after)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Lengths | None = None,
    ) -> tuple[Any, Any]:
        """Run in torch.nn's call form.

        Args:
            input: (T, B, D), or (B, T, D) with batch_first, or (T, D), or a PackedSequence.
            hx: h (L*R, B, P), for an LSTM (h, c) with c (L*R, B, H); without B for (T, D); None
                starts from zeros.
            lengths: real steps of each row (B,), in place of packing; a list will do.

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
        usual |= {
            "bidirectional": False,
            "proj_size": 0,
            "layer_norm": False,
            "zoneout": 0.0,
        }
        usual |= {"recurrent_dropout": 0.0, "weight_drop": 0.0}
        usual |= {"residual": False, "orthogonal": False, "last_size": 0}
        for name, value in usual.items():
            if getattr(self, name) != value:
                shown.append(f"{name}={getattr(self, name)}")
        return ", ".join(shown)


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
            raise ValueError(
                f"expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}"
            )
        self.__dict__["cell"] = f"rnn_{nonlinearity}"
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            **extras,
        )
        self.nonlinearity = nonlinearity


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), drop-in for torch.nn.LSTM."""

    cell = "lstm"
    gates = 4


class MinGRU(Recurrent):
    """The GRU whose gates see the input alone (Feng et al. 2024, arXiv 2410.01201).

    Weights are ``weight_ih`` (2H, D) and ``bias_ih`` (2H,), update and candidate. It runs on the
    equations of ``ops/reference.py``.

    Raises:
        ValueError: what :class:`Recurrent` refuses; a setting of recurrent weights.
    """

    cell = "mingru"
    gates = 2
    reads_state = False


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), drop-in for torch.nn.GRU.

    Raises:
        ValueError: what :class:`Recurrent` refuses.
    """

    cell = "gru"
    gates = 3

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
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            **extras,
        )
