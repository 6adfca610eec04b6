"""Regions of an image: what a patch of grey takes away, and where each word looks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from unrolled.fields.clips import Clips
from unrolled.fields.image import Image
from unrolled.fields.text import Text
from unrolled.insight import regions
from unrolled.insight.looker import Looker
from unrolled.insight.regions import PATCHES, image_of, image_trace, with_images
from unrolled.insight.tracing import Options, explain, look
from unrolled.models import Asking, OneToMany, OneToOne
from unrolled.nn import (
    LayerConfig,
    Memoryless,
    Pooling,
    TokenEmbedding,
    build_decoder,
    build_layer,
)
from unrolled.nn.convolution import BasicBlock, ResidualNetwork
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.tasks.step_readers import (
    LabelledSteps,
    QuestionSteps,
    TaggedSteps,
    WrittenSteps,
    read_input,
)
from unrolled.tasks.steps import InputSteps
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import shifted

NAMES = ("dark", "light")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(4)


def png(pixels: Any) -> bytes:
    content = io.BytesIO()
    Pillow.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def drawn(size: int) -> Any:
    generator = np.random.default_rng(3)
    return generator.integers(0, 256, (size, size, 3)).astype(np.uint8)


class Corner(nn.Module):
    """The mean brightness of a stretch of rows and columns, and of nothing else (B, 1)."""

    output_size = 1

    def __init__(self, rows: slice, columns: slice) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.read: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.read.append(images)
        corner = images[:, :, self.rows, self.columns].float() / 255
        return corner.mean((1, 2, 3))[:, None]


def labelling(size: int, rows: slice, columns: slice) -> tuple[Any, LabelledSteps]:
    model = OneToOne(
        Memoryless(1, layers=0), len(NAMES), embedding=Corner(rows, columns)
    ).eval()
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[-4.0], [4.0]]))
        model.head.bias.copy_(torch.tensor([2.0, -2.0]))
    return model, LabelledSteps(Image("image", size), NAMES)


def traced(
    model: nn.Module, reader: Any, cells: Sequence[Any]
) -> tuple[Any, InputSteps]:
    """Return the trace of the image of an input, and the input."""
    steps = reader.read(model, cells)
    looker = Looker(model, reader)
    explained = explain(reader, looker.outputs(steps), -1)
    return image_trace(looker, steps, explained, (), None), steps


# ---------------------------------------------------------------------- regions


@pytest.mark.parametrize("row", [0, 7])
@pytest.mark.parametrize("column", [0, 3, 7])
def test_what_matters_is_where_the_model_looks(row: int, column: int) -> None:
    rows = slice(4 * row, 4 * row + 4)
    columns = slice(4 * column, 4 * column + 4)
    model, reader = labelling(32, rows, columns)
    pixels = drawn(32) // 3
    pixels[rows, columns] = 250
    trace, _ = traced(model, reader, [png(pixels)])
    assert trace.regions.shape == (PATCHES, PATCHES)
    assert trace.regions.dtype == np.float32
    assert np.unravel_index(trace.regions.argmax(), (8, 8)) == (row, column)
    # all that is elsewhere makes no difference
    others = trace.regions.copy()
    others[row, column] = 0
    assert not others.any()
    grey = float(np.round(pixels.reshape(-1, 3).mean(0)).mean())

    def light(brightness: float) -> float:
        return 1 / (1 + np.exp(4 - 8 * brightness / 255))

    fall = light(250) - light(grey)
    assert float(trace.regions[row, column]) == pytest.approx(fall, abs=1e-5)
    assert trace.maps is None


def test_a_patch_that_speaks_against_the_answer_raises_it() -> None:
    model, reader = labelling(32, slice(0, 8), slice(0, 4))
    pixels = np.zeros((32, 32, 3), dtype=np.uint8) + 128
    pixels[:4, :4] = 255
    pixels[4:8, :4] = 100
    trace, _ = traced(model, reader, [png(pixels)])
    assert trace.regions[0, 0] > 0.05
    assert trace.regions[1, 0] < -0.01


@pytest.mark.parametrize(("size", "together"), [(8, 16), (13, 5), (32, 64), (37, 16)])
def test_every_pixel_is_grey_in_one_patch(
    size: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "READ", together)
    model, reader = labelling(size, slice(None), slice(None))
    pixels = drawn(size)
    pixels[pixels == pixels.reshape(-1, 3).mean(0).round()] = 0
    trace, steps = traced(model, reader, [png(pixels)])
    # the first look is at the image itself
    first, *looks_at_patches = model.embedding.read
    assert [len(images) for images in looks_at_patches[:-1]] == [together] * (
        len(looks_at_patches) - 1
    )
    changed = torch.cat(looks_at_patches)
    assert len(changed) == PATCHES**2
    differs = (changed != first).any(1)
    assert differs.sum(0).eq(1).all()
    grey = torch.from_numpy(pixels.reshape(-1, 3).mean(0).round()).to(torch.uint8)
    for patch, image in zip(differs, changed, strict=True):
        assert (image[:, patch] == grey[:, None]).all()
    # patches stand row by row, as even as can be
    for number, patch in enumerate(differs):
        row, column = divmod(number, PATCHES)
        heights = patch.any(1).nonzero().flatten().tolist()
        widths = patch.any(0).nonzero().flatten().tolist()
        assert heights == list(range(size * row // 8, size * (row + 1) // 8))
        assert widths == list(range(size * column // 8, size * (column + 1) // 8))
    assert torch.equal(steps.batch.inputs, first)
    assert trace.regions.shape == (PATCHES, PATCHES)


def test_the_pixels_that_were_read_are_shown() -> None:
    model, reader = labelling(16, slice(None), slice(None))
    pixels = drawn(16)
    trace, _ = traced(model, reader, [png(pixels)])
    with Pillow.open(io.BytesIO(trace.png)) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert trace.address.startswith("data:image/png;base64,iVBOR")


def test_a_look_has_regions_in_the_place_of_attributions() -> None:
    model, reader = labelling(16, slice(0, 2), slice(0, 2))
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:2, :2] = 255
    trace = look(model, reader, [png(pixels)], "an image", Options())
    assert trace.image is not None
    assert trace.attributions is None
    assert trace.answer == "light"
    assert np.unravel_index(trace.image.regions.argmax(), (8, 8)) == (0, 0)
    values = trace.to_json()
    assert np.array(values["regions"]).shape == (8, 8)
    assert "maps" not in values


# ---------------------------------------------------------------------- what is written

V = 9
SIZE = 32
WORDS = [4, 7, 5, 3]


def network() -> ResidualNetwork:
    made = ResidualNetwork(BasicBlock, (1, 1, 1, 1), (8, 8, 8, 6), stem=3, stride=1)
    nn.init.normal_(made.bn1.bias)
    return made


def captioning(
    name: str, frozen: int | None = 0, **options: Any
) -> tuple[OneToMany, WrittenSteps]:
    settings: dict[str, Any] = {"hidden": 8}
    if name == "attention":
        settings |= {"heads": 2, "layers": 2}
    decoder = build_decoder(name, LayerConfig(**settings), 8, 8, **options)
    source = ImageEncoder(network(), frozen)
    model = OneToMany(source, 8, TokenEmbedding(V, 8), decoder, V).eval()
    with torch.no_grad():
        for part in (model.encoder, model.decoder, model.head):
            for weight in part.parameters():
                weight.copy_(torch.randn_like(weight))
    reader = WrittenSteps(
        Image("image", SIZE),
        lambda index: f"word {index}",
        lambda model, cells: ("a caption", WORDS),
        lambda batch: shifted(batch.targets, 2),
    )
    return model, reader


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention", {}),
        ("gru", {"attention": "additive"}),
        ("lstm", {"attention": "multiplicative"}),
    ],
)
@pytest.mark.parametrize("frozen", [0, None])
def test_maps_say_where_each_word_looks(
    name: str, options: dict[str, Any], frozen: int | None
) -> None:
    model, reader = captioning(name, frozen, **options)
    trace = look(model, reader, [png(drawn(SIZE))], "an image", Options())
    assert trace.image is not None
    maps = trace.image.maps
    assert maps is not None
    assert maps.shape == (len(WORDS), 4, 4)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-5)
    assert float(maps.std()) > 1e-3
    steps = reader.read(model, [png(drawn(SIZE))])
    inputs = torch.tensor([[2, 4, 7, 5]])
    # by the highest block, the mean over its heads
    blocks: list[Tensor] = []
    with torch.no_grad():
        state = model.start(steps.batch.inputs, torch.ones(1))
        model.decoder.unroll_attending(model.target(inputs), state, None, blocks)
    expected = blocks[-1][0].numpy()
    np.testing.assert_allclose(maps.reshape(4, 16), expected, atol=1e-5)
    assert trace.tokens[:5] == ("1:1", "1:2", "1:3", "1:4", "2:1")
    assert np.array(trace.to_json()["maps"]).shape == (4, 4, 4)


def test_without_attention_there_are_regions_and_no_maps() -> None:
    model, reader = captioning("gru", attention="none")
    trace = look(model, reader, [png(drawn(SIZE))], "an image", Options())
    assert trace.image is not None
    assert trace.image.maps is None
    assert np.abs(trace.image.regions).max() > 1e-6
    assert "maps" not in trace.to_json()


@pytest.mark.parametrize("at", [0, 2])
def test_regions_are_of_the_word_that_is_explained(at: int) -> None:
    model, reader = captioning("gru")
    cells = [png(drawn(SIZE))]
    trace = look(model, reader, cells, "an image", Options(at=at))
    assert trace.image is not None
    steps = reader.read(model, cells)
    (image,) = steps.batch.inputs
    changed = image.clone()
    grey = image.float().mean((1, 2)).round().to(torch.uint8)
    changed[:, 8:12, 20:24] = grey[:, None, None]
    inputs = torch.tensor([[2, 4, 7, 5]])
    with torch.no_grad():
        scores = model(
            torch.stack([image, changed]), torch.ones(2), inputs.expand(2, 4)
        )
    probabilities = scores[:, at].softmax(-1)[:, trace.explained.index]
    assert trace.explained.probability == pytest.approx(
        float(probabilities[0]), abs=1e-5
    )
    fall = float(probabilities[0] - probabilities[1])
    assert float(trace.image.regions[2, 5]) == pytest.approx(fall, abs=1e-5)
    assert abs(fall) > 1e-5


def test_a_grid_that_the_weights_are_not_of_gives_no_maps() -> None:
    model, reader = captioning("gru")
    steps = reader.read(model, [png(drawn(SIZE))])
    assert steps.grid == (4, 4)
    full = look(model, reader, [png(drawn(SIZE))], "an image", Options())
    looker = Looker(model, reader)
    for grid, has_maps in (
        ((4, 4), True),
        ((2, 8), True),
        ((4, 5), False),
        (None, False),
    ):
        trace = image_trace(looker, steps, full.explained, full.attention, grid)
        assert trace is not None
        assert (trace.maps is not None) is has_maps


# ---------------------------------------------------------------------- questions


def asking() -> tuple[Asking, QuestionSteps]:
    tokenizer = Tokenizer.fit("words", ["what is here", "is this red"])
    layer = build_layer("gru", LayerConfig(hidden=6), 5)
    model = Asking(
        ImageEncoder(network(), coordinates=True),
        TokenEmbedding(tokenizer.size, 5),
        layer,
        Pooling("last", 6),
        2,
        "film",
        8,
    ).eval()
    with torch.no_grad():
        model.head.weight.mul_(10)
    question = Text(("question",), tokenizer, 20)
    reader = QuestionSteps(Image("image", SIZE), question, ("yes", "no"), str.lower)
    return model, reader


def test_an_image_beside_a_question_has_regions_too() -> None:
    model, reader = asking()
    cells = [png(drawn(SIZE)), "is this red"]
    trace, steps = traced(model, reader, cells)
    image = image_of(steps)
    assert image is not None
    assert image.shape == (1, 3, SIZE, SIZE)
    changed = image.clone()
    grey = image[0].float().mean((1, 2)).round().to(torch.uint8)
    changed[0, :, 28:, :4] = grey[:, None, None]
    with torch.no_grad():
        numbers = [
            model(steps.batch.inputs, steps.batch.lengths, pixels).softmax(-1)[0]
            for pixels in (image, changed)
        ]
    best = int(numbers[0].argmax())
    fall = float(numbers[0][best] - numbers[1][best])
    assert abs(fall) > 1e-6
    assert float(trace.regions[7, 0]) == pytest.approx(fall, abs=1e-5)
    # what is read is asked about, too: both are explained
    whole = look(model, reader, cells, "a question", Options())
    assert whole.attributions is not None
    assert whole.image is not None
    np.testing.assert_allclose(whole.image.regions, trace.regions, atol=1e-6)


def test_other_images_take_the_place_of_the_one_that_was_read() -> None:
    model, reader = asking()
    steps = reader.read(model, [png(drawn(SIZE)), "what is here"])
    images = torch.randint(256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    read = with_images(steps, images)
    assert image_of(read) is images
    assert read.batch.inputs.tolist() == steps.batch.inputs.tolist() * 3
    assert read.batch.lengths is not None
    assert read.batch.lengths.tolist() == [4, 4, 4]
    with torch.no_grad():
        together = reader.read_features(model, read.batch)
        for row in range(3):
            alone = with_images(steps, images[row : row + 1])
            expected = reader.read_features(model, alone.batch)
            torch.testing.assert_close(together[row : row + 1], expected)


# ---------------------------------------------------------------------- no image


def test_what_holds_no_image_has_no_trace_of_one() -> None:
    tokenizer = Tokenizer.fit("words", ["what is here"])
    text = read_input(Text(("text",), tokenizer, None), ["what is here"])
    assert image_of(text) is None
    clip = TaggedSteps(Clips("clip", 8, 8, 3), NAMES).read(
        nn.Identity(), [np.zeros((4, 8, 8, 3), dtype=np.uint8)]
    )
    assert clip.batch.inputs.shape == (1, 4, 3, 8, 8)
    assert image_of(clip) is None
    model, reader = labelling(16, slice(None), slice(None))
    explained = explain(reader, torch.tensor([0.5, 0.5]), -1)
    assert image_trace(Looker(model, reader), text, explained, (), None) is None
