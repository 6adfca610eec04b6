"""Captions of images as COCO and Karpathy's splits write them: one JSON object of images.

COCO: ``images`` with ``id`` and ``file_name``, ``annotations`` with ``image_id`` and ``caption``.
Karpathy and Fei-Fei 2015: ``images`` with ``filename``, ``split`` and ``sentences``, each ``raw``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from unrolled.core.errors import DataError, shown
from unrolled.data.archives import Origin
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.formats.json_array import is_one_object
from unrolled.data.lines import Report

LARGEST = 1 << 30  # bytes that are read at once
IMAGE = "image"
CAPTION = "caption"
SPLIT = "split"
_BEGINNING = re.compile(
    r'\s*\{\s*"(images|annotations|info|dataset|licenses|type)"\s*:'
)


class CaptionsJsonFormat(FileFormat):
    """A row a caption, in the order of the images."""

    kind = "captions_json"
    title = "captions of images (JSON)"
    suffixes = ("json",)
    bounded = False

    def sniff(self, head: Head) -> Sniffed | None:
        if not _BEGINNING.match(head.start) or not is_one_object(head):
            return None
        content = _load(head.origin)
        if not _has_captions(content):
            return None
        columns = [IMAGE, CAPTION]
        if any(SPLIT in image for image in content["images"][:1]):
            columns.append(SPLIT)
        return Sniffed(Format(self.kind, gzip=head.origin.gzip), columns)

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        content = _load(file.origin)
        said: dict[Any, list[Any]] = {}
        for annotation in content.get("annotations", []):
            if isinstance(annotation, dict) and CAPTION in annotation:
                said.setdefault(annotation.get("image_id"), []).append(
                    annotation[CAPTION]
                )
        number = 0
        known: set[Any] = set()
        for image in content["images"]:
            name = image.get("file_name", image.get("filename"))
            captions = list(said.get(image.get("id"), []))
            known.add(image.get("id"))
            captions += [
                sentence.get("raw", " ".join(map(str, sentence.get("tokens", []))))
                for sentence in image.get("sentences", [])
            ]
            folder = image.get("filepath")
            path = f"{folder}/{name}" if folder else name
            for caption in captions:
                number += 1
                cells = {IMAGE: path, CAPTION: caption, SPLIT: image.get(SPLIT)}
                yield number, tuple(cells[column] for column in file.columns)
        for image_id in said.keys() - known:
            number += 1
            report(
                DataError(
                    f"a caption is of the image {shown(image_id)}, which is not there",
                    file.name,
                    number,
                )
            )


def _has_captions(content: Any) -> bool:
    """Whether an object holds images, and captions of them."""
    if not isinstance(content, dict):
        return False
    images = content.get("images")
    if not isinstance(images, list) or not images:
        return False
    if not all(isinstance(image, dict) for image in images):
        return False
    if any("sentences" in image for image in images[:1]):
        return True
    annotations = content.get("annotations")
    return isinstance(annotations, list) and any(
        isinstance(annotation, dict) and CAPTION in annotation
        for annotation in annotations[:20]
    )


def _load(origin: Origin) -> Any:
    """Return what a file holds; None where it is no JSON, which other formats say better."""
    with origin.open() as raw:
        content = raw.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(
            f"captions of more than {LARGEST >> 30} GB would be held in memory as a whole; write "
            "them as a table of image and caption",
            origin.name,
        )
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
