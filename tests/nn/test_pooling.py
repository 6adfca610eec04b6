"""One vector for a whole sequence, of its real steps alone."""

from __future__ import annotations

import pytest
import torch

from unrolled.nn import GRU, Pooling
from unrolled.nn.pooling import KINDS

LENGTHS = [4, 1, 0, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_reads_real_steps_alone(kind: str) -> None:
    pool = Pooling(kind, 5, 2).double()
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        x[row, length:] = 1e30
    x.requires_grad_()
    y = pool(x, torch.tensor(LENGTHS))
    assert y.shape == (4, pool.output_size)
    assert not y[2].any()
    for row in (0, 1, 3):
        torch.testing.assert_close(y[row], pool(x[row : row + 1, : LENGTHS[row]])[0])
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.isfinite().all()
    for row, length in enumerate(LENGTHS):
        assert not gradient[row, length:].any()
    assert not pool(x[:, :0]).any()


def test_pooling_numbers() -> None:
    x = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [9.0, 9.0]]])
    two = torch.tensor([2])
    assert Pooling("last", 2)(x, two).tolist() == [[3, -4]]
    assert Pooling("last", 2, 1)(x, two).tolist() == [[3, -2]]
    assert Pooling("mean", 2)(x, two).tolist() == [[2, -3]]
    assert Pooling("max", 2)(x, two).tolist() == [[3, -2]]
    assert Pooling("mean-max", 2)(x, two).tolist() == [[2, -3, 3, -2]]
    learnt = Pooling("attention", 2)
    with torch.no_grad():
        learnt.key.weight.copy_(torch.eye(2)), learnt.key.bias.zero_()
        learnt.query.weight.copy_(torch.tensor([[1.0, 0.0]]))
    weights = torch.tensor([1.0, 3.0]).tanh().softmax(0)
    torch.testing.assert_close(learnt(x, two)[0], weights @ x[0, :2])


def test_last_of_both_ways_is_the_final_state() -> None:
    layer = GRU(3, 4, bidirectional=True)
    lengths = torch.tensor([5, 2])
    y, state = layer.unroll(torch.randn(2, 5, 3), None, lengths)
    pooled = Pooling("last", layer.output_size, layer.reverse_size)(y, lengths)
    torch.testing.assert_close(pooled, torch.cat([state.h[0], state.h[1]], 1))


def test_pooling_refuses() -> None:
    with pytest.raises(ValueError, match="expected a pooling out of last, mean"):
        Pooling("first", 3)
    with pytest.raises(
        ValueError, match=r"pass layer.output_size and layer.reverse_size"
    ):
        Pooling("last", 3, 4)
    with pytest.raises(ValueError, match=r"expected x of shape \(batch, time, 3\)"):
        Pooling("last", 3)(torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="expected lengths from 0 to 1"):
        Pooling("last", 3)(torch.zeros(1, 1, 3), torch.tensor([2]))
