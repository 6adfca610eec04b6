"""Embedding, pooling, dropout, the memoryless layer, and states as tensors."""

from __future__ import annotations

import pytest
import torch

from unrolled.nn import (
    GRU,
    EmptyState,
    LockedDropout,
    Memoryless,
    Pooling,
    RecurrentState,
    TokenEmbedding,
    unpack,
)
from unrolled.nn.pooling import KINDS

LENGTHS = [4, 1, 0, 6]


def test_embedding_looks_up() -> None:
    table = TokenEmbedding(6, 3, padding=0)
    tokens = torch.tensor([[2, 0], [5, 2]])
    vectors = table(tokens)
    torch.testing.assert_close(vectors, table.weight[tokens])
    assert not vectors[0, 1].any()
    torch.testing.assert_close(table(tokens[:, 0]), vectors[:, 0])
    vectors.sum().backward()
    assert not table.weight.grad[0].any()
    assert table.weight.grad[2].tolist() == [2.0] * 3


def test_token_dropout_drops_whole_entries() -> None:
    table = TokenEmbedding(50, 3, token_dropout=0.5).train()
    tokens = torch.arange(50).repeat(2, 2)
    vectors = table(tokens)
    gone = (vectors == 0).all(2)
    assert 10 < gone[0, :50].sum() < 40
    assert (gone[0, :50] == gone[1, 50:]).all()
    expected = 2 * table.weight[tokens][~gone]
    torch.testing.assert_close(vectors[~gone], expected)
    assert not (table.eval()(tokens) == 0).all(2).any()


def test_embedding_dropout_is_locked() -> None:
    table = TokenEmbedding(6, 40, dropout=0.5).train()
    zero = table(torch.tensor([[1, 2, 3]])) == 0
    assert zero.any()
    assert (zero == zero[:, :1]).all()
    assert (table(torch.tensor([1])) == 0).any()


def test_embedding_refuses() -> None:
    for args, message in (
        ((0, 3), "expected size and width of at least 1"),
        ((3, 3, 3), "expected a padding token from 0 to 2, got 3"),
        ((3, 3, None, 0.0, 2.0), "expected token_dropout from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenEmbedding(*args)
    with pytest.raises(ValueError, match="expected tokens of shape"):
        TokenEmbedding(3, 3)(torch.zeros(1, 1, 1, dtype=torch.int64))


def test_locked_dropout() -> None:
    dropout = LockedDropout(0.5)
    x = torch.ones(3, 4, 50)
    y = dropout(x)
    assert (y == y[:, :1]).all()
    assert y.unique().tolist() == [0.0, 2.0]
    assert not (y[0] == y[1]).all()
    assert dropout.eval()(x) is x
    with pytest.raises(ValueError, match="expected p from 0 to 1, got 7"):
        LockedDropout(7)


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
    share = torch.tensor([1.0, 3.0]).tanh().softmax(0)
    torch.testing.assert_close(learnt(x, two)[0], share @ x[0, :2])


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


def test_memoryless_is_a_perceptron() -> None:
    layer = Memoryless(3, 4, 2, "relu", dropout=0.5).eval()
    first = layer.stages[0]
    second = layer.stages[3]
    x = torch.randn(2, 5, 3)
    expected = second(first(x).relu()).relu()
    torch.testing.assert_close(layer(x)[0], expected)
    assert Memoryless(3, layers=0).output_size == 3
    torch.testing.assert_close(Memoryless(3, layers=0).read(x), x)
    with pytest.raises(
        ValueError, match="expected an activation out of tanh, relu, gelu"
    ):
        Memoryless(3, activation="sine")
    with pytest.raises(ValueError, match="layers of at least 0"):
        Memoryless(3, layers=-1)


def test_states_refuse_what_is_none() -> None:
    with pytest.raises(ValueError, match="expected at least one state to join"):
        EmptyState.join([])
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
