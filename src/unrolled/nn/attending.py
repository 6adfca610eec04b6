"""Recurrent decoders: a recurrent layer that begins from a source and may attend to it.

Shapes: S sources, M steps of a source, B rows, T steps, D input, H output of the layer, W features
of a source's step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.nn.attention_scores import Additive, Attend, Multiplicative
from unrolled.nn.layer import Layer, checked
from unrolled.nn.memory import DecoderState, Memory
from unrolled.nn.pooling import Pooling
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.state import RecurrentState, State
from unrolled.ops.masking import Lengths, check_lengths, real_steps

KINDS = ("additive", "multiplicative", "none")


class RecurrentDecoder(Layer):
    """A recurrent layer that writes from a source.

    Its first state is what a bridge makes of the source (Bahdanau et al. 2015, A.2.2). Then:

    - ``none``: nothing more is known of the source (Sutskever et al. 2014).
    - ``additive``: every step reads ``[x_t; c_t]``, where the context c_t is weighed by the state
      before, and says ``tanh(W [s_t; c_t; x_t])`` (Bahdanau et al. 2015, A.2.2, the deep output).
    - ``multiplicative``: c_t is weighed by the state s_t, the step says ``tanh(W [c_t; s_t])``
      (Luong et al. 2015, eq. 5), which with ``feeding`` the next step reads beside x (section 3.3).

    Args:
        layer: of one direction; its input is as wide as :func:`input_width` says.
        input_size: D.
        memory_size: W.
        attention: additive, multiplicative or none.
        feeding: of multiplicative attention.
        reverse_size: how many of the W features were read backwards.

    Raises:
        ValueError: an unknown attention, a layer that reads both ways, sizes that do not fit.
    """

    def __init__(
        self,
        layer: Recurrent,
        input_size: int,
        memory_size: int,
        attention: str = "additive",
        feeding: bool = True,
        reverse_size: int = 0,
    ) -> None:
        super().__init__()
        if not layer.causal:
            raise ValueError(
                "expected a decoder that reads forward only; unset bidirectional"
            )
        self.layer = layer
        self.attention = attention
        self.input_size = input_size
        self.output_size = layer.output_size
        self.feeding = feeding and attention == "multiplicative"
        size = layer.output_size
        width = input_width(input_size, size, memory_size, attention, feeding)
        if layer.input_size != width:
            raise ValueError(
                f"expected a layer of input_size {width}, got {layer.input_size}"
            )
        # an encoder that reads both ways ends at both ends, another sums all up
        kind = "last" if reverse_size else "mean"
        self.pooling = Pooling(kind, memory_size, reverse_size)
        parts = self._parts(layer.initial_state(1))
        self.bridges = nn.ModuleList()
        for part in parts:
            layers, _, width = part.shape
            self.bridges.append(nn.Linear(memory_size, layers * width))
        query = parts[0].shape[2]
        self.attend_to: Attend | None = None
        if attention == "additive":
            self.attend_to = Additive(query, memory_size, size)
            width = size + memory_size + input_size
            self.readout = nn.Linear(width, size)
        elif attention == "multiplicative":
            self.attend_to = Multiplicative(size, memory_size)
            width = memory_size + size
            self.readout = nn.Linear(width, size, bias=False)

    @staticmethod
    def _parts(state: RecurrentState) -> list[Tensor]:
        if state.c is None:
            return [state.h]
        return [state.h, state.c]

    def attend(self, memory: Tensor, lengths: Lengths) -> DecoderState:
        """Return the state before the first step.

        Args:
            memory: what an encoder said of S sources (S, M, W).
            lengths: real steps of each (S,).
        """
        lengths = check_lengths(lengths, *memory.shape[:2]).to(memory.device)
        summary = self.pooling(memory, lengths)
        like = self.layer.initial_state(1)
        parts = []
        for bridge, part in zip(self.bridges, self._parts(like), strict=True):
            layers, _, width = part.shape
            bridged = bridge(summary).tanh()
            by_row = bridged.unflatten(1, (layers, width))
            by_layer = by_row.transpose(0, 1)
            parts.append(by_layer.contiguous())
        inner = RecurrentState(*parts)
        if self.attend_to is None:
            nothing = Memory.of([], [], lengths)
            return DecoderState(inner, nothing)
        keys = self.attend_to.keys(memory)[:, None]
        values = memory[:, None]
        attended = Memory.of([keys], [values], lengths)
        output = None
        if self.feeding:
            output = memory.new_zeros(len(lengths), self.output_size)
        return DecoderState(inner, attended, output)

    def depths(self) -> list[list[nn.Parameter]]:
        """Return the weights of each stacked layer, with the highest all that stands around them.

        Those stand in its group once more, and count where they stand first.
        """
        groups = self.layer.depths()
        groups[-1] += self.parameters()
        return groups

    def observed(self, name: str) -> dict[nn.Module, str]:
        names = self.layer.observed(name)
        if self.attend_to is not None:
            names[self.attend_to] = f"{name} to the source"
        return names

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        raise ValueError("expected a source: a decoder's first state comes from attend")

    def unroll(
        self, x: Tensor, state: State | None = None, lengths: Lengths | None = None
    ) -> tuple[Tensor, DecoderState]:
        return self._unroll(x, state, lengths)

    def _unroll(
        self, x: Tensor, state: State | None, lengths: Lengths | None
    ) -> tuple[Tensor, DecoderState]:
        lengths = self._check(x, lengths, state)
        checked(state, DecoderState, "a decoder, which begins with attend")
        before = cast(DecoderState, state)
        if self.attend_to is None:
            y, inner = self.layer.unroll(x, before.inner, lengths)
            return y, replace(before, inner=inner)
        y, after, _ = self._walk(x, before, lengths)
        return y, after

    def unroll_attending(
        self,
        x: Tensor,
        state: DecoderState,
        lengths: Lengths | None,
        attention_weights: list[Tensor],
    ) -> tuple[Tensor, DecoderState]:
        """Unroll over x (B, T, D) and append the weights of each step (B, T, M).

        Raises:
            ValueError: the decoder has no attention.
        """
        if self.attend_to is None:
            raise ValueError("expected a decoder with attention, got attention=none")
        lengths = self._check(x, lengths, state)
        y, after, weights = self._walk(x, state, lengths)
        attention_weights.append(weights)
        return y, after

    @staticmethod
    def alignment(attention_weights: list[Tensor]) -> Tensor:
        """Return the only attention weights there are."""
        return attention_weights[0]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, DecoderState]:
        self._check_step(x, state)
        checked(state, DecoderState, "a decoder, which begins with attend")
        y, after = self._unroll(x[:, None], state, None)
        return y[:, 0], after

    def _walk(
        self, x: Tensor, state: DecoderState, lengths: Tensor | None
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """Read step by step, where each depends on what the one before attended to."""
        if not x.shape[1]:
            keys = state.memory.keys
            steps = keys[0].shape[2] if keys else 0
            outputs = x.new_zeros(len(x), 0, self.output_size)
            no_weights = x.new_zeros(len(x), 0, steps)
            return outputs, state, no_weights
        if self.attention == "multiplicative" and not self.feeding:
            return self._walk_at_once(x, state, lengths)
        all_y = []
        all_weights = []
        for t in range(x.shape[1]):
            y, after, weights = self._read_step(x[:, t], state)
            if lengths is not None:
                live = (t < lengths)[:, None]
                y = y * live
                after = _kept(live, after, state)
            state = after
            all_y.append(y)
            all_weights.append(weights)
        outputs = torch.stack(all_y, 1)
        return outputs, state, torch.stack(all_weights, 1)

    def _walk_at_once(
        self, x: Tensor, state: DecoderState, lengths: Tensor | None
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """Read all steps, and then let all of them attend: no step reads what one attended to."""
        attend = cast(Attend, self.attend_to)
        inner = cast(RecurrentState, state.inner)
        said, after = self.layer.unroll(x, inner, lengths)
        context, weights = attend(said, state.memory)
        outputs = self._say(context, said)
        if lengths is not None:
            outputs = outputs * real_steps(lengths, x.shape[1])[..., None]
        return outputs, DecoderState(after, state.memory), weights

    def _read_step(
        self, x: Tensor, state: DecoderState
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """Return what one step (B, D) says, the state after and attention weights (B, M)."""
        attend = cast(Attend, self.attend_to)
        memory = state.memory
        inner = cast(RecurrentState, state.inner)
        if self.attention == "additive":
            context, weights = attend(inner.h[-1], memory)
            inputs = torch.cat([x, context], -1)
            said, inner = self._read(inputs, inner)
            y = self._say(said, context, x)
            return y, DecoderState(inner, memory), weights
        inputs = x
        if state.attention_output is not None:
            before = state.attention_output.to(x.dtype)
            inputs = torch.cat([x, before], -1)
        said, inner = self._read(inputs, inner)
        context, weights = attend(said, memory)
        y = self._say(context, said)
        output = y if self.feeding else None
        return y, DecoderState(inner, memory, output), weights

    def _say(self, *parts: Tensor) -> Tensor:
        """Return what a step says of features (B, .) side by side."""
        features = torch.cat(parts, -1)
        return self.readout(features).tanh()

    def _read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return what the layer says to one step (B, .), and its state after."""
        y, after = self.layer.unroll(x[:, None], state)
        return y[:, 0], after


def input_width(
    size: int,
    hidden: int,
    memory_size: int,
    attention: str,
    feeding: bool,
) -> int:
    """Return how wide the input of a decoder's layer is, for inputs of ``size`` features.

    Raises:
        ValueError: an unknown attention.
    """
    if attention not in KINDS:
        raise ValueError(
            f"expected attention out of {', '.join(KINDS)}, got {attention!r}"
        )
    if attention == "additive":
        return size + memory_size
    if attention == "multiplicative" and feeding:
        return size + hidden
    return size


def _kept(live: Tensor, new: DecoderState, old: DecoderState) -> DecoderState:
    """Return the new state of rows that are live (B, 1), the old one of the others."""
    new_inner = cast(RecurrentState, new.inner)
    old_inner = cast(RecurrentState, old.inner)
    h = torch.where(live, new_inner.h, old_inner.h)
    c = _where(live, new_inner.c, old_inner.c)
    output = _where(live, new.attention_output, old.attention_output)
    return DecoderState(RecurrentState(h, c), new.memory, output)


def _where(live: Tensor, new: Tensor | None, old: Tensor | None) -> Tensor | None:
    if new is None or old is None:
        return None
    return torch.where(live, new, old)
