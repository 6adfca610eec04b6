"""One to one: a layer stepped once, and output weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unrolled.models import OneToOne
from unrolled.nn import LAYERS, LayerConfig, Memoryless, build_layer


def test_without_memory_it_is_the_plain_network() -> None:
    model = OneToOne(Memoryless(3, 5, 2, "relu"), 4)
    first, second = (m for m in model.layer.modules() if isinstance(m, nn.Linear))
    plain = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), model.head)
    x = torch.randn(6, 3)
    assert torch.equal(model(x), plain(x))


def test_without_a_hidden_layer_it_is_linear() -> None:
    model = OneToOne(Memoryless(3, layers=0), 2)
    assert {name for name, _ in model.named_parameters()} == {
        "head.weight",
        "head.bias",
    }
    x = torch.randn(6, 3)
    # one matrix product in fp32, summed in another order
    torch.testing.assert_close(model(x), x @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_stepped_once_from_its_first_state(name: str) -> None:
    torch.manual_seed(0)
    layer = build_layer(name, LayerConfig(hidden=8), 3).double()
    model = OneToOne(layer, 2).double().eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        y, _ = layer.step(x, layer.initial_state(5))
        torch.testing.assert_close(model(x), model.head(y), rtol=1e-12, atol=1e-12)


def test_dropout_stands_before_the_output_weights() -> None:
    torch.manual_seed(0)
    model = OneToOne(Memoryless(400, layers=0), 1, dropout=0.5)
    x = torch.ones(300, 400)
    with torch.no_grad():
        model.head.weight.fill_(1.0)
        model.head.bias.zero_()
    # sums of 400 units, each 0 or 2: 20 is one standard deviation
    assert 10 < float(model(x).detach().std()) < 30
    assert torch.equal(model.eval()(x), torch.full((300, 1), 400.0))
