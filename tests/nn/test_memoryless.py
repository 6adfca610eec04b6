"""The layer without memory is a perceptron at every step."""

from __future__ import annotations

import pytest
import torch

from unrolled.nn import Memoryless


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
