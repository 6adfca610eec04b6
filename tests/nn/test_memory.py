"""A decoder's memory and the state that carries it: one copy a source, however rows move."""

from __future__ import annotations

from dataclasses import replace

import torch

from unrolled.nn import DecoderState, Memory, RecurrentState, pack, unpack


def memory(sources: int = 3, steps: int = 4) -> Memory:
    keys = torch.randn(sources, 2, steps, 5)
    values = torch.randn(sources, 2, steps, 6)
    return Memory.of([keys], [values], torch.arange(sources) % steps + 1)


def test_beams_share_one_copy() -> None:
    sources = memory()
    beams = sources.reorder(torch.tensor([0, 0, 1, 1, 2, 2]))
    assert beams.keys[0] is sources.keys[0]
    assert beams.rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert beams.rows_per_source == 2
    shuffled = beams.reorder(torch.tensor([1, 0, 3, 3, 4, 5]))
    assert shuffled is beams  # rows moved, each within its source
    assert beams.reorder(torch.tensor([2, 0, 1])).rows_per_source == 0


def test_sources_that_nobody_reads_leave() -> None:
    sources = memory()
    left = sources.reorder(torch.tensor([0, 0, 2, 2]))
    assert left.rows.tolist() == [0, 0, 1, 1]
    assert left.rows_per_source == 2
    torch.testing.assert_close(left.keys[0], sources.keys[0][[0, 2]], rtol=0, atol=0)
    assert left.lengths.tolist() == [1, 3]
    assert sources.reorder(torch.tensor([], dtype=torch.int64)).keys[0].shape[0] == 0


def test_with_gaps_sources_leave_when_they_are_half_of_all() -> None:
    sources = replace(memory(6), gaps=True)
    left = sources.reorder(torch.tensor([0, 2, 3, 3, 5]))
    assert left.keys[0] is sources.keys[0]
    assert (left.rows.tolist(), left.rows_per_source) == ([0, 2, 3, 3, 5], 0)
    fewer = left.reorder(torch.tensor([1, 2, 4]))
    assert fewer.rows.tolist() == [0, 1, 2]
    torch.testing.assert_close(
        fewer.keys[0], sources.keys[0][[2, 3, 5]], rtol=0, atol=0
    )
    assert fewer.gaps


def test_padding_is_masked_but_of_empty_sources() -> None:
    padded = Memory.of(
        [torch.zeros(2, 1, 3, 1)], [torch.zeros(2, 1, 3, 1)], torch.tensor([0, 2])
    )
    allowed = padded.allowed(3)
    assert allowed is not None
    assert allowed.tolist() == [[True, False, False], [True, True, False]]
    full = Memory.of(padded.keys, padded.values, torch.tensor([3, 3]))
    assert full.allowed(3) is None


def test_joined_memories_keep_their_rows() -> None:
    first = memory(2, 4).reorder(torch.tensor([0, 0, 1]))
    second = memory(1, 6)
    both = Memory.join([first, second])
    assert both.rows.tolist() == [0, 0, 1, 2]
    assert both.keys[0].shape == (3, 2, 6, 5)
    torch.testing.assert_close(both.keys[0][2], second.keys[0][0], rtol=0, atol=0)


def test_a_state_survives_being_packed() -> None:
    inner = RecurrentState(torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    state = DecoderState(inner, memory(), torch.randn(3, 4))
    packed = pack(state)
    again = unpack(packed)
    assert isinstance(again, DecoderState)
    assert pack(again).keys() == packed.keys()
    torch.testing.assert_close(pack(again), packed, rtol=0, atol=0)
