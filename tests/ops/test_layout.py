"""Where steps stand, against torch's own packing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from unrolled.ops.layout import Layout, is_time_first, laid, like, packed, padded


def where(layout: Layout, time_first: bool) -> dict[int, list[int]]:
    """Return where the steps of each row of the batch stand, by the contract of the core."""
    base = layout.base(time_first)
    (step_stride, row_stride) = layout.strides(time_first)
    positions = {}
    for index in range(layout.rows):
        row = index if layout.order is None else int(layout.order[index])
        begin = index * row_stride if base is None else int(base[index])
        positions[row] = [
            (t * step_stride if layout.offset is None else int(layout.offset[t]))
            + begin
            for t in range(layout.steps)
            if layout.active is None or layout.active[t] > index
        ]
    return positions


def numbered(lengths: list[int], steps: int) -> Tensor:
    return torch.arange(len(lengths) * steps).view(len(lengths), steps, 1)


@pytest.mark.parametrize(
    "lengths", [None, [2, 4, 0, 3, 4], [0, 0, 0, 0, 0], [4, 4, 4, 4, 4]]
)
@pytest.mark.parametrize("time_first", [False, True])
def test_padded(lengths: list[int] | None, time_first: bool) -> None:
    real = lengths or [4] * 5
    layout = padded(
        torch.zeros(5, 4, 3), None if lengths is None else torch.tensor(lengths)
    )
    assert layout.total == sum(real)
    positions = where(layout, time_first)
    for row, length in enumerate(real):
        expected = [t * 5 + row if time_first else row * 4 + t for t in range(length)]
        assert positions[row] == expected
    assert (
        layout.lengths() is None
        if lengths is None
        else layout.lengths().tolist() == lengths
    )


@pytest.mark.parametrize(
    ("lengths", "is_sorted"), [([2, 4, 1, 3], False), ([4, 3, 3, 1], True), ([1], True)]
)
def test_packed(lengths: list[int], is_sorted: bool) -> None:
    x = numbered(lengths, 4)
    sequence = pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=True, enforce_sorted=is_sorted
    )
    layout = packed(sequence.batch_sizes, sequence.sorted_indices)
    assert layout.total == len(sequence.data)
    for row, positions in where(layout, False).items():
        assert (
            sequence.data[positions].flatten().tolist()
            == x[row, : lengths[row]].flatten().tolist()
        )
    assert layout.lengths().tolist() == lengths
    steps = max(lengths)
    assert torch.equal(
        x[:, :steps].flatten(0, 1)[layout.padded_positions()], sequence.data
    )


def test_wrong_batches_are_refused() -> None:
    with pytest.raises(
        ValueError, match="expected lengths from 0 to 4, the width of x, got 1 to"
    ):
        padded(torch.zeros(2, 4, 3), torch.tensor([5, 1]))
    with pytest.raises(ValueError, match="expected batch sizes that never grow"):
        packed(torch.tensor([1, 2]), None)
    with pytest.raises(
        ValueError, match="expected sorted indices that name each of 2 rows once"
    ):
        packed(torch.tensor([2, 1]), torch.tensor([1, 1]))


def test_memory_layouts() -> None:
    batch_first = torch.randn(2, 3, 4)
    time_first = torch.randn(3, 2, 4).transpose(0, 1)
    gaps = torch.randn(2, 3, 8)[:, :, ::2]
    assert [is_time_first(x) for x in (batch_first, time_first, gaps)] == [
        False,
        True,
        False,
    ]
    assert laid(batch_first, False) is batch_first
    assert laid(time_first, True).data_ptr() == time_first.data_ptr()
    assert laid(gaps, False).is_contiguous()
    for x in (batch_first, time_first):
        new = like(x, 5, is_time_first(x), True)
        assert new.shape == (2, 3, 5)
        assert is_time_first(new) == is_time_first(x)
        assert not new.any()
