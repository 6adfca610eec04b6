"""Rows of unequal length, side by side and padded."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from unrolled.data.examples import Examples, Ragged

ROWS = st.lists(
    st.lists(st.integers(0, 2**31 - 1), max_size=9), min_size=1, max_size=12
)


@given(ROWS, st.data(), st.sampled_from([0, -100]))
def test_take_equals_padding_by_hand(
    rows: list[list[int]], data: st.DataObject, pad: int
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9))
    ids, lengths = Ragged.of(rows).take(np.array(chosen), pad)
    width = max(1, *(len(rows[i]) for i in chosen)) if chosen else 1
    expected = [rows[i] + [pad] * (width - len(rows[i])) for i in chosen]
    assert ids.tolist() == expected
    assert lengths.tolist() == [len(rows[i]) for i in chosen]
    assert ids.dtype == lengths.dtype == torch.int64


@given(ROWS)
def test_of_keeps_every_row(rows: list[list[int]]) -> None:
    ragged = Ragged.of(iter(rows))
    assert len(ragged) == len(rows)
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.flat.tolist() == [id for row in rows for id in row]


def test_no_rows_at_all() -> None:
    ragged = Ragged.of([])
    ids, lengths = ragged.take(np.array([], dtype=np.int64), 0)
    assert len(ragged) == 0
    assert (ids.shape, lengths.shape) == ((0, 1), (0,))


def test_lengths_of_examples() -> None:
    lines = np.array([2, 3, 4])
    text = Examples(lines, sequences=Ragged.of([[1, 2], [], [3]]))
    vectors = Examples(lines, vectors=np.zeros((3, 5), dtype=np.float32))
    assert (len(text), text.lengths.tolist()) == (3, [2, 0, 1])
    assert (len(vectors), vectors.lengths.tolist()) == (3, [1, 1, 1])


def test_parts_are_joined_and_rows_are_picked() -> None:
    rows = [[5, 6], [], [7], [8, 9, 4]]
    joined = Ragged.join([Ragged.of(rows[:1]), Ragged.of([]), Ragged.of(rows[1:])])
    whole = Ragged.of(rows)
    assert (joined.flat.tolist(), joined.offsets.tolist()) == (
        whole.flat.tolist(),
        whole.offsets.tolist(),
    )
    picked = joined.pick([3, 1])
    assert (picked.flat.tolist(), picked.offsets.tolist()) == ([8, 9, 4], [0, 3, 3])
    assert len(Ragged.join([])) == len(whole.pick([])) == 0
