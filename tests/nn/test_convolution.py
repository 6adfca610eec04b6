"""Convolutional networks: published names and counts, and their equations written out again.

Networks are compared in fp64, where sums in another order differ by some 1e-12.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unrolled.nn.convolution import (
    NETWORKS,
    BasicBlock,
    BatchNorm,
    Bottleneck,
    ConvolutionalNetwork,
    EfficientNetLite0,
    ResidualNetwork,
    _SameConvolution,
    folded,
    our_names,
)

TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
Weights = dict[str, Tensor]


def made(name: str, size: int = 128) -> ConvolutionalNetwork:
    """Return a network in fp64, evaluating, whose norms do something."""
    network = NETWORKS[name](size).double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return network


@functools.cache
def plain(name: str, size: int = 224) -> ConvolutionalNetwork:
    """Return a network that no test changes."""
    return NETWORKS[name](size).eval()


# ---------------------------------------------------------------------- names and counts

# as torchvision has them; its classifier apart
PUBLISHED: dict[str, tuple[int, int, dict[str, tuple[int, ...]], list[str]]] = {
    "resnet18": (
        11_176_512,
        120,
        {
            "conv1.weight": (64, 3, 7, 7),
            "bn1.running_mean": (64,),
            "layer1.0.conv1.weight": (64, 64, 3, 3),
            "layer1.1.bn2.num_batches_tracked": (),
            "layer2.0.conv1.weight": (128, 64, 3, 3),
            "layer2.0.downsample.0.weight": (128, 64, 1, 1),
            "layer2.0.downsample.1.running_var": (128,),
            "layer4.1.bn2.bias": (512,),
        },
        ["layer1.0.downsample.0.weight", "layer2.1.downsample.0.weight"],
    ),
    "resnet34": (
        21_284_672,
        216,
        {
            "layer1.2.conv2.weight": (64, 64, 3, 3),
            "layer2.3.bn1.weight": (128,),
            "layer3.5.conv2.weight": (256, 256, 3, 3),
            "layer4.0.downsample.0.weight": (512, 256, 1, 1),
            "layer4.2.conv1.weight": (512, 512, 3, 3),
        },
        ["layer1.0.downsample.0.weight", "layer3.6.conv1.weight"],
    ),
    "resnet50": (
        23_508_032,
        318,
        {
            "layer1.0.conv1.weight": (64, 64, 1, 1),
            "layer1.0.downsample.0.weight": (256, 64, 1, 1),
            "layer1.1.conv1.weight": (64, 256, 1, 1),
            "layer2.0.conv2.weight": (128, 128, 3, 3),
            "layer3.0.downsample.1.weight": (1024,),
            "layer4.2.conv3.weight": (2048, 512, 1, 1),
            "layer4.2.bn3.running_var": (2048,),
        },
        ["layer1.1.downsample.0.weight", "layer3.6.conv1.weight"],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_have_torchvisions_names_and_shapes(name: str) -> None:
    count, entries, known, absent = PUBLISHED[name]
    network = plain(name)
    weights = network.state_dict()
    shapes = {key: tuple(weights[key].shape) for key in known}
    assert shapes == known
    assert not weights.keys() & {*absent, "fc.weight", "fc.bias"}
    assert len(weights) == entries
    assert sum(weight.numel() for weight in network.parameters()) == count


# Tan and Le (2019), table 1, of B0, whose Lite0 keeps stem and head:
# repeats, kernel, expansion, inputs, outputs
LITE = [
    (1, 3, 1, 32, 16),
    (2, 3, 6, 16, 24),
    (2, 5, 6, 24, 40),
    (3, 3, 6, 40, 80),
    (3, 5, 6, 80, 112),
    (4, 5, 6, 112, 192),
    (1, 3, 6, 192, 320),
]
HALVED = (1, 3, 5, 11)  # blocks that take two pixels a step


def lite_blocks() -> Iterator[tuple[int, int, int, int]]:
    """Yield kernel, expansion, inputs and outputs of every block."""
    for repeats, kernel, expansion, inputs, outputs in LITE:
        yield kernel, expansion, inputs, outputs
        yield from [(kernel, expansion, outputs, outputs)] * (repeats - 1)


def lite_shapes() -> dict[str, tuple[int, ...]]:
    """Return the published names of Lite0's weights, and their shapes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["_conv_stem.weight"] = (32, 3, 3, 3)
    norm("_bn0", 32)
    for number, (kernel, expansion, inputs, outputs) in enumerate(lite_blocks()):
        block = f"_blocks.{number}"
        width = inputs * expansion
        if expansion > 1:
            shapes[f"{block}._expand_conv.weight"] = (width, inputs, 1, 1)
            norm(f"{block}._bn0", width)
        shapes[f"{block}._depthwise_conv.weight"] = (width, 1, kernel, kernel)
        norm(f"{block}._bn1", width)
        shapes[f"{block}._project_conv.weight"] = (outputs, width, 1, 1)
        norm(f"{block}._bn2", outputs)
    shapes["_conv_head.weight"] = (1280, 320, 1, 1)
    norm("_bn1", 1280)
    shapes["_fc.weight"] = (1000, 1280)
    shapes["_fc.bias"] = (1000,)
    return shapes


