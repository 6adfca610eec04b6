"""Packed documents and lanes of documents: every token once, and none beside another's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unrolled.data.batches import IGNORED, Batch
from unrolled.data.documents import DocumentLanes, Documents, PackedDocuments, pack
from unrolled.training.parallel import ProcessGroup

START = 3


def documents(lengths: list[int]) -> Documents:
    """Return documents whose tokens, from 10 on, are all different."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(10, 10 + offsets[-1], dtype=np.int32)
    return Documents(tokens, offsets)


def pieces(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Return the inputs and targets of each document of a batch, padding left out."""
    assert batch.targets is not None
    starts = batch.starts
    if starts is None:
        starts = torch.zeros_like(batch.inputs, dtype=torch.bool)
        if batch.lengths is not None:
            # what follows the only document of a row is of none
            steps = torch.arange(batch.inputs.shape[1])
            starts = steps == batch.lengths[:, None]
    cut = starts.clone()
    cut[:, 0] = True
    read = []
    for row in range(len(cut)):
        begins = [*cut[row].nonzero()[:, 0].tolist(), cut.shape[1]]
        for first, last in itertools.pairwise(begins):
            targets = batch.targets[row, first:last]
            if targets[0] != IGNORED:
                inputs = batch.inputs[row, first:last]
                read.append((inputs.tolist(), targets.tolist()))
    return read


def naive_best_fit(lengths: list[int], window: int) -> list[tuple[int, ...]]:
    """Return best fit decreasing, one piece at a time."""
    windows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [w for w in windows if sum(w) + length <= window]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            windows.append([length])
    return sorted(map(tuple, windows))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_pieces_are_packed_best_fit_decreasing(lengths: list[int]) -> None:
    groups = pack(np.array(lengths), 12)
    packed = [group.lengths for group in groups for _ in range(group.windows)]
    assert sorted(n for window in packed for n in window) == sorted(lengths)
    assert max(map(sum, packed)) <= 12
    # which of two equally full windows takes a piece is open: as many windows, as full
    naive = naive_best_fit(lengths, 12)
    assert sorted(map(sum, packed)) == sorted(map(sum, naive))


@given(st.lists(st.integers(1, 25), min_size=1, max_size=40), st.integers(0, 3))
def test_packed_windows_hold_every_token_once(lengths: list[int], epoch: int) -> None:
    source = PackedDocuments(documents(lengths), 3, 8, 5, START)
    seen: list[int] = []
    rests = 0
    for index in range(source.length(epoch)):
        batch = source.batch(epoch, index)
        assert batch.restart
        assert batch.inputs.shape[1] == 8
        for inputs, targets in pieces(batch):
            assert inputs == [START, *targets[:-1]]
            document = np.searchsorted(
                source.documents.offsets, targets[0] - 10, "right"
            )
            # a piece is of one document
            assert targets[-1] - 10 < source.documents.offsets[document]
            assert np.diff(targets).tolist() == [1] * (len(targets) - 1)
            rests += len(targets) < 8
            seen += targets
        real = batch.targets != IGNORED
        assert batch.steps == int(real.sum())
    assert sorted(seen) == list(range(10, 10 + sum(lengths)))
    assert rests == sum(length % 8 > 0 for length in lengths)
    windows = -(-sum(lengths) // 8)
    assert 0 <= source.padding < 1
    assert source.length(epoch) * 3 >= windows


def test_windows_of_one_piece_are_plain_windows() -> None:
    source = PackedDocuments(documents([8, 16]), 2, 8, 0, START)
    assert [source.batch(0, index).starts for index in range(2)] == [None, None]


@given(
    st.lists(st.integers(1, 25), min_size=3, max_size=40),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5]),
)
def test_lanes_carry_the_state_inside_a_document_alone(
    lengths: list[int], epoch: int, reset: float
) -> None:
    lanes = 2
    source = DocumentLanes(documents(lengths), lanes, 4, 5, START, reset)
    ends = set((source.documents.offsets[1:] - 1).tolist())
    seen: list[int] = []
    before = [-1] * lanes
    for index in range(source.length(epoch)):
        batch = source.batch(epoch, index)
        assert batch.targets is not None
        assert batch.restart == (index == 0)
        for row in range(lanes):
            for column in range(batch.inputs.shape[1]):
                token = int(batch.targets[row, column]) - 10
                if column:
                    fresh = batch.starts is not None and bool(batch.starts[row, column])
                else:
                    is_fresh = batch.fresh is not None and bool(batch.fresh[row])
                    fresh = index == 0 or is_fresh
                goes_on = token == before[row] + 1 and before[row] not in ends
                if column or not index or not reset:
                    assert fresh == (not goes_on or before[row] < 0)
                read = START if fresh else token - 1 + 10
                assert int(batch.inputs[row, column]) == read
                before[row] = token
                seen.append(token)
    assert len(set(seen)) == len(seen) == lanes * (sum(lengths) // lanes)


@pytest.mark.parametrize("kind", [PackedDocuments, DocumentLanes])
def test_batches_depend_on_seed_epoch_and_index_alone(
    kind: type[PackedDocuments] | type[DocumentLanes],
) -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 60).tolist()

    def made(seed: int) -> PackedDocuments | DocumentLanes:
        return kind(documents(lengths), 4, 16, seed, START)

    first = made(1)
    later = made(1)
    later.batch(0, 3)
    assert later.batch(1, 2).inputs.equal(first.batch(1, 2).inputs)
    assert not first.batch(0, 0).inputs.equal(first.batch(1, 0).inputs)
    assert not first.batch(0, 0).inputs.equal(made(2).batch(0, 0).inputs)
    # documents that stand together in the file are read far from each other
    batch = first.batch(0, 0)
    assert batch.targets is not None
    real = batch.targets[batch.targets != IGNORED]
    assert int(real.max() - real.min()) > sum(lengths) // 2


@pytest.mark.parametrize("kind", [PackedDocuments, DocumentLanes])
def test_processes_read_the_rows_of_one(
    kind: type[PackedDocuments] | type[DocumentLanes],
) -> None:
    source = kind(documents([5, 9, 3, 7, 16, 2] * 5), 4, 16, 0, START)
    whole = source.batch(1, 1)
    assert whole.starts is not None
    for rank in range(2):
        batch, is_own = ProcessGroup(rank, 2, True).shard(source, 1, 1)
        assert is_own
        assert batch.starts is not None
        assert batch.starts.equal(whole.starts[rank::2])
        assert batch.inputs.equal(whole.inputs[rank::2])
