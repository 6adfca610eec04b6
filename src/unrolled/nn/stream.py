"""Streams: one step at a time in production, with weights packed once and no memory taken a step.

Shapes: B rows, D input features (or one token id a row), H outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from unrolled.nn.state import State


class Stream(ABC):
    """Reads one step of B sequences at a time; made by ``stream`` of a layer or a model.

    The weights are those of the moment it was made, or of the last :meth:`refresh`: a later change
    is not seen. Everything runs as in evaluation, without dropout and without gradients. One thread
    at a time may use a stream.

    Attributes:
        native: whether a step is one call of the native core, which takes no memory.
        precision: of the weights, see :meth:`Layer.stream`; states are float32.
        input: (B, D), or int64 ids (B,): what ``step()`` without an argument reads.
        output: (B, H): what every step returns.
        reads_chunks: whether ``read`` takes many steps at once.
    """

    reads_chunks = False
    native: bool
    precision: str

    def __init__(self, input: Tensor, output: Tensor, state: State) -> None:
        self.input = input
        self.output = output
        self._shape = input.shape
        self._dtype = input.dtype
        self._state = state

    @abstractmethod
    def step(self, x: Tensor | None = None) -> Tensor:
        """Read one step of every row.

        Args:
            x: (B, D) in the precision of ``input``, or int64 token ids (B,); ``input`` as it stands
                when not given, which is then not checked.

        Returns:
            ``output``, always the same tensor: its numbers stand until the next step.

        Raises:
            ValueError: another shape, precision or device, or no such token; no row was read.
        """

    def read(self, x: Tensor) -> Tensor:
        """Read T steps of every row, one after the other or at once.

        Args:
            x: (B, T, D), or int64 token ids (B, T); T at least 1.

        Returns:
            ``output``, what the last step says.

        Raises:
            ValueError: see ``step``; the steps before the one that was refused were read.
        """
        for step in x.unbind(1):
            self.step(step)
        return self.output

    def begin(self, x: Tensor) -> Tensor:
        """Read T steps of every row from the state before the first, as ``reset`` and ``read`` do.

        What a text of one row has in common with the beginning of the one before need not be read
        again: a cache has it yet.
        """
        self.reset()
        return self.read(x)

    def read_each(self, x: Tensor) -> Tensor:
        """Read T steps of every row as ``read`` does; return what each says (B, T, H), a copy."""
        said = [self.step(step).clone() for step in x.unbind(1)]
        return torch.stack(said, 1)

    @property
    def state(self) -> State:
        """The state after the last step; a native stream's next step changes it in place.

        Assigning is :meth:`load`.
        """
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self.load(state)

    @abstractmethod
    def load(self, state: State) -> None:
        """Go on from a copy of ``state``, which ``unroll`` or another stream may have made.

        Raises:
            ValueError: it is not a state of this layer for B rows.
        """

    @abstractmethod
    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        """Put rows back to the state before the first step: all of them, or those of an index."""

    @abstractmethod
    def refresh(self) -> None:
        """Take the weights as they are now.

        Raises:
            ValueError: they have other shapes than when the stream was made, or moved elsewhere.
        """

    @property
    @abstractmethod
    def bytes(self) -> int:
        """How many bytes of weights a step reads, the embedding aside."""

    @abstractmethod
    def explain(self) -> str:
        """Return one line: which path runs, and why."""

    def _refuse(self, x: Tensor) -> NoReturn:
        got = (
            f"{tuple(x.shape)}, {x.dtype}, on {x.device}"
            if isinstance(x, Tensor)
            else type(x)
        )
        raise ValueError(
            f"expected x of shape {tuple(self._shape)}, {self._dtype}, on {self.input.device}, got "
            f"{got}; a step reads one step of every row, batch= sets how many there are"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a stream cannot be copied or pickled; make another, and load its state"
        )
