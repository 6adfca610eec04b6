"""Pixels of image files, whatever program wrote them.

Shapes: H and W are the sides in pixels, S the side of a square.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError

Pixels = NDArray[np.uint8]
MOST_PIXELS = 100_000_000  # of one image: more is a decompression bomb, or no photo
INSTALL = "images are read by Pillow: pip install 'unrolled[vision]'"


def read_pixels(content: bytes) -> Any:
    """Return an image of Pillow in red, green and blue, upright, on white where it is transparent.

    Of an animation it is the first frame.

    Raises:
        ValueError: it has too many pixels.
        OSError: it is no image, or cut off.
    """
    try:
        from PIL import Image as Pillow
        from PIL import ImageOps
    except ImportError:
        raise UserError(INSTALL) from None
    with warnings.catch_warnings():
        # of large images, which are refused below, and of marks that no one needs
        warnings.simplefilter("ignore")
        try:
            image: Any = Pillow.open(io.BytesIO(content))
        except Pillow.DecompressionBombError as error:
            raise ValueError(f"a decompression bomb: {error}") from None
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(
                f"it has {width} x {height} pixels, more than {MOST_PIXELS:,}: a decompression "
                "bomb"
            )
        image.seek(0)
        image = ImageOps.exif_transpose(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            ground = Pillow.new("RGBA", image.size, (255, 255, 255, 255))
            image = Pillow.alpha_composite(ground, image)
        if image.mode in ("I;16", "I;16B", "I;16L", "I"):
            # 16 bits of grey, of which the upper eight are kept
            grey = np.asarray(image, dtype=np.int64) >> 8
            image = Pillow.fromarray(grey.clip(0, 255).astype(np.uint8))
        return image.convert("RGB")


def square(image: Any, size: int, middle: bool = False) -> Pixels:
    """Return an image scaled to S pixels a side (3, S, S), all of it or its ``middle`` alone."""
    from PIL import Image as Pillow

    width, height = image.size
    box = (0, 0, width, height)
    if middle:
        side = min(width, height)
        left = (width - side) // 2
        top = (height - side) // 2
        box = (left, top, left + side, top + side)
    if (width, height) != (size, size):
        image = image.resize((size, size), Pillow.Resampling.BILINEAR, box=box)
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
