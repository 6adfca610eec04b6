"""RNNCell, LSTMCell and GRUCell: one step at a time, in torch.nn's call form.

Shapes: B rows, D input, H hidden, G gates.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unrolled.ops import recurrent as ops
from unrolled.ops.reference import Weights


class _Cell(nn.Module):
    """What the cells share: torch.nn's arguments and names of weights.

    Args:
        input_size: D.
        hidden_size: H.
        bias: whether the gates have biases (two each, as in torch).
        device: where the weights are.
        dtype: their precision.

    Raises:
        ValueError: a size below 1.
    """

    cell: ClassVar[str]
    gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"expected {name} of at least 1, got {size}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        wide = self.gates * hidden_size

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight_ih = weight(wide, input_size)
        self.weight_hh = weight(wide, hidden_size)
        self.bias_ih = weight(wide) if bias else None
        self.bias_hh = weight(wide) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as torch.nn does: uniform within 1/sqrt(H)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def _step(self, x: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """Return the state after x (B, D) or (D,), of as many dimensions as x."""
        if x.dim() not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"expected x of shape (batch, {self.input_size}) or ({self.input_size},), got "
                f"{tuple(x.shape)}"
            )
        shape = (*x.shape[:-1], self.hidden_size)
        if state is None:
            zeros = x.new_zeros(shape)
            state = (zeros, zeros) if self.cell == "lstm" else (zeros,)
        if any(part.shape != shape for part in state):
            got = [tuple(part.shape) for part in state]
            raise ValueError(
                f"expected a state of shape {shape}, as x has rows, got {got}"
            )
        if x.dtype != self.weight_ih.dtype and not torch.is_autocast_enabled(
            x.device.type
        ):
            raise ValueError(
                f"expected x in {self.weight_ih.dtype}, as the weights are, got {x.dtype}; pass "
                f"x.to({self.weight_ih.dtype})"
            )
        weights = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        if x.dim() == 2:
            return ops.step(self.cell, x, state, weights)
        single = ops.step(
            self.cell, x[None], tuple(part[None] for part in state), weights
        )
        return tuple(part[0] for part in single)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}"


class RNNCell(_Cell):
    """One step of Elman's network, drop-in for torch.nn.RNNCell; ``nonlinearity`` tanh or relu.

    Raises:
        ValueError: another nonlinearity, a size below 1.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}"
            )
        self.__dict__["cell"] = f"rnn_{nonlinearity}"
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return h (B, H) after one step of x (B, D), begun from ``hx`` (B, H) or zeros."""
        return self._step(input, None if hx is None else (hx,))[0]


class GRUCell(_Cell):
    """One step of the GRU, drop-in for torch.nn.GRUCell."""

    cell = "gru"
    gates = 3

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return h (B, H) after one step of x (B, D), begun from ``hx`` (B, H) or zeros."""
        return self._step(input, None if hx is None else (hx,))[0]


class LSTMCell(_Cell):
    """One step of the LSTM, drop-in for torch.nn.LSTMCell."""

    cell = "lstm"
    gates = 4

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Tensor]:
        """Return h and c (B, H) after one step of x (B, D), begun from ``hx``, a pair, or zeros."""
        h, c = self._step(input, None if hx is None else tuple(hx))
        return h, c
