"""An answer written to a question about an image: rows are independent, steps are the full pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.models import Answering, QuestionReader
from unrolled.nn import (
    LayerConfig,
    Pooling,
    TokenEmbedding,
    build_decoder,
    build_layer,
)
from unrolled.nn.convolution import BasicBlock, ResidualNetwork
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.ops import native

# fp32 sums in another order
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
V = 9
QUESTIONS = torch.tensor([[4, 8, 3, 0], [7, 3, 0, 0], [5, 6, 9, 3]])
LENGTHS = torch.tensor([3, 2, 4])
OWNERS = torch.tensor([1, 0, 1])
INPUTS = torch.tensor([[2, 4, 6], [2, 5, 1], [2, 2, 7]])
DECODERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "attention": ("attention", {"hidden": 8, "heads": 2, "context": 12}, {}),
    "gru": (
        "gru",
        {"hidden": 8},
        {"attention": "multiplicative", "feeding": False},
    ),
    "lstm-additive": ("lstm", {"hidden": 8}, {}),
    "rnn-none": ("rnn", {"hidden": 8}, {"attention": "none"}),
}
every = pytest.mark.parametrize("name", DECODERS)


def build(name: str) -> Answering:
    torch.manual_seed(5)
    network = ResidualNetwork(BasicBlock, (1, 1, 1, 1), (8, 8, 8, 6), stem=3, stride=1)
    source = ImageEncoder(network, coordinates=True)
    layer = build_layer("gru", LayerConfig(hidden=5, bidirectional=True), 6)
    pooling = Pooling("last", layer.output_size, layer.reverse_size)
    question = QuestionReader(TokenEmbedding(11, 6), layer, pooling)
    kind, config, options = DECODERS[name]
    decoder = build_decoder(kind, LayerConfig(**config), 6, 7, **options)
    model = Answering(source, question, 7, TokenEmbedding(V, 6), decoder, V)
    for weight_name, weight in model.named_parameters():
        if not weight_name.startswith("source."):
            nn.init.normal_(weight, 0, 0.4)
    return model.eval()


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 16, 16), generator=generator, dtype=torch.uint8)


@every
@torch.no_grad()
def test_a_row_of_many_is_the_row_by_itself(name: str) -> None:
    model = build(name)
    pixels = images()
    together = model(QUESTIONS, LENGTHS, INPUTS, pixels, OWNERS)
    assert together.shape == (3, 3, V)
    for row in range(3):
        length = int(LENGTHS[row])
        alone = model(
            QUESTIONS[row : row + 1, :length],
            LENGTHS[row : row + 1],
            INPUTS[row : row + 1],
            pixels[OWNERS[row : row + 1]],
        )
        torch.testing.assert_close(alone[0], together[row], **NEAR)


@every
@torch.no_grad()
def test_steps_say_what_the_full_pass_says(name: str) -> None:
    model = build(name)
    whole = model(QUESTIONS, LENGTHS, INPUTS, images(), OWNERS)
    steppers = [model, *([model.stepper()] if native.available() else [])]
    for steps in steppers:
        state: Any = steps.start(QUESTIONS, LENGTHS, images(), OWNERS)
        for index in range(3):
            scores, state = steps.step(INPUTS[:, index], state)
            torch.testing.assert_close(scores, whole[:, index], **NEAR)


@every
@torch.no_grad()
def test_image_and_question_both_tell(name: str) -> None:
    model = build(name)
    pixels = images()
    scores = model(QUESTIONS, LENGTHS, INPUTS, pixels, OWNERS)
    others = model(QUESTIONS, LENGTHS, INPUTS, pixels, 1 - OWNERS)
    assert not torch.allclose(scores, others, **NEAR)
    turned = model(QUESTIONS.flip(0), LENGTHS.flip(0), INPUTS, pixels, OWNERS)
    assert not torch.allclose(scores[0], turned[0], **NEAR)


@torch.no_grad()
def test_words_look_at_the_places_of_the_image_before_the_question() -> None:
    model = build("gru")
    weights = model.align(QUESTIONS, LENGTHS, INPUTS, images(), OWNERS)
    positions = 16 // 8 * (16 // 8)
    assert weights.shape == (3, 3, positions + 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3), **NEAR)
    # padding of the second question
    assert float(weights[1, :, positions + 2 :].max()) == 0


def test_the_embedding_is_that_of_questions() -> None:
    model = build("gru")
    assert model.embedding is model.question_embedding
