"""Handwritten digits, 8 x 8 pixels each: those that scikit-learn brings (UCI, Alpaydin 1998).

``python -m unrolled.studies.digits FOLDER`` writes them as a folder that can be trained on.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np

from unrolled.core.files import replacing
from unrolled.studies.folders import write_folder
from unrolled.studies.image_archives import add_file, lines_of

LEVELS = 16  # of grey, from 0 to which the pixels are counted


def write(folder: Path) -> None:
    """Write the 1,797 digits and their labels into a folder, which is made where it is not there.

    Raises:
        UserError: the disk refused a file.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = [f"{number:04}.png" for number in range(len(digits.images))]
    labels = digits.target.tolist()
    with (
        replacing(folder / "labels.csv") as table,
        replacing(folder / "images.tar") as archive_path,
    ):
        rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
        table.write_bytes(lines_of(["image,label", *rows]))
        with tarfile.open(archive_path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, image in zip(names, digits.images, strict=True):
                grey = (image * (255 / LEVELS)).round().astype(np.uint8)
                content = io.BytesIO()
                Image.fromarray(grey).save(content, "PNG")
                add_file(archive, name, content.getvalue())


def main(arguments: list[str]) -> int:
    """Write what the command line requests, and return its exit code."""
    return write_folder(
        "digits",
        "Write handwritten digits as a folder of images to train on.",
        arguments,
        write,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
