"""Images that rows of a file name: found below a folder or in its archives, read where they lie."""

from __future__ import annotations

import functools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unrolled.core.errors import DataError
from unrolled.data.archives import BROKEN
from unrolled.data.clips import VIDEO_SUFFIXES
from unrolled.data.formats.base import Format, Row
from unrolled.data.image_files import ImageFile
from unrolled.data.lines import DAMAGE, Report, nfc
from unrolled.data.reader import Reader

Parts = list[tuple[int, str]]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
# names of folders that are parts of a data set and no labels
PARTS = frozenset(("train", "test", "dev", "valid", "val", "validation"))
# last words of the names of folders that lie beside those of the images
ANNOTATIONS = frozenset(
    ("annotation", "annotations", "captions", "labels", "questions", "text", "texts")
)
# names of the tables that say something of the images or videos beside them
TABLES = ("captions", "questions", "labels")


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(SUFFIXES)


def is_tar(path: Path) -> bool:
    """Whether a file is an archive of tar that is not packed, whose members lie side by side."""
    return path.suffix.lower() == ".tar"


class ImageFolder:
    """The images below a folder, in it and in its ``.tar`` archives, by their names (NFC).

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
                if name.startswith("."):
                    continue
                if is_image(name):
                    inner = path.relative_to(self.folder).as_posix()
                    images.setdefault(
                        nfc(inner),
                        ImageFile(inner, path),
                    )
                elif is_tar(path):
                    for member in members_of_tar(path):
                        images.setdefault(nfc(member.name), member)
        return images

    @functools.cached_property
    def folders(self) -> set[str]:
        """The folders in which images lie, by their paths; the folder itself is none of them."""
        return {str(Path(path).parent) for path in self.by_path} - {"."}

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
        direct = ImageFile.of(name, self.folder)
        if direct.is_there:
            return direct
        path = Path(nfc(name).removeprefix("./"))
        image = self.by_path.get(path.as_posix())
        # of a folder that is there without the image, none of another folder is meant
        if image is None and str(path.parent) not in self.folders:
            image = self.by_name.get(path.name)
            shared = image is None and path.name in self.by_name
            image = image or ImageFile(name, None, shared=shared)
        return ImageFile(name, None) if image is None else replace(image, name=name)


def members_of_tar(path: Path) -> list[ImageFile]:
    """Return the images in an archive, to be read in place. Raises DataError: it is damaged."""
    images = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and is_image(member.name):
                    images.append(
                        ImageFile(
                            member.name.removeprefix("./"),
                            path,
                            member.offset_data,
                            member.size,
                        )
                    )
            _refuse_rest(archive)
    except (tarfile.TarError, *BROKEN) as error:
        raise DataError(
            f"is no archive of tar that can be read: {error}; copy it anew, or unpack it where it "
            "is packed",
            path,
        ) from None
    return images


def _refuse_rest(archive: tarfile.TarFile) -> None:
    """Raise ReadError where something else than its end ended an archive, which is not said."""
    file: Any = archive.fileobj
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damage at byte {archive.offset:,}")


def with_images(
    reader: Reader, folder: Path, first: Sequence[tuple[Any, ...]]
) -> Reader:
    """Return a reader whose cells that name images hold where these are.

    A column names images where all of its first cells do by the ends of their names.

    Args:
        reader: of a table.
        folder: in which names are looked for, and where it is one of annotations, beside it.
        first: its first rows.
    """
    indices = columns_of_images(first)
    if not indices:
        return reader
    images = ImageFolder(folder)
    beside = ImageFolder(folder.absolute().parent)
    # of any other folder, those beside it are no part of the data
    words = re.split(r"[\W_]+", folder.absolute().name.lower())
    is_beside = words[-1] in ANNOTATIONS and beside.folder != beside.folder.parent

    # several rows may say something of one image
    @functools.cache
    def find(name: str) -> ImageFile:
        direct = ImageFile.of(name, folder)
        # folders are gone through only where a path leads to no image
        if direct.is_there:
            return direct
        outside = is_beside and not images.by_path
        return beside.find(name) if outside else images.find(name)

    def rows(report: Report) -> Iterator[Row]:
        for line, row in reader.rows(report):
            cells = list(row)
            for index in indices:
                if isinstance(cells[index], str) and cells[index]:
                    cells[index] = find(cells[index])
            yield line, tuple(cells)

    return replace(reader, rows=rows)


def columns_of_images(first: Sequence[tuple[Any, ...]]) -> list[int]:
    """Return the columns whose cells in the first rows name images."""
    indices = []
    for index in range(max(map(len, first), default=0)):
        cells = [row[index] for row in first if index < len(row)]
        filled = [cell for cell in cells if cell not in (None, "")]
        if filled and all(isinstance(cell, str) and is_image(cell) for cell in filled):
            indices.append(index)
    return indices


def table_beside_images(path: Path) -> Path | None:
    """Return the one table of a folder of images or videos; None where the folder is another kind.

    Lists of names, such as ``train_images.txt``, are none.

    Raises:
        DataError: several tables lie in it, of which each may be meant.
    """
    tables = []
    images = False
    for root, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                continue
            images = images or name.lower().endswith(
                (*SUFFIXES, *VIDEO_SUFFIXES, ".tar")
            )
            if name.lower().endswith((".tsv", ".csv", ".jsonl", ".json")):
                tables.append(Path(root, name))
    if not images:
        return None
    chosen = [table for table in tables if table.parent == path] or tables
    for name in TABLES:
        named = [table for table in chosen if table.stem.lower() == name]
        if named:
            chosen = named
            break
    if len(chosen) > 1 and chosen[0].parent == path:
        names = ", ".join(sorted(table.name for table in chosen))
        raise DataError(
            f"holds images and the tables {names}; give one of them as the data, and another one "
            "as data.dev where it is to be scored on; or, where folders are labels, take them out",
            path,
        )
    return chosen[0] if len(chosen) == 1 else None


def labelled_images(path: Path, parts: Parts) -> Reader | None:
    """Return the images of a folder of folders, labelled by these; None where there are none.

    Args:
        path: the folder.
        parts: takes the lines before each image, and its name.

    Raises:
        DataError: the folders are parts such as train and test, or one has no name in UTF-8.
    """
    images: list[tuple[str, ImageFile]] = []
    for file in sorted(path.glob("*/*")):
        hidden = file.name.startswith(".") or file.parent.name.startswith(".")
        if file.is_file() and is_image(file.name) and not hidden:
            inner = file.relative_to(path).as_posix()
            images.append((file.parent.name, ImageFile(inner, file)))
    if not images:
        return None
    _check_labels(path, {label for label, _ in images})
    for index, (_, image) in enumerate(images):
        parts.append((index, str(image.path)))

    def rows(report: Report) -> Iterator[Row]:
        for number, (label, image) in enumerate(images, 1):
            yield number, (image, nfc(label))

    return Reader(
        str(path),
        Format("folder"),
        ["image", "label"],
        rows,
    )


def _check_labels(path: Path, labels: set[str]) -> None:
    """Raise DataError where the folders of images cannot be labels."""
    for label in labels:
        if DAMAGE.search(label):
            raise DataError(
                "the name of this folder is a label, and is no UTF-8; rename it",
                path / label,
            )
    # with the year behind it, as in train2014
    parts = {label.lower().rstrip("0123456789_-") for label in labels}
    if len(labels) > 1 and parts <= PARTS:
        names = ", ".join(sorted(labels))
        raise DataError(
            f"the folders {names} are parts of a data set, not labels: put the images of each into "
            "folders by their labels, and give one part as the data and one as data.dev",
            path,
        )


def listed_parts(folder: Path) -> tuple[Path, Path] | None:
    """Return the lists of the images to train on and to score on that lie in a folder, if both do.

    These are texts whose names hold ``train``, and ``dev`` or ``val``; ``trainval`` is neither.
    """
    lists = [path for path in sorted(folder.glob("*.txt")) if path.name[0] != "."]
    train = {path for path in lists if "train" in path.stem.lower()}
    dev = {
        path
        for path in lists
        if any(word in path.stem.lower() for word in ("dev", "val"))
    }
    both = train & dev
    if len(train - both) == 1 and len(dev - both) == 1:
        return (train - both).pop(), (dev - both).pop()
    return None


def names_in(path: Path) -> set[str]:
    """Return the names of images (NFC) that a list holds, one a line. Raises DataError."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read as a list of names, one a line in UTF-8: {error}",
            path,
        ) from None
    return {nfc(line.strip()) for line in lines if line.strip()}


def rows_named(
    cells: Sequence[Any],
    names: set[str],
) -> list[int]:
    """Return the rows whose image stands in a list, by its name or the last part of it."""
    rows: list[int] = []
    for row, cell in enumerate(cells):
        name = nfc(str(cell))
        if name in names or Path(name).name in names:
            rows.append(row)
    return rows
