"""One to many: a sequence written from a grid, alone or beside others, step by step or at once.

Models read features in fp64, where sums in another order differ by some 1e-15.
"""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.data.batches import IGNORED, Batch
from unrolled.models import OneToMany
from unrolled.models.encoder_decoder import Native
from unrolled.nn import LayerConfig, TokenEmbedding, build_decoder
from unrolled.nn.convolution import BasicBlock, ResidualNetwork
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.ops import native
from unrolled.training.objectives import seq2seq_loss, shifted

TIGHT: dict[str, Any] = {"rtol": 0, "atol": 1e-11}
DECODERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "attention": ("attention", {"hidden": 8, "layers": 2, "heads": 2}, {}),
    **{
        f"{name}-{attention}": (name, {"hidden": 7}, {"attention": attention})
        for name in ("gru", "lstm", "rnn")
        for attention in ("additive", "multiplicative", "none")
    },
    "gru-not-fed": (
        "gru",
        {"hidden": 7, "layers": 2},
        {"attention": "multiplicative", "feeding": False},
    ),
}
every = pytest.mark.parametrize("name", DECODERS)
V = 11
START = 2
S = 3
M = 6
C = 5
TARGETS = torch.tensor([[4, 9, 3, IGNORED], [7, 3, IGNORED, IGNORED], [5, 6, 10, 3]])


class Features(nn.Module):
    """A source that hands on what was computed before."""

    output_size = C

    def forward(self, features: Tensor) -> Tensor:
        return features


def build(name: str, source: nn.Module | None = None, **settings: Any) -> OneToMany:
    layer, config, options = DECODERS[name]
    decoder = build_decoder(layer, LayerConfig(**config), 8, 9, **options)
    target = TokenEmbedding(V, 8)
    model = OneToMany(source or Features(), 9, target, decoder, V, **settings)
    with torch.no_grad():
        for parameter in [*model.encoder.parameters(), *decoder.parameters()]:
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model.eval()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def drawn(sources: int = S, grad: bool = False) -> Tensor:
    return torch.randn(sources, M, C, dtype=torch.float64, requires_grad=grad)


def ones(features: Tensor) -> Tensor:
    return torch.ones(len(features), dtype=torch.int64)


def same(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, **TIGHT)


@every
def test_steps_equal_the_full_pass(name: str) -> None:
    model = build(name).double()
    features = drawn()
    inputs = shifted(TARGETS, START)
    scores = model(features, ones(features), inputs)
    assert scores.shape == (S, 4, V)
    state: Any = model.start(features, ones(features))
    for t in range(4):
        step, state = model.step(inputs[:, t], state)
        same(step, scores[:, t])


@every
def test_each_step_looks_where_the_full_pass_does(name: str) -> None:
    model = build(name).double()
    features = drawn()
    inputs = shifted(TARGETS, START)
    assert model.attends is ("none" not in name)
    if not model.attends:
        with pytest.raises(ValueError, match="expected a decoder with attention"):
            model.align(features, ones(features), inputs)
        return
    attention_weights = model.align(features, ones(features), inputs)
    assert attention_weights.shape == (S, 4, M)
    same(attention_weights.sum(-1), torch.ones(S, 4, dtype=torch.float64))
    state: Any = model.start(features, ones(features))
    for t in range(4):
        scores, _, row_weights = model.step_attending(inputs[:, t], state)
        same(row_weights, attention_weights[:, t])
        expected, state = model.step(inputs[:, t], state)
        same(scores, expected)


@every
def test_the_memory_is_a_linear_layer_over_the_places(name: str) -> None:
    model = build(name).double()
    features = drawn(grad=True)
    # as batch norm scales in evaluation, before it has seen anything
    normed = features / math.sqrt(1 + 1e-5)
    expected = normed @ model.encoder.weight.T + model.encoder.bias  # type: ignore[operator, union-attr]
    same(model.memory(features), expected)
    scores = model(features, ones(features), shifted(TARGETS, START))
    (gradient,) = torch.autograd.grad(scores.square().sum(), features)
    # every place of every image is looked at, or is part of their mean
    assert gradient.abs().amax(-1).gt(0).all()
    turned = features.flip(1)
    # where a place stands the decoder is not told
    same(model(turned, ones(features), shifted(TARGETS, START)), scores)


