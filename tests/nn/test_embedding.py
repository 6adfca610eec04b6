"""Vectors for tokens: what is looked up, and what is left out."""

from __future__ import annotations

import pytest
import torch

from unrolled.nn import TokenEmbedding


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
