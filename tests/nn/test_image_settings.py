"""From settings to what reads images: networks, frozen stages, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unrolled.core.errors import UsageError
from unrolled.nn.convolution import (
    NETWORKS,
    Bottleneck,
    EfficientNetLite0,
    ResidualNetwork,
)
from unrolled.nn.image_settings import EncoderConfig, build_encoder


def test_the_defaults_learn_all_of_a_small_network() -> None:
    encoder = build_encoder(EncoderConfig())
    assert encoder.output_size == 256
    assert not encoder.is_frozen
    assert not encoder.coordinates
    assert all(weight.requires_grad for weight in encoder.parameters())
    assert encoder.grid(128, 128) == (8, 8)


def test_every_network_that_a_setting_names_is_there() -> None:
    names = EncoderConfig.model_fields["network"].annotation.__args__  # type: ignore[union-attr]
    assert set(names) == set(NETWORKS)


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("resnet18", ResidualNetwork, 512),
        ("resnet34", ResidualNetwork, 512),
        ("resnet50", ResidualNetwork, 2048),
        ("lite0", EfficientNetLite0, 1280),
    ],
)
def test_a_network_is_built_by_its_name(name: str, kind: type, size: int) -> None:
    config = EncoderConfig.read({"network": name, "coordinates": True})
    with torch.device("meta"):
        encoder = build_encoder(config)
    assert type(encoder.network) is kind
    assert encoder.network.output_size == size
    assert encoder.output_size == size + 2
    kinds = {type(module) for module in encoder.modules()}
    assert (Bottleneck in kinds) is (name == "resnet50")


@pytest.mark.parametrize(("size", "grid"), [(8, 1), (48, 6), (49, 4), (64, 4)])
def test_a_small_network_halves_large_images_once_more(size: int, grid: int) -> None:
    encoder = build_encoder(EncoderConfig(size=size))
    assert encoder.grid(size, size) == (grid, grid)


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [("none", 0), (0, 0), (1, 1), (4, 4), (5, 5), ("all", 5)],
)
def test_so_many_stages_are_frozen(freeze: Any, frozen: int) -> None:
    encoder = build_encoder(EncoderConfig(freeze=freeze))
    assert encoder.is_frozen is (frozen == 5)
    for number, stage in enumerate(encoder.network.stages()):
        for module in stage:
            learns = {weight.requires_grad for weight in module.parameters()}
            assert learns == {number >= frozen}


@pytest.mark.parametrize(
    ("network", "freeze", "stages"),
    [("small", 6, 5), ("lite0", 10, 9)],
)
def test_stages_that_are_not_there_cannot_be_frozen(
    network: str, freeze: int, stages: int
) -> None:
    config = EncoderConfig.read({"network": network, "freeze": freeze})
    with pytest.raises(UsageError) as caught:
        build_encoder(config)
    assert str(caught.value) == (
        f"encoder.freeze={freeze}: the network {network} has {stages} stages; give 0 to {stages}, "
        "all or none"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", "vgg16"),
        ("freeze", "some"),
        ("freeze", 1.5),
        ("size", 7),
        ("size", 2049),
        ("fit", "squeeze"),
        ("crop", 1.0),
        ("crop", -0.1),
        ("colour", 1.0),
        ("weights", 3),
        ("flip", "sideways"),
    ],
)
def test_values_that_do_not_fit_are_named(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{key}"):
        EncoderConfig.read({key: value})


def test_equal_seeds_build_equal_networks() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(11)
        weights.append(build_encoder(EncoderConfig()).state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
