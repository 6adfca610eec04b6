"""States as plain tensors say what they are: every change is compared with indexing by torch.

An attention state is compared by its steps that are real: what stands past a row's length in the
cache is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unrolled.nn import AttentionState, EmptyState, RecurrentState, State, pack, unpack
from unrolled.nn.state import Buffer, CacheWriter

LAYERS = 2
HEADS = 3
WIDTH = 5
EXACT = {"rtol": 0, "atol": 0}
# of 4 rows: repeated, missing, turned round, fewer, more, none
CHOSEN = [
    [0, 0, 2, 1],
    [3, 2, 1, 0],
    [0, 1, 2, 3],
    [1, 1],
    [0, 1, 2],
    [3],
    [2, 0, 0, 3, 1, 1],
    [],
]


def empty(rows: int) -> AttentionState:
    nothing = torch.zeros(LAYERS, rows, HEADS, 0, WIDTH)
    lengths = torch.zeros(rows, dtype=torch.int64)
    return AttentionState(Buffer(nothing, nothing), lengths, 0)


def written(
    state: AttentionState, chunk: Tensor, counts: Tensor | None = None
) -> AttentionState:
    """Return the state after a chunk of keys (L, B, K, T, E), whose values are the negatives."""
    writer = CacheWriter(state, chunk.shape[3], counts)
    for layer in range(LAYERS):
        writer.write(layer, chunk[layer], -chunk[layer])
    return writer.finish()


def chunk(rows: int, steps: int = 1) -> Tensor:
    return torch.randn(LAYERS, rows, HEADS, steps, WIDTH)


def rows_of(state: AttentionState) -> list[Tensor]:
    """Return the real keys and values of each row (2, L, K, S, E), as copies."""
    rows = []
    for row, length in enumerate(state.lengths.tolist()):
        parts = (state.keys[:, row, :, :length], state.values[:, row, :, :length])
        rows.append(torch.stack(parts).clone())
    return rows


def same_rows(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(got) == len(expected)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, **EXACT)


def cache(lengths: Sequence[int] = (2, 2, 2, 2)) -> AttentionState:
    counts = torch.tensor(lengths)
    steps = max(lengths)
    return written(empty(len(lengths)), chunk(len(lengths), steps), counts)


def appended(rows: Sequence[Tensor], new: Tensor) -> list[Tensor]:
    """Return rows (2, L, K, S, E) with one more step of keys (L, B, K, 1, E) each."""
    both = torch.stack([new, -new])
    return [torch.cat([row, both[:, :, at]], 3) for at, row in enumerate(rows)]


@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("with_cells", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_recurrent_states_are_reordered(
    chosen: list[int], with_cells: bool, keep: bool
) -> None:
    h = torch.randn(2, 4, 3)
    c = torch.randn(2, 4, 6) if with_cells else None
    rows = torch.tensor(chosen, dtype=torch.int64)
    moved = RecurrentState(h, c).reorder(rows, keep)
    assert moved.rows == len(chosen)
    torch.testing.assert_close(moved.h, h[:, chosen], **EXACT)
    assert (moved.c is None) == (c is None)
    if c is not None:
        torch.testing.assert_close(moved.c, c[:, chosen], **EXACT)


@pytest.mark.parametrize("chosen", CHOSEN)
def test_an_empty_state_counts_rows(chosen: list[int]) -> None:
    state = EmptyState(4)
    assert state.reorder(torch.tensor(chosen, dtype=torch.int64)).rows == len(chosen)
    assert EmptyState.join([state, EmptyState(2)]).rows == 6
    assert state.detach() is state


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("lengths", [(2, 2, 2, 2), (3, 1, 0, 2)])
@pytest.mark.parametrize("chosen", CHOSEN)
def test_a_cache_is_reordered(
    chosen: list[int], lengths: tuple[int, ...], keep: bool, grad: bool
) -> None:
    with torch.set_grad_enabled(grad):
        state = cache(lengths)
        before = rows_of(state)
        rows = torch.tensor(chosen, dtype=torch.int64)
        moved = state.reorder(rows, keep)
        expected = [before[row] for row in chosen]
        assert moved.lengths.tolist() == [lengths[row] for row in chosen]
        assert moved.used == max([lengths[row] for row in chosen], default=0)
        same_rows(rows_of(moved), expected)
        new = chunk(len(chosen))
        same_rows(rows_of(written(moved, new)), appended(expected, new))
        if keep:
            same_rows(rows_of(state), before)


@torch.no_grad()
def test_rows_in_their_order_are_not_moved() -> None:
    state = cache()
    in_order = torch.arange(4)
    assert state.reorder(in_order) is state
    assert state.reorder(in_order, keep=False) is state


@torch.no_grad()
@pytest.mark.parametrize("chosen", CHOSEN[:6])
def test_a_cache_that_is_given_up_moves_in_place(chosen: list[int]) -> None:
    state = cache()
    storage = state.buffer.keys.data_ptr()
    moved = state.reorder(torch.tensor(chosen), keep=False)
    assert moved.buffer.keys.data_ptr() == storage
    after = written(moved, chunk(len(chosen)))
    assert after.buffer.keys.data_ptr() == storage


@torch.no_grad()
def test_only_steps_that_were_read_move() -> None:
    state = cache()
    before = rows_of(state)
    past = state.buffer.keys[:, 1, :, 2:]
    past.fill_(torch.nan)
    moved = state.reorder(torch.tensor([1, 0, 2, 3]), keep=False)
    same_rows(rows_of(moved), [before[row] for row in (1, 0, 2, 3)])
    assert moved.buffer.keys[:, 0].isfinite().all()


@torch.no_grad()
def test_a_cache_grows_in_place_and_doubles() -> None:
    state = empty(2)
    expected: list[Tensor] = [torch.zeros(2, LAYERS, HEADS, 0, WIDTH)] * 2
    rooms = []
    for _ in range(40):
        new = chunk(2)
        before = state
        state = written(state, new)
        expected = appended(expected, new)
        rooms.append(state.buffer.room)
        if state.used <= before.buffer.room:
            assert state.buffer is before.buffer
    same_rows(rows_of(state), expected)
    assert rooms[0] == 16
    for room, following in pairwise(rooms):
        assert following in (room, 2 * room)


@torch.no_grad()
@pytest.mark.parametrize("reordered", [False, True])
def test_an_older_state_can_be_stepped_again(reordered: bool) -> None:
    old = cache()
    before = rows_of(old)
    added = chunk(4)
    other = chunk(4)
    first = written(old, added)
    if reordered:
        first = first.reorder(torch.tensor([3, 0, 0, 1]))
    second = written(old, other)
    assert second.buffer is not first.buffer
    ahead = appended(before, added)
    if reordered:
        ahead = [ahead[row] for row in (3, 0, 0, 1)]
    same_rows(rows_of(first), ahead)
    same_rows(rows_of(second), appended(before, other))
    same_rows(rows_of(old), before)


@torch.no_grad()
def test_a_state_that_is_kept_stays_as_it_was() -> None:
    state = cache()
    before = rows_of(state)
    moved = state.reorder(torch.tensor([1, 0, 3, 3]))
    written(moved, chunk(4))
    same_rows(rows_of(state), before)


@torch.no_grad()
def test_an_older_state_is_never_moved_in_place() -> None:
    old = cache()
    newest = written(old, chunk(4))
    before = rows_of(newest)
    old.reorder(torch.tensor([1, 0, 2, 3]), keep=False)
    same_rows(rows_of(newest), before)


def test_what_was_stepped_in_inference_mode_is_copied_outside_of_it() -> None:
    with torch.inference_mode():
        state = cache()
    with torch.no_grad():
        chosen = torch.tensor([1, 1, 0, 2])
        moved = state.reorder(chosen, keep=False)
        assert moved.keys.tolist() == state.keys[:, chosen].tolist()
        after = written(state, chunk(4))
    assert after.buffer is not state.buffer


@pytest.mark.parametrize("grad", [False, True])
def test_chunks_of_ragged_rows_stand_side_by_side(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        first = chunk(3, 4)
        second = chunk(3, 2)
        state = written(empty(3), first, torch.tensor([4, 0, 2]))
        state = written(state, second, torch.tensor([1, 2, 0]))
    assert state.lengths.tolist() == [5, 2, 2]
    assert state.used == 5
    keys = [
        torch.cat([first[:, 0], second[:, 0, :, :1]], 2),
        second[:, 1],
        first[:, 2, :, :2],
    ]
    same_rows(rows_of(state), [torch.stack([key, -key]) for key in keys])


def test_gradients_reach_what_was_written() -> None:
    old = chunk(2, 2).requires_grad_()
    new = chunk(2).requires_grad_()
    before = written(empty(2), old, torch.tensor([2, 1]))
    state = written(before, new).reorder(torch.tensor([1, 1]))
    gradients = torch.autograd.grad(state.keys.sum(), [old, new])
    # row 0 left, row 1 stands there twice; its second step was padding, which the new one replaces
    expected = torch.zeros_like(old)
    expected[:, 1, :, 0] = 2
    torch.testing.assert_close(gradients[0], expected, **EXACT)
    assert gradients[1][:, 1].unique().tolist() == [2.0]
    assert not gradients[1][:, 0].any()


def test_what_a_graph_may_need_is_not_written_in_place() -> None:
    with torch.no_grad():
        plain = cache((1, 1))
    recorded = written(empty(2), chunk(2).requires_grad_())
    turned = torch.tensor([1, 0])
    with torch.no_grad():
        for state in (recorded, recorded.reorder(turned)):
            assert written(state, chunk(2)).buffer is not state.buffer
    moved = plain.reorder(turned)  # which has room, and may be read by what is recorded
    with torch.no_grad():
        assert written(moved, chunk(2)).buffer is not moved.buffer


def test_detached_states_have_the_same_numbers_and_no_graph() -> None:
    h = torch.randn(1, 2, 3, requires_grad=True)
    recurrent = RecurrentState(2 * h, 3 * h)
    attention = written(empty(2), chunk(2, 3).requires_grad_())
    for state in (recurrent, RecurrentState(2 * h), attention):
        cut = state.detach()
        torch.testing.assert_close(cut.to_tensors(), state.to_tensors(), **EXACT)
    assert recurrent.h.requires_grad
    assert not recurrent.detach().h.requires_grad
    assert recurrent.detach().c is not None
    assert not recurrent.detach().c.requires_grad  # type: ignore[union-attr]
    assert attention.keys.requires_grad
    assert not attention.detach().keys.requires_grad
    with torch.no_grad():
        plain = cache()
        assert plain.detach() is plain  # there is nothing to cut


def test_joined_recurrent_states_stand_side_by_side() -> None:
    first = RecurrentState(torch.randn(2, 3, 4), torch.randn(2, 3, 5))
    second = RecurrentState(torch.randn(2, 1, 4), torch.randn(2, 1, 5))
    joined = RecurrentState.join([first, second])
    torch.testing.assert_close(joined.h, torch.cat([first.h, second.h], 1), **EXACT)
    assert joined.c is not None
    assert joined.c.shape == (2, 4, 5)
    torch.testing.assert_close(joined.c[:, 3:], second.c, **EXACT)
    assert RecurrentState.join([RecurrentState(first.h)] * 2).c is None


@pytest.mark.parametrize("grad", [False, True])
def test_joined_caches_keep_each_row(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        states = [cache((3, 0)), cache((1,)), cache((5, 5, 2))]
        joined = AttentionState.join(states)
        assert joined.lengths.tolist() == [3, 0, 1, 5, 5, 2]
        assert joined.used == 5
        expected = []
        for state in states:
            expected += rows_of(state)
        same_rows(rows_of(joined), expected)
        new = chunk(6)
        same_rows(rows_of(written(joined, new)), appended(expected, new))
        same_rows(rows_of(joined), expected)


STATES: dict[str, State] = {
    "empty": EmptyState(3),
    "recurrent": RecurrentState(torch.arange(24.0).view(2, 3, 4)),
    "cells": RecurrentState(torch.arange(24.0).view(2, 3, 4), torch.ones(2, 3, 5)),
    "attention": AttentionState(
        Buffer(torch.arange(480.0).view(2, 3, 2, 8, 5), torch.ones(2, 3, 2, 8, 5), 1),
        torch.tensor([2, 0, 3]),
        3,
        1,
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_tensors_say_all_of_a_state(name: str) -> None:
    state = STATES[name]
    tensors = state.to_tensors()
    assert all(part.is_contiguous() for part in tensors.values())
    again = type(state).from_tensors(tensors)
    assert again.rows == state.rows
    torch.testing.assert_close(again.to_tensors(), tensors, **EXACT)
    packed = pack(state)
    assert packed.keys() == {f"{state.kind}/{name}" for name in tensors}
    unpacked = unpack(packed)
    assert type(unpacked) is type(state)
    torch.testing.assert_close(pack(unpacked), packed, **EXACT)


@torch.no_grad()
def test_a_cache_from_tensors_does_not_write_into_them() -> None:
    tensors = cache((2, 1)).to_tensors()
    before = {name: part.clone() for name, part in tensors.items()}
    state = AttentionState.from_tensors(tensors)
    rows = rows_of(state)
    new = chunk(2)
    same_rows(rows_of(written(state, new)), appended(rows, new))
    torch.testing.assert_close(tensors, before, **EXACT)


def test_states_refuse_what_is_none() -> None:
    for kind in (EmptyState, RecurrentState, AttentionState):
        with pytest.raises(ValueError, match="expected at least one state to join"):
            kind.join([])
    h = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="some with cells and some without"):
        RecurrentState.join([RecurrentState(h), RecurrentState(h, h)])
    for tensors in (
        {},
        {"h": torch.zeros(1)},
        {"empty/size": torch.tensor(1), "recurrent/h": h},
    ):
        with pytest.raises(
            ValueError, match=r"pass what unrolled\.nn\.state\.pack returned"
        ):
            unpack(tensors)
