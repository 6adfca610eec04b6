"""The settings of what reads images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unrolled.core.config import Config
from unrolled.core.errors import UsageError
from unrolled.nn.convolution import NETWORKS
from unrolled.nn.image_encoder import (
    IMAGENET_DEVIATIONS,
    IMAGENET_MEANS,
    ImageEncoder,
)

# as the published weights of EfficientNet-Lite0 read colours: (x - 127) / 128 of bytes
MOBILE_MEANS = (127 / 255,) * 3
MOBILE_DEVIATIONS = (128 / 255,) * 3


class EncoderConfig(Config):
    """What turns images into features, and how images are changed while it trains."""

    network: Literal["plain", "small", "resnet18", "resnet34", "resnet50", "lite0"] = (
        Field(
            "small",
            description="images: the network; small for photos of up to 128 pixels, plain for "
            "drawings",
        )
    )
    weights: str | None = Field(
        None,
        description="images: a file of weights that the network begins with (.safetensors, or .pth "
        "of tensors alone); imagenet: those that a package brings for lite0",
    )
    freeze: Annotated[int, Field(ge=0, le=100)] | Literal["all", "none"] = Field(
        "none",
        description="images: how many stages of the network, from the first, keep their weights",
    )
    size: int = Field(
        128, ge=8, le=2048, description="images: pixels of a side that are read"
    )
    fit: Literal["stretch", "crop"] = Field(
        "stretch",
        description="images: stretch an image to a square, or take the square in its middle",
    )
    crop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="images: share of a side by which a random square is smaller, in training",
    )
    flip: bool = Field(False, description="images: mirror half of them, in training")
    colour: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="images: share by which brightness, contrast and saturation change, in "
        "training",
    )
    coordinates: bool = Field(
        False, description="images: each place of the grid says where it is"
    )


def build_encoder(config: EncoderConfig) -> ImageEncoder:
    """Return what reads images, with random weights.

    Raises:
        UsageError: more stages are to be frozen than there are.
    """
    network = NETWORKS[config.network](config.size)
    stages = len(network.stages())
    frozen: int | None = 0
    if config.freeze == "all":
        frozen = None
    elif isinstance(config.freeze, int):
        frozen = config.freeze
        if not 0 <= frozen <= stages:
            raise UsageError(
                f"encoder.freeze={frozen}: the network {config.network} has {stages} stages; "
                f"give 0 to {stages}, all or none"
            )
    means = IMAGENET_MEANS
    deviations = IMAGENET_DEVIATIONS
    if config.network == "lite0":
        means = MOBILE_MEANS
        deviations = MOBILE_DEVIATIONS
    return ImageEncoder(network, frozen, means, deviations, config.coordinates)
