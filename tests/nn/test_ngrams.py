"""N-grams: a sum that a loop over the tokens gives too."""

from __future__ import annotations

import math

import pytest
import torch

from unrolled.nn import NGrams
from unrolled.nn.ngrams import LOUDNESS

LENGTHS = [4, 0, 7, 1]


def build(longest: int = 3) -> NGrams:
    layer = NGrams(longest, 2, buckets=97).double().eval()
    torch.nn.init.normal_(layer.weight)
    return layer


def wrapped(value: int) -> int:
    """Return a Python integer as int64 arithmetic leaves it."""
    return (value + 2**63) % 2**64 - 2**63


def naive(layer: NGrams, row: list[int]) -> torch.Tensor:
    total = torch.zeros(2, dtype=torch.float64)
    count = 0
    for size in range(1, layer.longest + 1):
        for start in range(len(row) - size + 1):
            key = 0
            for token in row[start : start + size]:
                key = wrapped(key * 1_000_003 + token + 1)
            total = total + layer.weight[(key ^ (key >> 21)) % layer.buckets]
            count += 1
    return LOUDNESS * total / math.sqrt(max(1, count))


def test_it_is_the_sum_over_all_ngrams() -> None:
    layer = build()
    tokens = torch.randint(0, 50_000, (4, 7))
    outputs = layer(tokens, torch.tensor(LENGTHS))
    for row, length, ours in zip(tokens.tolist(), LENGTHS, outputs, strict=True):
        # float64 sums of at most 18 terms in another order
        torch.testing.assert_close(
            ours, naive(layer, row[:length]), rtol=1e-12, atol=1e-12
        )


def test_padding_changes_nothing_in_values_or_gradients() -> None:
    layer = build()
    tokens = torch.randint(0, 900, (4, 7))
    lengths = torch.tensor(LENGTHS)
    layer(tokens, lengths).pow(2).sum().backward()
    assert layer.weight.grad is not None
    gradients = layer.weight.grad.clone()
    layer.weight.grad = None
    other = torch.where(torch.arange(7) < lengths[:, None], tokens, 12345)
    wider = torch.cat([other, torch.full((4, 3), 777)], 1)
    layer(wider, lengths).pow(2).sum().backward()
    torch.testing.assert_close(
        layer(wider, lengths), layer(tokens, lengths), rtol=0, atol=1e-15
    )
    torch.testing.assert_close(layer.weight.grad, gradients, rtol=1e-12, atol=1e-12)


def test_dropout_leaves_ngrams_out_in_training_alone() -> None:
    layer = NGrams(2, 1, buckets=31, dropout=0.5)
    torch.nn.init.ones_(layer.weight)
    tokens = torch.randint(0, 900, (1, 200))
    lengths = torch.tensor([200])
    exact = layer.eval()(tokens, lengths)
    # 399 terms summed one after the other in fp32
    assert exact.item() == pytest.approx(LOUDNESS * math.sqrt(399), rel=399 * 6e-8)
    dropped = torch.stack([layer.train()(tokens, lengths) for _ in range(200)])
    assert dropped.std() > 0
    # the mean of 200 draws, each of deviation LOUDNESS: within five standard errors
    assert dropped.mean().item() == pytest.approx(
        exact.item(), abs=5 * LOUDNESS / math.sqrt(200)
    )


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_sizes_below_one_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="of at least 1"):
        NGrams(*sizes)
