"""A KV cache that rows share: reordering beams copies an index, and no key moves.

Shapes: B rows, L blocks, K key-value heads, C room for steps, S steps read so far, E width of a
head, R rows of the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from unrolled.nn.rooms import Rooms
from unrolled.nn.state import AttentionState, Buffer, State


@dataclass(frozen=True, eq=False)
class BeamState(State):
    """Attention's state of rows that share what they read: reordering copies an index and no key.

    Step s of row b stands at index s of row ``origin[b, s]`` of the buffer, and row b itself writes
    into row b. As long as all rows have read as many steps, no row writes where another reads. A
    state that is no longer the newest copies before it writes, as an :class:`AttentionState` does.

    Args:
        buffer: the shared storage (L, R, K, C, E), R at least B.
        origin: (B, C), int32.
        lengths: steps read (B,), int64.
        used: the largest of ``lengths``.
        even: whether all of them are equal.
        turn: which writer of ``buffer`` this state was.
    """

    kind: ClassVar[str] = "beam"
    buffer: Buffer
    origin: Tensor
    lengths: Tensor
    used: int
    even: bool
    turn: int

    @property
    def rows(self) -> int:
        return self.lengths.shape[0]

    @property
    def _writable(self) -> bool:
        """Whether ``origin`` may be written now: an inference tensor not outside inference mode."""
        if torch.is_inference_mode_enabled():
            return True
        return not self.origin.is_inference()

    @classmethod
    def of(cls, state: AttentionState) -> Self:
        """Return the same state, its keys where they are."""
        lengths = state.lengths
        used = state.used
        even = bool((lengths == used).all())
        own = torch.arange(state.rows, dtype=torch.int32, device="cpu")
        origin = own[:, None].repeat(1, state.buffer.room)
        return cls(
            state.buffer,
            origin,
            lengths,
            used,
            even,
            state.turn,
        )

    def settled(self) -> AttentionState:
        """Return the same state with the keys of each row in a row of their own."""
        buffer = self.buffer.changed(self._settled)
        return AttentionState(buffer, self.lengths, self.used)

    def _settled(self, part: Tensor) -> Tensor:
        """Return keys or values (L, R, K, C, E) row by row (L, B, K, S, E)."""
        if not self.rows:
            return part[:, :0, :, : self.used]
        used = self.used
        origin = self.origin[:, :used].long()
        steps = torch.arange(used, device=origin.device)
        # indices on both sides of a slice come first: (B, S, L, K, E)
        gathered = part[:, origin, :, steps]
        by_row = gathered.permute(2, 0, 3, 1, 4)
        return by_row.contiguous()

    def claimed(self, rooms: Rooms) -> Self:
        """Return the same state where it may write its next step; ``rooms`` has the memory."""
        old = self.buffer
        used = self.used
        if used < old.room and 0 < self.turn == old.newest and self._writable:
            return self
        settled = self.settled()
        blocks, rows, heads, _, width = settled.keys.shape
        room = max(2 * used, 32)
        shape = (blocks, rows, heads, room, width)
        buffer = rooms.buffer(shape)
        buffer.keys[:, :, :, :used] = settled.keys
        buffer.values[:, :, :, :used] = settled.values
        if not self.even:
            # rows that are behind leave steps unwritten, which packing a state takes along
            buffer.keys[:, :, :, used:] = 0
            buffer.values[:, :, :, used:] = 0
        state = AttentionState(buffer, self.lengths, used, 1)
        return type(self).of(state)

    def stepped(self) -> Self:
        """Return the state after a step was written into ``buffer`` and ``origin``."""
        self.buffer.newest += 1
        return type(self)(
            self.buffer,
            self.origin,
            self.lengths + 1,
            self.used + 1,
            self.even,
            self.buffer.newest,
        )

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        origin = self.origin.index_select(0, rows)
        lengths = self.lengths.index_select(0, rows)
        used = self.used
        if not self.even:
            used = int(lengths.max()) if len(lengths) else 0
        moved = replace(self, origin=origin, lengths=lengths, used=used)
        # else a row could write where another reads, or where there is no row of the cache
        if self.even and len(rows) <= self.buffer.keys.shape[1]:
            return moved
        return type(self).of(moved.settled())

    def detach(self) -> Self:
        return self

    def to_tensors(self) -> dict[str, Tensor]:
        return self.settled().to_tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        state = AttentionState.from_tensors(tensors)
        return cls.of(state)

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        settled = [state.settled() for state in states]
        return cls.of(AttentionState.join(settled))