def test_weights_of_lite0_are_those_that_were_published() -> None:
    network = EfficientNetLite0()
    published = {name: torch.empty(shape) for name, shape in lite_shapes().items()}
    assert len(published) == 296
    own = {name: weight.shape for name, weight in network.state_dict().items()}
    for prefix in ("", "module."):
        given = {f"{prefix}{name}": weight for name, weight in published.items()}
        assert {key: weight.shape for key, weight in our_names(given).items()} == own
    assert sum(weight.numel() for weight in network.parameters()) == 3_371_008


def test_names_of_lite0_stand_for_what_they_name() -> None:
    names = [
        "_conv_stem.weight",
        "_bn0.running_mean",
        "_blocks.0._depthwise_conv.weight",
        "_blocks.0._bn1.bias",
        "_blocks.12._expand_conv.weight",
        "_blocks.12._bn0.weight",
        "_blocks.12._bn2.running_var",
        "_conv_head.weight",
        "_bn1.weight",
    ]
    given = {name: torch.zeros(1) for name in names}
    assert list(our_names(given)) == [
        "stem.weight",
        "stem_norm.running_mean",
        "blocks.0.depthwise.weight",
        "blocks.0.depthwise_norm.bias",
        "blocks.12.expand.weight",
        "blocks.12.expand_norm.weight",
        "blocks.12.project_norm.running_var",
        "head.weight",
        "head_norm.weight",
    ]


def test_a_classifier_is_left_out_and_torchvisions_names_stay() -> None:
    weights = plain("resnet18").state_dict()
    more = {
        name: torch.zeros(1) for name in ("fc.weight", "_fc.bias", "classifier.1.bias")
    }
    assert our_names({**weights, **more}) == weights
    assert our_names({"module.fc.weight": torch.zeros(1)}) == {}


# ---------------------------------------------------------------------- equations


