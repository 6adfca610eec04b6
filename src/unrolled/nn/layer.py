"""The contract of every layer: a state carried along a sequence.

Shapes: B rows, T steps, D input features, H output features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from unrolled.nn.documents import DocumentRows
from unrolled.nn.forms import Forms
from unrolled.nn.state import State
from unrolled.nn.stream import Stream
from unrolled.ops.masking import Lengths, check_lengths


class Layer(Forms, ABC):
    """Reads sequences all at once (``unroll``) or step by step (``step``), with equal numbers.

    ``unroll``, ``read`` and ``step`` run the module's hooks (:class:`unrolled.nn.forms.Forms`),
    which see x, state and lengths, and return y and the state. All that code above may ask is in
    these attributes:

    Attributes:
        input_size: D.
        output_size: H.
        causal: whether step t depends on steps up to t alone; without it there is no ``step``.
        context: how many steps it can read; None when there is no limit.
        reverse_size: how many of the H outputs, the last ones, come from reading backwards, so
            that their end is the first step.
        checkpoint_activations: keep of each block only what it reads while training, and run it
            again in the backward pass; see ``has_blocks``.
        has_blocks: whether the layer is a stack of blocks that can be run again one by one.
    """

    input_size: int
    output_size: int
    causal: bool = True
    context: int | None = None
    reverse_size: int = 0
    checkpoint_activations: bool = False
    has_blocks: ClassVar[bool] = False
    forms = ("unroll", "step", "unroll_attending")
    # streams know the layers and so import this file: nn/build.py, which knows all, sets it
    stream_opener: ClassVar[Callable[[Layer, int, str], Stream]]

    def observed(self, name: str) -> dict[nn.Module, str]:
        """Return the modules whose steps can be recorded, and what they are called.

        Args:
            name: of the layer; layers in it are numbered.
        """
        return {self: name}

    def shard_units(self) -> list[list[nn.Module]]:
        """Return the modules whose weights are gathered together where processes divide them.

        Their products run in any precision; what stands in none is gathered with the whole model.
        """
        return []

    def mixing_products(self, steps: int) -> int:
        """Return the multiplications that a step takes beside those with weights.

        Args:
            steps: that are read together.
        """
        return 0

    @abstractmethod
    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Return the state before the first step, for ``batch`` rows.

        Args:
            batch: B.
            device: where; the layer's own device when not given.
            dtype: its precision; that of the weights when not given.
        """

    @abstractmethod
    def unroll(
        self, x: Tensor, state: State | None = None, lengths: Lengths | None = None
    ) -> tuple[Tensor, State]:
        """Read all steps.

        Args:
            x: (B, T, D), padded at the right.
            state: what was read before; None at the start.
            lengths: real steps of each row (B,), 0 included: integers of any width or a list;
                None when all T are real.

        Returns:
            y (B, T, H), zero at padding, and the state after each row's last real step.

        Raises:
            ValueError: shapes or precisions that do not fit.
        """

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one step.

        Args:
            x: (B, D).
            state: the state before; left as it is, so that it can be stepped again.

        Returns:
            y (B, H) and the state after.

        Raises:
            ValueError: the layer reads both ways, or shapes do not fit.
        """

    def read(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """Return ``unroll``'s outputs (B, T, H) alone, which may be cheaper."""
        return self.unroll(x, None, lengths)[0]

    def unroll_documents(
        self, x: Tensor, starts: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Read rows of several documents, none of which sees another.

        Args:
            x: (B, T, D), all of it real.
            starts: bool (B, T), true at the first step of each document. The first step of a row
                goes on from ``state``, whatever stands there.
            state: what was read before; None at the start.

        Returns:
            y (B, T, H) and the state after the last document of each row.

        Raises:
            ValueError: shapes or precisions that do not fit.
        """
        rows = self._documents(x, starts, state)
        return rows.unroll(self.unroll, x)

    def _documents(
        self, x: Tensor, starts: Tensor, state: State | None
    ) -> DocumentRows:
        """Return the documents of x, each with what it begins from."""
        self._check(x, None, state)
        rows = DocumentRows.of(starts)
        if state is None:
            return rows
        return rows.begun(state, self.initial_state(1, x.device))

    def read_documents(self, x: Tensor, starts: Tensor) -> Tensor:
        """Return the outputs of ``unroll_documents`` alone, from the start, perhaps cheaper."""
        return self.unroll_documents(x, starts)[0]

    def forward(
        self, x: Tensor, state: State | None = None, lengths: Lengths | None = None
    ) -> tuple[Tensor, State]:
        """Run :meth:`unroll`."""
        return self.unroll(x, state, lengths)

    def stream(self, batch: int = 1, precision: str = "float32") -> Stream:
        """Return what reads one step at a time at the least cost, with the weights as they are now.

        Args:
            batch: B.
            precision: of the weights in the native core: float32, bf16, int8, or for attention q8_0
                or q4_0, blocks of 32 weights as GGUF has them.

        Raises:
            ValueError: the layer reads both ways, or a setting is out of range.
        """
        return Layer.stream_opener(self, batch, precision)

    def depths(self) -> list[list[nn.Parameter]]:
        """Return the weights in groups, from the one that reads the inputs upwards."""
        return [list(self.parameters())]

    def _check_precision(self, x: Tensor) -> None:
        """Refuse x in another precision than the weights, where torch would not say it well."""

    def _check(
        self, x: Tensor, lengths: Lengths | None = None, state: State | None = None
    ) -> Tensor | None:
        """Refuse inputs of ``unroll`` that do not fit; return the lengths as int64 beside x."""
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(
                f"expected x of shape (batch, time, {self.input_size}), got {tuple(x.shape)}; "
                "set input_size to the number of features of x"
            )
        self._check_precision(x)
        self._check_rows(x, state)
        return (
            None
            if lengths is None
            else check_lengths(lengths, *x.shape[:2]).to(x.device)
        )

    def _check_step(self, x: Tensor, state: State) -> None:
        """Refuse inputs of ``step`` that do not fit."""
        if not self.causal:
            raise ValueError(
                "expected a layer that reads forward only, got one that also reads backward: its "
                "output at a step depends on later steps; use unroll, or bidirectional=False"
            )
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise ValueError(
                f"expected x of shape (batch, {self.input_size}), got {tuple(x.shape)}; step reads "
                "one step of every row, unroll reads sequences"
            )
        self._check_precision(x)
        self._check_rows(x, state)

    def _check_rows(self, x: Tensor, state: State | None) -> None:
        if state is not None and state.rows != x.shape[0]:
            raise ValueError(
                f"expected a state of {x.shape[0]} rows, as many as x, got {state.rows}; "
                "state.reorder picks rows"
            )


def checked(state: State | None, kind: type[State], layer: str) -> None:
    """Refuse a state that another kind of layer made.

    Raises:
        ValueError: ``state`` is neither None nor of ``kind``.
    """
    if state is not None and not isinstance(state, kind):
        raise ValueError(
            f"expected a {kind.__name__} for {layer}, got {type(state).__name__}; pass what this "
            "layer's initial_state, unroll or step returned"
        )
