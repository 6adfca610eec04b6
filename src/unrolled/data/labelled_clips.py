"""Clips of video that rows of a table name, with a label for each frame or for stretches of time.

A table of a clip, ``start``, ``end`` and a label has a row for each stretch, several of a clip; one
of a clip and its labels has a row a clip, whose labels are a list or stand apart by blanks. Tables
of more columns are about other things.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.core.errors import DataError, shown
from unrolled.core.files import expanded
from unrolled.data.clips import VIDEO_SUFFIXES, ArrayClip, Clip, FolderClip, VideoClip
from unrolled.data.column_names import LABEL_NAMES
from unrolled.data.formats.base import Row
from unrolled.data.lines import Report
from unrolled.data.pictures import PARTS, columns_of_images, is_image
from unrolled.data.reader import Reader

START = "start"
END = "end"
ROUNDING = 0.001  # seconds


class SegmentLabels(list[str]):
    """The labels of stretches of a clip, in the order of their time.

    Attributes:
        times: first and last second of each, from the start of the clip.
    """

    def __init__(self, labels: Sequence[str], times: Sequence[tuple[float, float]]):
        super().__init__(labels)
        self.times = list(times)

    def of_frames(self, clip: Clip) -> list[str | None]:
        """Return the label of each frame of a clip, None between stretches.

        A stretch begins with the first frame that is shown at its start or later, and ends before
        the one that is shown at its end, but for a millisecond: times of frames are rounded.

        Raises:
            ValueError: nobody knows when frames are shown, or a stretch begins after the last.
            OSError: the clip cannot be read.
        """
        if not isinstance(clip, VideoClip):
            raise ValueError(
                f"{clip} is no video, whose frames have times; label each frame by itself"
            )
        times = clip.times
        labels: list[str | None] = [None] * len(times)
        for label, (start, end) in zip(self, self.times, strict=True):
            first, last = np.searchsorted(
                times, [start - ROUNDING, end - ROUNDING]
            ).tolist()
            if first == len(times):
                shown_until = times[-1] if len(times) else 0
                raise ValueError(
                    f"{label!r} begins at {start:g} s, after the last frame of {clip} at "
                    f"{shown_until:g} s"
                )
            labels[first:last] = [label] * (last - first)
        return labels


def clip_at(name: str, path: Path) -> Clip | None:
    """Return the video, the array or the folder of images at a path; None where none is there.

    Raises:
        OSError, ValueError: an array cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES and not os.path.isdir(path):
        return VideoClip(name, path)
    if suffix == ".npy" and path.is_file():
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(values, np.ndarray):
            return ArrayClip(name, values)
        values.close()
        raise ValueError("it is an archive of arrays (.npz)")
    if os.path.isdir(path):
        files = [file for file in path.iterdir() if is_image(file.name)]
        return FolderClip.of(name, files)
    return None


def with_clips(
    reader: Reader, folder: Path, first: Sequence[tuple[Any, ...]]
) -> Reader:
    """Return a reader whose first column that names clips holds them, a row a clip.

    A column names clips where all of its first cells do: videos by the ends of their names, of
    which one is there at least, or folders of images that lie in ``folder``, each named once.

    Args:
        reader: of a table.
        folder: in which clips are looked for.
        first: its first rows.

    Raises:
        DataError: there is a start or an end of stretches, and not both, or no label.
    """
    lowered = [name.strip().lower() for name in reader.columns]
    ends = [name for name in (START, END) if name in lowered]
    # folders beside images are the parts that these lie in
    if len(lowered) != 2 + len(ends) or columns_of_images(first):
        return reader
    index = _column_of_clips(first, folder, may_repeat=bool(ends))
    if index is None:
        return reader
    if len(ends) == 1:
        missing = END if ends == [START] else START
        raise DataError(
            f"has a column {ends[0]!r} and none that is called {missing!r}: stretches of a clip "
            "have both, in seconds",
            reader.name,
        )
    if ends:
        return _of_segments(reader, folder, index, lowered)

    def rows(report: Report) -> Iterator[Row]:
        for line, row in reader.rows(report):
            cells = list(row)
            cells[index] = _located(cells[index], folder)
            yield line, tuple(cells)

    return replace(reader, rows=rows)


