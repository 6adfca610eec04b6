"""Batches of images with all that is said of each, and how images are changed while one trains.

Shapes: I images, R rows of a batch, T steps of a text, H and W sides in pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.data.batches import IGNORED, PAD, Batch, Buckets, random
from unrolled.data.examples import Examples, Ints, Ragged

# weights of red, green and blue in what looks equally bright (ITU-R BT.601)
BRIGHTNESS = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class ImageChanges:
    """How images are changed at random before they are learnt from; 0 and False leave them.

    Attributes:
        crop: share of a side by which a square cut out at random is smaller, at most.
        flip: mirror half of them.
        colour: share by which brightness, contrast and saturation change, at most.
    """

    crop: float = 0.0
    flip: bool = False
    colour: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.crop or self.flip or self.colour)

    def draw(
        self,
        count: int,
        generator: np.random.Generator,
    ) -> Tensor:
        """Return what is drawn for each image (I, 7), from -1 to 1."""
        return torch.from_numpy(generator.uniform(-1, 1, (count, 7))).float()

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return changed images (I, C, H, W) uint8, as ``draw`` has drawn for each (I, 7)."""
        scale, across, down, mirror, *colours = drawn.unbind(1)
        changed = images.float()
        if self.crop or self.flip:
            side = 1 - self.crop * (1 + scale) / 2
            sign = torch.where(mirror < 0, -1.0, 1.0) if self.flip else torch.ones(())
            zero = torch.zeros_like(side)
            # from places of what comes out to places of the image, both from -1 to 1
            right = torch.stack(
                [side * sign, zero, across * (1 - side)],
                1,
            )
            below = torch.stack([zero, side, down * (1 - side)], 1)
            where = F.affine_grid(
                torch.stack([right, below], 1), list(images.shape), align_corners=False
            )
            changed = F.grid_sample(
                changed, where, padding_mode="border", align_corners=False
            )
        if self.colour:
            changed = _coloured(
                changed,
                [1 + self.colour * part for part in colours],
            )
        return changed.round().clamp(0, 255).to(torch.uint8)


