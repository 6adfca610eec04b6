"""Adapters of low rank: by their plain formulas in fp64, and merged into the weights of layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

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
    AdaptedLinear,
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

I, O, R, SCALE = 5, 6, 2, 1.7
CLOSE = {"atol": 1e-10, "rtol": 1e-10}  # fp64, sums in another order
ROUNDED = {"atol": 2e-5, "rtol": 2e-5}  # fp32
WEIGHTED = [name for name in EVERY if name != "none-identity"]
FORMS = ["linear", "biased", "lengths", "lengths-biased"]


def drawn(low_rank: LowRank) -> LowRank:
    """Return an adapter that says something."""
    with torch.no_grad():
        for weight in low_rank.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return low_rank


def put_beside(model: nn.Module, magnitudes: bool = False) -> list[LowRank]:
    """Put adapters that say something beside all products, and freeze the others."""
    put: list[LowRank] = []
    for product in list(products(model)):
        put.append(drawn(adapt(product, R, SCALE, magnitudes)))
    freeze_all_but(model, lambda name: False)
    return put


def plain_weight(
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    parts: int,
    magnitude: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return W + s B A of each part, its rows of the lengths m, in fp64."""
    rows: list[Tensor] = []
    for part in range(parts):
        height = len(up) // parts
        b = up[part * height :][:height]
        a = down[part * R :][:R]
        rows.append(b @ a)
    whole = weight + SCALE * torch.cat(rows)
    if magnitude is None:
        return whole
    if lengths is None:
        lengths = whole.square().sum(1).sqrt()
    return whole * (magnitude / lengths).unsqueeze(1)


def adapted_linear(
    form: str, parts: int, dtype: torch.dtype = torch.float64
) -> AdaptedLinear:
    linear = nn.Linear(I, O, "biased" in form, dtype=dtype)
    linear.requires_grad_(False)
    low_rank = LowRank(linear.weight, R, SCALE, parts, "lengths" in form)
    return AdaptedLinear(linear, drawn(low_rank))


def by_formulas(adapted: AdaptedLinear, x: Tensor, weights: Tensor) -> list[Tensor]:
    """Return the outputs, and the gradients of x, A, B and m, in fp64."""
    low_rank = adapted.low_rank
    names = dict(low_rank.named_parameters())
    leaves = [x.detach().double().requires_grad_()]
    for name in ("down", "up", "magnitude"):
        if name in names:
            leaves.append(names[name].detach().double().requires_grad_())
    frozen = adapted.weight.detach().double()
    held = plain_weight(frozen, *leaves[1:3], low_rank.parts).detach().norm(dim=1)
    whole = plain_weight(frozen, *leaves[1:3], low_rank.parts, *leaves[3:])
    if len(leaves) == 4:
        # the lengths are no function of A and B for the gradient
        whole = plain_weight(
            frozen, *leaves[1:3], low_rank.parts, leaves[3], lengths=held
        )
    y = leaves[0] @ whole.T
    if adapted.bias is not None:
        y = y + adapted.bias.double()
    return [y, *torch.autograd.grad((y * weights.double()).sum(), leaves)]


# ---------------------------------------------------------------------- one product


