"""What is read at each step: every row once, little padding, lanes that are unbroken text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.batches import (
    IGNORED,
    PAD,
    Batch,
    Buckets,
    Lanes,
    Windows,
    by_length,
    collate,
)
from unrolled.data.examples import Examples, Ragged

START = 9999


def examples(lengths: list[int]) -> Examples:
    rows = [[i + 1] * length for i, length in enumerate(lengths)]
    count = len(lengths)
    return Examples(
        np.arange(count) + 2,
        sequences=Ragged.of(rows),
        targets=np.arange(count, dtype=np.int64),
    )


def same(first: Batch, second: Batch) -> bool:
    tensors = [(first.inputs, second.inputs), (first.targets, second.targets)]
    if first.lengths is not None or second.lengths is not None:
        tensors.append((first.lengths, second.lengths))
    return (
        all(a is not None and b is not None and torch.equal(a, b) for a, b in tensors)
        and np.array_equal(first.rows, second.rows)
        and first.restart == second.restart
    )


# Buckets


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=80),
    rows=st.integers(1, 9),
    tokens=st.none() | st.integers(1, 60),
    pool=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_every_row_once_an_epoch_within_the_limits(
    lengths: list[int], rows: int, tokens: int | None, pool: int, epoch: int
) -> None:
    source = Buckets(examples(lengths), rows, tokens, seed=3, pool=pool)
    batches = [source.batch(epoch, i) for i in range(source.length(epoch))]
    assert sorted(np.concatenate([b.rows for b in batches]).tolist()) == list(
        range(len(lengths))
    )
    for batch in batches:
        assert 1 <= len(batch.rows) <= rows
        assert tokens is None or batch.inputs.numel() <= tokens or len(batch.rows) == 1
        assert batch.restart


def test_a_batch_depends_on_seed_epoch_and_index_alone() -> None:
    data = examples(np.random.default_rng(0).integers(0, 20, 200).tolist())
    forward = Buckets(data, 8, None, 5)
    backward = Buckets(data, 8, None, 5)
    calls = [(epoch, i) for epoch in (0, 3, 1) for i in range(forward.length(epoch))]
    seen = {call: forward.batch(*call) for call in calls}
    torch.manual_seed(99)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what must not matter
    for call in reversed(calls):
        assert same(backward.batch(*call), seen[call])

    def order(source: Buckets, epoch: int) -> list[int]:
        return np.concatenate(source.plan(epoch)).tolist()

    assert order(forward, 0) != order(forward, 1)
    assert order(forward, 0) != order(Buckets(data, 8, None, 6), 0)


def test_little_padding_is_computed() -> None:
    lengths = np.random.default_rng(1).geometric(1 / 20, 4000).tolist()

    def padded(pool: int) -> float:
        source = Buckets(examples(lengths), 32, None, 0, pool)
        return sum(source.batch(0, i).inputs.numel() for i in range(source.length(0)))

    # random rows of a geometric law pad to four times their mean; sorted in pools by a few percent
    assert padded(64) < 1.08 * sum(lengths)
    assert padded(1) > 2 * sum(lengths)


def test_batches_come_in_random_order_not_from_short_to_long() -> None:
    lengths = np.random.default_rng(2).integers(1, 50, 1000).tolist()
    source = Buckets(examples(lengths), 10, None, 0)
    widths = [source.batch(0, i).inputs.shape[1] for i in range(source.length(0))]
    correlation = np.corrcoef(widths, np.arange(len(widths)))[0, 1]
    # 100 shuffled batches: 4 standard deviations of a correlation of nothing
    assert abs(correlation) < 0.4


def test_by_length_makes_a_batch_of_its_own_for_a_row_that_is_too_long() -> None:
    lengths = np.array([2, 2, 9, 1])
    cut = by_length(lengths, np.array([0, 1, 2, 3]), rows=3, tokens=4)
    assert [batch.tolist() for batch in cut] == [[0, 1], [2], [3]]
    assert by_length(lengths, np.array([], dtype=np.int64), 3, 4) == []


# collate


def test_collate_sequences_with_a_label_a_step() -> None:
    data = Examples(
        np.array([2, 3]),
        sequences=Ragged.of([[5, 6, 7], [8]]),
        targets=Ragged.of([[1, 2, 3], [4]]),
    )
    batch = collate(data, np.array([1, 0]))
    assert batch.inputs.tolist() == [[8, PAD, PAD], [5, 6, 7]]
    assert batch.targets is not None
    assert batch.targets.tolist() == [[4, IGNORED, IGNORED], [1, 2, 3]]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [1, 3]


def test_collate_vectors_with_and_without_targets() -> None:
    vectors = np.array([[1, 2], [3, 4]], dtype=np.float32)
    values = np.array([0.5, 1.5], dtype=np.float32)
    batch = collate(
        Examples(np.array([2, 3]), vectors=vectors, targets=values), np.array([1])
    )
    assert (batch.inputs.tolist(), batch.lengths) == ([[3, 4]], None)
    assert batch.targets is not None
    assert batch.targets.tolist() == [1.5]
    assert (
        collate(Examples(np.array([2, 3]), vectors=vectors), np.array([0])).targets
        is None
    )


def test_collate_sets_characters_beside_the_tokens() -> None:
    points = Ragged.of([[70, 71, 72], []])
    data = Examples(
        np.array([2, 3]), sequences=Ragged.of([[5], [8, 9]]), characters=points
    )
    batch = collate(data, np.array([1, 0]))
    assert [part.tolist() for part in batch.extra] == [
        [[PAD] * 3, [70, 71, 72]],
        [0, 3],
    ]
    assert {part.device.type for part in batch.to(torch.device("meta")).extra} == {
        "meta"
    }
    assert collate(examples([2]), np.array([0])).extra == ()


def test_to_moves_every_tensor() -> None:
    batch = collate(examples([2, 3]), np.array([0, 1]))
    moved = batch.to(torch.device("meta"))
    assert moved.lengths is not None
    assert moved.targets is not None
    assert {t.device.type for t in (moved.inputs, moved.lengths, moved.targets)} == {
        "meta"
    }
    assert batch.to(torch.device("cpu")) is batch


# Lanes

TEXTS = {
    "size": st.integers(1, 120),
    "lanes": st.integers(1, 7),
    "window": st.integers(1, 20),
    "epoch": st.integers(0, 3),
}


@settings(max_examples=80)
@given(**TEXTS)
def test_lanes_are_unbroken_text_and_targets_the_next_tokens(
    size: int, lanes: int, window: int, epoch: int
) -> None:
    text = np.arange(size, dtype=np.int32)
    source = Lanes(text, lanes, window, 4, START)
    batches = [source.batch(epoch, i) for i in range(source.length(epoch))]
    assert [b.restart for b in batches] == [True] + [False] * (len(batches) - 1)
    assert all(b.inputs.shape[1] <= window for b in batches)
    inputs = np.concatenate([b.inputs.numpy() for b in batches], axis=1)
    targets = np.concatenate([b.targets.numpy() for b in batches], axis=1)  # type: ignore[union-attr]
    assert inputs.shape == targets.shape == (min(lanes, size), size // min(lanes, size))
    # window k + 1 goes on where window k ended, in every lane; the text is closed to a ring
    assert (inputs[:, 0] == START).all()
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert np.array_equal((targets[:, :-1] + 1) % size, targets[:, 1:])
    # a token is a target once; the rest of the division, less than one for each lane, is left out
    flat = targets.ravel().tolist()
    assert len(set(flat)) == len(flat) > size - lanes
    if epoch == 0:
        assert sorted(flat) == list(range(len(flat)))


def test_the_cuts_of_lanes_fall_elsewhere_each_epoch() -> None:
    source = Lanes(np.arange(1000, dtype=np.int32), 4, 10, 0, START)
    first = [int(source.batch(epoch, 0).targets[0, 0]) for epoch in range(6)]  # type: ignore[index]
    assert first[0] == 0
    assert len(set(first)) == 6
    # the tail that an epoch leaves out is read by another
    source = Lanes(np.arange(11, dtype=np.int32), 4, 10, 0, START)
    seen = {
        t
        for epoch in range(20)
        for t in source.batch(epoch, 0).targets.flatten().tolist()
    }  # type: ignore[union-attr]
    assert seen == set(range(11))


# Windows


@settings(max_examples=80)
@given(**TEXTS)
def test_windows_cover_the_text_and_overlap_at_the_ring_alone(
    size: int, lanes: int, window: int, epoch: int
) -> None:
    source = Windows(np.arange(size, dtype=np.int32), lanes, window, 4, START)
    batches = [source.batch(epoch, i) for i in range(source.length(epoch))]
    targets = np.concatenate([b.targets.numpy() for b in batches])  # type: ignore[union-attr]
    inputs = np.concatenate([b.inputs.numpy() for b in batches])
    assert inputs.shape == targets.shape == (len(batches) * lanes, window)
    assert all(b.restart for b in batches)
    assert (inputs[:, 0] == START).all()
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert np.array_equal((targets[:, :-1] + 1) % size, targets[:, 1:])
    times = np.bincount(targets.ravel(), minlength=size)
    # windows stand end to end: a token more often than another only where the ring closes
    assert times.min() >= 1
    assert times.max() - times.min() <= 1
    assert targets.size - size < lanes * window
    ordered = np.sort(np.concatenate([b.rows for b in batches]))
    assert np.array_equal(ordered, np.arange(len(batches) * lanes))


@pytest.mark.parametrize("kind", [Lanes, Windows])
def test_text_batches_depend_on_seed_epoch_and_index_alone(
    kind: type[Lanes | Windows],
) -> None:
    text = np.arange(500, dtype=np.int32)
    first = kind(text, 4, 10, 7, START)
    second = kind(text, 4, 10, 7, START)
    calls = [(epoch, i) for epoch in (1, 0, 2) for i in range(first.length(epoch))]
    seen = {call: first.batch(*call) for call in calls}
    assert all(same(second.batch(*call), seen[call]) for call in reversed(calls))
    assert not same(seen[0, 1], seen[1, 1])
    assert not same(seen[1, 1], kind(text, 4, 10, 8, START).batch(1, 1))


def test_a_share_of_windows_starts_fresh_in_single_lanes() -> None:
    text = np.arange(40_000, dtype=np.int32)
    source = Lanes(text, 20, 10, 0, START, reset=0.3)
    plain = Lanes(text, 20, 10, 0, START)
    count = 0
    for index in range(1, source.length(1)):
        batch = source.batch(1, index)
        reference = plain.batch(1, index)
        fresh = (
            batch.fresh
            if batch.fresh is not None
            else torch.zeros(20, dtype=torch.bool)
        )
        expected = reference.inputs.clone()
        expected[fresh, 0] = START
        assert torch.equal(batch.inputs, expected)
        assert torch.equal(batch.targets, reference.targets)  # type: ignore[arg-type]
        assert not batch.restart
        assert reference.fresh is None
        count += int(fresh.sum())
    # 3,980 draws: 29 is one standard deviation
    assert count == pytest.approx(0.3 * 3980, abs=4 * 29)
    assert (source.batch(1, 0).restart, source.batch(1, 0).fresh) == (True, None)
    again = Lanes(text, 20, 10, 0, START, reset=0.3)
    assert torch.equal(again.batch(1, 7).inputs, source.batch(1, 7).inputs)


def test_a_text_in_one_window_is_read_from_its_beginning_every_epoch() -> None:
    source = Lanes(np.arange(9, dtype=np.int32), 1, 10, 0, START)
    for epoch in range(4):
        batch = source.batch(epoch, 0)
        assert batch.inputs.tolist() == [[START, *range(8)]]
        assert batch.targets is not None
        assert batch.targets.tolist() == [list(range(9))]


def test_steps_count_what_is_real() -> None:
    vectors = Examples(np.arange(3), vectors=np.zeros((3, 5), dtype=np.float32))
    assert collate(vectors, np.arange(3)).steps == 3
    assert collate(examples([2, 0, 4]), np.arange(3)).steps == 6
    assert Lanes(np.arange(30, dtype=np.int32), 3, 4, 0, START).batch(0, 0).steps == 12


def test_the_first_epochs_come_without_targets_where_asked() -> None:
    source = Buckets(examples([2, 1, 3]), 2, None, 0, unlabelled=2)
    plain = Buckets(examples([2, 1, 3]), 2, None, 0)
    for epoch in range(4):
        batch = source.batch(epoch, 0)
        assert (batch.targets is None) == (epoch < 2)
        assert torch.equal(batch.inputs, plain.batch(epoch, 0).inputs)
