"""Which regions of an image matter, and where a model looks at each word that it writes.

Legend: P patches of a side, U words written, H' and W' sides of the grid that attention reads.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from unrolled.insight.looker import Looker
from unrolled.insight.trace import AttentionTrace, Explained, Floats, ImageTrace
from unrolled.tasks.steps import PIXELS, InputSteps

PATCHES = 8  # of a side
READ = 16  # changed images that are read together


def image_of(steps: InputSteps) -> Tensor | None:
    """Return the image of an input (1, 3, H, W) uint8, if it has one."""
    beside = steps.extra(PIXELS)
    if beside is not None:
        return beside
    inputs = steps.batch.inputs
    return inputs if inputs.dtype == torch.uint8 and inputs.dim() == 4 else None


def with_images(
    steps: InputSteps,
    images: Tensor,
) -> InputSteps:
    """Return the input with other images (N, 3, H, W) in the place of its own, as N rows."""
    batch = steps.repeated(len(images))
    if steps.extra(PIXELS) is None:
        return replace(
            steps,
            batch=replace(batch, inputs=images),
        )
    extras = list(batch.extra)
    extras[steps.roles.index(PIXELS)] = images
    return replace(
        steps,
        batch=replace(
            batch,
            extra=tuple(extras),
        ),
    )


def image_trace(
    looker: Looker,
    steps: InputSteps,
    explained: Explained,
    attention: Sequence[AttentionTrace],
    grid: tuple[int, int] | None,
) -> ImageTrace | None:
    """Return what a model saw of the image of an input; None where there is no image.

    A patch that is grey says how much it told (Zeiler and Fergus 2014, section 4.2).

    Args:
        looker: reads the input.
        steps: the input.
        explained: the number that is explained.
        attention: where words look, if they do.
        grid: sides of the grid that they look at.
    """
    image = image_of(steps)
    if image is None:
        return None
    regions = _regions(
        looker,
        steps,
        image,
        explained,
    )
    maps = None
    sources = [
        part.weights for part in attention if part.kind == "source" and part.span == 1
    ]
    if grid is not None and sources and sources[-1].shape[2] >= grid[0] * grid[1]:
        # of what else is attended to, a question, the places of the image stand first
        weights = sources[-1].mean(0)[:, : grid[0] * grid[1]]
        maps = weights.reshape(len(weights), *grid)
    return ImageTrace(
        _png(image[0]),
        regions,
        maps,
    )


def beside_image(
    attention: Sequence[AttentionTrace], steps: InputSteps
) -> tuple[AttentionTrace, ...]:
    """Return where words look in the steps of an input, of those that have an image beside them.

    The places of the image are left out: maps show these. So is what was recorded by spans of
    several steps, in which both are mixed.
    """
    if steps.grid is None or steps.extra(PIXELS) is None:
        return tuple(attention)
    positions = steps.grid[0] * steps.grid[1]
    kept: list[AttentionTrace] = []
    for part in attention:
        if part.kind != "source":
            kept.append(part)
        elif part.span == 1:
            kept.append(replace(part, weights=part.weights[:, :, positions:]))
    return tuple(kept)


def _regions(
    looker: Looker, steps: InputSteps, image: Tensor, explained: Explained
) -> Floats:
    height, width = image.shape[2:]
    grey = image.float().mean((0, 2, 3), keepdim=True)[0].round().to(torch.uint8)
    rows = np.linspace(0, height, PATCHES + 1).astype(int)
    columns = np.linspace(0, width, PATCHES + 1).astype(int)
    changed: list[Tensor] = []
    for top, bottom in itertools.pairwise(rows.tolist()):
        for left, right in itertools.pairwise(columns.tolist()):
            copy = image[0].clone()
            copy[:, top:bottom, left:right] = grey
            changed.append(copy)
    at = -1 if explained.step is None else explained.step
    numbers: list[Tensor] = []
    with torch.no_grad(), looker.held():
        for start in range(0, len(changed), READ):
            images = torch.stack(changed[start : start + READ])
            read = with_images(steps, images)
            features = looker.reader.read_features(looker.model, read.batch)
            probabilities = looker.probabilities(features, read, at)
            numbers.append(probabilities[:, explained.index].float())
    falls = explained.probability - torch.cat(numbers).numpy()
    return falls.reshape(PATCHES, PATCHES).astype(np.float32)


def _png(image: Tensor) -> bytes:
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
