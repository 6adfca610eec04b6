"""Recurrent decoders: a recurrent layer that begins from a source and may look back at it.

Shapes: S sources, M steps of a source, B rows, T steps, D input, H output of the layer, W features
of a source's step, A width of the scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.nn.attention import at_least_fp32
from unrolled.nn.layer import Layer, checked
from unrolled.nn.memory import DecoderState, Memory
from unrolled.nn.pooling import Pooling
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.state import RecurrentState, State
from unrolled.ops.masking import Lengths, check_lengths

KINDS = ("additive", "multiplicative", "none")


class Attend(nn.Module, ABC):
    """How a recurrent decoder weighs the steps of its source."""

    @abstractmethod
    def keys(self, memory: Tensor) -> Tensor:
        """Return what is compared with queries (S, M, A), made once a source."""

    @abstractmethod
    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return scores (S, Q, M) of queries (S, Q, H) against keys (S, M, A)."""

    def forward(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the source's steps (B, W) and the weights (B, M).

        Args:
            query: (B, H).
            memory: keys (S, 1, M, A) and values (S, 1, M, W) of one block.
        """
        keys = memory.keys[0][:, 0]
        values = memory.values[0][:, 0]
        allowed = memory.allowed(keys.shape[1])
        if memory.each:
            asked = query.unflatten(0, (-1, memory.each))
        else:
            asked = query[:, None]
            keys = memory.spread(keys)
            values = memory.spread(values)
            allowed = None if allowed is None else memory.spread(allowed)
        scores = at_least_fp32(self.scores(asked, keys))
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None], -torch.inf)
        weights = scores.softmax(-1)
        context = weights.to(values.dtype) @ values
        return context.flatten(0, 1), weights.flatten(0, 1)


class Additive(Attend):
    """``v tanh(W q + U h)`` (Bahdanau et al. 2015, section A.1.2)."""

    def __init__(self, query_size: int, memory_size: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, width, bias=False)
        self.key = nn.Linear(memory_size, width)
        self.score = nn.Linear(width, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        return self.key(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        both = self.query(query)[:, :, None] + keys[:, None]
        return self.score(both.tanh()).squeeze(-1)


class Multiplicative(Attend):
    """``q W h`` (Luong et al. 2015, eq. 8, "general")."""

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory_size, query_size, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        return self.key(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return query @ keys.transpose(1, 2)


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
        wanted = input_width(
            input_size, layer.output_size, memory_size, attention, feeding
        )
        if layer.input_size != wanted:
            raise ValueError(
                f"expected a layer of input_size {wanted}, got {layer.input_size}"
            )
        self.pooling = Pooling(
            "last" if reverse_size else "mean", memory_size, reverse_size
        )
        parts = self._parts(layer.initial_state(1))
        self.bridges = nn.ModuleList(
            nn.Linear(memory_size, part.shape[0] * part.shape[2]) for part in parts
        )
        size = layer.output_size
        query = parts[0].shape[2]
        self.attend_to: Attend | None = None
        if attention == "additive":
            self.attend_to = Additive(query, memory_size, size)
            self.readout = nn.Linear(size + memory_size + input_size, size)
        elif attention == "multiplicative":
            self.attend_to = Multiplicative(size, memory_size)
            self.readout = nn.Linear(memory_size + size, size, bias=False)

    @staticmethod
    def _parts(state: RecurrentState) -> list[Tensor]:
        return [state.h] if state.c is None else [state.h, state.c]

    def attend(self, memory: Tensor, lengths: Lengths) -> DecoderState:
        """Return the state before the first step.

        Args:
            memory: what an encoder said of S sources (S, M, W).
            lengths: real steps of each (S,).
        """
        lengths = check_lengths(lengths, *memory.shape[:2]).to(memory.device)
        summary = self.pooling(memory, lengths)
        like = self.layer.initial_state(1)
        parts = [
            bridge(summary)
            .tanh()
            .unflatten(1, (part.shape[0], part.shape[2]))
            .transpose(0, 1)
            for bridge, part in zip(self.bridges, self._parts(like), strict=True)
        ]
        inner = RecurrentState(*(part.contiguous() for part in parts))
        if self.attend_to is None:
            return DecoderState(inner, Memory.of([], [], lengths))
        keys = self.attend_to.keys(memory)
        told = Memory.of([keys[:, None]], [memory[:, None]], lengths)
        fed = memory.new_zeros(len(lengths), self.output_size) if self.feeding else None
        return DecoderState(inner, told, fed)

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
        told = cast(DecoderState, state)
        if self.attend_to is None:
            y, inner = self.layer.unroll(x, told.inner, lengths)
            return y, replace(told, inner=inner)
        y, after, _ = self._walk(x, told, lengths)
        return y, after

    def unroll_looking(
        self,
        x: Tensor,
        state: DecoderState,
        lengths: Lengths | None,
        looks: list[Tensor],
    ) -> tuple[Tensor, DecoderState]:
        """Unroll and append to ``looks`` where each step of x (B, T, D) looked (B, T, M).

        Raises:
            ValueError: the decoder has no attention.
        """
        if self.attend_to is None:
            raise ValueError("expected a decoder with attention, got attention=none")
        y, after, look = self._walk(x, state, self._check(x, lengths, state))
        looks.append(look)
        return y, after

    @staticmethod
    def chosen(looks: list[Tensor]) -> Tensor:
        """Return the only looks there are."""
        return looks[0]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, DecoderState]:
        self._check_step(x, state)
        checked(state, DecoderState, "a decoder, which begins with attend")
        y, after = self._unroll(x[:, None], state, None)
        return y[:, 0], after

    def _walk(
        self, x: Tensor, state: DecoderState, lengths: Tensor | None
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """Read step by step, since each depends on where the one before looked."""
        if not x.shape[1]:
            steps = 0 if not state.memory.keys else state.memory.keys[0].shape[2]
            return (
                x.new_zeros(len(x), 0, self.output_size),
                state,
                x.new_zeros(len(x), 0, steps),
            )
        outputs = []
        looks = []
        for t in range(x.shape[1]):
            y, after, look = self._one(x[:, t], state)
            if lengths is not None:
                live = (t < lengths)[:, None]
                y = y * live
                after = _kept(live, after, state)
            state = after
            outputs.append(y)
            looks.append(look)
        return torch.stack(outputs, 1), state, torch.stack(looks, 1)

    def _one(
        self, x: Tensor, state: DecoderState
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """Return what one step (B, D) says, the state after and where it looked (B, M)."""
        attend = cast(Attend, self.attend_to)
        memory = state.memory
        inner = cast(RecurrentState, state.inner)
        if self.attention == "additive":
            context, look = attend(inner.h[-1], memory)
            said, inner = self._read(torch.cat([x, context], -1), inner)
            y = self.readout(torch.cat([said, context, x], -1)).tanh()
            return y, DecoderState(inner, memory), look
        read = x if state.fed is None else torch.cat([x, state.fed.to(x.dtype)], -1)
        said, inner = self._read(read, inner)
        context, look = attend(said, memory)
        y = self.readout(torch.cat([context, said], -1)).tanh()
        return y, DecoderState(inner, memory, y if self.feeding else None), look

    def _read(self, x: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        y, after = self.layer.unroll(x[:, None], state)
        return y[:, 0], after


def input_width(
    size: int, hidden: int, memory_size: int, attention: str, feeding: bool
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
    return size + (hidden if attention == "multiplicative" and feeding else 0)


def _kept(live: Tensor, new: DecoderState, old: DecoderState) -> DecoderState:
    """Return the new state of rows that are live (B, 1), the old one of the others."""
    now = cast(RecurrentState, new.inner)
    then = cast(RecurrentState, old.inner)
    c = None if now.c is None or then.c is None else torch.where(live, now.c, then.c)
    fed = (
        None
        if new.fed is None or old.fed is None
        else torch.where(live, new.fed, old.fed)
    )
    return DecoderState(
        RecurrentState(torch.where(live, now.h, then.h), c), new.memory, fed
    )
