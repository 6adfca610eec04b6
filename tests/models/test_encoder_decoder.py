"""A decoder over any memory: what it says of itself, and what steps it in a search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.models import EncoderDecoder, OneToMany, Unaligned
from unrolled.models.encoder_decoder import Native
from unrolled.nn import LayerConfig, TokenEmbedding, build_decoder, build_layer
from unrolled.nn.build import settings_of
from unrolled.ops import native

NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
needs_core = pytest.mark.skipif(not native.available(), reason="needs the native core")
V = 9
DECODERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "attention": ("attention", {"hidden": 8, "heads": 2, "context": 12}, {}),
    "gru": ("gru", {"hidden": 8}, {}),
    "lstm-multiplicative": ("lstm", {"hidden": 8}, {"attention": "multiplicative"}),
    "rnn-none": ("rnn", {"hidden": 8}, {"attention": "none"}),
}
every = pytest.mark.parametrize("name", DECODERS)


class Labels(nn.Module):
    """Sources that are labels: a memory of a single vector each."""

    output_size = 5

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(4, 5)

    def forward(self, labels: Tensor) -> Tensor:
        return self.vectors(labels)


def decoder(name: str, memory_size: int) -> Any:
    layer, config, options = DECODERS[name]
    return build_decoder(layer, LayerConfig(**config), 6, memory_size, **options)


def of_labels(name: str, kind: type[OneToMany] = OneToMany) -> OneToMany:
    torch.manual_seed(3)
    model = kind(Labels(), 7, TokenEmbedding(V, 6), decoder(name, 7), V)
    for weight in model.parameters():
        nn.init.normal_(weight, 0, 0.4)
    return model.eval()


def of_texts(name: str) -> Unaligned:
    torch.manual_seed(3)
    settings = settings_of("gru", LayerConfig(hidden=4), bidirectional=True)
    encoder = build_layer("gru", settings, 6)
    model = Unaligned(
        TokenEmbedding(10, 6),
        encoder,
        TokenEmbedding(V, 6),
        build_decoder(
            DECODERS[name][0],
            LayerConfig(**DECODERS[name][1]),
            6,
            8,
            **DECODERS[name][2],
        ),
        V,
    )
    for weight in model.parameters():
        nn.init.normal_(weight, 0, 0.4)
    return model.eval()


BUILDS: dict[str, Callable[[str], EncoderDecoder]] = {
    "labels": of_labels,
    "texts": of_texts,
}


def sources(kind: str) -> tuple[Tensor, Tensor]:
    if kind == "labels":
        return torch.tensor([[3], [1]]), torch.ones(2, dtype=torch.int64)
    return torch.tensor([[5, 2, 7], [8, 3, 0]]), torch.tensor([3, 2])


@every
@pytest.mark.parametrize("kind", BUILDS)
def test_what_a_model_says_of_itself(kind: str, name: str) -> None:
    model = BUILDS[kind](name)
    assert model.embedding is model.source
    assert model.limit is None
    assert model.longest == (12 if name == "attention" else None)
    assert model.attends is (name != "rnn-none")
    assert model.plain() is type(model)
    assert model.head.in_features == model.decoder.output_size


@every
@pytest.mark.parametrize("kind", BUILDS)
@torch.no_grad()
def test_scores_are_the_output_weights_of_what_is_read(kind: str, name: str) -> None:
    model = BUILDS[kind](name)
    source, lengths = sources(kind)
    inputs = torch.tensor([[2, 4, 6], [2, 5, 1]])
    read = model.read(source, lengths, inputs)
    assert read.shape == (2, 3, model.decoder.output_size)
    state = model.start(source, lengths)
    expected, _ = model.decoder.unroll(model.target(inputs), state)
    torch.testing.assert_close(read, expected, **NEAR)
    scores = expected @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(source, lengths, inputs), scores, **NEAR)


@every
@torch.no_grad()
def test_a_label_begins_a_sequence_of_its_own(name: str) -> None:
    model = of_labels(name)
    labels = torch.arange(4)[:, None]
    inputs = torch.full((4, 2), 2)
    scores = model(labels, torch.ones(4, dtype=torch.int64), inputs)
    distances = torch.cdist(scores.flatten(1), scores.flatten(1))
    assert float((distances + 10 * torch.eye(4)).min()) > 1e-3
    if model.attends:
        aligned = model.align(labels, torch.ones(4, dtype=torch.int64), inputs)
        torch.testing.assert_close(aligned, torch.ones(4, 2, 1))


@needs_core
@pytest.mark.parametrize("kind", BUILDS)
@torch.inference_mode()
def test_the_native_core_says_what_the_model_says(kind: str) -> None:
    model = BUILDS[kind]("attention")
    source, lengths = sources(kind)
    stepper = model.stepper()
    assert isinstance(stepper, Native)
    assert stepper.model is model
    ours: Any = stepper.start(source, lengths).reorder(torch.tensor([1, 0, 1]))
    theirs: Any = model.start(source, lengths).reorder(torch.tensor([1, 0, 1]))
    banned = torch.tensor([0, 4])
    for t in range(4):
        tokens = torch.tensor([2, 3, 5]) + t
        _, _, attention_weights = model.step_attending(tokens, theirs)
        values, best, _ = stepper.best(tokens, ours, 3, banned)
        scores, ours = stepper.step(tokens, ours)
        expected, theirs = model.step(tokens, theirs)
        torch.testing.assert_close(scores, expected, **NEAR)
        likeliest = expected.log_softmax(1).index_fill(1, banned, -torch.inf).topk(3)
        torch.testing.assert_close(values, likeliest.values, **NEAR)
        assert torch.equal(best, likeliest.indices)
        assert attention_weights.shape == (3, source.shape[1])


class Louder(OneToMany):
    """A model whose steps are not those that the core knows."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        scores, state = super().step(tokens, state)
        return 2 * scores, state


