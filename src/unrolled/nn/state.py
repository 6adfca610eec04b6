"""What a layer carries from one step to the next. Passed along, never kept on a module.

Shapes: B rows (sequences), L layers, R directions, H hidden, K key-value heads, S steps read so
far, C room for steps, E width of a head.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

_KINDS: dict[str, type[State]] = {}


class State(ABC):
    """One row for each sequence; every row may stand at its own length.

    A concrete class names its ``kind``, which is all that :func:`pack` writes beside the tensors.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not inspect.isabstract(cls) and "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many sequences this state is about."""

    @abstractmethod
    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        """Return the state whose row i is row ``rows[i]`` of this one.

        Args:
            rows: integers (N,), any N. A row may repeat (beams) or be missing (finished).
            keep: false gives up this state and all that came before it in these sequences: none
                of them may be used again, and a cache may move in place the rows that change
                place, and those alone.
        """

    @abstractmethod
    def detach(self) -> Self:
        """Return the same numbers, cut off from the graph that made them."""

    @abstractmethod
    def to_tensors(self) -> dict[str, Tensor]:
        """Return all of the state as named tensors, contiguous and detached."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build the state that :meth:`to_tensors` described."""

    @classmethod
    @abstractmethod
    def join(cls, states: Sequence[Self]) -> Self:
        """Set the rows of several states side by side, in order."""


def pack(state: State) -> dict[str, Tensor]:
    """Return any state as tensors whose names say how to build it again: ``kind/name``."""
    return {
        f"{state.kind}/{name}": tensor for name, tensor in state.to_tensors().items()
    }


def unpack(tensors: Mapping[str, Tensor]) -> State:
    """Build the state that :func:`pack` wrote.

    Raises:
        ValueError: the names do not all start with one known kind of state.
    """
    kinds = {name.partition("/")[0] for name in tensors}
    if len(kinds) != 1 or not kinds <= _KINDS.keys():
        raise ValueError(
            f"expected tensors named 'kind/name' with one kind out of {sorted(_KINDS)}, got kinds "
            f"{sorted(kinds)}; pass what unrolled.nn.state.pack returned"
        )
    built = _KINDS[kinds.pop()]
    return built.from_tensors(
        {name.partition("/")[2]: t for name, t in tensors.items()}
    )


def _something(states: Sequence[State]) -> None:
    if not states:
        raise ValueError("expected at least one state to join, got none")


@dataclass(frozen=True)
class EmptyState(State):
    """The state of a layer without memory: only the number of rows."""

    kind: ClassVar[str] = "empty"
    size: int

    @property
    def rows(self) -> int:
        return self.size

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        return type(self)(rows.shape[0])

    def detach(self) -> Self:
        return self

    def to_tensors(self) -> dict[str, Tensor]:
        return {"size": torch.tensor(self.size, device="cpu")}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(int(tensors["size"]))

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        _something(states)
        return cls(sum(state.size for state in states))


