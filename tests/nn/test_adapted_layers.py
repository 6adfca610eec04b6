"""Layers and models with adapters: what is adapted, what is learnt, and what is merged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nn.test_adapters import CLOSE, RANK, SCALE, drawn, plain_weight
from nn.variants import EVERY, D, build
from unrolled import ops
from unrolled.models import LanguageModel
from unrolled.nn import (
    GRU,
    LSTM,
    Attention,
    Layer,
    LayerConfig,
    TokenEmbedding,
    build_layer,
)
from unrolled.nn.adapters import (
    LowRank,
    adapt,
    adapters,
    freeze_all_but,
    is_adapted,
    merge,
    merged,
    merged_weights,
    products,
    state_beside,
)
from unrolled.nn.build import build_decoder
from unrolled.training.averaging import snapshot

WEIGHTED = [name for name in EVERY if name != "none-identity"]


def put_beside(model: nn.Module, magnitudes: bool = False) -> list[LowRank]:
    """Put adapters that say something beside all products, and freeze the others."""
    put: list[LowRank] = []
    for product in list(products(model)):
        put.append(drawn(adapt(product, RANK, SCALE, magnitudes)))
    freeze_all_but(model, lambda name: False)
    return put


def read(layer: Layer, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer.read(x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, D, dtype=torch.float64)


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_changed_at_first(name: str, magnitudes: bool, x: Tensor) -> None:
    layer = build(name)
    before = read(layer, x)
    for product in list(products(layer)):
        low_rank = adapt(product, RANK, SCALE, magnitudes)
        assert not low_rank.up.any()
        assert low_rank.down.any()
    torch.testing.assert_close(read(layer, x), before, **CLOSE)


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("name", WEIGHTED)
def test_adapted_merged_and_plain_layers_say_the_same(
    name: str, magnitudes: bool, x: Tensor
) -> None:
    layer = build(name)
    plain = copy.deepcopy(layer)
    before = read(layer, x)
    put = put_beside(layer, magnitudes)
    with torch.no_grad():
        for product, low_rank in zip(list(products(plain)), put, strict=True):
            down, up, magnitude = low_rank.down, low_rank.up, low_rank.magnitude
            weight = product.weight
            weight.copy_(plain_weight(weight, down, up, product.parts, magnitude))
    expected = read(plain, x)
    assert not torch.allclose(expected, before, atol=1e-3)
    torch.testing.assert_close(read(layer, x), expected, **CLOSE)
    with merged(layer):
        assert not is_adapted(layer)
        assert type(layer) is type(plain)
        torch.testing.assert_close(read(layer, x), expected, **CLOSE)
    assert is_adapted(layer)
    torch.testing.assert_close(read(layer, x), expected, **CLOSE)
    merge(layer)
    for key, weight in plain.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[key], weight, **CLOSE)


@pytest.mark.parametrize("name", ["gru-2", "lstm-projected", "rnn", "attention"])
def test_a_merged_layer_steps_as_it_unrolls(name: str, x: Tensor) -> None:
    layer = build(name)
    put_beside(layer)
    expected = read(layer, x)
    state = layer.initial_state(len(x))
    with merged(layer), torch.no_grad():
        for step in range(x.shape[1]):
            y, state = layer.step(x[:, step], state)
            torch.testing.assert_close(y, expected[:, step], **CLOSE)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("name", ["none", "rnn", "lstm-both-2", "mingru", "attention"])
def test_what_was_merged_comes_back_to_the_bit(
    name: str, magnitudes: bool, raises: bool
) -> None:
    layer = build(name).train()
    put_beside(layer, magnitudes)
    before = copy.deepcopy(layer.state_dict())
    trained = [part for part in layer.parameters() if part.requires_grad]
    frozen = [key for key, part in layer.named_parameters() if not part.requires_grad]
    if raises:
        with pytest.raises(KeyError), merged(layer):
            raise KeyError("a block may fail")
    else:
        with merged(layer), merged(layer):
            assert not is_adapted(layer)
    after = layer.state_dict()
    assert set(after) == set(before)
    for key, weight in before.items():
        assert torch.equal(after[key], weight), key
    # an optimizer goes on with the same tensors
    again = [part for part in layer.parameters() if part.requires_grad]
    assert {id(part) for part in again} == {id(part) for part in trained}
    named = dict(layer.named_parameters())
    assert not any(named[key].requires_grad for key in frozen)
    assert all(module.training for module in layer.modules())


@pytest.mark.parametrize("name", ["none", "gru", "lstm", "rnn-extras", "attention"])
def test_adapters_alone_learn(name: str, x: Tensor) -> None:
    layer = build(name)
    put = put_beside(layer, magnitudes=True)
    layer.read(x).square().sum().backward()
    ours = {id(weight) for low_rank in put for weight in low_rank.parameters()}
    assert len(ours) == 3 * len(put)
    for key, weight in layer.named_parameters():
        if id(weight) in ours:
            assert weight.grad is not None, key
            assert weight.grad.any(), key
        else:
            assert weight.grad is None, key


def test_gradients_of_recurrent_adapters_are_those_of_their_weights(x: Tensor) -> None:
    layer = build("gru-2")
    plain = copy.deepcopy(layer)
    put = put_beside(layer)
    layer.read(x).square().sum().backward()
    weights: dict[str, Tensor] = {}
    learnt: list[Tensor] = []
    for product, low_rank in zip(products(plain), put, strict=True):
        down = low_rank.down.detach().clone().requires_grad_()
        up = low_rank.up.detach().clone().requires_grad_()
        learnt += [down, up]
        weights[product.key] = plain_weight(product.weight, down, up, 1)
    # a call takes time first
    y, _ = torch.func.functional_call(plain, weights, (x.transpose(0, 1),))
    loss = y.square().sum()
    ours = [part.grad for low_rank in put for part in low_rank.parameters()]
    for mine, truth in zip(ours, torch.autograd.grad(loss, learnt), strict=True):
        torch.testing.assert_close(mine, truth, **CLOSE)


# ---------------------------------------------------------------------- models and names


def language(layer: str = "attention", **settings: Any) -> LanguageModel:
    built = build_layer(layer, LayerConfig(hidden=8, **settings), 6)
    return LanguageModel(TokenEmbedding(9, 6), built, 9).double().eval()


BLOCK = [
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.out",
    "feedforward.up",
    "feedforward.out",
]


def test_products_of_a_stack_are_all_its_products_and_no_others() -> None:
    model = language(layers=2, heads=2)
    names = [product.name for product in products(model)]
    blocks = [f"layer.blocks.{number}.{part}" for number in (0, 1) for part in BLOCK]
    assert names == ["layer.project", *blocks]
    parts = {product.name: product.parts for product in products(model)}
    assert {name for name, count in parts.items() if count == 2} == {
        "layer.blocks.0.feedforward.up",
        "layer.blocks.1.feedforward.up",
    }
    narrow = language(heads=2, feedforward="gelu")
    assert {product.parts for product in products(narrow)} == {1}


def test_products_of_other_layers() -> None:
    def names(model: nn.Module) -> list[str]:
        return [product.name for product in products(model)]

    assert names(language("none", layers=2)) == ["layer.stages.0", "layer.stages.3"]
    assert names(language("mingru", layers=2)) == [
        "layer.weight_ih_l0",
        "layer.weight_ih_l1",
    ]
    both = GRU(D, 4, bidirectional=True)
    ends = ("_l0", "_l0_reverse")
    kinds = ("weight_ih", "weight_hh")
    assert names(both) == [kind + end for end in ends for kind in kinds]
    assert names(language("none", layers=0)) == []


@pytest.mark.parametrize("name", ["attention", "lstm"])
def test_products_of_a_decoder_are_found_once(name: str) -> None:
    settings = LayerConfig(hidden=8, heads=2) if name == "attention" else LayerConfig()
    decoder = build_decoder(name, settings, 6, 5)
    model = nn.ModuleDict({"decoder": decoder})
    listed = [product.name for product in products(model)]
    assert len(listed) == len(set(listed))
    linear = [
        key for key, module in model.named_modules() if isinstance(module, nn.Linear)
    ]
    recurrent = [key for key in listed if "weight_" in key]
    assert set(listed) == {*linear, *recurrent}
    assert len(recurrent) == (0 if name == "attention" else 2)


@pytest.mark.parametrize("name", ["none", "gru", "attention"])
def test_weights_keep_their_names(name: str) -> None:
    model = language(name)
    before = list(model.state_dict())
    weights = [product.weight_name for product in products(model)]
    assert set(weights) <= set(before)
    put_beside(model, magnitudes=True)
    assert list(adapters(model)) == weights
    assert [product.weight_name for product in products(model)] == weights
    state = model.state_dict()
    if name == "gru":
        # the frozen weight stands under the name that torch gives it
        originals = {key for key in state if key.endswith(".original")}
        assert len(originals) == len(weights)
    else:
        assert set(before) <= set(state)
    assert set(merged_weights(model, {})) == set(before)


@pytest.mark.parametrize("name", ["none", "gru", "lstm", "attention"])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_weights_are_merged_by_what_was_kept(name: str, magnitudes: bool) -> None:
    model = language(name)
    plain = copy.deepcopy(model)
    put = put_beside(model, magnitudes)
    kept = snapshot(model)
    trained = [key for key, part in model.named_parameters() if part.requires_grad]
    # beside what is trained the lengths of rows that stay as they are
    assert {key for key in kept if not key.endswith(".lengths")} == set(trained)
    assert len(trained) == len(put) * (3 if magnitudes else 2)
    ids = torch.tensor([[1, 5, 2]])
    expected = model(ids)[0]
    beside = state_beside(model, kept)
    for low_rank in put:
        drawn(low_rank)
    assert not torch.allclose(model(ids)[0], expected)
    # what was learnt since does not count, but what was kept
    plain.load_state_dict(merged_weights(model, kept))
    torch.testing.assert_close(plain(ids)[0], expected, **CLOSE)
    assert list(beside) == list(adapters(model))
    first = next(iter(beside.values()))
    lengths = {"magnitude", "lengths"} if magnitudes else set()
    assert set(first) == {"down", "up"} | lengths


def test_some_weights_are_trained_whole() -> None:
    model = language()
    put_beside(model)
    model.requires_grad_(True)
    freeze_all_but(model, lambda name: name == "head.weight")
    model(torch.tensor([[1, 2]]))[0].sum().backward()
    assert model.head.weight.grad is not None
    assert model.embedding.weight.grad is None
    assert "head.weight" in snapshot(model)


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_a_bias_that_is_trained_whole_has_its_gradient(
    mode: str, magnitudes: bool
) -> None:
    ops.use(mode)
    model = language(bias=True, heads=2)
    put_beside(model, magnitudes)
    model.requires_grad_(True)
    name = "layer.blocks.0.feedforward.up.bias"
    freeze_all_but(model, lambda weight: weight == name)
    model(torch.tensor([[1, 2]]))[0].square().sum().backward()
    bias = model.get_parameter(name)
    assert bias.grad is not None
    assert bias.grad.any()


CALLED: dict[str, tuple[Callable[[], Layer], int]] = {
    "query": (lambda: Attention(D, 8, 2, 2), 2),
    "attention.out": (lambda: Attention(D, 8, 2, 2), 2),
    "out": (lambda: Attention(D, 8, 2, 2), 4),
    "blocks.1.feedforward.up": (lambda: Attention(D, 8, 2, 2), 1),
    "1.feedforward.up": (lambda: Attention(D, 8, 2, 2), 1),
    "project": (lambda: Attention(D, 8, 2, 2), 1),
    "feedforward": (lambda: Attention(D, 8, 2, 2), 0),
    "uery": (lambda: Attention(D, 8, 2, 2), 0),
    "weight_ih": (lambda: LSTM(D, 4, 2, bidirectional=True), 4),
    "weight_hh_l1": (lambda: LSTM(D, 4, 2, bidirectional=True), 1),
    "weight_hh_l1_reverse": (lambda: LSTM(D, 4, 2, bidirectional=True), 1),
    "weight": (lambda: LSTM(D, 4, 2, bidirectional=True), 0),
    "_hh": (lambda: LSTM(D, 4, 2, bidirectional=True), 0),
}


@pytest.mark.parametrize("target", CALLED)
def test_a_name_means_the_products_that_end_with_it(target: str) -> None:
    make, count = CALLED[target]
    named = [product for product in products(make()) if product.is_called(target)]
    assert len(named) == count


def test_an_adapter_stands_where_its_product_does() -> None:
    layer = Attention(D, 8, 1, 2)
    for product in list(products(layer)):
        if product.is_called("query"):
            adapt(product, RANK, SCALE)
    names = [key for key, part in layer.named_modules() if isinstance(part, LowRank)]
    assert names == ["blocks.0.attention.query.low_rank"]
    recurrent = GRU(D, 4)
    product = next(products(recurrent))
    assert product.low_rank is None
    low_rank = adapt(product, RANK, SCALE)
    assert product.low_rank is low_rank
    assert parametrize.is_parametrized(recurrent, "weight_ih_l0")
    assert not parametrize.is_parametrized(recurrent, "weight_hh_l0")
