"""Captions of images as COCO and Karpathy's splits write them: one JSON object of images.

COCO: ``images`` with ``id`` and ``file_name``, ``annotations`` with ``image_id`` and ``caption``.
Karpathy and Fei-Fei 2015: ``images`` with ``filename``, ``split`` and ``sentences``, each ``raw``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from unrolled.core.errors import DataError, cut
from unrolled.data.archives import Origin
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.formats.json_array import is_one_object
from unrolled.data.lines import Report, nfc

LARGEST = 1 << 30  # bytes that are read at once
CUT_OFF = 5  # characters before the end of a file in which its last word may begin
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
        said: dict[str, list[Any]] = {}
        for annotation in content.get("annotations") or []:
            if isinstance(annotation, dict) and CAPTION in annotation:
                said.setdefault(_key(annotation.get("image_id")), []).append(
                    annotation[CAPTION]
                )
        number = 0
        known: set[str] = set()
        for image in content["images"]:
            key = _key(image.get("id"))
            known.add(key)
            captions = said.get(key, []) + _sentences(image)
            cells = {IMAGE: _path(image), SPLIT: image.get(SPLIT)}
            for caption in captions:
                number += 1
                cells[CAPTION] = nfc(caption) if isinstance(caption, str) else caption
                yield number, tuple(cells[column] for column in file.columns)
        for image_id in said:
            if image_id in known:
                continue
            number += 1
            report(
                DataError(
                    f"a caption is of the image {cut(image_id, 60)}, which is not there",
                    file.name,
                    number,
                )
            )


def _key(image_id: Any) -> str:
    """Return by what images are known: their numbers or names, whatever a file has there."""
    return json.dumps(image_id, sort_keys=True)


def _path(image: dict[str, Any]) -> Any:
    """Return the name of an image, behind that of its folder."""
    name = image.get("file_name", image.get("filename"))
    if not isinstance(name, str):
        return name
    folder = image.get("filepath")
    return nfc(f"{folder}/{name}" if folder else name)


def _sentences(image: dict[str, Any]) -> list[Any]:
    """Return what Karpathy's form says of an image."""
    captions: list[Any] = []
    for sentence in image.get("sentences") or []:
        if isinstance(sentence, dict):
            words = " ".join(map(str, sentence.get("tokens") or []))
            captions.append(sentence.get("raw", words))
        else:
            captions.append(sentence)
    return captions


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
    except json.JSONDecodeError as error:
        left = len(error.doc.rstrip()) - error.pos
        at_end = left < CUT_OFF and error.msg != "Extra data"
        if at_end or error.msg.startswith("Unterminated"):
            raise DataError(
                "this JSON object has no end; copy the file anew",
                origin.name,
                error.lineno,
            ) from None
        return None
    except (ValueError, RecursionError):
        return None
