"""Pixels to grids and vectors: colours, coordinates, frozen stages, frames of padding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.models import Aligned, OneToOne
from unrolled.nn import LayerConfig, Memoryless, build_layer, image_encoder
from unrolled.nn.convolution import BasicBlock, ConvolutionalNetwork, ResidualNetwork
from unrolled.nn.image_encoder import (
    IMAGENET_DEVIATIONS,
    IMAGENET_MEANS,
    ImageEncoder,
    PooledImages,
)

# sums of fp32 in another order
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
SIZE = 16
SIDE = 2  # of the grid of such an image


def network() -> ResidualNetwork:
    """Return a small network whose norms do something."""
    made = ResidualNetwork(BasicBlock, (1, 1, 1, 1), (8, 8, 8, 10), stem=3, stride=1)
    for name, tensor in made.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3)
    return made


def drawn(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


class Untouched(ConvolutionalNetwork):
    """A network whose grid is the image."""

    output_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def stages(self) -> list[list[nn.Module]]:
        return []

    def forward(self, images: Tensor) -> Tensor:
        return images


# ---------------------------------------------------------------------- colours and places


def test_colours_are_scaled_and_places_stand_row_by_row() -> None:
    images = drawn(2, 3, 4, 5)
    grid = ImageEncoder(Untouched())(images)
    assert grid.shape == (2, 4 * 5, 3)
    for image in range(2):
        for colour in range(3):
            for row in range(4):
                for column in range(5):
                    value = int(images[image, colour, row, column]) / 255
                    value -= IMAGENET_MEANS[colour]
                    value /= IMAGENET_DEVIATIONS[colour]
                    got = float(grid[image, row * 5 + column, colour])
                    assert got == pytest.approx(value, abs=1e-5)


def test_means_and_deviations_may_be_others() -> None:
    halves = (0.5, 0.5, 0.5)
    encoder = ImageEncoder(Untouched(), means=halves, deviations=halves)
    for brightness, scaled in ((0, -1), (255, 1)):
        images = torch.full((1, 3, 2, 2), brightness, dtype=torch.uint8)
        assert encoder(images).eq(scaled).all()


def test_grey_is_three_equal_colours() -> None:
    encoder = ImageEncoder(network()).eval()
    grey = drawn(2, 1, SIZE, SIZE)
    assert torch.equal(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)))


def test_coordinates_are_from_left_to_right_and_from_top_to_bottom() -> None:
    encoder = ImageEncoder(Untouched(), coordinates=True)
    assert encoder.output_size == 5
    images = drawn(2, 3, 3, 5)
    grid = encoder(images)
    assert torch.equal(grid[..., :3], ImageEncoder(Untouched())(images))
    across = [-1.0, -0.5, 0.0, 0.5, 1.0]
    for positions in grid[..., 3:].unflatten(1, (3, 5)):
        for row, down in enumerate((-1.0, 0.0, 1.0)):
            assert positions[row, :, 0].tolist() == across
            assert positions[row, :, 1].tolist() == [down] * 5


@pytest.mark.parametrize("coordinates", [False, True])
def test_features_that_were_computed_before_are_handed_on(coordinates: bool) -> None:
    encoder = ImageEncoder(network(), coordinates=coordinates).eval()
    images = drawn(3, 3, SIZE, SIZE)
    features = encoder(images)
    assert features.shape == (3, SIDE * SIDE, encoder.output_size)
    assert encoder(features) is features
    pooled = PooledImages(encoder, SIZE, SIZE, 5).eval()
    torch.testing.assert_close(pooled(features), pooled(images), **NEAR)


@torch.no_grad()
def test_a_batch_of_one_equals_a_batch_of_many() -> None:
    encoder = ImageEncoder(network(), coordinates=True).eval()
    images = drawn(5, 3, SIZE, 21)
    together = encoder(images)
    for row in range(5):
        alone = encoder(images[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], **NEAR)


def test_the_grid_is_known_beforehand_and_nothing_changes() -> None:
    encoder = ImageEncoder(network(), frozen=1).train()
    before = copied(encoder)
    assert encoder.grid(SIZE, 33) == (SIDE, 5)
    torch.testing.assert_close(copied(encoder), before, rtol=0, atol=0)
    assert encoder.training
    assert encoder.network.training
    assert not encoder.network.bn1.training
    assert encoder(drawn(2, 3, SIZE, 33)).shape == (2, SIDE * 5, 10)
    encoder.eval()
    encoder.grid(SIZE, SIZE)
    assert not any(module.training for module in encoder.modules())


# ---------------------------------------------------------------------- frozen stages


def trained(encoder: ImageEncoder) -> dict[str, bool]:
    """Train a step, in and out of evaluation; return whether each tensor has changed."""
    model = PooledImages(encoder, SIZE, SIZE, 4)
    before = copied(encoder)
    for mode in (True, False, True):
        model.train(mode)
    for _ in range(2):
        model.zero_grad()
        model(drawn(6, 3, SIZE, SIZE)).square().sum().backward()
        with torch.no_grad():
            # what has no gradient does not decay either
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= 0.01 * (weight.grad + 0.1 * weight)
    return {
        name: not torch.equal(tensor, before[name])
        for name, tensor in encoder.state_dict().items()
    }


@pytest.mark.parametrize("frozen", [None, 5, 99])
def test_a_frozen_network_keeps_weights_and_averages(frozen: int | None) -> None:
    encoder = ImageEncoder(network(), frozen)
    assert encoder.is_frozen
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert not any(trained(encoder).values())


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_the_first_stages_alone_keep_theirs(frozen: int) -> None:
    encoder = ImageEncoder(network(), frozen)
    assert not encoder.is_frozen
    kept = ("conv1.", "bn1.")[: 2 * frozen]
    kept += tuple(f"layer{number}." for number in range(1, frozen))
    for name, changed in trained(encoder).items():
        inner = name.removeprefix("network.")
        assert changed is not (inner.startswith(kept) if kept else False), name


def test_what_is_frozen_evaluates_whatever_holds_it() -> None:
    encoder = ImageEncoder(network(), 2)
    model = nn.Sequential(PooledImages(encoder, SIZE, SIZE, 4)).train()
    assert encoder.network.layer2.training
    for name in ("bn1", "layer1"):
        stage = getattr(encoder.network, name)
        assert not any(module.training for module in stage.modules())
    other = copy.deepcopy(model)
    model.eval()
    copies: Any = other.train()
    assert not copies[0].encoder.network.layer1[0].bn1.training
    assert copies[0].encoder.network.layer2[0].bn1.training
    # the copy has frozen stages of its own
    assert not encoder.network.layer2.training


def test_a_frozen_network_reads_the_same_in_training() -> None:
    encoder = ImageEncoder(network(), None)
    images = drawn(3, 3, SIZE, SIZE)
    assert torch.equal(encoder.train()(images), encoder.eval()(images))


@pytest.mark.parametrize("frozen", [0, 2, None])
@torch.no_grad()
def test_a_copy_for_evaluation_says_the_same(frozen: int | None) -> None:
    settings: dict[str, Any] = {
        "means": (0.4, 0.5, 0.6),
        "deviations": (0.2, 0.3, 0.4),
        "coordinates": True,
    }
    encoder = ImageEncoder(network(), frozen, **settings).train()
    quick = encoder.for_evaluation()
    assert not any(weight.requires_grad for weight in quick.parameters())
    assert encoder.training
    images = drawn(3, 3, SIZE, SIZE)
    expected = encoder.eval()(images)
    # in training, too: all of it is frozen
    for reader in (quick, quick.train()):
        torch.testing.assert_close(reader(images), expected, **NEAR)
    learns = {weight.requires_grad for weight in encoder.network.layer4.parameters()}
    assert learns == {frozen is not None}


# ---------------------------------------------------------------------- one vector


def test_of_a_small_grid_every_place_has_weights_of_its_own() -> None:
    encoder = ImageEncoder(network(), coordinates=True).eval()
    pooled = PooledImages(encoder, SIZE, SIZE, 5).eval()
    assert pooled.flattens
    assert pooled.projection.in_features == SIDE * SIDE * 12
    images = drawn(3, 3, SIZE, SIZE)
    expected = pooled.projection.bias.expand(3, 5)
    weights = pooled.projection.weight.unflatten(1, (SIDE * SIDE, 12))
    grid = encoder(images)
    for position in range(SIDE * SIDE):
        expected = expected + grid[:, position] @ weights[:, position].T
    torch.testing.assert_close(pooled(images), expected, **NEAR)


def test_of_a_larger_grid_the_mean_is_read() -> None:
    encoder = ImageEncoder(network()).eval()
    assert PooledImages(encoder, 32, 32, 5).flattens  # 16 places
    pooled = PooledImages(encoder, 40, 40, 5).eval()
    assert not pooled.flattens
    images = drawn(2, 3, 40, 40)
    mean = encoder(images).mean(1)
    expected = mean @ pooled.projection.weight.T + pooled.projection.bias
    torch.testing.assert_close(pooled(images), expected, **NEAR)


def test_dropout_stands_before_the_linear_layer() -> None:
    torch.manual_seed(0)
    pooled = PooledImages(ImageEncoder(Untouched()), 1, 1, 300, dropout=0.5)
    with torch.no_grad():
        pooled.projection.weight.copy_(torch.ones(300, 3))
        pooled.projection.bias.zero_()
    features = torch.ones(400, 1, 3)
    pooled.train()
    values = pooled(features).detach()
    # all units read the same: none, one, two or three of the features, doubled
    assert sorted(values.unique().tolist()) == [0, 2, 4, 6]
    assert torch.equal(values, values[:, :1].expand_as(values))
    assert pooled.eval()(features).eq(3).all()


LENGTHS = torch.tensor([3, 1, 4, 2])


def clips(colours: int = 3) -> Tensor:
    """Return clips of four frames, whose padding is as bright as can be."""
    frames = drawn(4, 4, colours, SIZE, SIZE)
    for row, length in enumerate(LENGTHS.tolist()):
        frames[row, length:] = 255
    return frames


def real_frames(frames: Tensor) -> Tensor:
    parts = [frames[row, :length] for row, length in enumerate(LENGTHS.tolist())]
    return torch.cat(parts)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("colours", [1, 3])
def test_frames_of_padding_change_nothing(training: bool, colours: int) -> None:
    pooled = PooledImages(ImageEncoder(network()), SIZE, SIZE, 5).train(training)
    plain = copy.deepcopy(pooled)
    frames = clips(colours)
    vectors = pooled(frames, LENGTHS)
    assert vectors.shape == (4, 4, 5)
    expected = plain(real_frames(frames))
    torch.testing.assert_close(real_frames(vectors), expected, **NEAR)
    for row, length in enumerate(LENGTHS.tolist()):
        assert not vectors[row, length:].any()
    torch.testing.assert_close(
        pooled.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6
    )
    cotangents = torch.randn(4, 4, 5)
    (vectors * cotangents).sum().backward()
    (expected * real_frames(cotangents)).sum().backward()
    pairs = zip(pooled.named_parameters(), plain.parameters(), strict=True)
    for (name, weight), other in pairs:
        torch.testing.assert_close(weight.grad, other.grad, **NEAR, msg=name)


@torch.no_grad()
def test_without_lengths_all_frames_are_read() -> None:
    pooled = PooledImages(ImageEncoder(network()), SIZE, SIZE, 5).eval()
    frames = clips()
    vectors = pooled(frames)
    torch.testing.assert_close(vectors, pooled(frames, torch.full((4,), 4)), **NEAR)
    for row in range(4):
        torch.testing.assert_close(vectors[row], pooled(frames[row]), **NEAR)


@pytest.mark.parametrize(("grad", "sizes"), [(False, [3, 3, 3, 1]), (True, [10])])
def test_long_clips_are_read_a_stretch_at_a_time(
    monkeypatch: pytest.MonkeyPatch, grad: bool, sizes: list[int]
) -> None:
    pooled = PooledImages(ImageEncoder(network()), SIZE, SIZE, 5).eval()
    frames = clips()
    whole = pooled(frames, LENGTHS).detach()
    read: list[int] = []
    pooled.encoder.network.register_forward_pre_hook(
        lambda _, inputs: read.append(len(inputs[0]))
    )
    monkeypatch.setattr(image_encoder, "STRETCH", 3)
    with torch.set_grad_enabled(grad):
        vectors = pooled(frames, LENGTHS)
    assert read == sizes
    assert vectors.requires_grad is grad
    torch.testing.assert_close(vectors.detach(), whole, **NEAR)


# ---------------------------------------------------------------------- in models


@torch.no_grad()
def test_one_to_one_reads_the_vector_of_an_image() -> None:
    pooled = PooledImages(ImageEncoder(network()), SIZE, SIZE, 5)
    model = OneToOne(Memoryless(5, 7), 3, embedding=pooled).eval()
    images = drawn(4, 3, SIZE, SIZE)
    hidden = model.layer.read(pooled(images)[:, None], None)[:, 0]
    torch.testing.assert_close(model(images), model.head(hidden), **NEAR)
    torch.testing.assert_close(model(pooled.encoder(images)), model(images), **NEAR)


@pytest.mark.parametrize("both", [False, True])
def test_frames_beside_padding_have_the_labels_they_have_alone(both: bool) -> None:
    layer = build_layer("gru", LayerConfig(hidden=6, bidirectional=both), 5)
    pooled = PooledImages(ImageEncoder(network()), SIZE, SIZE, 5)
    model = Aligned(pooled, layer, 3).eval()
    frames = clips()
    together = model(frames, LENGTHS)
    assert together.shape == (4, 4, 3)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(frames[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], **NEAR)
    with pytest.raises(ValueError, match="stream the layer, and give it the vectors"):
        model.stream()