def _coloured(images: Tensor, factors: list[Tensor]) -> Tensor:
    """Return images with brightness, contrast and saturation times factors (I,) each."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors)
    images = images * brightness
    if images.shape[1] == 1:
        mean = _mean(images)
        return mean + (images - mean) * contrast
    weights = torch.tensor(BRIGHTNESS).view(1, 3, 1, 1)
    grey = (images * weights).sum(1, keepdim=True)
    mean = _mean(grey)
    images = mean + (images - mean) * contrast
    grey = mean + (grey - mean) * contrast
    return grey + (images - grey) * saturation


def _mean(images: Tensor) -> Tensor:
    """Return the mean of each image (I, 1, 1, 1) of one colour (I, 1, H, W).

    Row by row, since threads would divide the sum of one image alone, and not that of several.
    """
    return images.mean(3, keepdim=True).mean(2, keepdim=True)


@dataclass(frozen=True)
class ClipBatches:
    """Batches of clips of like length, all frames of a clip changed alike.

    Attributes:
        buckets: which clips are read together, and in which order.
        changes: of their frames.
    """

    buckets: Buckets
    changes: ImageChanges

    def plan(self, epoch: int) -> list[Ints]:
        """Return the clips of every batch of an epoch."""
        return self.buckets.plan(epoch)

    def length(self, epoch: int) -> int:
        """Return the number of batches in an epoch."""
        return self.buckets.length(epoch)

    def rows_of_batch(self, epoch: int, index: int) -> int:
        """Return how many clips one batch has."""
        return len(self.plan(epoch)[index])

    def batch(
        self,
        epoch: int,
        index: int,
        part: slice = slice(None),
    ) -> Batch:
        """Return one batch of an epoch, or some of its clips."""
        batch = self.buckets.batch(epoch, index, part)
        if not self.changes:
            return batch
        drawn = self.changes.draw(
            self.rows_of_batch(epoch, index),
            random(self.buckets.seed, epoch, index),
        )[part]
        clips, steps = batch.inputs.shape[:2]
        frames = batch.inputs.flatten(0, 1)
        changed = self.changes.apply(frames, drawn.repeat_interleave(steps, 0))
        return replace(
            batch,
            inputs=changed.unflatten(0, (clips, steps)),
        )


@dataclass(frozen=True)
class ImageBatches:
    """Batches of images, each read once with all the rows that are said of it.

    What a batch holds, and how its images are changed, follows from (seed, epoch, index).

    Attributes:
        examples: their rows name images.
        count: images of a batch.
        seed: of the order and the changes.
        changes: of images that are bytes.
    """

    examples: Examples
    count: int
    seed: int
    changes: ImageChanges = ImageChanges()

    @functools.cached_property
    def rows_of(self) -> Ragged:
        """The rows of each image."""
        assert self.examples.images is not None
        return Ragged.of(self.examples.images.by_image())

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the plan of the current and the next epoch
    def plan(self, epoch: int) -> list[Ints]:
        """Return the images of every batch of an epoch."""
        used = np.flatnonzero(self.rows_of.lengths)
        order = used[random(self.seed, epoch).permutation(len(used))]
        return [
            order[start : start + self.count]
            for start in range(0, len(order), self.count)
        ]

    def __hash__(self) -> int:
        return id(self)

    def length(self, epoch: int) -> int:
        """Return the number of batches in an epoch."""
        return len(self.plan(epoch))

    def rows_of_batch(self, epoch: int, index: int) -> int:
        """Return how many images one batch has."""
        return len(self.plan(epoch)[index])

    def batch(
        self,
        epoch: int,
        index: int,
        part: slice = slice(None),
    ) -> Batch:
        """Return one batch of an epoch, or that of some of its images; see ``collate_images``."""
        assert self.examples.images is not None
        images = self.plan(epoch)[index]
        pixels = self.examples.images.distinct(images[part])
        if self.changes and pixels.dtype == torch.uint8:
            generator = random(self.seed, epoch, index)
            drawn = self.changes.draw(len(images), generator)[part]
            pixels = self.changes.apply(pixels, drawn)
        return collate_images(
            self.examples,
            images[part],
            self.rows_of,
            pixels,
        )

    def in_order(self) -> Iterator[Batch]:
        """Yield all images in their order, as they are, with their rows."""
        assert self.examples.images is not None
        used = np.flatnonzero(self.rows_of.lengths)
        for start in range(0, len(used), self.count):
            images = used[start : start + self.count]
            pixels = self.examples.images.distinct(images)
            yield collate_images(
                self.examples,
                images,
                self.rows_of,
                pixels,
            )


def collate_images(
    examples: Examples, images: Ints, rows_of: Ragged, pixels: Tensor
) -> Batch:
    """Put images side by side, with all rows that are said of them.

    Args:
        examples: their rows name images, and may hold a text each.
        images: by their own indices (I,).
        rows_of: the rows of each image.
        pixels: of the images, or their features.

    Returns:
        The images as inputs, with ones for lengths, and as ``extra`` the image among these that
        each row is of (R,); or the texts as inputs (R, T), with their lengths (R,), and as
        ``extra`` images and owners.
    """
    rows = np.asarray(rows_of.pick(images).flat, dtype=np.int64)
    owners = torch.from_numpy(
        np.repeat(
            np.arange(len(images)),
            rows_of.lengths[images],
        )
    )
    targets: Tensor | None = None
    if isinstance(examples.targets, Ragged):
        targets, _ = examples.targets.take(rows, IGNORED)
    elif examples.targets is not None:
        targets = torch.from_numpy(examples.targets[rows])
    if examples.sequences is not None:
        tokens, lengths = examples.sequences.take(rows, PAD)
        return Batch(
            tokens,
            lengths,
            targets,
            rows,
            extra=(pixels, owners),
        )
    ones = torch.ones(len(images), dtype=torch.int64)
    return Batch(
        pixels,
        ones,
        targets,
        rows,
        extra=(owners,),
    )