@every
def test_rows_of_one_image_are_as_each_is_alone(name: str) -> None:
    model = build(name).double()
    features = drawn(2, grad=True)
    owners = torch.tensor([1, 0, 1])
    inputs = shifted(TARGETS, START)
    together = model(features, ones(features), inputs, owners)
    cotangents = torch.randn_like(together)
    (gradient,) = torch.autograd.grad((together * cotangents).sum(), features)
    total = torch.zeros_like(features)
    for row, owner in enumerate(owners.tolist()):
        alone = features[owner : owner + 1].detach().requires_grad_()
        scores = model(alone, ones(alone), inputs[row : row + 1])
        same(scores[0], together[row])
        (own,) = torch.autograd.grad((scores[0] * cotangents[row]).sum(), alone)
        total[owner] += own[0]
    same(gradient, total)
    if model.attends:
        aligned = model.align(features, ones(features), inputs, owners)
        for row, owner in enumerate(owners.tolist()):
            alone = features[owner : owner + 1]
            same(
                aligned[row], model.align(alone, ones(alone), inputs[row : row + 1])[0]
            )


@every
def test_images_are_read_once_however_many_rows_they_have(name: str) -> None:
    model = build(name).double()
    features = drawn(2)
    read: list[int] = []
    model.encoder.register_forward_pre_hook(
        lambda _, inputs: read.append(len(inputs[0]))
    )
    owners = torch.tensor([0, 0, 0, 1, 1])
    inputs = torch.randint(V, (5, 3))
    together = model(features, ones(features), inputs, owners)
    assert read == [2]
    repeated = features[owners]
    same(model(repeated, ones(repeated), inputs), together)


@every
def test_padding_of_the_targets_changes_nothing(name: str) -> None:
    model = build(name).double()
    features = drawn()
    objective = seq2seq_loss(START)
    batch = Batch(features, ones(features), TARGETS, torch.arange(S).numpy())
    loss = objective(model, batch, None)
    assert int(loss.count) == 9
    longer = torch.cat([TARGETS, torch.full((S, 3), IGNORED)], 1)
    padded = objective(
        model, Batch(features, ones(features), longer, torch.arange(S).numpy()), None
    )
    same(padded.sum, loss.sum)
    assert int(padded.count) == 9
    total: Any = 0
    for row in range(S):
        targets = TARGETS[row : row + 1][:, TARGETS[row] != IGNORED]
        alone = features[row : row + 1]
        scores = model(alone, ones(alone), shifted(targets, START))
        log_probabilities = scores[0].log_softmax(-1)
        total = total - log_probabilities.gather(1, targets.T).sum()
    # the objective sums in fp32 at least
    torch.testing.assert_close(loss.sum.double(), total, rtol=1e-6, atol=1e-6)
    weights = list(model.parameters())
    same(
        torch.autograd.grad(padded.sum, weights), torch.autograd.grad(loss.sum, weights)
    )


@every
def test_later_tokens_do_not_reach_back(name: str) -> None:
    model = build(name).double()
    features = drawn()
    inputs = shifted(TARGETS, START)
    scores = model(features, ones(features), inputs)
    changed = inputs.clone()
    changed[:, 2:] = 8
    other = model(features, ones(features), changed)
    same(other[:, :2], scores[:, :2])
    assert not torch.allclose(other[:, 2:], scores[:, 2:])


@every
def test_lengths_are_not_looked_at(name: str) -> None:
    model = build(name).double()
    features = drawn()
    inputs = shifted(TARGETS, START)
    same(
        model(features, torch.tensor([1, 6, 3]), inputs),
        model(features, ones(features), inputs),
    )


@every
def test_saved_weights_write_the_same(name: str) -> None:
    model = build(name).double()
    features = drawn()
    inputs = shifted(TARGETS, START)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    fresh = build(name).double()
    assert not torch.equal(
        fresh(features, ones(features), inputs), model(features, ones(features), inputs)
    )
    fresh.load_state_dict(torch.load(stored, weights_only=True))
    same(
        fresh(features, ones(features), inputs), model(features, ones(features), inputs)
    )