@pytest.mark.parametrize("mode", ["auto", "reference"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outputs_and_gradients_are_those_of_the_formulas(
    dtype: torch.dtype, form: str, parts: int, mode: str
) -> None:
    ops.use(mode)
    adapted = adapted_linear(form, parts, dtype)
    x = torch.randn(3, 4, I, dtype=dtype, requires_grad=True)
    weights = torch.randn(3, 4, O, dtype=dtype)
    expected = by_formulas(adapted, x, weights)
    y = adapted(x)
    learnt = [adapted.low_rank.down, adapted.low_rank.up]
    if adapted.low_rank.magnitude is not None:
        learnt.append(adapted.low_rank.magnitude)
    gradients = torch.autograd.grad((y * weights).sum(), [x, *learnt])
    near = CLOSE if dtype == torch.float64 else ROUNDED
    for ours, truth in zip((y, *gradients), expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, truth.to(dtype), **near)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_a_weight_with_its_change_is_that_of_the_formulas(
    magnitudes: bool, parts: int
) -> None:
    weight = torch.randn(O, I, dtype=torch.float64)
    low_rank = drawn(LowRank(weight, R, SCALE, parts, magnitudes))
    expected = plain_weight(
        weight, low_rank.down, low_rank.up, parts, low_rank.magnitude
    )
    torch.testing.assert_close(low_rank(weight), expected, **CLOSE)
    if magnitudes:
        assert low_rank.magnitude is not None
        gains = low_rank.gains(weight)
        lengths = plain_weight(weight, low_rank.down, low_rank.up, parts).norm(dim=1)
        torch.testing.assert_close(gains, low_rank.magnitude / lengths, **CLOSE)


def test_the_gradient_of_a_recurrent_weight_holds_the_lengths_constant() -> None:
    weight = torch.randn(O, I, dtype=torch.float64)
    low_rank = drawn(LowRank(weight, R, SCALE, magnitudes=True))
    weights = torch.randn(O, I, dtype=torch.float64)
    learnt = [low_rank.down, low_rank.up, low_rank.magnitude]
    ours = torch.autograd.grad((low_rank(weight) * weights).sum(), learnt)
    down, up, magnitude = (part.detach().clone().requires_grad_() for part in learnt)
    lengths = plain_weight(weight, down, up, 1).norm(dim=1)
    held = plain_weight(weight, down, up, 1, magnitude, lengths.detach())
    theirs = torch.autograd.grad((held * weights).sum(), [down, up, magnitude])
    for mine, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, truth, **CLOSE)
    free = plain_weight(weight, down, up, 1, magnitude, lengths)
    moving = torch.autograd.grad((free * weights).sum(), [down])[0]
    assert not torch.allclose(ours[0], moving)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_functions_are_those_of_autograd(form: str) -> None:
    adapted = adapted_linear(form, 1)
    x = torch.randn(3, I, dtype=torch.float64)
    names = {name: part.detach() for name, part in adapted.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(adapted, weights, (x,))
        return y.square().sum()

    by_function = torch.func.grad(loss)(names)
    adapted(x).square().sum().backward()
    for name, weight in adapted.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(by_function[name], weight.grad, **CLOSE)


def test_what_is_read_needs_no_gradient_and_may_be_of_any_shape() -> None:
    adapted = adapted_linear("biased", 2)
    whole = torch.randn(2, 3, I, dtype=torch.float64)
    y = adapted(whole)
    y.sum().backward()
    assert adapted.low_rank.up.grad is not None
    torch.testing.assert_close(adapted(whole[0, 1]), y[0, 1], **CLOSE)
    turned = whole.transpose(0, 1)
    torch.testing.assert_close(adapted(turned), y.transpose(0, 1), **CLOSE)
    assert adapted(whole[:0]).shape == (0, 3, O)


@pytest.mark.parametrize("form", FORMS)
def test_low_precision_is_chosen_as_of_a_linear_layer(form: str) -> None:
    adapted = adapted_linear(form, 2, torch.float32)
    x = torch.randn(4, I)
    with torch.autocast("cpu", torch.bfloat16):
        y = adapted(x)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), adapted(x), atol=0.1, rtol=0.05)
    assert adapted.low_rank.down.grad is not None
    assert adapted.low_rank.down.grad.dtype == torch.float32


def test_dropout_is_on_what_the_adapter_reads_while_it_learns() -> None:
    linear = nn.Linear(I, O, dtype=torch.float64).requires_grad_(False)
    low_rank = drawn(LowRank(linear.weight, R, SCALE))
    adapted = AdaptedLinear(linear, low_rank, dropout=0.5)
    x = torch.randn(2, I, dtype=torch.float64)
    still = adapted.eval()(x)
    assert torch.equal(adapted(x), still)
    adapted.train()
    torch.manual_seed(3)
    said = adapted(x)
    torch.manual_seed(3)
    read = nn.functional.dropout(x, 0.5)
    assert (read == 0).any()
    change = read @ low_rank.down.T @ low_rank.up.T
    torch.testing.assert_close(said, linear(x) + SCALE * change, **CLOSE)
    merged_linear = adapted.merged()
    torch.testing.assert_close(merged_linear(x), still, **CLOSE)


# ---------------------------------------------------------------------- layers


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
        low_rank = adapt(product, R, SCALE, magnitudes)
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


def language(layer: str = "attention", **settings: object) -> LanguageModel:
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
    assert set(kept) == set(trained)
    assert len(kept) == len(put) * (3 if magnitudes else 2)
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
    assert set(first) == {"down", "up"} | ({"magnitude"} if magnitudes else set())


def test_some_weights_are_trained_whole() -> None:
    model = language()
    put_beside(model)
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


def names_of(modules: Iterator[tuple[str, nn.Module]]) -> set[str]:
    return {name for name, module in modules if isinstance(module, LowRank)}


def test_an_adapter_stands_where_its_product_does() -> None:
    layer = Attention(D, 8, 1, 2)
    for product in list(products(layer)):
        if product.is_called("query"):
            adapt(product, R, SCALE)
    assert names_of(layer.named_modules()) == {"blocks.0.attention.query.low_rank"}
    recurrent = GRU(D, 4)
    product = next(products(recurrent))
    assert product.low_rank is None
    low_rank = adapt(product, R, SCALE)
    assert product.low_rank is low_rank
    assert parametrize.is_parametrized(recurrent, "weight_ih_l0")
    assert not parametrize.is_parametrized(recurrent, "weight_hh_l0")