def normed(weights: Weights, name: str, x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Return what a batch norm makes of its averages."""
    deviation = (weights[f"{name}.running_var"] + epsilon).sqrt()
    scale = (weights[f"{name}.weight"] / deviation)[:, None, None]
    centred = x - weights[f"{name}.running_mean"][:, None, None]
    return centred * scale + weights[f"{name}.bias"][:, None, None]


def shortcut(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    if f"{name}.downsample.0.weight" not in weights:
        return x
    # a kernel of one pixel reads every second pixel
    read = x[:, :, ::stride, ::stride]
    matrix = weights[f"{name}.downsample.0.weight"][:, :, 0, 0]
    projected = torch.einsum("oc,bchw->bohw", matrix, read)
    return normed(weights, f"{name}.downsample.1", projected)


def basic(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    y = F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
    y = normed(weights, f"{name}.bn1", y).clamp(min=0)
    y = F.conv2d(y, weights[f"{name}.conv2.weight"], padding=1)
    y = normed(weights, f"{name}.bn2", y)
    return (y + shortcut(weights, name, x, stride)).clamp(min=0)


def bottleneck(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    y = F.conv2d(x, weights[f"{name}.conv1.weight"])
    y = normed(weights, f"{name}.bn1", y).clamp(min=0)
    y = F.conv2d(y, weights[f"{name}.conv2.weight"], stride=stride, padding=1)
    y = normed(weights, f"{name}.bn2", y).clamp(min=0)
    y = F.conv2d(y, weights[f"{name}.conv3.weight"])
    y = normed(weights, f"{name}.bn3", y)
    return (y + shortcut(weights, name, x, stride)).clamp(min=0)


def residual(weights: Weights, x: Tensor) -> Tensor:
    """Return what a residual network makes of images, from its weights alone."""
    block = bottleneck if "layer1.0.conv3.weight" in weights else basic
    x = F.conv2d(x, weights["conv1.weight"], stride=2, padding=3)
    x = normed(weights, "bn1", x).clamp(min=0)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for layer in (1, 2, 3, 4):
        for position in itertools.count():
            name = f"layer{layer}.{position}"
            if f"{name}.conv1.weight" not in weights:
                break
            x = block(weights, name, x, 2 if layer > 1 and position == 0 else 1)
    return x


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_residual_networks_are_their_equations(name: str) -> None:
    network = made(name)
    images = torch.randn(2, 3, 47, 66, dtype=torch.float64)
    grid = network(images)
    assert grid.shape == (2, network.output_size, 2, 3)
    torch.testing.assert_close(grid, residual(network.state_dict(), images), **TIGHT)


@torch.no_grad()
def test_the_plain_network_is_four_convolutions() -> None:
    """Santoro et al. (2017), section 5.4: each halves the sides, norms and clips."""
    network = made("plain")
    weights = network.state_dict()
    images = torch.randn(2, 3, 47, 75, dtype=torch.float64)
    x = images
    for number in range(1, 5):
        x = F.conv2d(x, weights[f"conv{number}.weight"], stride=2, padding=1)
        x = normed(weights, f"bn{number}", x).clamp(min=0)
    assert x.shape == (2, network.output_size, 3, 5)
    torch.testing.assert_close(network(images), x, **TIGHT)


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_in_training_norms_by_its_batch(kind: Any, stride: int) -> None:
    block = kind(6, 5, stride).double().train()
    x = torch.randn(3, 6, 7, 8, dtype=torch.float64)
    weights = dict(block.named_parameters())

    def by_batch(name: str, y: Tensor) -> Tensor:
        centred = y - y.mean((0, 2, 3), keepdim=True)
        variance = centred.square().mean((0, 2, 3), keepdim=True)
        return centred / (variance + 1e-5).sqrt()

    if kind is BasicBlock:
        y = F.conv2d(x, weights["conv1.weight"], stride=stride, padding=1)
        first = y
        y = by_batch("bn1", y).clamp(min=0)
        y = by_batch("bn2", F.conv2d(y, weights["conv2.weight"], padding=1))
    else:
        y = F.conv2d(x, weights["conv1.weight"])
        first = y
        y = by_batch("bn1", y).clamp(min=0)
        y = F.conv2d(y, weights["conv2.weight"], stride=stride, padding=1)
        y = by_batch("bn2", y).clamp(min=0)
        y = by_batch("bn3", F.conv2d(y, weights["conv3.weight"]))
    projected = F.conv2d(x, weights["downsample.0.weight"], stride=stride)
    expected = (y + by_batch("downsample.1", projected)).clamp(min=0)
    torch.testing.assert_close(block(x), expected, **TIGHT)
    # a tenth of the batch's mean, and of its variance without bias
    assert block.bn1.running_mean is not None
    assert block.bn1.running_var is not None
    mean = first.mean((0, 2, 3))
    variance = first.transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(block.bn1.running_mean, 0.1 * mean, **TIGHT)
    torch.testing.assert_close(block.bn1.running_var, 0.9 + 0.1 * variance, **TIGHT)


def test_a_block_projects_its_input_only_where_it_must() -> None:
    assert BasicBlock(8, 8, 1).downsample is None
    assert Bottleneck(8, 2, 1).downsample is None
    for block in (BasicBlock(8, 8, 2), BasicBlock(4, 8, 1), Bottleneck(8, 8, 1)):
        assert block.downsample is not None


def same_by_hand(
    image: NDArray[Any], kernel: NDArray[Any], stride: int
) -> NDArray[Any]:
    """Return a convolution of one feature (H, W), padded as TensorFlow says for "SAME"."""
    side = len(kernel)
    counts = [-(-length // stride) for length in image.shape]
    padded = [
        max((count - 1) * stride + side - length, 0)
        for count, length in zip(counts, image.shape, strict=True)
    ]
    # the odd one goes below and to the right
    above = padded[0] // 2
    left = padded[1] // 2
    sides = zip(image.shape, padded, strict=True)
    canvas = np.zeros([length + more for length, more in sides])
    canvas[above : above + image.shape[0], left : left + image.shape[1]] = image
    result = np.zeros(counts)
    for row, column in np.ndindex(*counts):
        top = row * stride
        begin = column * stride
        window = canvas[top : top + side, begin : begin + side]
        result[row, column] = (window * kernel).sum()
    return result


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("sides", [(6, 9), (7, 8), (1, 2), (5, 5), (4, 4), (3, 1)])
@torch.no_grad()
def test_same_padding_is_tensorflows(
    kernel: int, stride: int, sides: tuple[int, int]
) -> None:
    convolution = _SameConvolution(2, 2, kernel, stride, groups=2, bias=False).double()
    x = torch.randn(2, 2, *sides, dtype=torch.float64)
    y = convolution(x)
    for row, feature in np.ndindex(2, 2):
        weight = convolution.weight[feature, 0].numpy()
        expected = same_by_hand(x[row, feature].numpy(), weight, stride)
        np.testing.assert_allclose(y[row, feature].numpy(), expected, atol=1e-12)


def test_the_odd_pixel_of_padding_is_behind() -> None:
    convolution = _SameConvolution(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(convolution.weight)
    x = torch.tensor([1.0, 10.0, 100.0, 1000.0]).expand(1, 1, 4, 4)
    # windows begin at the first pixel: PyTorch's own padding of 1 would begin before it
    assert convolution(x)[0, 0].tolist() == [[333, 3300], [222, 2200]]


def lite(weights: Weights, x: Tensor) -> Tensor:
    """Return what EfficientNet-Lite0 makes of images, from weights by their published names."""

    def convolved(name: str, x: Tensor, stride: int) -> Tensor:
        kernel = weights[f"{name}.weight"]
        side = kernel.shape[2]
        groups = x.shape[1] // kernel.shape[1]
        height, width = (
            max((-(-length // stride) - 1) * stride + side - length, 0)
            for length in x.shape[2:]
        )
        before = (width // 2, width - width // 2, height // 2, height - height // 2)
        return F.conv2d(F.pad(x, before), kernel, stride=stride, groups=groups)

    def norm(name: str, x: Tensor) -> Tensor:
        return normed(weights, name, x, 1e-3)

    x = norm("_bn0", convolved("_conv_stem", x, 2)).clamp(0, 6)
    for number, (_, expansion, inputs, outputs) in enumerate(lite_blocks()):
        block = f"_blocks.{number}"
        stride = 2 if number in HALVED else 1
        y = x
        if expansion > 1:
            y = norm(f"{block}._bn0", convolved(f"{block}._expand_conv", y, 1))
            y = y.clamp(0, 6)
        y = norm(f"{block}._bn1", convolved(f"{block}._depthwise_conv", y, stride))
        y = convolved(f"{block}._project_conv", y.clamp(0, 6), 1)
        y = norm(f"{block}._bn2", y)
        x = x + y if stride == 1 and inputs == outputs else y
    return norm("_bn1", convolved("_conv_head", x, 1)).clamp(0, 6)


@torch.no_grad()
def test_lite0_is_its_equations() -> None:
    published: Weights = {}
    for name, shape in lite_shapes().items():
        weight = torch.randn(shape, dtype=torch.float64)
        if name.endswith("running_var"):
            weight = weight.abs() + 0.5
        elif len(shape) == 4:
            weight = weight * (2 / weight[0].numel()) ** 0.5
        published[name] = weight
    network = EfficientNetLite0().double().eval()
    network.load_state_dict(our_names(published))
    images = torch.randn(2, 3, 65, 44, dtype=torch.float64)
    grid = network(images)
    assert grid.shape == (2, 1280, 3, 2)
    assert 0.05 < float((grid > 0).double().mean()) < 0.95
    torch.testing.assert_close(grid, lite(published, images), **TIGHT)


def test_averages_of_lite0_move_by_a_hundredth() -> None:
    network = EfficientNetLite0()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 1e-3)}


# ---------------------------------------------------------------------- grids and stages


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("plain", 75, (64, 5, 5)),
        ("small", 32, (256, 4, 4)),
        ("small", 48, (256, 6, 6)),
        ("small", 49, (256, 4, 4)),
        ("small", 128, (256, 8, 8)),
        ("resnet18", 96, (512, 3, 3)),
        ("resnet50", 33, (2048, 2, 2)),
        ("lite0", 96, (1280, 3, 3)),
        ("lite0", 33, (1280, 2, 2)),
    ],
)
@torch.no_grad()
def test_sides_of_the_grid(name: str, size: int, shape: tuple[int, ...]) -> None:
    network = plain(name, size if name in ("plain", "small") else 224)
    assert network.output_size == shape[0]
    assert network(torch.zeros(1, 3, size, size)).shape == (1, *shape)


@pytest.mark.parametrize(
    ("name", "count"),
    [("plain", 4), ("small", 5), ("resnet18", 5), ("resnet50", 5), ("lite0", 9)],
)
def test_every_weight_is_of_one_stage_in_the_order_of_the_image(
    name: str, count: int
) -> None:
    network = plain(name)
    stages = network.stages()
    assert len(stages) == count
    weights: list[Tensor] = []
    for module in itertools.chain.from_iterable(stages):
        weights += module.parameters()
    assert [id(weight) for weight in weights] == [
        id(weight) for weight in network.parameters()
    ]


def test_stages_of_lite0_are_those_of_the_table() -> None:
    stages = EfficientNetLite0().stages()
    assert [len(stage) for stage in stages[1:-1]] == [row[0] for row in LITE]


@pytest.mark.parametrize("name", ["plain", "small", "resnet50", "lite0"])
@torch.no_grad()
def test_folded_norms_say_the_same(name: str) -> None:
    network = made(name, 48)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    quick = folded(network)
    kinds = {type(module) for module in quick.modules()}
    assert not any(issubclass(kind, torch.nn.BatchNorm2d) for kind in kinds)
    images = torch.randn(2, 3, 48, 35, dtype=torch.float64)
    torch.testing.assert_close(quick(images), network(images), **TIGHT)
    assert len(quick.stages()) == len(network.stages())
    # what was given is left as it was, and shares nothing with the copy
    for weight in quick.parameters():
        weight.zero_()
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
    assert network(images).any()


def test_a_network_in_training_is_folded_for_evaluation() -> None:
    network = made("small").train()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    quick = folded(network)
    parts = [m for m in quick.modules() if not isinstance(m, torch.nn.Identity)]
    assert not any(part.training for part in parts)
    assert all(module.training for module in network.modules())
    with torch.no_grad():
        torch.testing.assert_close(quick(images), network.eval()(images), **TIGHT)


def test_first_weights_keep_the_size_of_gradients() -> None:
    network = ResidualNetwork(BasicBlock, (1, 1, 1, 1))
    weight = network.layer3[0].conv2.weight  # type: ignore[union-attr]
    # He et al. (2015), eq. 14, of 256 features that read 3 x 3 pixels each
    assert float(weight.detach().std()) == pytest.approx(
        (2 / (256 * 9)) ** 0.5, rel=0.02
    )


def test_a_norm_of_one_value_keeps_to_its_averages() -> None:
    norm = BatchNorm(4).train()
    assert norm.running_mean is not None
    norm.running_mean.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    x = torch.randn(1, 4, 1, 1, requires_grad=True)
    y = norm(x)
    expected = (x.flatten() - torch.arange(4)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(y.flatten(), expected)
    y.sum().backward()
    assert norm.weight.grad is not None
    for name, tensor in norm.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    # of two values it is any other norm
    plain = torch.nn.BatchNorm2d(4)
    plain.load_state_dict(norm.state_dict())
    two = torch.randn(2, 4, 1, 1)
    assert torch.equal(norm(two), plain(two))
    torch.testing.assert_close(norm.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["plain", "small", "resnet18", "lite0"])
def test_one_small_image_can_be_learnt_from(name: str) -> None:
    network = NETWORKS[name](8).train()
    grid = network(torch.randn(1, 3, 8, 8))
    assert grid.shape[2:] == (1, 1)
    grid.sum().backward()
    weights = [weight for weight in network.parameters() if weight.grad is None]
    assert not weights