@dataclass(frozen=True, eq=False)
class RecurrentState(State):
    """The state of rnn, gru and lstm.

    Args:
        h: hidden vectors (L*R, B, H), in torch.nn's order: layer by layer, forward then backward.
        c: cells of an LSTM (L*R, B, H); None for the other cells.
    """

    kind: ClassVar[str] = "recurrent"
    h: Tensor
    c: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.h.shape[1]

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        c = None if self.c is None else self.c.index_select(1, rows)
        return type(self)(self.h.index_select(1, rows), c)

    def detach(self) -> Self:
        return type(self)(self.h.detach(), None if self.c is None else self.c.detach())

    def to_tensors(self) -> dict[str, Tensor]:
        found = {"h": self.h} if self.c is None else {"h": self.h, "c": self.c}
        return {name: tensor.detach().contiguous() for name, tensor in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(tensors["h"], tensors.get("c"))

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        _something(states)
        cells = [state.c for state in states if state.c is not None]
        if cells and len(cells) != len(states):
            raise ValueError(
                "expected states of one layer, got some with cells and some without"
            )
        return cls(
            torch.cat([state.h for state in states], 1),
            torch.cat(cells, 1) if cells else None,
        )


class Buffer:
    """Room for keys and values, written in place by the newest state alone.

    Args:
        keys: (L, B, K, C, E).
        values: (L, B, K, C, E).
        newest: the turn of the state that wrote last; 0 means that nobody may write in place.
    """

    def __init__(self, keys: Tensor, values: Tensor, newest: int = 0) -> None:
        self.keys = keys
        self.values = values
        self.newest = newest

    @property
    def room(self) -> int:
        """How many steps fit."""
        return self.keys.shape[3]

    @property
    def writable(self) -> bool:
        """Whether it may be written now: an inference tensor may not outside inference mode."""
        return not self.keys.is_inference() or torch.is_inference_mode_enabled()


@dataclass(frozen=True, eq=False)
class AttentionState(State):
    """The state of attention: the keys and values of all that was read (the KV cache).

    Step s of row b stands at index s of its row, whatever the other rows hold. What stands at or
    after ``lengths[b]`` is not part of the state and may change under it: later states of the same
    sequence write there. A state stepped a second time notices that it is no longer the newest and
    copies, so forking is always safe, but from what ``reorder(rows, keep=False)`` gave up.

    Args:
        buffer: the shared storage.
        lengths: steps read (B,), int64.
        used: the largest of ``lengths``.
        turn: which writer of ``buffer`` this state was.
    """

    kind: ClassVar[str] = "attention"
    buffer: Buffer
    lengths: Tensor
    used: int
    turn: int = 0

    @property
    def rows(self) -> int:
        return self.lengths.shape[0]

    @property
    def keys(self) -> Tensor:
        """Keys read so far (L, B, K, S, E)."""
        return self.buffer.keys[:, :, :, : self.used]

    @property
    def values(self) -> Tensor:
        """Values read so far (L, B, K, S, E)."""
        return self.buffer.values[:, :, :, : self.used]

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        count = rows.shape[0]
        old = self.buffer
        moved = (rows != torch.arange(count, device=rows.device)).nonzero()[:, 0]
        if count == self.rows and not len(moved):
            return self  # greedy search, and many steps of a beam: nothing to move
        lengths = self.lengths.index_select(0, rows)
        used = _largest(lengths)
        recorded = _recording(old.keys)
        own = 0 < self.turn == old.newest and count <= self.rows and old.writable
        if not keep and not recorded and own:
            for part in (old.keys[:, :, :, :used], old.values[:, :, :, :used]):
                part[:, moved] = part[:, rows[moved]]
            if count == self.rows:
                old.newest += 1
                return type(self)(old, lengths, used, old.newest)
            return type(self)(
                Buffer(old.keys[:, :count], old.values[:, :count], 1), lengths, used, 1
            )
        buffer = Buffer(
            old.keys.index_select(1, rows), old.values.index_select(1, rows), 1
        )
        return type(self)(buffer, lengths, used, 0 if recorded else 1)

    def detach(self) -> Self:
        if not _recording(self.buffer.keys):
            return self
        buffer = Buffer(self.buffer.keys.detach(), self.buffer.values.detach())
        return type(self)(buffer, self.lengths, self.used)

    def to_tensors(self) -> dict[str, Tensor]:
        return {
            "keys": self.keys.detach().contiguous(),
            "values": self.values.detach().contiguous(),
            "lengths": self.lengths.contiguous(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        keys = tensors["keys"]
        values = tensors["values"]
        lengths = tensors["lengths"]
        return cls(Buffer(keys, values), lengths, keys.shape[3])

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        _something(states)
        used = max(state.used for state in states)

        def widened(parts: list[Tensor]) -> Tensor:
            padded = [
                torch.nn.functional.pad(p, (0, 0, 0, used - p.shape[3])) for p in parts
            ]
            return torch.cat(padded, 1)

        keys = widened([state.keys for state in states])
        values = widened([state.values for state in states])
        return cls(
            Buffer(keys, values), torch.cat([state.lengths for state in states]), used
        )


def _largest(lengths: Tensor) -> int:
    return int(lengths.max()) if lengths.numel() else 0


def _recording(tensor: Tensor) -> bool:
    return tensor.requires_grad or torch.is_grad_enabled()


class CacheWriter:
    """Adds one chunk of T steps to an :class:`AttentionState`, layer by layer.

    With gradients off the numbers go into preallocated room, which doubles when it is full, so
    that reading S steps one at a time copies O(S) numbers and not O(S^2). With gradients on every
    write is a new tensor, as autograd needs.

    Args:
        state: what was read before.
        steps: T, the width of the chunk, padding included.
        counts: real steps of each row in this chunk (B,); None when all T are real.
    """

    def __init__(
        self, state: AttentionState, steps: int, counts: Tensor | None = None
    ) -> None:
        self.state = state
        self.needed = state.used + steps
        self.lengths = state.lengths + (steps if counts is None else counts)
        self.used = self.needed if counts is None else _largest(self.lengths)
        offsets = torch.arange(steps, device=state.lengths.device)
        self.positions = state.lengths[:, None] + offsets  # (B, T)
        self.in_place = not torch.is_grad_enabled()
        self.written: list[tuple[Tensor, Tensor]] = []
        self.buffer = self._claimed() if self.in_place else state.buffer

    def _claimed(self) -> Buffer:
        """Return a buffer with enough room that nobody newer has written to."""
        state = self.state
        old = self.state.buffer
        if 0 < state.turn == old.newest and old.room >= self.needed and old.writable:
            old.newest += 1
            return old
        room = max(self.needed, 2 * state.used, 16)
        shape = (*old.keys.shape[:3], room, old.keys.shape[4])
        fresh = Buffer(old.keys.new_zeros(shape), old.values.new_zeros(shape), 1)
        fresh.keys[:, :, :, : state.used] = state.keys.detach()
        fresh.values[:, :, :, : state.used] = state.values.detach()
        return fresh

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values (B, K, T, E) of one layer's chunk.

        Returns:
            All keys and values of that layer (B, K, S + T, E), this chunk included. What stands
            past a row's length is finite and must be masked.
        """
        old_key = self.buffer.keys[layer]
        old_value = self.buffer.values[layer]
        where = self.positions[:, None, :, None].expand_as(key)
        key = key.to(old_key.dtype)
        value = value.to(old_value.dtype)
        if self.in_place:
            old_key.scatter_(2, where, key)
            old_value.scatter_(2, where, value)
            return old_key[:, :, : self.needed], old_value[:, :, : self.needed]
        if (
            not self.state.used
        ):  # training reads from the start: nothing to put beside these
            self.written.append((key, value))
            return key, value
        grow = (0, 0, 0, self.needed - self.state.used)
        pad = torch.nn.functional.pad
        key = pad(old_key[:, :, : self.state.used], grow).scatter(2, where, key)
        value = pad(old_value[:, :, : self.state.used], grow).scatter(2, where, value)
        self.written.append((key, value))
        return key, value

    def finish(self) -> AttentionState:
        """Return the state after the chunk."""
        if self.in_place:
            return AttentionState(
                self.buffer, self.lengths, self.used, self.buffer.newest
            )
        keys = torch.stack([key for key, _ in self.written])
        values = torch.stack([value for _, value in self.written])
        return AttentionState(Buffer(keys, values), self.lengths, self.used)
