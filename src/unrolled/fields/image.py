"""An image as bytes of red, green and blue, whatever file it comes from.

Shapes: H and W are the sides in pixels, S the side that a model reads.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError, shown
from unrolled.data.examples import Examples, Images, Ints
from unrolled.data.image_files import ImageFile
from unrolled.fields.base import InvalidCell

Pixels = NDArray[np.uint8]
MOST_PIXELS = 100_000_000  # of one image: more is a decompression bomb, or no photo
INSTALL = "images are read by Pillow: pip install 'unrolled[vision]'"


@dataclass(frozen=True, slots=True)
class Image:
    """A column of images, each made a square of ``size`` pixels a side.

    ``fit`` says how: ``stretch`` keeps all of it, ``crop`` its proportions.
    """

    kind: ClassVar[str] = "image"
    column: str
    size: int
    fit: str = "stretch"

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column that is read."""
        return (self.column,)

    def check(self, cell: Any) -> ImageFile:
        """Return the image of a cell. Raises InvalidCell: there is none."""
        if cell is None or cell == "":
            raise InvalidCell(f"column {self.column!r} names no image")
        if not isinstance(cell, ImageFile | str | bytes | os.PathLike):
            raise InvalidCell(
                f"column {self.column!r} holds {shown(cell)} where the name of an image is "
                "expected"
            )
        image = ImageFile.of(cell)
        if not image.is_there:
            raise InvalidCell(
                f"column {self.column!r}: there is no image {shown(image.name)}"
            )
        return image

    def check_to_predict(self, cells: Sequence[Any]) -> ImageFile:
        """Return the image of a row that is to be answered. Raises InvalidCell."""
        return self.check(cells[0])

    def examples(self, rows: Sequence[ImageFile], lines: Ints) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        pixels = np.stack([self.decode(image) for image in rows])
        return Examples(lines, images=Images(pixels, np.arange(len(rows))))

    def decode(self, image: ImageFile) -> Pixels:
        """Return the pixels (3, S, S). Raises InvalidCell: the file is no image that can be read."""
        try:
            return square(read_pixels(image.read()), self.size, self.fit == "crop")
        except (OSError, ValueError, MemoryError, SyntaxError) as error:
            raise InvalidCell(
                f"column {self.column!r}: {shown(image.name)} cannot be read as an image: {error}"
            ) from None

    def decode_many(
        self, images: Sequence[ImageFile]
    ) -> list[Pixels | InvalidCell]:
        """Return the pixels of each image, or what is wrong with it; read side by side."""

        def decoded(image: ImageFile) -> Pixels | InvalidCell:
            try:
                return self.decode(image)
            except InvalidCell as error:
                return error

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(decoded, images))

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return {"column": self.column, "size": self.size, "fit": self.fit}

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path | None = None) -> Self:
        """Read the field back."""
        return cls(values["column"], values["size"], values["fit"])


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
