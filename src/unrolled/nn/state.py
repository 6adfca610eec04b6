"""What a layer carries from one step to the next. Passed along, never kept on a module.

Shapes: B rows (sequences), L layers, R directions, H hidden, K key-value heads, S steps read so
far, C room for steps, E width of a head.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    tensors = state.to_tensors()
    return {f"{state.kind}/{name}": tensor for name, tensor in tensors.items()}


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
    kind = kinds.pop()
    prefix = f"{kind}/"
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return _KINDS[kind].from_tensors(own)


def _refuse_nothing(states: Sequence[State]) -> None:
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
        _refuse_nothing(states)
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
        h = self.h.index_select(1, rows)
        if self.c is None:
            return type(self)(h)
        c = self.c.index_select(1, rows)
        return type(self)(h, c)

    def detach(self) -> Self:
        h = self.h.detach()
        if self.c is None:
            return type(self)(h)
        return type(self)(h, self.c.detach())

    def to_tensors(self) -> dict[str, Tensor]:
        tensors = {"h": self.h.detach().contiguous()}
        if self.c is not None:
            tensors["c"] = self.c.detach().contiguous()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(tensors["h"], tensors.get("c"))

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        _refuse_nothing(states)
        hidden = [state.h for state in states]
        cells = [state.c for state in states if state.c is not None]
        if cells and len(cells) != len(states):
            raise ValueError(
                "expected states of one layer, got some with cells and some without"
            )
        h = torch.cat(hidden, 1)
        if not cells:
            return cls(h)
        c = torch.cat(cells, 1)
        return cls(h, c)


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

    def changed(self, change: Callable[[Tensor], Tensor], newest: int = 0) -> Buffer:
        """Return what ``change`` makes of keys and of values, as a buffer."""
        keys = change(self.keys)
        values = change(self.values)
        return Buffer(keys, values, newest)

    def is_newest(self, turn: int) -> bool:
        """Say whether the state that wrote at ``turn`` wrote last, and may write in place."""
        return 0 < turn == self.newest and self.writable


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
        in_order = torch.arange(count, device=rows.device)
        moved = (rows != in_order).nonzero()[:, 0]
        if count == self.rows and not len(moved):
            return self  # greedy search, and many steps of a beam: nothing to move
        lengths = self.lengths.index_select(0, rows)
        used = _largest(lengths)
        recorded = _recording(old.keys)
        own = count <= self.rows and old.is_newest(self.turn)
        if keep or recorded or not own:
            copied = old.changed(lambda part: part.index_select(1, rows), 1)
            # what autograd has recorded is never written in place
            turn = 0 if recorded else 1
            return type(self)(copied, lengths, used, turn)
        sources = rows[moved]
        for part in (old.keys, old.values):
            read = part[:, :, :, :used]
            # the right side is a copy, so that rows may change places with each other
            read[:, moved] = read[:, sources]
        if count == self.rows:
            old.newest += 1
            return type(self)(old, lengths, used, old.newest)
        fewer = old.changed(lambda part: part[:, :count], 1)
        return type(self)(fewer, lengths, used, 1)

    def shortened(self, steps: int) -> Self:
        """Return the state of ``steps`` fewer in every row; it gives up this one.

        What was read since is written over by whoever goes on from the shorter state, so this one,
        and those between the two, may not be used again.
        """
        lengths = self.lengths - steps
        return type(self)(self.buffer, lengths, self.used - steps, self.turn)

    def detach(self) -> Self:
        if not _recording(self.buffer.keys):
            return self
        buffer = self.buffer.changed(Tensor.detach)
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
        used = keys.shape[3]
        buffer = Buffer(keys, values)
        return cls(buffer, tensors["lengths"], used)

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        _refuse_nothing(states)
        used = max(state.used for state in states)
        keys = _side_by_side([state.keys for state in states], used)
        values = _side_by_side([state.values for state in states], used)
        lengths = torch.cat([state.lengths for state in states])
        buffer = Buffer(keys, values)
        return cls(buffer, lengths, used)


def _side_by_side(parts: Sequence[Tensor], used: int) -> Tensor:
    """Return keys or values of several states as those of one, with room for ``used`` steps."""
    padded = []
    for part in parts:
        missing = used - part.shape[3]
        padded.append(pad(part, (0, 0, 0, missing)))
    return torch.cat(padded, 1)


def _largest(lengths: Tensor) -> int:
    if not lengths.numel():
        return 0
    most = lengths.max()
    return int(most)


def _recording(tensor: Tensor) -> bool:
    """Say whether autograd would follow what is written into the tensor, which must then be new."""
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
        self,
        state: AttentionState,
        steps: int,
        counts: Tensor | None = None,
    ) -> None:
        self.state = state
        self.needed = state.used + steps
        read = steps if counts is None else counts
        self.lengths = state.lengths + read
        self.used = self.needed
        if counts is not None:
            self.used = _largest(self.lengths)
        offsets = torch.arange(steps, device=state.lengths.device)
        self.positions = state.lengths[:, None] + offsets  # (B, T)
        self.in_place = not torch.is_grad_enabled()
        # layer by layer, where gradients are recorded and nothing is written in place
        self.new_keys: list[Tensor] = []
        self.new_values: list[Tensor] = []
        self.buffer = state.buffer
        if self.in_place:
            self.buffer = self._claimed()

    def _claimed(self) -> Buffer:
        """Return a buffer with enough room that nobody newer has written to."""
        state = self.state
        old = state.buffer
        if old.room >= self.needed and old.is_newest(state.turn):
            old.newest += 1
            return old
        used = state.used
        room = max(self.needed, 2 * used, 16)
        layers, rows, heads, _, width = old.keys.shape
        shape = (layers, rows, heads, room, width)
        keys = old.keys.new_zeros(shape)
        values = old.values.new_zeros(shape)
        keys[:, :, :, :used] = state.keys.detach()
        values[:, :, :, :used] = state.values.detach()
        return Buffer(keys, values, 1)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values (B, K, T, E) of one layer's chunk.

        Returns:
            All keys and values of that layer (B, K, S + T, E), this chunk included. What stands
            past a row's length is finite and must be masked.
        """
        old_key = self.buffer.keys[layer]
        old_value = self.buffer.values[layer]
        steps = self.positions[:, None, :, None]
        steps = steps.expand_as(key)
        key = key.to(old_key.dtype)
        value = value.to(old_value.dtype)
        if self.in_place:
            old_key.scatter_(2, steps, key)
            old_value.scatter_(2, steps, value)
            all_keys = old_key[:, :, : self.needed]
            all_values = old_value[:, :, : self.needed]
            return all_keys, all_values
        used = self.state.used
        if used:
            room = (0, 0, 0, self.needed - used)
            old_key = pad(old_key[:, :, :used], room)
            old_value = pad(old_value[:, :, :used], room)
            key = old_key.scatter(2, steps, key)
            value = old_value.scatter(2, steps, value)
        # else training reads from the start: there is nothing to put beside these
        self.new_keys.append(key)
        self.new_values.append(value)
        return key, value

    def forked(self) -> CacheWriter:
        """Return a writer of the same chunk that keeps nothing for this one, with gradients on."""
        fork = copy(self)
        fork.new_keys = []
        fork.new_values = []
        return fork

    def finish(self) -> AttentionState:
        """Return the state after the chunk."""
        if self.in_place:
            return AttentionState(
                self.buffer, self.lengths, self.used, self.buffer.newest
            )
        keys = torch.stack(self.new_keys)
        values = torch.stack(self.new_values)
        buffer = Buffer(keys, values)
        return AttentionState(buffer, self.lengths, self.used)
