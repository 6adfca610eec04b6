"""From the pixels of an image to what a decoder or a classifier reads of it.

Shapes: B images, H and W their sides in pixels, C features, H' and W' sides of the grid.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from unrolled.nn.convolution import ConvolutionalNetwork, folded
from unrolled.ops.masking import real_steps

# of the colours of ImageNet, by which published weights read red, green and blue
IMAGENET_MEANS = (0.485, 0.456, 0.406)
IMAGENET_DEVIATIONS = (0.229, 0.224, 0.225)


class ImageEncoder(nn.Module):
    """Pixels to a grid of features, as a memory that a decoder looks at.

    Args:
        network: see ``NETWORKS``.
        frozen: how many stages, from the first, keep their weights; None for all of them. Their
            batch norms keep their averages too.
        means, deviations: of red, green and blue, between 0 and 1, by which colours are scaled.
        coordinates: whether each place of the grid also says where it is: two features from -1 to
            1, from left to right and from top to bottom (Santoro et al. 2017, section 4).
    """

    def __init__(
        self,
        network: ConvolutionalNetwork,
        frozen: int | None = 0,
        means: tuple[float, ...] = IMAGENET_MEANS,
        deviations: tuple[float, ...] = IMAGENET_DEVIATIONS,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.coordinates = coordinates
        self.output_size = network.output_size + (2 if coordinates else 0)
        self.means = means
        self.deviations = deviations
        stages = network.stages()
        count = len(stages) if frozen is None else min(frozen, len(stages))
        self._frozen = list(itertools.chain.from_iterable(stages[:count]))
        self.is_frozen = count == len(stages)
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> ImageEncoder:
        """Set the mode, in which what is frozen stays in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def for_evaluation(self) -> ImageEncoder:
        """Return a copy that says the same in evaluation, faster; see :func:`folded`."""
        return ImageEncoder(
            folded(self.network),
            None,
            self.means,
            self.deviations,
            self.coordinates,
        ).eval()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the sides of the grid of an image."""
        training = self.training
        with torch.no_grad():
            first = next(self.network.parameters())
            blank = first.new_zeros(1, 3, height, width)
            grid = self.network.eval()(blank)
        self.train(training)
        return int(grid.shape[2]), int(grid.shape[3])

    @staticmethod
    def _as_colours(
        values: tuple[float, ...],
        like: Tensor,
    ) -> Tensor:
        return torch.tensor(
            values,
            device=like.device,
            dtype=like.dtype,
        ).view(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the grid row by row (B, H' * W', C).

        Args:
            images: bytes (B, 3, H, W), or of grey (B, 1, H, W); or features that were computed
                before (B, H' * W', C).
        """
        if images.dtype != torch.uint8:
            return images
        # grey is read as three equal colours
        colours = images.float().expand(-1, 3, -1, -1) / 255
        scaled = (colours - self._as_colours(self.means, colours)) / self._as_colours(
            self.deviations, colours
        )
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        grid = self.network(scaled)
        if self.coordinates:
            grid = torch.cat(
                [grid, coordinates_of(grid)],
                1,
            )
        return grid.flatten(2).transpose(1, 2)


def coordinates_of(grid: Tensor) -> Tensor:
    """Return where each place of a grid (B, C, H', W') is, from -1 to 1: (B, 2, H', W')."""
    rows, _, height, width = grid.shape
    across = torch.linspace(
        -1,
        1,
        width,
        device=grid.device,
        dtype=grid.dtype,
    )
    down = torch.linspace(
        -1,
        1,
        height,
        device=grid.device,
        dtype=grid.dtype,
    )
    both = torch.stack(torch.meshgrid(across, down, indexing="xy"))
    return both.expand(rows, 2, height, width)


STRETCH = 256  # frames that are looked at together
FLATTENED = 16  # places of a grid that are read side by side; more are averaged


class PooledImages(nn.Module):
    """An image as one vector: a linear layer over its grid.

    Of a small grid every place is read by weights of its own, so that it matters where something
    is; a larger one is averaged.

    Args:
        encoder: what makes the grid.
        height, width: sides of the images in pixels.
        size: of the vector.
        dropout: before the linear layer.
    """

    reads_lengths = True

    def __init__(
        self,
        encoder: ImageEncoder,
        height: int,
        width: int,
        size: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.output_size = size
        rows, columns = encoder.grid(height, width)
        positions = rows * columns
        self.flattens = positions <= FLATTENED
        read = encoder.output_size * (positions if self.flattens else 1)
        self.projection = nn.Linear(read, size)

    def forward(
        self,
        images: Tensor,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Return the vectors of images, or of the frames of clips.

        Padding is not looked at: the averages of batch norms are those of real frames.

        Args:
            images: (B, C, H, W), or frames (B, T, C, H, W) uint8.
            lengths: real frames of each clip (B,); None when all are.

        Returns:
            (B, size), or (B, T, size) with zeros for padding.
        """
        if images.dim() != 5:
            return self._pooled(images)
        rows, steps = images.shape[:2]
        if lengths is None:
            return self._in_stretches(images.flatten(0, 1)).unflatten(0, (rows, steps))
        real = real_steps(lengths, steps)
        vectors = self._in_stretches(images[real])
        padded = vectors.new_zeros(rows, steps, self.output_size)
        padded[real] = vectors
        return padded

    def _in_stretches(self, frames: Tensor) -> Tensor:
        """Return the vectors of frames (S, C, H, W), without gradients a few at a time."""
        if torch.is_grad_enabled() or len(frames) <= STRETCH:
            return self._pooled(frames)
        return torch.cat([self._pooled(part) for part in frames.split(STRETCH)])

    def _pooled(self, images: Tensor) -> Tensor:
        grid = self.encoder(images)
        read = grid.flatten(-2) if self.flattens else grid.mean(-2)
        pooled: Tensor = self.projection(self.dropout(read))
        return pooled
