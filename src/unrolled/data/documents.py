"""Batches of documents of which none sees another, as pure functions of (seed, epoch, index).

Legend: N documents, P pieces of them, W windows, B rows, T steps.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unrolled.data.batches import IGNORED, PAD, Batch, random
from unrolled.data.examples import Ints
from unrolled.data.shards import Tokens


@dataclass(frozen=True)
class Documents:
    """Documents in one array of ids: number n is ``tokens[offsets[n]:offsets[n + 1]]``.

    None of them is empty: each ends with the end mark. ``scored`` says of each token whether it is
    learnt to write, bool; None: all are.
    """

    tokens: NDArray[np.int32] | Tokens
    offsets: Ints
    scored: NDArray[np.bool_] | None = None

    @functools.cached_property
    def lengths(self) -> Ints:
        """Tokens of each document (N,)."""
        return np.diff(self.offsets)

    def targets(self, positions: Ints, ids: NDArray[Any]) -> NDArray[Any]:
        """Return the ids that stand at positions, IGNORED where they are not learnt to write."""
        if self.scored is None:
            return ids
        learnt = self.scored[positions]
        return np.where(learnt, ids, IGNORED)

    @property
    def size(self) -> int:
        """Tokens of all of them."""
        return int(self.offsets[-1] - self.offsets[0])


class WindowGroup(NamedTuple):
    """Windows that hold pieces of the same lengths, and how many they are."""

    windows: int
    lengths: tuple[int, ...]


class _Rooms:
    """Windows by the room that is left in them, while pieces are packed."""

    def __init__(self) -> None:
        self.groups: dict[int, list[WindowGroup]] = {}
        self.rooms: list[int] = []

    def put(self, room: int, count: int, lengths: tuple[int, ...]) -> None:
        """Put ``count`` windows with so much room."""
        if not count:
            return
        if room not in self.groups:
            bisect.insort(self.rooms, room)
            self.groups[room] = []
        self.groups[room].append(WindowGroup(count, lengths))

    def take(self, least: int) -> tuple[int, WindowGroup] | None:
        """Take the windows with the least room that is enough; None where there are none."""
        index = bisect.bisect_left(self.rooms, least)
        if index == len(self.rooms):
            return None
        room = self.rooms[index]
        group = self.groups[room].pop()
        if not self.groups[room]:
            del self.groups[room]
            del self.rooms[index]
        return room, group

    def all(self) -> Iterator[WindowGroup]:
        """Yield all windows, the fullest first."""
        for room in self.rooms:
            yield from self.groups[room]


def pack(lengths: Ints, window: int) -> list[WindowGroup]:
    """Pack pieces into windows: the longest first, each where it leaves the least room.

    Best fit decreasing (Johnson et al. 1974), for all pieces of one length at once: the time
    depends on the window, and not on how many pieces there are (Krell et al. 2021).

    Args:
        lengths: of the pieces (P,), from 1 to ``window``.
        window: T.
    """
    rooms = _Rooms()
    counts = np.bincount(lengths, minlength=window + 1)
    for length in range(window, 0, -1):
        left = int(counts[length])
        while left:
            taken = rooms.take(length)
            # as many new windows as may be needed
            room, group = taken or (window, WindowGroup(left, ()))
            most = room // length
            full = min(group.windows, left // most)
            left -= full * most
            unused = group.windows - full
            filled = group.lengths + (length,) * most
            rooms.put(room - most * length, full, filled)
            if unused and left:
                filled = group.lengths + (length,) * left
                rooms.put(room - left * length, 1, filled)
                unused -= 1
                left = 0
            if taken is not None:
                rooms.put(room, unused, group.lengths)
    return list(rooms.all())


class _Slots(NamedTuple):
    """Where pieces stand in windows.

    Attributes:
        lengths: of the piece in each slot (P,), window by window.
        windows: the first slot of each window, and the number of all (W + 1,).
        by_length: the slots, the shortest first (P,).
    """

    lengths: Ints
    windows: Ints
    by_length: Ints


@dataclass(frozen=True)
class PackedDocuments:
    """Windows of whole documents, each read from a fresh state.

    A document longer than a window is cut into pieces: full windows and a rest, which stands at
    another of their places in each epoch; each is read from a fresh state. Which pieces of one
    length stand in which window is drawn anew for each epoch, and so is the order of the windows.
    """

    documents: Documents
    rows: int
    window: int
    seed: int
    start: int

    @functools.cached_property
    def _counts(self) -> Ints:
        """Pieces of each document (N,)."""
        return -(-self.documents.lengths // self.window)

    @functools.cached_property
    def _slots(self) -> _Slots:
        """How pieces are packed: that depends on their lengths, which no epoch changes."""
        _, piece_lengths = self._pieces(np.zeros_like(self._counts))
        groups = pack(piece_lengths, self.window)
        slots: list[Ints] = []
        sizes = [np.zeros(1, dtype=np.int64)]
        for group in groups:
            filled = np.array(group.lengths)
            slots.append(np.tile(filled, group.windows))
            sizes.append(np.full(group.windows, len(filled)))
        lengths = np.concatenate(slots)
        windows = np.cumsum(np.concatenate(sizes))
        by_length = np.argsort(lengths, kind="stable")
        return _Slots(lengths, windows, by_length)

    def _pieces(self, rests: Ints) -> tuple[Ints, Ints]:
        """Return where the pieces begin and how long they are, both (P,).

        Args:
            rests: which of a document's pieces is the one that may be shorter (N,).
        """
        counts = self._counts
        lengths = self.documents.lengths
        before = np.cumsum(counts) - counts
        before_piece = np.repeat(before, counts)
        number = np.arange(len(before_piece)) - before_piece
        rest_of_document = lengths - (counts - 1) * self.window
        rest = np.repeat(rest_of_document, counts)
        rest_number = np.repeat(rests, counts)
        offsets = self.documents.offsets[:-1]
        begins = np.repeat(offsets, counts)
        begins += number * self.window
        is_after_rest = number > rest_number
        begins -= np.where(is_after_rest, self.window - rest, 0)
        is_rest = number == rest_number
        return begins, np.where(is_rest, rest, self.window)

    @property
    def padding(self) -> float:
        """The share of steps that hold no token."""
        windows = len(self._slots.windows) - 1
        steps = windows * self.window
        return 1 - self.documents.size / steps

    def length(self, epoch: int) -> int:
        """Return the number of batches that hold all documents once."""
        windows = len(self._slots.windows) - 1
        return -(-windows // self.rows)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - drawn once an epoch
    def plan(self, epoch: int) -> tuple[Ints, Ints]:
        """Return where the piece in each slot begins (P,), and the order of the windows (W,)."""
        generator = random(self.seed, epoch)
        rests = generator.integers(self._counts)
        piece_begins, piece_lengths = self._pieces(rests)
        drawn = generator.permutation(len(piece_lengths))
        drawn_lengths = piece_lengths[drawn]
        by_length = drawn[np.argsort(drawn_lengths, kind="stable")]
        begins = np.empty_like(piece_begins)
        begins[self._slots.by_length] = piece_begins[by_length]
        windows = len(self._slots.windows) - 1
        return begins, generator.permutation(windows)

    def __hash__(self) -> int:
        return id(self)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return windows of inputs and next tokens, both (rows, window); padding is IGNORED."""
        begins, order = self.plan(epoch)
        first_window = index * self.rows
        end = first_window + self.rows
        chosen = order[first_window:end]
        slots = self._slots
        first = slots.windows[chosen]
        counts = slots.windows[chosen + 1] - first
        slot = _ranges(first, counts)
        row = np.repeat(np.arange(len(chosen)), counts)
        lengths = slots.lengths[slot]
        ends = np.cumsum(lengths)
        filled = np.bincount(row, lengths, len(chosen))
        filled = filled.astype(np.int64)
        # where each piece begins in the batch, row after row
        before = np.cumsum(filled) - filled
        column = ends - lengths - before[row]
        at = row * self.window + column
        sources = _ranges(begins[slot], lengths)
        ids = self.documents.tokens[sources]
        ids = ids.astype(np.int64)
        position = _ranges(at, lengths)
        shape = len(chosen), self.window
        inputs = np.full(shape, PAD, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        starts = np.zeros(shape, dtype=np.bool_)
        targets.flat[position] = self.documents.targets(sources, ids)
        after_first = position[1:]
        inputs.flat[after_first] = ids[:-1]
        inputs.flat[at] = self.start
        starts.flat[at] = True
        # padding is no part of the document before it
        padded = filled < self.window
        padding_begins = filled[padded]
        starts[padded, padding_begins] = True
        # what follows the only document of a row is never scored, and nothing reads it
        alone = len(slot) == len(chosen)
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(filled),
            torch.from_numpy(targets),
            chosen,
            starts=None if alone else torch.from_numpy(starts),
        )


