"""What changes a module beside its weights is seen by every way of calling it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from unrolled.models import Aligned, LanguageModel, ManyToOne, Unaligned
from unrolled.nn import GRU, LSTM, RNN, Attention, Layer, Pooling, TokenEmbedding
from unrolled.nn.decoding import DecoderParts
from unrolled.nn.stepper import why_not_native
from unrolled.ops import native

from .variants import CAUSAL, EVERY, D

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning"),
]
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # fp32, other orders of summation


def doubled(module: nn.Module, args: Any, output: Any) -> Any:
    """Return what a module says twice, whatever else it returns kept."""
    return (output[0] * 2, *output[1:]) if isinstance(output, tuple) else output * 2


@pytest.mark.parametrize("name", EVERY)
def test_hooks_of_a_layer_run_in_every_form(name: str) -> None:
    layer = EVERY[name]().eval()
    x = torch.randn(2, 4, D)
    y, _ = layer.unroll(x)
    seen: list[int] = []
    layer.register_forward_hook(doubled)
    layer.register_forward_pre_hook(lambda module, args: seen.append(len(args)))
    torch.testing.assert_close(layer.unroll(x)[0], 2 * y)
    torch.testing.assert_close(layer.read(x), 2 * y)
    batch_first = layer(x)[0] if not hasattr(layer, "batch_first") else None
    if batch_first is not None:
        torch.testing.assert_close(batch_first, 2 * y)
    if layer.causal:
        stepped, _ = layer.step(x[:, 0], layer.initial_state(2))
        torch.testing.assert_close(stepped, 2 * y[:, 0], **NEAR)
    assert len(seen) == 2 + layer.causal + (batch_first is not None)


def test_torchs_call_form_runs_hooks_once() -> None:
    layer = GRU(D, 4)
    seen = []
    layer.register_forward_hook(lambda module, args, output: seen.append(args))
    x = torch.randn(6, 2, D)
    layer(x)
    layer(nn.utils.rnn.pack_sequence([x[:, 0], x[:4, 1]]))
    assert len(seen) == 2


def language(layer: Layer, **options: Any) -> LanguageModel:
    return LanguageModel(
        TokenEmbedding(20, D, **options), layer, 20, dropout=0.5
    ).eval()


CHANGES: dict[str, Callable[[LanguageModel], Any]] = {
    "hook on the head": lambda m: m.head.register_forward_hook(doubled),
    "hook on the dropout": lambda m: m.dropout.register_forward_hook(doubled),
    "hook on the embedding": lambda m: m.embedding.register_forward_hook(doubled),
    "hook on the layer": lambda m: m.layer.register_forward_hook(doubled),
    "hook before the head": lambda m: m.head.register_forward_pre_hook(
        lambda _, x: (x[0] + 1,)
    ),
    "hook on the embedding's dropout": lambda m: (
        m.embedding.dropout.register_forward_hook(doubled)
    ),
    "hook on the model": lambda m: m.register_forward_hook(doubled),
    "another forward": lambda m: setattr(m.head, "forward", torch.sin),
    "a subclass": lambda m: setattr(m, "head", Doubled(m.head)),
    "a head of another class": lambda m: setattr(
        m, "head", nn.Sequential(nn.Tanh(), m.head)
    ),
    "a model of another class": lambda m: setattr(m, "__class__", Halved),
    "a method of the layer": lambda m: _own_unroll(m.layer),
    "an embedding of another class": lambda m: setattr(m, "embedding", Shifted(20, D)),
}


class Halved(LanguageModel):
    def forward(self, *args: Any) -> Any:
        scores, state = super().forward(*args)
        return scores / 2, state

    def step(self, *args: Any) -> Any:
        scores, state = super().step(*args)
        return scores / 2, state


def _own_unroll(layer: Any) -> None:
    unroll = layer.unroll
    step = layer.step
    layer.unroll = lambda *a: doubled(layer, a, unroll(*a))
    layer.step = lambda *a: doubled(layer, a, step(*a))


class Doubled(nn.Linear):
    def __init__(self, like: nn.Linear) -> None:
        super().__init__(like.in_features, like.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2 + 1


class Shifted(TokenEmbedding):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + 1


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_a_stream_says_what_a_changed_model_says(kind: type[GRU], change: str) -> None:
    model = language(kind(D, 20))
    tokens = torch.randint(20, (3, 5))
    before = model(tokens)[0]
    CHANGES[change](model)
    expected = model(tokens)[0]
    assert not torch.allclose(before, expected)
    for stepped in (model.stream(3), model.stepper()):
        state = model.initial_state(3)
        rows = []
        for t in range(5):
            if stepped is model or not hasattr(stepped, "native"):
                scores, state = stepped.step(tokens[:, t], state)  # type: ignore[call-arg, misc]
            else:
                scores = stepped.step(tokens[:, t])
            rows.append(scores.clone())
        torch.testing.assert_close(torch.stack(rows, 1), expected, **NEAR)


def test_a_stream_scales_its_embedding() -> None:
    model = language(GRU(D, 8), scale=3.0)
    tokens = torch.randint(20, (1, 4))
    stream = model.stream()
    rows = torch.stack([stream.step(tokens[:, t]).clone() for t in range(4)], 1)
    torch.testing.assert_close(rows, model(tokens)[0], **NEAR)


def test_a_global_hook_is_seen() -> None:
    model = language(GRU(D, 8))
    tokens = torch.randint(20, (1, 4))
    double = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: (
            output + 1 if isinstance(module, nn.Linear) else None
        )
    )
    try:
        stream = model.stream()
        assert not stream.native
        torch.testing.assert_close(
            stream.step(tokens[:, 0]), model(tokens)[0][:, 0], **NEAR
        )
    finally:
        double.remove()


@pytest.mark.parametrize("kind", ["aligned", "many to one"])
def test_a_stream_refuses_hooks_that_no_step_would_run(kind: str) -> None:
    embedding = TokenEmbedding(20, D)
    layer = GRU(D, 4)
    model: Aligned | ManyToOne = Aligned(embedding, layer, 3)
    if kind == "many to one":
        model = ManyToOne(embedding, layer, Pooling("last", 4), 3)
    model.eval().register_forward_hook(doubled)
    with pytest.raises(
        ValueError, match="with hooks, which no step of a stream would run"
    ):
        model.stream()


NORMED: dict[str, Callable[[nn.Module], Any]] = {
    "prune": lambda m: prune.l1_unstructured(m, "weight_hh_l0", 0.5),
    "weight_norm": lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
    "spectral_norm": lambda m: nn.utils.spectral_norm(m, "weight_hh_l0"),
    "parametrized": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "orthogonal": lambda m: parametrizations.orthogonal(m, "weight_hh_l0"),
}
RECURRENT = [name for name in CAUSAL if name.startswith(("rnn", "gru", "lstm"))]


@pytest.mark.parametrize("how", NORMED)
@pytest.mark.parametrize("name", RECURRENT)
def test_a_weight_that_is_computed_trains_and_streams(name: str, how: str) -> None:
    if "last" in name and how == "orthogonal":
        pytest.skip("not square")
    layer = EVERY[name]()
    model = language(layer)
    tokens = torch.randint(20, (1, 5))
    NORMED[how](layer)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):  # graphs of earlier steps are gone by the second
        optimizer.zero_grad()
        model(tokens)[0].square().sum().backward()
        optimizer.step()
    model.eval()
    expected = model(tokens)[0]
    stream = model.stream()
    rows = torch.stack([stream.step(tokens[:, t]).clone() for t in range(5)], 1)
    torch.testing.assert_close(rows, expected, **NEAR)
    alone = layer.stream()
    x = torch.randn(1, D)
    said = layer.step(x, layer.initial_state(1))[0]
    torch.testing.assert_close(alone.step(x), said, **NEAR)


def test_spectral_norm_of_a_models_layer_normalises() -> None:
    model = language(GRU(D, 16)).train()
    nn.utils.spectral_norm(model.layer, "weight_hh_l0", n_power_iterations=30)
    model(torch.randint(20, (2, 5)))[0].sum().backward()
    weight: Any = model.layer.weight_hh_l0
    assert abs(torch.linalg.matrix_norm(weight, 2).item() - 1) < 0.05
    assert model.layer.weight_hh_l0_orig.grad is not None  # type: ignore[union-attr]


def translator(**options: Any) -> Unaligned:
    encoder = Attention(8, 8, 1, 2, bidirectional=True)
    decoder = Attention(8, 8, 2, 2, memory_size=8, **options)
    return Unaligned(
        TokenEmbedding(12, 8), encoder, TokenEmbedding(12, 8), decoder, 12
    ).eval()


class LowRank(nn.Linear):
    """A linear layer with an adapter (Hu et al. 2022)."""

    def __init__(self, like: nn.Linear) -> None:
        super().__init__(like.in_features, like.out_features, like.bias is not None)
        self.load_state_dict(like.state_dict())
        self.low = nn.Linear(like.in_features, 2, bias=False)
        self.up = nn.Linear(2, like.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.low(x))


def _adapt(model: Unaligned) -> None:
    attention: Any = model.decoder.blocks[1].attention  # type: ignore[union-attr, index]
    attention.query = LowRank(attention.query)
    attention.value = LowRank(attention.value)


def _block(model: Unaligned, at: int = 1) -> Any:
    return model.decoder.blocks[at]  # type: ignore[union-attr, index]


class DoubledTranslator(Unaligned):
    def forward(self, *args: Tensor) -> Tensor:
        return super().forward(*args) * 2

    def step(self, tokens: Tensor, state: Any) -> Any:
        scores, state = super().step(tokens, state)
        return scores * 2, state


def _double_step(model: Unaligned) -> None:
    step = model.step
    forward = model.forward
    model.step = lambda *a: doubled(model, a, step(*a))  # type: ignore[method-assign]
    model.forward = lambda *a: forward(*a) * 2  # type: ignore[method-assign]


DECODER_CHANGES: dict[str, Callable[[Unaligned], Any]] = {
    "adapters": _adapt,
    "hook on a block": lambda m: _block(m).register_forward_hook(doubled),
    "hook on a product": lambda m: _block(m).cross.query.register_forward_hook(doubled),
    "hook on the decoder": lambda m: m.decoder.register_forward_hook(doubled),
    "hook on the head": lambda m: m.head.register_forward_hook(doubled),
    "another eps": lambda m: setattr(_block(m).feedforward_norm, "eps", 0.5),
    "another norm": lambda m: setattr(
        _block(m), "attention_norm", nn.LayerNorm(8, bias=False)
    ),
    "hook on the model": lambda m: m.register_forward_hook(doubled),
    "hook on the dropout": lambda m: m.dropout.register_forward_hook(doubled),
    "a subclass": lambda m: setattr(m, "__class__", DoubledTranslator),
    "a method of its own": lambda m: _double_step(m),
    "no norm": lambda m: setattr(_block(m), "cross_norm", nn.Identity()),
    "another activation": lambda m: setattr(
        _block(m).feedforward, "forward", torch.tanh
    ),
    "a norm in another order": lambda m: setattr(_block(m), "norm_first", False),
}


OF_THE_MODEL = {
    "hook on the model",
    "hook on the dropout",
    "a subclass",
    "a method of its own",
}


@pytest.mark.parametrize("change", DECODER_CHANGES)
def test_a_changed_decoder_steps_as_it_reads(change: str) -> None:
    model = translator()
    source = torch.randint(12, (2, 5))
    lengths = torch.tensor([5, 3])
    inputs = torch.ones(2, 4).long()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4)
        before = model(source, lengths, inputs)
        DECODER_CHANGES[change](model)
        expected = model(source, lengths, inputs)
        assert not torch.allclose(before, expected)
        stepper = model.stepper()
        state: Any = stepper.start(source, lengths)
        rows = []
        for t in range(4):
            scores, state = stepper.step(inputs[:, t], state)
            rows.append(scores.clone())
    torch.testing.assert_close(torch.stack(rows, 1), expected, **NEAR)
    assert stepper is model
    if change not in OF_THE_MODEL:
        why = why_not_native(DecoderParts(model.target, model.decoder, model.head))
        assert why
        assert "weights alone" in why


@pytest.mark.skipif(not native.available(), reason="needs the native core")
def test_an_unchanged_decoder_is_native() -> None:
    model = translator()
    assert why_not_native(DecoderParts(model.target, model.decoder, model.head)) is None


class Offset(GRU):
    """A layer that adds 1 to what it says, as an adapter does."""

    def unroll(self, *args: Any, **options: Any) -> Any:
        y, state = super().unroll(*args, **options)
        return y + 1, state

    def step(self, *args: Any) -> Any:
        y, state = super().step(*args)
        return y + 1, state


@pytest.mark.parametrize("how", ["plain", "hook", "weight_norm"])
def test_a_subclass_of_a_layer_says_one_thing_everywhere(how: str) -> None:
    torch.manual_seed(1)
    layer = Offset(D, 4).eval()
    x = torch.randn(2, 3, D)
    seen = []
    expected = nn.GRU(D, 4, batch_first=True)
    expected.load_state_dict(layer.state_dict())
    if how == "hook":
        layer.register_forward_hook(lambda *call: seen.append(call))
    elif how == "weight_norm":
        nn.utils.weight_norm(layer, "weight_hh_l0")
    y = expected(x)[0] + 1
    torch.testing.assert_close(layer.unroll(x)[0], y)
    torch.testing.assert_close(layer.read(x), y)
    torch.testing.assert_close(layer(x.transpose(0, 1))[0].transpose(0, 1), y)
    packed = nn.utils.rnn.pack_padded_sequence(x, [3, 3], batch_first=True)
    torch.testing.assert_close(
        nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True)[0], y
    )
    torch.testing.assert_close(
        layer.step(x[:, 0], layer.initial_state(2))[0], y[:, 0], **NEAR
    )
    assert len(seen) == 5 * (how == "hook")  # once each


def test_a_hook_may_give_other_arguments() -> None:
    model = Aligned(TokenEmbedding(20, D), GRU(D, 4), 3).eval()
    tokens = torch.randint(
        20, (3, 3)
    )  # as many rows as steps: no shape would tell them apart
    expected = model(tokens)
    model.layer.register_forward_pre_hook(
        lambda module, args, options: (args, {}), with_kwargs=True
    )
    torch.testing.assert_close(model(tokens), expected)


@pytest.mark.parametrize("change", ["hook", "part"])
def test_a_stream_refreshes_what_the_model_is_now(change: str) -> None:
    model = language(GRU(D, 8))
    tokens = torch.randint(20, (1,))
    stream = model.stream()
    if change == "part":
        model.head = nn.Linear(8, 20)
        stream.refresh()
        expected = model.step(tokens, model.initial_state(1))[0]
        torch.testing.assert_close(stream.step(tokens), expected, **NEAR)
    elif stream.native:
        model.head.register_forward_hook(doubled)
        with pytest.raises(
            ValueError, match="got a Linear with hooks; make another stream"
        ):
            stream.refresh()


@pytest.mark.parametrize("how", ["a subclass", "a method", "pooling"])
def test_a_stream_refuses_a_model_that_no_step_would_run(how: str) -> None:
    class Doubling(ManyToOne):
        def forward(self, *args: Any) -> Tensor:
            return super().forward(*args) * 2

    kind = Doubling if how == "a subclass" else ManyToOne
    model = kind(TokenEmbedding(20, D), GRU(D, 4), Pooling("last", 4), 3).eval()
    if how == "a method":
        setattr(model, "forward", lambda *args: args)  # noqa: B010
    elif how == "pooling":
        model.pooling.register_forward_hook(doubled)
    with pytest.raises(ValueError, match="expected a plain"):
        model.stream()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_stream_reads_a_table_that_lies_column_by_column(scale: float) -> None:
    model = language(GRU(D, 8), scale=scale)
    tokens = torch.randint(20, (2, 4))
    model.embedding.weight = nn.Parameter(torch.randn(D, 20).t())
    stream = model.stream(2)
    rows = torch.stack([stream.step(tokens[:, t]).clone() for t in range(4)], 1)
    torch.testing.assert_close(rows, model(tokens)[0], **NEAR)


def test_replicas_without_parameters_of_their_own_read() -> None:
    model = language(Attention(D, 8, 2, 2))
    tokens = torch.randint(20, (2, 4))
    replica = copy.copy(model.layer)
    embedded = model.embedding(tokens)
    expected = model.layer.unroll(embedded)[0]
    replica.blocks = nn.ModuleList(
        [copy.deepcopy(block) for block in model.layer.blocks]
    )
    for module in replica.blocks.modules():  # as DataParallel leaves them
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                delattr(module, name)
                setattr(module, name, weight.detach().clone())
    torch.testing.assert_close(replica.unroll(embedded)[0], expected)
