"""Pixels of image files, whatever program wrote them.

Shapes: H and W are the sides in pixels, S the side of a square.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError

Pixels = NDArray[np.uint8]
MOST_PIXELS = 100_000_000  # of one image: more is a decompression bomb, or no photo
INSTALL = "images are read by Pillow: pip install 'unrolled[vision]'"
# what is decoded here and by no other program, as PostScript would be
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
ORIENTATION = 0x0112  # EXIF's mark of how an image is turned


class _Quiet:
    """Silences warnings while one thread or several read images.

    Each of them by itself would leave the filters as another one had set them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers = 0
        self.stack = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Pass over warnings in the block."""
        with self.lock:
            if not self.readers:
                self.stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self.readers += 1
        try:
            yield
        finally:
            with self.lock:
                self.readers -= 1
                if not self.readers:
                    self.stack.close()


_quiet = _Quiet()


def read_pixels(content: bytes) -> Any:
    """Return an image of Pillow in red, green and blue, upright, on white where it is transparent.

    Of an animation it is the first frame.

    Raises:
        ValueError: it has too many pixels.
        OSError: it is no image, or cut off.
    """
    try:
        from PIL import Image as Pillow
        from PIL import UnidentifiedImageError
    except ImportError:
        raise UserError(INSTALL) from None
    if not content:
        raise OSError("the file is empty")
    # warnings are of large images, which are refused below, and of marks that no one needs
    with _quiet():
        try:
            image: Any = Pillow.open(io.BytesIO(content), formats=FORMATS)
        except Pillow.DecompressionBombError as error:
            raise ValueError(f"a decompression bomb: {error}") from None
        except UnidentifiedImageError:
            # the library's own words name an object in memory
            raise OSError(f"it begins as none of {', '.join(FORMATS)} does") from None
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(
                f"it has {width} x {height} pixels, more than {MOST_PIXELS:,}: a decompression "
                "bomb"
            )
        image.seek(0)
        image.load()
        return _on_white(_upright(image))


def _upright(image: Any) -> Any:
    """Return an image turned as its EXIF says; as it is where that is damaged."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ORIENTATION))
    except Exception:
        return image  # whatever the library says of marks that no program wrote
    return image if turn is None else image.transpose(turn)


def _on_white(image: Any) -> Any:
    """Return an image in red, green and blue, on white where it is transparent."""
    from PIL import Image as Pillow

    key = image.info.get("transparency")
    if image.mode in SIXTEEN_BITS:
        # 16 bits of grey, of which the upper eight are kept
        values = np.asarray(image, dtype=np.int64)
        grey = (values >> 8).clip(0, 255)
        if isinstance(key, int):
            grey[values == key] = 255
        image = Pillow.fromarray(grey.astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or key is not None:
        image = image.convert("RGBA")
        ground = Pillow.new("RGBA", image.size, (255, 255, 255, 255))
        image = Pillow.alpha_composite(ground, image)
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
