"""Small pictures of images, as a page can hold them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from unrolled.data.image_files import ImageFile
from unrolled.data.pixels import read_pixels

SIDE = 192  # pixels of the longer side, at most
QUALITY = 80


def thumbnail_of(cells: Sequence[Any]) -> str:
    """Return the address of a small picture of the first image in a row; "" where there is none."""
    image = next((cell for cell in cells if isinstance(cell, ImageFile)), None)
    if image is None:
        return ""
    try:
        pixels = read_pixels(image.read())
    except (OSError, ValueError, SyntaxError):
        return ""  # it may have changed since it was scored
    pixels.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
