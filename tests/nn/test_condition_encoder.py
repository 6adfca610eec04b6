"""Labels and numbers as one vector: each column its own part, and none of it where left out."""

from __future__ import annotations

import pytest
import torch

from unrolled.nn import ConditionEncoder


def test_columns_stand_one_after_another() -> None:
    torch.manual_seed(0)
    encoder = ConditionEncoder([3, 5], 2, 4)
    assert encoder.output_size == 12
    rows = torch.tensor([[0.5, -1.0, 3.0, 1.0], [0.0, 2.0, 1.0, 5.0]])
    vectors = encoder(rows)
    assert vectors.shape == (2, 1, 12)
    assert encoder.linear is not None
    torch.testing.assert_close(vectors[:, 0, :4], encoder.linear(rows[:, :2]))
    first, second = encoder.embeddings
    assert torch.equal(vectors[:, 0, 4:8], first.weight[[3, 1]])
    assert torch.equal(vectors[:, 0, 8:], second.weight[[1, 5]])


def test_no_label_is_a_vector_of_zeros_that_is_not_learnt() -> None:
    encoder = ConditionEncoder([3], 0, 4)
    vectors = encoder(torch.zeros(2, 1))
    assert not vectors.any()
    vectors.sum().backward()
    (embedding,) = encoder.embeddings
    assert not embedding.weight.grad.any()


def test_a_row_of_many_is_as_one_alone() -> None:
    encoder = ConditionEncoder([4], 1, 3)
    rows = torch.tensor([[0.1, 1.0], [0.2, 2.0], [-3.0, 4.0]])
    together = encoder(rows)
    for index in range(3):
        alone = encoder(rows[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone)


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="a column of labels or a number"):
        ConditionEncoder([], 0, 4)
