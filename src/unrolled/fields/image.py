"""An image as bytes of red, green and blue, whatever file it comes from.

Shapes: S is the side in pixels that a model reads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from unrolled.core.errors import shown
from unrolled.data.examples import Examples, Images, Ints
from unrolled.data.image_files import ImageFile
from unrolled.data.pixels import Pixels, read_pixels, square
from unrolled.fields.base import InvalidCell


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
        if image.shared:
            raise InvalidCell(
                f"column {self.column!r}: several images are called {shown(image.name)}; write "
                "their paths in the folder"
            )
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
        """Return the pixels (3, S, S). Raises InvalidCell: the file cannot be read as an image."""
        try:
            return square(read_pixels(image.read()), self.size, self.fit == "crop")
        except (OSError, ValueError, MemoryError, SyntaxError) as error:
            raise InvalidCell(
                f"column {self.column!r}: {shown(image.name)} cannot be read as an image: {error}"
            ) from None

    def decode_many(self, images: Sequence[ImageFile]) -> list[Pixels | InvalidCell]:
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