class Quieter(nn.Dropout):
    """A dropout that does something in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        return input / 2


def test_a_changed_model_steps_itself() -> None:
    louder = of_labels("attention", Louder)
    assert louder.stepper() is louder
    quieter = of_labels("attention")
    quieter.dropout = Quieter()  # type: ignore[assignment]
    assert quieter.stepper() is quieter
    hooked = of_labels("attention")
    handle = hooked.register_forward_hook(lambda *_: None)
    assert hooked.stepper() is hooked
    handle.remove()
    assert (hooked.stepper() is hooked) is not native.available()


@every
def test_a_model_in_training_or_fp64_steps_itself(name: str) -> None:
    model = of_labels(name)
    assert model.train().stepper() is model
    assert model.eval().double().stepper() is model
    model.float()
    is_native = name == "attention" and native.available()
    assert (model.stepper() is model) is not is_native


@needs_core
@torch.inference_mode()
def test_hooks_of_what_reads_sources_run_beside_the_core() -> None:
    model = of_labels("attention")
    labels = torch.tensor([[0], [2]])
    model.source.register_forward_hook(lambda _, inputs, output: 3 * output)
    stepper: Any = model.stepper()
    assert isinstance(stepper, Native)
    tokens = torch.tensor([2, 2])
    state = stepper.start(labels, torch.ones(2, dtype=torch.int64))
    other = model.start(labels, torch.ones(2, dtype=torch.int64))
    scores = stepper.step(tokens, state)[0]
    torch.testing.assert_close(scores, model.step(tokens, other)[0], **NEAR)


def test_more_than_the_context_is_refused() -> None:
    model = of_labels("attention")
    labels = torch.tensor([[1]])
    inputs = torch.ones(1, 13, dtype=torch.int64)
    with pytest.raises(ValueError, match="expected at most 12 positions"):
        model(labels, torch.tensor([1]), inputs)
    assert model(labels, torch.tensor([1]), inputs[:, :12]).shape == (1, 12, V)
