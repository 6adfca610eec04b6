"""Convolutional networks that turn an image into a grid of features.

Shapes: B images, H and W their sides in pixels, C features, H' and W' sides of the grid.

Residual networks (He et al. 2016) carry the names of weights that torchvision gives them, and
EfficientNet-Lite0 (Tan and Le 2019, without squeeze and excitation and with ReLU6) is read from the
names of its first port to PyTorch, so that weights people already have can be loaded.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

# images with sides up to this many pixels are not halved by the first convolution of ``small``
TINY = 48
EXPANSION = 4  # of a bottleneck's outputs over its inner width


class ConvolutionalNetwork(nn.Module):
    """An image in, a grid of features out.

    Attributes:
        output_size: C.
    """

    output_size: int

    @abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """Return the modules from the image to the grid, those of one resolution together."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return the grid (B, C, H', W') of images (B, 3, H, W) whose colours are scaled."""


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
    )


class BatchNorm(nn.BatchNorm2d):
    """A batch norm that keeps to its averages where it reads one value of each feature alone.

    That is a batch of one image with a grid of one place, as the last one of an epoch may be: one
    value has no deviation to be divided by.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.numel() != self.num_features:
            return super().forward(input)
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            eps=self.eps,
        )


def _shortcut(
    inputs: int,
    outputs: int,
    stride: int,
) -> nn.Sequential | None:
    """Return what makes the input of a block as large as its output; None where it is."""
    if stride == 1 and inputs == outputs:
        return None
    projection = _convolution(inputs, outputs, 1, stride)
    return nn.Sequential(projection, BatchNorm(outputs))


def _initialize(network: nn.Module) -> None:
    """Draw the weights of convolutions, as many units as are read backwards (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 beside a shortcut (He et al. 2016, figure 5, left)."""

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.output_size = width
        self.conv1 = _convolution(inputs, width, 3, stride)
        self.bn1 = BatchNorm(width)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = BatchNorm(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H', W') of (B, C', H, W)."""
        beside = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + beside)


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 (He et al. 2016, figure 5, right).

    The one of 3 x 3 takes the stride, as torchvision has it.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.output_size = width * EXPANSION
        self.conv1 = _convolution(inputs, width, 1)
        self.bn1 = BatchNorm(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = BatchNorm(width)
        self.conv3 = _convolution(width, self.output_size, 1)
        self.bn3 = BatchNorm(self.output_size)
        self.downsample = _shortcut(inputs, self.output_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H', W') of (B, C', H, W)."""
        beside = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + beside)


class ResidualNetwork(ConvolutionalNetwork):
    """A residual network without its classifier.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks of each of the four stages.
        widths: inner width of the blocks of each stage.
        stem: side of the first convolution; 7 is followed by pooling, as for ImageNet.
        stride: of the first convolution.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512),
        stem: int = 7,
        stride: int = 2,
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(3, widths[0], stem, stride)
        self.bn1 = BatchNorm(widths[0])
        self.pools = stem == 7
        size = widths[0]
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
            blocks: list[BasicBlock | Bottleneck] = []
            for position in range(depth):
                halves = number > 1 and position == 0
                blocks.append(block(size, width, 2 if halves else 1))
                size = blocks[-1].output_size
            setattr(
                self,
                f"layer{number}",
                nn.Sequential(*blocks),
            )
        self.output_size = size
        _initialize(self)

    def stages(self) -> list[list[nn.Module]]:
        """Return the stem, and the blocks of each resolution."""
        layers = [getattr(self, f"layer{number}") for number in range(1, 5)]
        return [[self.conv1, self.bn1], *([layer] for layer in layers)]

    def forward(self, images: Tensor) -> Tensor:
        """Return the grid (B, C, H', W'); see the base class."""
        x = F.relu(self.bn1(self.conv1(images)))
        if self.pools:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages()[1:]:
            x = stage[0](x)
        return x


class PlainNetwork(ConvolutionalNetwork):
    """Four convolutions of 3 x 3 that halve the sides (Santoro et al. 2017, section 5.4).

    For drawings: it takes a tenth of the products of the small residual network, and a place of its
    grid is a sixteenth of a side.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (32, 32, 64, 64)) -> None:
        super().__init__()
        sizes = (3, *widths)
        for number in range(1, 5):
            convolution = _convolution(sizes[number - 1], sizes[number], 3, 2)
            setattr(self, f"conv{number}", convolution)
            setattr(self, f"bn{number}", BatchNorm(sizes[number]))
        self.output_size = widths[-1]
        _initialize(self)

    def stages(self) -> list[list[nn.Module]]:
        """Return each convolution with its batch norm."""
        return [
            [getattr(self, f"conv{number}"), getattr(self, f"bn{number}")]
            for number in range(1, 5)
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Return the grid (B, C, H', W'); see the base class."""
        x = images
        for convolution, norm in self.stages():
            x = F.relu(norm(convolution(x)))
        return x


class _MobileStage(NamedTuple):
    """Blocks of EfficientNet of one width (Tan and Le 2019, table 1)."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    outputs: int


MOBILE_STAGES = (
    _MobileStage(1, 3, 1, 1, 16),
    _MobileStage(2, 3, 2, 6, 24),
    _MobileStage(2, 5, 2, 6, 40),
    _MobileStage(3, 3, 2, 6, 80),
    _MobileStage(3, 5, 1, 6, 112),
    _MobileStage(4, 5, 2, 6, 192),
    _MobileStage(1, 3, 1, 6, 320),
)
MOBILE_STEM = 32
MOBILE_HEAD = 1280
EPSILON = 1e-3  # of the batch norms
DECAY = 0.01  # of their averages


class _SameConvolution(nn.Conv2d):
    """A convolution padded as TensorFlow does: an odd pixel of padding at the right and below."""

    def forward(self, input: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        stride = self.stride[0]
        paddings: list[int] = []
        for size in (input.shape[3], input.shape[2]):
            covered = (-(-size // stride) - 1) * stride + kernel
            needed = max(0, covered - size)
            paddings += [needed // 2, needed - needed // 2]
        if any(paddings):
            input = F.pad(input, paddings)
        return F.conv2d(
            input, self.weight, stride=self.stride, groups=self.groups, bias=self.bias
        )


def _mobile_norm(width: int) -> BatchNorm:
    return BatchNorm(width, eps=EPSILON, momentum=DECAY)


def _same(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> _SameConvolution:
    return _SameConvolution(
        inputs,
        outputs,
        kernel,
        stride,
        groups=groups,
        bias=False,
    )


class MobileBlock(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018, figure 3b): wide inside, narrow between."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand: _SameConvolution | None = None
        if expansion != 1:
            self.expand = _same(inputs, width, 1)
            self.expand_norm = _mobile_norm(width)
        self.depthwise = _same(
            width,
            width,
            kernel,
            stride,
            groups=width,
        )
        self.depthwise_norm = _mobile_norm(width)
        self.project = _same(width, outputs, 1)
        self.project_norm = _mobile_norm(outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H', W') of (B, C', H, W)."""
        y = x
        if self.expand is not None:
            y = F.relu6(self.expand_norm(self.expand(y)))
        y = F.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return y + x if self.adds else y


class EfficientNetLite0(ConvolutionalNetwork):
    """EfficientNet-Lite0 without its classifier: 3.4 M weights, 0.4 G products at 224 x 224."""

    output_size = MOBILE_HEAD

    def __init__(self) -> None:
        super().__init__()
        self.stem = _same(3, MOBILE_STEM, 3, 2)
        self.stem_norm = _mobile_norm(MOBILE_STEM)
        self.blocks = nn.ModuleList()
        self.ends: list[int] = []  # after which blocks a stage ends
        size = MOBILE_STEM
        for stage in MOBILE_STAGES:
            for position in range(stage.repeats):
                stride = stage.stride if position == 0 else 1
                block = MobileBlock(
                    size, stage.outputs, stage.kernel, stride, stage.expansion
                )
                self.blocks.append(block)
                size = stage.outputs
            self.ends.append(len(self.blocks))
        self.head = _same(size, MOBILE_HEAD, 1)
        self.head_norm = _mobile_norm(MOBILE_HEAD)

    def stages(self) -> list[list[nn.Module]]:
        """Return the stem, the blocks of each width, and the head."""
        groups: list[list[nn.Module]] = [[self.stem, self.stem_norm]]
        begin = 0
        for end in self.ends:
            groups.append(list(self.blocks[begin:end]))
            begin = end
        return [*groups, [self.head, self.head_norm]]

    def forward(self, images: Tensor) -> Tensor:
        """Return the grid (B, C, H', W'); see the base class."""
        x = F.relu6(self.stem_norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head_norm(self.head(x)))


def _small(size: int) -> ConvolutionalNetwork:
    stride = 1 if size <= TINY else 2
    return ResidualNetwork(
        BasicBlock, (1, 1, 1, 1), (32, 64, 128, 256), stem=3, stride=stride
    )


# what builds a network, for images of so many pixels a side
NETWORKS: dict[str, Callable[[int], ConvolutionalNetwork]] = {
    "plain": lambda size: PlainNetwork(),
    "small": _small,
    "resnet18": lambda size: ResidualNetwork(BasicBlock, (2, 2, 2, 2)),
    "resnet34": lambda size: ResidualNetwork(BasicBlock, (3, 4, 6, 3)),
    "resnet50": lambda size: ResidualNetwork(Bottleneck, (3, 4, 6, 3)),
    "lite0": lambda size: EfficientNetLite0(),
}

# a convolution and the batch norm behind it, by their names in a module
_NORMED = (
    ("conv1", "bn1"),
    ("conv2", "bn2"),
    ("conv3", "bn3"),
    ("conv4", "bn4"),
    ("stem", "stem_norm"),
    ("head", "head_norm"),
    ("expand", "expand_norm"),
    ("depthwise", "depthwise_norm"),
    ("project", "project_norm"),
    ("0", "1"),  # of a shortcut
)


def folded(network: ConvolutionalNetwork) -> ConvolutionalNetwork:
    """Return a copy for evaluation whose batch norms stand in the weights of its convolutions.

    It says what the network says in evaluation, but for the last bits, and reads grids less often.
    """
    copied = copy.deepcopy(network).eval()
    for module in list(copied.modules()):
        parts = dict(module.named_children())
        for name, norm_name in _NORMED:
            convolution = parts.get(name)
            norm = parts.get(norm_name)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, norm_name, nn.Identity())
    # with the features of a place side by side kernels are up to twice as fast
    for weight in copied.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return copied


# names of weights in the first port of EfficientNet to PyTorch, and ours, longest first
_PORTED = (
    ("_conv_stem.", "stem."),
    ("_conv_head.", "head."),
    ("_expand_conv.", "expand."),
    ("_depthwise_conv.", "depthwise."),
    ("_project_conv.", "project."),
    ("_blocks.", "blocks."),
)
_PORTED_NORMS = {
    "_bn0": "expand_norm",
    "_bn1": "depthwise_norm",
    "_bn2": "project_norm",
}
_PORTED_OUTER = {"_bn0": "stem_norm", "_bn1": "head_norm"}
# of the classifier, which a grid has no use for
CLASSIFIERS = ("fc.", "_fc.", "classifier.")


def our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published weights of a network by the names that they have here.

    A classifier is left out, and so is the prefix that ``DataParallel`` puts before every name.
    """
    named: dict[str, Tensor] = {}
    for full, tensor in weights.items():
        name = full.removeprefix("module.")
        if name.startswith(CLASSIFIERS):
            continue
        norms = _PORTED_NORMS if name.startswith("_blocks.") else _PORTED_OUTER
        for theirs, ours in _PORTED:
            name = name.replace(theirs, ours)
        parts = [norms.get(part, part) for part in name.split(".")]
        named[".".join(parts)] = tensor
    return named
