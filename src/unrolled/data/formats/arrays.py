"""Arrays of numpy (.npz): clips of frames, with a label for each frame.

``frames`` (N, T, H, W) or (N, T, H, W, 3), ``labels`` (N, T) with -1 where there is none, and
``lengths`` (N,), the real frames of each clip; names of the labels in ``names`` (L,), or under
``labels`` in a file ``meta.json`` beside it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError
from unrolled.data.archives import BROKEN
from unrolled.data.clips import ArrayClip, NumberedLabel, load_arrays
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.lines import Report

FRAMES = "frames"
LABELS = "labels"
LENGTHS = "lengths"
NAMES = "names"
META = "meta.json"


def is_arrays(path: Path) -> bool:
    """Whether a zip archive holds arrays of numpy."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except BROKEN:
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


class ArraysFormat(FileFormat):
    """A row a clip: its frames, and the labels of its frames where these are given."""

    kind = "arrays"
    title = "arrays of numpy"
    suffixes = ("npz",)
    tabular = True
    encoded = False
    bounded = False

    def sniff(self, head: Head) -> Sniffed | None:
        if not head.bytes.startswith(b"PK\x03\x04") or not is_arrays(head.origin.path):
            return None
        with zipfile.ZipFile(head.origin.path) as archive:
            names = {Path(name).stem for name in archive.namelist()}
        if FRAMES not in names:
            raise DataError(
                f"holds {', '.join(sorted(names))} and no array {FRAMES!r}; name the frames "
                f"{FRAMES} (N, T, H, W), their labels {LABELS} (N, T)",
                head.name,
            )
        columns = [FRAMES, *([LABELS] if LABELS in names else [])]
        return Sniffed(Format(self.kind, lists=tuple(columns[1:])), columns)

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        path = file.origin.path
        arrays = load_arrays(path)
        frames = arrays[FRAMES]
        _check(path, arrays)
        labels = arrays.get(LABELS)
        names = None if labels is None else names_of(path, arrays, labels)
        lengths = arrays.get(LENGTHS)
        for number in range(len(frames)):
            length = frames.shape[1] if lengths is None else int(lengths[number])
            clip = ArrayClip(f"{path.name}[{number}]", frames[number, :length])
            if labels is None or names is None:
                yield number + 1, (clip,)
                continue
            cells: list[str] = []
            for label in labels[number, :length].tolist():
                named = "" if label < 0 else NumberedLabel(names[label], label)
                cells.append(named)
            yield number + 1, (clip, cells)


def _check(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Raise DataError where the shapes of arrays do not fit each other."""
    frames = arrays[FRAMES]
    if frames.ndim not in (4, 5):
        raise DataError(
            f"this is an archive of NumPy arrays, and {FRAMES} has the shape {frames.shape}; "
            "expected (N, T, H, W) or (N, T, H, W, 3)",
            path,
        )
    for name in (LABELS, LENGTHS):
        if name in arrays and arrays[name].dtype.kind not in "iu":
            raise DataError(
                f"{name} holds {arrays[name].dtype} where whole numbers are expected",
                path,
            )
    labels = arrays.get(LABELS)
    if labels is not None and labels.shape != frames.shape[:2]:
        raise DataError(
            f"{LABELS} has the shape {labels.shape}, and {FRAMES} {frames.shape}; give a label "
            "to every frame, -1 where there is none",
            path,
        )
    lengths = arrays.get(LENGTHS)
    if lengths is None:
        return
    most = frames.shape[1]
    if lengths.shape != (len(frames),) or lengths.min(initial=0) < 0:
        raise DataError(
            f"{LENGTHS} has no length of each of the {len(frames)} clips: its shape is "
            f"{lengths.shape}, and no length is below 0",
            path,
        )
    if lengths.max(initial=0) > most:
        first = int(np.argmax(lengths > most))
        raise DataError(
            f"{LENGTHS} says {int(lengths[first])} frames of clip {first}, and there are {most}",
            path,
        )


def names_of(
    path: Path, arrays: dict[str, NDArray[Any]], labels: NDArray[Any]
) -> list[str]:
    """Return the names of labels by their numbers. Raises DataError: there are too few."""
    count = int(labels.max(initial=-1)) + 1
    names: list[str] | None = None
    if NAMES in arrays:
        names = [_text(name) for name in arrays[NAMES].ravel().tolist()]
    meta = path.with_name(META)
    if names is None and meta.is_file():
        try:
            content = json.loads(meta.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot be read as JSON: {error}", meta) from None
        for key in ("names", "labels", "label_names"):
            listed = content.get(key) if isinstance(content, dict) else None
            if isinstance(listed, list):
                names = [str(name) for name in listed]
                break
    if names is None:
        return [str(number) for number in range(count)]
    if len(names) < count:
        raise DataError(
            f"{LABELS} holds {count - 1}, and there are {len(names)} names of labels; name them "
            f"all in {NAMES}, or in {META} beside it",
            path,
        )
    return names


def _text(name: Any) -> str:
    """Return a name, which may be bytes."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
