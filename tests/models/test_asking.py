"""A question about an image: each way to bring both together, by its equations written out.

Models read features in fp64, where sums in another order differ by some 1e-15 of their size.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.models import Asking
from unrolled.models.asking import (
    FUSIONS,
    FiLM,
    Joined,
    Looking,
    MultiHop,
    Relations,
)
from unrolled.nn import LayerConfig, Pooling, TokenEmbedding, build_layer
from unrolled.nn.convolution import BasicBlock, ResidualNetwork
from unrolled.nn.image_encoder import ImageEncoder

TIGHT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
every = pytest.mark.parametrize("fusion", FUSIONS)
B = 3
M = 4
C = 12  # features of a place: of the network, and where it is
Q = 5
WIDTH = 6
QUESTIONS = torch.tensor([[4, 8, 3, 0], [7, 3, 0, 0], [5, 6, 9, 3]])
LENGTHS = torch.tensor([3, 2, 4])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def build(fusion: str, *, both: bool = False, pooling: str = "last") -> Asking:
    network = ResidualNetwork(BasicBlock, (1, 1, 1, 1), (8, 8, 8, 10), stem=3, stride=1)
    layer = build_layer("gru", LayerConfig(hidden=7, bidirectional=both), Q)
    pooled = Pooling(pooling, layer.output_size, layer.reverse_size)
    source = ImageEncoder(network, coordinates=True)
    model = Asking(source, TokenEmbedding(11, Q), layer, pooled, 4, fusion, width=WIDTH)
    for name, weight in model.named_parameters():
        if not name.startswith("source."):
            nn.init.normal_(weight, 0, 0.5)
    return model.double().eval()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def drawn_weights(module: nn.Module) -> dict[str, Tensor]:
    module.double()
    for weight in module.parameters():
        nn.init.normal_(weight, 0, 0.5)
    return {name: weight.detach() for name, weight in module.named_parameters()}


def same(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, **TIGHT)


# ---------------------------------------------------------------------- fusions


@pytest.mark.parametrize("layers", [1, 4])
def test_relations_are_the_sum_over_all_pairs_of_places(layers: int) -> None:
    """Santoro et al. (2017), eq. 1, with the mean in the place of the sum."""
    fusion = Relations(C, Q, WIDTH, layers)
    weights = drawn_weights(fusion)
    grid = drawn(B, M, C)
    question = drawn(B, Q)
    assert fusion.output_size == WIDTH
    first = torch.cat(
        [weights["left.weight"], weights["right.weight"], weights["question.weight"]], 1
    )
    for row in range(B):
        total = torch.zeros(WIDTH, dtype=torch.float64)
        for i in range(M):
            for j in range(M):
                pair = torch.cat([grid[row, i], grid[row, j], question[row]])
                hidden = (first @ pair + weights["question.bias"]).clamp(min=0)
                for layer in range(layers - 1):
                    matrix = weights[f"over_pairs.{layer}.weight"]
                    bias = weights[f"over_pairs.{layer}.bias"]
                    hidden = (matrix @ hidden + bias).clamp(min=0)
                total += hidden
        same(fusion(grid, question)[row] * M**2, total)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_film_is_its_equations(blocks: int) -> None:
    """Perez et al. (2018), eq. 1 and 2, in the blocks of their figure 3."""
    fusion = FiLM(C, Q, WIDTH, blocks)
    weights = drawn_weights(fusion)
    grid = drawn(B, M, C)
    question = drawn(B, Q)
    assert fusion.output_size == WIDTH
    for row in range(B):
        rows = []
        for position in range(M):
            x = weights["enter.weight"] @ grid[row, position] + weights["enter.bias"]
            x = x.clamp(min=0)
            for block in range(blocks):
                both = weights[f"modulations.{block}.weight"] @ question[row]
                both = both + weights[f"modulations.{block}.bias"]
                gamma = 1 + both[:WIDTH]
                beta = both[WIDTH:]
                first = weights[f"firsts.{block}.weight"] @ x
                first = (first + weights[f"firsts.{block}.bias"]).clamp(min=0)
                second = weights[f"seconds.{block}.weight"] @ first
                second = second + weights[f"seconds.{block}.bias"]
                centred = second - second.mean()
                normed = centred / (centred.square().mean() + 1e-5).sqrt()
                x = first + (gamma * normed + beta).clamp(min=0)
            rows.append(x)
        same(fusion(fusion.prepare(grid), question)[row], torch.stack(rows).amax(0))


@pytest.mark.parametrize("hops", [1, 3])
def test_each_hop_looks_by_what_was_read_before(hops: int) -> None:
    """Yang et al. (2016), 3.3, of several heads that score by products (Vaswani et al. 2017)."""
    fusion = MultiHop(C, Q, WIDTH, hops, heads=2, key_size=4).eval()
    weights = drawn_weights(fusion)
    grid = drawn(B, M, C)
    question = drawn(B, Q)
    assert fusion.output_size == WIDTH

    def linear(name: str, x: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def normed(x: Tensor) -> Tensor:
        centred = x - x.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt()

    for row in range(B):
        keys = [normed(linear("key", vector)) for vector in grid[row]]
        values = [linear("value", vector).clamp(min=0) for vector in grid[row]]
        # the averages of a norm that saw no batch yet: mean 0, variance 1
        scaled = question[row] / (1 + 1e-5) ** 0.5
        known = weights["norm.weight"] * scaled + weights["norm.bias"]
        known = linear("question", known)
        for hop in range(hops):
            queries = linear(f"queries.{hop}", known)
            read: list[Tensor] = []
            largest: list[Tensor] = []
            above: list[Tensor] = []
            scale = 1 + linear(f"scales.{hop}", known)
            scaled = torch.stack([value * scale for value in values])
            for query in (normed(queries[:4]), normed(queries[4:])):
                scores = torch.stack([2 * query @ key / 2 for key in keys])
                weighed = scores.exp() / scores.exp().sum()
                read.append(weighed @ scaled)
                largest.append(scores.max())
                above.append(scores.clamp(min=0).mean())
            both = torch.cat(
                [*read, scaled.amax(0), torch.stack(largest), torch.stack(above)]
            )
            known = known + linear(f"reads.{hop}", both).clamp(min=0)
        same(fusion(fusion.prepare(grid), question)[row], known)


def test_looking_weighs_places_by_the_question() -> None:
    """Bahdanau et al. (2015), section A.1.2."""
    fusion = Looking(C, Q, WIDTH)
    weights = drawn_weights(fusion)
    grid = drawn(B, M, C)
    question = drawn(B, Q)
    assert fusion.output_size == C + Q
    for row in range(B):
        scores = []
        for position in range(M):
            hidden = weights["attend.query.weight"] @ question[row]
            hidden = hidden + weights["attend.key.weight"] @ grid[row, position]
            hidden = (hidden + weights["attend.key.bias"]).tanh()
            scores.append(weights["attend.score.weight"][0] @ hidden)
        context = torch.stack(scores).softmax(0) @ grid[row]
        same(fusion(grid, question)[row], torch.cat([context, question[row]]))


def test_joined_is_the_mean_and_the_question() -> None:
    fusion = Joined(C, Q)
    grid = drawn(B, M, C)
    question = drawn(B, Q)
    assert fusion.output_size == C + Q
    for row in range(B):
        mean = sum(grid[row]) / M
        same(fusion(grid, question)[row], torch.cat([mean, question[row]]))


# ---------------------------------------------------------------------- the model


@every
@torch.no_grad()
def test_answers_are_layers_over_what_the_fusion_says(fusion: str) -> None:
    model = build(fusion)
    grid = drawn(B, M, C)
    steps = model.layer.read(model.embedding(QUESTIONS), LENGTHS)
    question = model.pooling(steps, LENGTHS)
    hidden = model.before(model.fusion(model.fusion.prepare(grid), question)).clamp(
        min=0
    )
    scores = model(QUESTIONS, LENGTHS, grid)
    assert scores.shape == (B, 4)
    same(scores, hidden @ model.head.weight.T + model.head.bias)


@every
@torch.no_grad()
def test_a_question_is_answered_as_it_is_alone(fusion: str) -> None:
    model = build(fusion, both=True)
    grid = drawn(B, M, C)
    together = model(QUESTIONS, LENGTHS, grid)
    for row in range(B):
        length = int(LENGTHS[row])
        tokens = QUESTIONS[row : row + 1, :length]
        same(model(tokens, None, grid[row : row + 1])[0], together[row])


@every
def test_several_questions_about_an_image_are_each_answered_alone(fusion: str) -> None:
    model = build(fusion)
    grid = drawn(2, M, C).requires_grad_()
    owners = torch.tensor([1, 0, 1])
    together = model(QUESTIONS, LENGTHS, grid, owners)
    cotangents = drawn(B, 4)
    (gradient,) = torch.autograd.grad((together * cotangents).sum(), grid)
    total = torch.zeros_like(grid)
    for row, owner in enumerate(owners.tolist()):
        alone = grid[owner : owner + 1].detach().requires_grad_()
        scores = model(QUESTIONS[row : row + 1], LENGTHS[row : row + 1], alone)
        same(scores[0], together[row])
        (own,) = torch.autograd.grad((scores[0] * cotangents[row]).sum(), alone)
        total[owner] += own[0]
    same(gradient, total)
    assert gradient.abs().amax((1, 2)).gt(0).all()


@every
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_padding_of_questions_changes_nothing(fusion: str, pooling: str) -> None:
    model = build(fusion, both=True, pooling=pooling)
    grid = drawn(B, M, C)
    scores = model(QUESTIONS, LENGTHS, grid)
    weights = [
        weight for name, weight in model.named_parameters() if "source" not in name
    ]
    expected = torch.autograd.grad(scores.square().sum(), weights)
    padded = torch.cat([QUESTIONS, torch.full((B, 2), 10)], 1)
    for row, length in enumerate(LENGTHS.tolist()):
        padded[row, length:] = 10
    other = model(padded, LENGTHS, grid)
    same(other, scores)
    same(torch.autograd.grad(other.square().sum(), weights), expected)


@every
def test_the_image_and_the_question_are_read(fusion: str) -> None:
    model = build(fusion).float()
    images = torch.randint(256, (B, 3, 16, 16), dtype=torch.uint8)
    model(QUESTIONS, LENGTHS, images).square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.any(), name


@every
@torch.no_grad()
def test_pixels_and_their_features_are_answered_alike(fusion: str) -> None:
    model = build(fusion).float()
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    owners = torch.tensor([0, 1, 0])
    read: list[int] = []
    model.source.network.register_forward_pre_hook(
        lambda _, inputs: read.append(len(inputs[0]))
    )
    scores = model(QUESTIONS, LENGTHS, images, owners)
    assert read == [2]  # an image once, however many ask about it
    features = model.source(images)
    assert features.shape == (2, M, C)
    torch.testing.assert_close(
        model(QUESTIONS, LENGTHS, features, owners), scores, rtol=1e-5, atol=1e-6
    )


@every
@torch.no_grad()
def test_where_a_place_stands_is_told_by_its_features_alone(fusion: str) -> None:
    model = build(fusion)
    grid = drawn(B, M, C)
    scores = model(QUESTIONS, LENGTHS, grid)
    same(model(QUESTIONS, LENGTHS, grid[:, torch.tensor([2, 0, 3, 1])]), scores)
    assert not torch.allclose(model(QUESTIONS, LENGTHS, grid.flip(0)), scores)


@every
@torch.no_grad()
def test_saved_weights_answer_the_same(fusion: str) -> None:
    model = build(fusion)
    grid = drawn(B, M, C)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    fresh = build(fusion)
    assert not torch.allclose(
        fresh(QUESTIONS, LENGTHS, grid), model(QUESTIONS, LENGTHS, grid)
    )
    fresh.load_state_dict(torch.load(stored, weights_only=True))
    same(fresh(QUESTIONS, LENGTHS, grid), model(QUESTIONS, LENGTHS, grid))


def test_dropout_stands_before_the_output_weights() -> None:
    model = build("joined")
    model.dropout.p = 0.5
    read: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    grid = drawn(B, M, C)
    model(QUESTIONS, LENGTHS, grid)
    model.train()
    model(QUESTIONS, LENGTHS, grid)
    evaluated, dropped = read
    kept = dropped != 0
    assert 0 < int(kept.sum()) < int((evaluated != 0).sum())
    same(dropped[kept], 2 * evaluated[kept])


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match="out of film, relation, hops, attention, joined, got 'concatenated'",
    ):
        build("concatenated")
