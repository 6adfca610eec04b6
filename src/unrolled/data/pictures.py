"""Images that rows of a file name: found below a folder or in its archives, read where they lie."""

from __future__ import annotations

import functools
import itertools
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unrolled.core.errors import DataError
from unrolled.data.archives import BROKEN
from unrolled.data.formats.base import Format, Row
from unrolled.data.image_files import ImageFile
from unrolled.data.lines import Report, nfc
from unrolled.data.reader import Reader

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
EXAMINED_ROWS = 20  # that tell whether a column names images


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(SUFFIXES)


def is_tar(path: Path) -> bool:
    """Whether a file is an archive of tar that is not packed, whose members lie side by side."""
    return path.suffix.lower() == ".tar"


class ImageFolder:
    """The images below a folder, in it and in its ``.tar`` archives, by their names.

    Args:
        folder: it may hold nothing; an image is then looked for in it by its path alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def by_path(self) -> dict[str, ImageFile]:
        """All images by their paths in the folder or in an archive."""
        images: dict[str, ImageFile] = {}
        for root, folders, files in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(root, name)
                if is_image(name) and not name.startswith("."):
                    inner = path.relative_to(self.folder).as_posix()
                    images.setdefault(
                        inner,
                        ImageFile(inner, path),
                    )
                elif is_tar(path):
                    for member in members_of_tar(path):
                        images.setdefault(member.name, member)
        return images

    @functools.cached_property
    def by_name(self) -> dict[str, ImageFile | None]:
        """Images by the last part of their paths; None where several share it."""
        named: dict[str, ImageFile | None] = {}
        for path, image in self.by_path.items():
            name = Path(path).name
            named[name] = None if name in named else image
        return named

    def find(self, name: str) -> ImageFile:
        """Return the image that a row names: by its path in the folder, else by its name alone."""
        direct = self.folder / name
        if direct.is_file():
            return ImageFile(name, direct)
        image = self.by_path.get(name) or self.by_name.get(Path(name).name)
        if image is None:
            return ImageFile(name, None)
        return replace(image, name=name)


def members_of_tar(path: Path) -> list[ImageFile]:
    """Return the images in an archive, to be read in place. Raises DataError: it is damaged."""
    images = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile() and is_image(member.name):
                    images.append(
                        ImageFile(
                            member.name,
                            path,
                            member.offset_data,
                            member.size,
                        )
                    )
    except (tarfile.TarError, *BROKEN) as error:
        raise DataError(
            f"is no archive of tar that can be read: {error}", path
        ) from None
    return images


def with_images(reader: Reader, folder: Path) -> Reader:
    """Return a reader whose cells that name images hold where these are.

    A column names images where all of its first cells do by the ends of their names.

    Args:
        reader: of a table.
        folder: in which names are looked for.
    """
    if reader.text is not None:
        return reader
    indices = _columns_of_images(reader)
    if not indices:
        return reader
    images = ImageFolder(folder)
    if not images.by_path and folder.parent != folder:
        # annotations often lie in a folder beside those of the images
        images = ImageFolder(folder.parent)

    def rows(report: Report) -> Iterator[Row]:
        for line, row in reader.rows(report):
            cells = list(row)
            for index in indices:
                if isinstance(cells[index], str) and cells[index]:
                    cells[index] = images.find(cells[index])
            yield line, tuple(cells)

    return replace(reader, rows=rows)


def _columns_of_images(reader: Reader) -> list[int]:
    """Return the columns whose first cells name images."""

    def ignored(error: DataError) -> None:
        pass

    try:
        first = list(
            itertools.islice(
                reader.rows(ignored),
                EXAMINED_ROWS,
            )
        )
    except DataError:
        return []  # whoever reads on says what is wrong
    indices = []
    for index in range(len(reader.columns)):
        cells = [row[index] for _, row in first if index < len(row)]
        filled = [cell for cell in cells if cell not in (None, "")]
        if filled and all(isinstance(cell, str) and is_image(cell) for cell in filled):
            indices.append(index)
    return indices


def table_beside_images(path: Path) -> Path | None:
    """Return the one table of a folder of images; None where the folder is another kind.

    Lists of names, such as ``train_images.txt``, are none.
    """
    tables = []
    images = False
    for root, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            images = images or is_image(name) or name.lower().endswith(".tar")
            if name.lower().endswith((".tsv", ".csv", ".jsonl", ".json")):
                tables.append(Path(root, name))
    if not images:
        return None
    chosen = [table for table in tables if table.parent == path] or tables
    named = [
        table for table in chosen if table.stem.lower() in ("captions", "questions")
    ]
    chosen = named or chosen
    return chosen[0] if len(chosen) == 1 else None


def labelled_images(path: Path) -> Reader | None:
    """Return the images of a folder of folders, labelled by these; None where there are none."""
    images: list[tuple[str, ImageFile]] = []
    for file in sorted(path.glob("*/*")):
        hidden = file.name.startswith(".") or file.parent.name.startswith(".")
        if file.is_file() and is_image(file.name) and not hidden:
            inner = file.relative_to(path).as_posix()
            images.append((file.parent.name, ImageFile(inner, file)))
    if not images:
        return None

    def rows(report: Report) -> Iterator[Row]:
        for number, (label, image) in enumerate(images, 1):
            yield number, (image, nfc(label))

    return Reader(
        str(path),
        Format("folder"),
        ["image", "label"],
        rows,
    )


def listed_parts(folder: Path) -> tuple[Path, Path] | None:
    """Return the lists of the images to train on and to score on that lie in a folder, if both do.

    These are texts whose names hold ``train``, and ``dev`` or ``val``.
    """
    lists = sorted(folder.glob("*.txt"))
    train = [path for path in lists if "train" in path.stem.lower()]
    dev = [
        path
        for path in lists
        if any(word in path.stem.lower() for word in ("dev", "val"))
    ]
    if len(train) == 1 and len(dev) == 1:
        return train[0], dev[0]
    return None


def names_in(path: Path) -> set[str]:
    """Return the names of images that a list holds, one a line. Raises DataError: it is none."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read as a list of names: {error}",
            path,
        ) from None
    return {line.strip() for line in lines if line.strip()}


def rows_named(
    cells: Sequence[Any],
    names: set[str],
) -> list[int]:
    """Return the rows whose image stands in a list, by its name or the last part of it."""
    return [
        row
        for row, cell in enumerate(cells)
        if str(cell) in names or Path(str(cell)).name in names
    ]