@dataclass(frozen=True)
class DocumentLanes:
    """Documents one after another in lanes, the state carried inside a document alone.

    As ``Lanes`` cuts one text: equal parts are read side by side, ``window`` tokens at a time. The
    documents stand in another order in each epoch. What two lanes share of a document where they
    are cut is read as two; the last tokens, fewer than lanes, are left out of an epoch.
    """

    documents: Documents
    lanes: int
    window: int
    seed: int
    start: int
    reset: float = 0.0

    @property
    def lane_length(self) -> int:
        """Tokens in one lane."""
        return self.documents.size // self.lanes

    def length(self, epoch: int) -> int:
        """Return the number of windows in a lane."""
        return -(-self.lane_length // self.window)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - drawn once an epoch
    def plan(self, epoch: int) -> tuple[Ints, Ints]:
        """Return where each document of an epoch begins in ``tokens``, and in the epoch, (N,)."""
        generator = random(self.seed, epoch)
        lengths = self.documents.lengths
        order = generator.permutation(len(lengths))
        lengths = lengths[order]
        offsets = self.documents.offsets[order]
        begins = np.cumsum(lengths) - lengths
        return offsets, begins

    def __hash__(self) -> int:
        return id(self)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return window ``index`` of every lane: inputs and next tokens, both (lanes, T)."""
        sources, begins = self.plan(epoch)
        first = index * self.window
        last = min(first + self.window, self.lane_length)
        lane_starts = np.arange(self.lanes)[:, None] * self.lane_length
        # one token before the window: the first input
        steps = np.arange(first - 1, last)
        positions = lane_starts + steps
        positions = positions.clip(min=0)
        document = np.searchsorted(begins, positions, side="right") - 1
        within = positions - begins[document]
        token_positions = sources[document] + within
        ids = self.documents.tokens[token_positions]
        ids = ids.astype(np.int64)
        inputs = ids[:, :-1].copy()
        starts = within[:, 1:] == 0
        if index == 0:
            starts[:, 0] = True
        elif self.reset:
            drawn = random(self.seed, epoch, index).random(self.lanes)
            starts[:, 0] |= drawn < self.reset
        inputs[starts] = self.start
        fresh = starts[:, 0]
        goes_on = index > 0 and fresh.any()
        several = starts[:, 1:].any()
        return Batch(
            torch.from_numpy(inputs),
            None,
            torch.from_numpy(ids[:, 1:]),
            np.arange(self.lanes),
            index == 0,
            torch.from_numpy(fresh.copy()) if goes_on else None,
            start=self.start,
            starts=torch.from_numpy(starts) if several else None,
        )


def _ranges(begins: Ints, counts: Ints) -> Ints:
    """Return, one after another, the ``counts`` numbers from each of ``begins`` on."""
    ends = np.cumsum(counts)
    before = ends - counts
    total = counts.sum()
    shifts = np.repeat(begins - before, counts)
    return np.arange(total) + shifts