def _located(cell: Any, folder: Path) -> Any:
    """Return the clip that a cell names; where there is none, its path, of which an error tells."""
    if not isinstance(cell, str) or not cell:
        return cell
    path = folder / expanded(cell)
    with contextlib.suppress(OSError, ValueError, EOFError):
        return clip_at(cell, path) or str(path)
    return str(path)


def _column_of_clips(
    first: Sequence[tuple[Any, ...]], folder: Path, may_repeat: bool
) -> int | None:
    for index in range(max(map(len, first), default=0)):
        cells = [row[index] for row in first if index < len(row)]
        named = [cell for cell in cells if isinstance(cell, str) and cell]
        if named and len(named) == len(cells):
            distinct = dict.fromkeys(named)
            if PARTS.issuperset(distinct):
                continue
            is_repeated = len(distinct) < len(named)
            if (is_repeated and not may_repeat) or _are_ways(distinct):
                continue
            clips = [_located(cell, folder) for cell in distinct]
            are_clips = all(isinstance(clip, Clip) for clip in clips)
            if are_clips and any(os.path.exists(folder / cell) for cell in distinct):
                return index
    return None


def _are_ways(cells: Iterable[str]) -> bool:
    """Whether cells lead out of a folder, or to itself, and name nothing in it."""
    return any(Path(cell).name in ("", "..") or cell == "~" for cell in cells)


@dataclass(slots=True)
class _Segments:
    """The stretches of one clip, and the line of the first."""

    line: int
    labels: list[str]
    times: list[tuple[float, float]]


def _of_segments(
    reader: Reader, folder: Path, index: int, lowered: list[str]
) -> Reader:
    """Return a reader of a row a clip, made of a row a stretch."""
    start = lowered.index(START)
    end = lowered.index(END)
    others = [n for n in range(len(lowered)) if n not in (index, start, end)]
    named = [n for n in others if lowered[n] in LABEL_NAMES] or others[:1]
    if not named:
        raise DataError(
            "has clips with a start and an end, and no column of labels", reader.name
        )
    label = named[0]

    def rows(report: Report) -> Iterator[Row]:
        segments: dict[str, _Segments] = {}
        for line, row in reader.rows(report):
            name = str(row[index])
            try:
                stretch = _times(row[start], row[end])
                text = str(row[label] or "").strip()
                if not text:
                    raise ValueError(f"column {reader.columns[label]!r} is empty")
            except ValueError as error:
                report(DataError(str(error), reader.name, line))
                continue
            of_clip = segments.setdefault(name, _Segments(line, [], []))
            of_clip.labels.append(text)
            of_clip.times.append(stretch)
        for name, of_clip in segments.items():
            order = sorted(range(len(of_clip.times)), key=of_clip.times.__getitem__)
            times = [of_clip.times[n] for n in order]
            overlap = _overlap(times)
            if overlap:
                report(
                    DataError(f"{shown(name)}: {overlap}", reader.name, of_clip.line)
                )
                continue
            labels = SegmentLabels([of_clip.labels[n] for n in order], times)
            yield of_clip.line, (_located(name, folder), labels)

    columns = [reader.columns[index], reader.columns[label]]
    return replace(reader, columns=columns, rows=rows)


def _times(start: Any, end: Any) -> tuple[float, float]:
    """Return the seconds of a stretch. Raises ValueError: they are none."""
    seconds = []
    for name, cell in ((START, start), (END, end)):
        try:
            value = float(cell)
        except (TypeError, ValueError):
            value = float("nan")
        if not 0 <= value < float("inf"):
            raise ValueError(f"column {name!r} holds {shown(str(cell))}, no seconds")
        seconds.append(value)
    first, last = seconds
    if first >= last:
        raise ValueError(f"a stretch from {first:g} s to {last:g} s has no length")
    return first, last


def _overlap(times: Sequence[tuple[float, float]]) -> str:
    for (_, end), (start, _) in itertools.pairwise(times):
        if start < end:
            return f"stretches overlap: one ends at {end:g} s, the next begins at {start:g} s"
    return ""