@every
@torch.inference_mode()
def test_what_steps_a_search_says_what_the_model_says(name: str) -> None:
    model = build(name)
    features = drawn(2).float()
    stepper: Any = model.stepper()
    is_native = isinstance(stepper, Native)
    assert is_native is (name == "attention" and native.available())
    if not is_native:
        assert stepper is model
    state: Any = stepper.start(features, ones(features))
    other: Any = model.start(features, ones(features))
    # as a beam search does: three rows an image, then some of them
    chosen = [torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([2, 0, 5, 5, 3, 3])]
    chosen += [torch.tensor([1, 2, 4])]
    for rows in chosen:
        state = state.reorder(rows)
        other = other.reorder(rows)
        tokens = torch.randint(V, (len(rows),))
        before = native.count("step") if is_native else 0
        scores, state = stepper.step(tokens, state)
        if is_native:
            assert native.count("step") == before + 1
        expected, other = model.step(tokens, other)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_features_are_normed_over_all_places_of_the_images() -> None:
    model = build("gru-additive").double().train()
    features = 3 * drawn() + 7
    centred = features - features.mean((0, 1))
    variance = centred.square().mean((0, 1))
    normed = centred / (variance + 1e-5).sqrt()
    same(model.memory(features), model.encoder(normed))
    same(model.norm.running_mean, 0.1 * features.mean((0, 1)))
    evaluated = model.eval().memory(features)
    centred = features - model.norm.running_mean
    deviation = (model.norm.running_var + 1e-5).sqrt()
    same(evaluated, model.encoder(centred / deviation))


def test_one_image_of_one_place_can_be_learnt_from() -> None:
    model = build("lstm-additive").double().train()
    features = drawn(1)[:, :1]
    before = model.norm.running_mean.clone()
    scores = model(features, torch.ones(1), torch.tensor([[START, 4]]))
    scores.sum().backward()
    assert scores.isfinite().all()
    # a single value has no deviation: the averages stand in for its own, and stay
    same(model.norm.running_mean, before)


def test_dropout_falls_on_the_places_and_before_the_output_weights() -> None:
    model = build("gru-additive", dropout=0.5).double()
    features = torch.randn(S, M, C, dtype=torch.float64)
    inputs = shifted(TARGETS, START)
    evaluated = model(features, ones(features), inputs)
    same(evaluated, model(features, ones(features), inputs))
    model.train()
    assert not torch.allclose(model.memory(features), model.memory(features))
    read = model.read(features, ones(features), inputs)
    assert 0.3 < float((read == 0).double().mean()) < 0.7


def test_images_are_written_from_as_their_features_are() -> None:
    network = ResidualNetwork(BasicBlock, (1, 1, 1, 1), (8, 8, 8, 8), stem=3, stride=1)
    encoder = ImageEncoder(network, None, coordinates=True)
    model = build("lstm-additive", encoder)
    assert model.encoder.in_features == 10
    images = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)
    owners = torch.tensor([1, 0, 1])
    inputs = shifted(TARGETS, START)
    scores = model(images, ones(images), inputs, owners)
    features = encoder(images)
    assert features.shape == (2, 9, 10)
    expected = model(features, ones(images), inputs, owners)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    # what is frozen is read the same while the rest learns
    assert torch.equal(model.train().source(images), features)


def test_a_tied_table_needs_the_decoders_width() -> None:
    with pytest.raises(ValueError, match=r"model.tie needs a target embedding"):
        build("gru-none", tie=True)
    model = build("attention", tie=True, bias=False).double()
    assert model.head.weight is model.target.weight
    assert model.head.bias is None


def test_every_feature_is_scaled_by_what_the_images_of_a_batch_have() -> None:
    model = build("gru-additive").double().train()
    features = 100 + torch.randn(6, M, C, dtype=torch.float64)
    flat = features.flatten(0, 1)
    deviations = flat.var(0, unbiased=False).add(1e-5).sqrt()
    normed = (flat - flat.mean(0)) / deviations
    weight: torch.Tensor = model.encoder.weight  # type: ignore[assignment]
    bias: torch.Tensor = model.encoder.bias  # type: ignore[assignment]
    expected = (normed @ weight.T + bias).view(6, M, -1)
    torch.testing.assert_close(model.memory(features), expected)
