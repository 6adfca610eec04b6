"""The best log-probabilities, natively and by torch.

The native sum adds some thousand numbers of at most 1 in fp32, lane by lane: 1e-6 of it at the
worst, and log-probabilities themselves are rounded to 2^-24 of their size.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unrolled import ops
from unrolled.ops import native
from unrolled.ops.search import top_log_probabilities

NEAR = {"rtol": 5e-7, "atol": 2e-6}
SIZES = [
    (1, 1, 1),
    (2, 3, 2),
    (5, 7, 7),
    (3, 17, 5),
    (4, 64, 64),
    (7, 1000, 10),
    (160, 2003, 10),
]


@pytest.fixture(params=["auto", "reference"])
def path(request: pytest.FixtureRequest) -> str:
    """Natively where there is a core, and by torch."""
    ops.use(request.param)
    return str(request.param)


def by_sorting(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    ranking = logits.double().log_softmax(-1).sort(dim=-1, descending=True, stable=True)
    return ranking.values[:, :k].float(), ranking.indices[:, :k]


@pytest.mark.parametrize(("rows", "vocabulary", "k"), SIZES)
def test_equals_sorting(path: str, rows: int, vocabulary: int, k: int) -> None:
    logits = 5 * torch.randn(rows, vocabulary)
    values, indices = top_log_probabilities(logits, k)
    expected, tokens = by_sorting(logits, k)
    assert (values.dtype, indices.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(values, expected, **NEAR)
    assert torch.equal(indices, tokens)


@pytest.mark.usefixtures("core")
def test_the_same_at_every_level() -> None:
    logits = 5 * torch.randn(9, 515)
    expected, tokens = by_sorting(logits, 12)
    for level in native.levels():
        native.set_level(level)
        values, indices = top_log_probabilities(logits, 12)
        torch.testing.assert_close(values, expected, **NEAR)
        assert torch.equal(indices, tokens)


def test_equal_ones_come_in_the_order_of_their_tokens(path: str) -> None:
    logits = torch.randint(0, 3, (40, 150)).float()
    _, indices = top_log_probabilities(logits, 20)
    assert torch.equal(
        indices, logits.sort(dim=-1, descending=True, stable=True).indices[:, :20]
    )


def test_what_is_ruled_out_comes_last(path: str) -> None:
    logits = torch.full((3, 100), -math.inf)
    logits[0, 70] = 2.0
    logits[1, [5, 6]] = torch.tensor([1.0, 1.0])
    logits[2] = torch.randn(100)
    values, indices = top_log_probabilities(logits, 4)
    assert values[0].tolist() == [0, -math.inf, -math.inf, -math.inf]
    assert indices[0].tolist() == [70, 0, 1, 2]
    assert indices[1].tolist() == [5, 6, 0, 1]
    torch.testing.assert_close(values[1, :2], torch.full((2,), -math.log(2)), **NEAR)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("position", [0, 2, 50, 99])
def test_a_row_without_probabilities_says_so_and_no_other(
    path: str, bad: float, position: int
) -> None:
    logits = torch.randn(3, 100)
    expected, tokens = by_sorting(logits, 5)
    logits[1, position] = bad
    values, indices = top_log_probabilities(logits, 5)
    assert values[1].isnan().all()
    torch.testing.assert_close(values[[0, 2]], expected[[0, 2]], **NEAR)
    assert torch.equal(indices[[0, 2]], tokens[[0, 2]])
    assert top_log_probabilities(torch.full((1, 9), -math.inf), 2)[0].isnan().all()


def test_rows_with_gaps_and_columns_first(path: str) -> None:
    logits = torch.randn(6, 40)
    expected = top_log_probabilities(logits, 3)
    wide = torch.full((6, 48), 9.0)
    wide[:, :40] = logits
    for view in (wide[:, :40], logits.t().contiguous().t()):
        values, indices = top_log_probabilities(view, 3)
        assert torch.equal(values, expected[0])
        assert torch.equal(indices, expected[1])
    assert top_log_probabilities(logits[:0], 3)[1].shape == (0, 3)


def test_other_precisions_and_gradients_are_torchs() -> None:
    logits = torch.randn(4, 50, dtype=torch.float64, requires_grad=True)
    values, _ = top_log_probabilities(logits, 3)
    assert values.dtype == torch.float64
    values.sum().backward()
    assert logits.grad is not None
    half, _ = top_log_probabilities(logits.detach().bfloat16(), 3)
    assert half.dtype == torch.float32
    many, _ = top_log_probabilities(torch.randn(2, 90), 70)  # more than the core keeps
    assert many.shape == (2, 70)


@pytest.mark.usefixtures("core")
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_threads() -> None:
    logits = torch.randn(300, 700)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(top_log_probabilities(logits, 6))
    finally:
        torch.set_num_threads(before)
    alone = top_log_probabilities(logits[123:124], 6)
    for values, indices in results:
        assert torch.equal(values, results[0][0])
        assert torch.equal(indices, results[0][1])
        assert torch.equal(values[123:124], alone[0])
