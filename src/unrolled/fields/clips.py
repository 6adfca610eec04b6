"""Clips of video as bytes of each frame, all of one size.

Shapes: T frames, C colours, H and W sides in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import shown
from unrolled.core.files import expanded
from unrolled.data.clips import ArrayClip, Clip, Frames
from unrolled.data.examples import Examples, FrameSpans, Ints
from unrolled.data.frame_store import FrameStore
from unrolled.data.image_files import is_file
from unrolled.data.labelled_clips import clip_at
from unrolled.fields.base import InvalidCell


@dataclass(frozen=True, slots=True)
class Clips:
    """A column of clips, whose frames are scaled to one size.

    Attributes:
        column: its name.
        height, width: sides of a frame as a model reads it.
        colours: 1 for grey, 3 for red, green and blue.
    """

    kind: ClassVar[str] = "clips"
    column: str
    height: int
    width: int
    colours: int

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column that is read."""
        return (self.column,)

    @classmethod
    def fit(
        cls,
        column: str,
        cells: Sequence[Any],
        size: int,
    ) -> Self:
        """Learn the size of frames: that of the first clip, with sides of at most ``size`` pixels.

        Raises:
            InvalidCell: no clip can be read.
        """
        error = InvalidCell(f"column {column!r} holds no clip")
        probe = cls(column, 0, 0, 0)
        for cell in cells:
            try:
                first = next(probe.stretches(probe.check(cell)))
            except StopIteration:
                continue
            except InvalidCell as invalid:
                error = invalid
                continue
            _, height, width, colours = first.shape
            scale = min(1.0, size / max(height, width))
            sides = (max(1, round(height * scale)), max(1, round(width * scale)))
            return cls(column, *sides, colours)
        raise error

    def check(self, cell: Any) -> Clip:
        """Return the clip of a cell. Raises InvalidCell: there is none."""
        if isinstance(cell, Clip):
            return cell
        if isinstance(cell, np.ndarray):
            return ArrayClip("frames", cell)
        if not isinstance(cell, str | os.PathLike) or not str(cell):
            raise InvalidCell(
                f"column {self.column!r} holds {shown(cell)} where a clip is expected"
            )
        path = expanded(cell)
        if is_file(path) or os.path.isdir(path):
            try:
                clip = clip_at(str(cell), path)
            except (OSError, ValueError, EOFError) as error:
                raise InvalidCell(
                    f"column {self.column!r}: {shown(str(cell))} is no array of frames (.npy): "
                    f"{error}"
                ) from None
            if clip is not None:
                return clip
        raise InvalidCell(
            f"column {self.column!r}: {shown(str(cell))} is no video, no array of frames (.npy) "
            "and no folder of images"
        )

    def stretches(self, clip: Clip) -> Iterator[Frames]:
        """Yield the frames of a clip as they are. Raises InvalidCell: they cannot be read."""
        try:
            yield from clip.frames()
        except (OSError, ValueError, MemoryError) as error:
            raise InvalidCell(f"{clip} cannot be read: {error}") from None

    def read(self, clip: Clip) -> Iterator[Frames]:
        """Yield frames as a model reads them (n, C, H, W), a stretch at a time.

        Raises:
            InvalidCell: they cannot be read.
        """
        for stretch in self.stretches(clip):
            yield self.scaled(stretch)

    def scaled(self, frames: Frames) -> Frames:
        """Return frames (n, H', W', C') as a model reads them (n, C, H, W)."""
        if frames.shape[3] != self.colours:
            frames = _coloured(frames, self.colours)
        if frames.shape[1:3] != (self.height, self.width):
            frames = np.stack([self._resized(frame) for frame in frames])
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))

    def _resized(self, frame: Frames) -> Frames:
        from PIL import Image as Pillow

        grey = frame.shape[2] == 1
        image = Pillow.fromarray(frame[:, :, 0] if grey else frame)
        size = (self.width, self.height)
        scaled = np.asarray(image.resize(size, Pillow.Resampling.BILINEAR))
        return scaled[:, :, None] if grey else scaled

    def check_to_predict(self, cells: Sequence[Any]) -> Frames:
        """Return all frames of a row that is to be answered. Raises InvalidCell."""
        return self.whole(self.check(cells[0]))

    def whole(self, clip: Clip) -> Frames:
        """Return all frames of a clip (T, C, H, W). Raises InvalidCell: there are none."""
        store = FrameStore()
        self.read_into(store, clip)
        return store.frames()

    def read_into(
        self,
        store: FrameStore,
        clip: Clip,
    ) -> int:
        """Append all frames of a clip, and return how many. Raises InvalidCell: there are none."""
        before = len(store)
        for stretch in self.read(clip):
            store.append(stretch)
        if len(store) == before:
            raise InvalidCell(f"{clip} has no frames")
        return len(store) - before

    def examples(
        self,
        rows: Sequence[Frames],
        lines: Ints,
    ) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        store = FrameStore()
        for frames in rows:
            store.append(frames)
        return self.stored(store, [len(frames) for frames in rows], lines)

    @staticmethod
    def stored(
        store: FrameStore,
        lengths: Sequence[int],
        lines: Ints,
    ) -> Examples:
        """Return the clips of a store as a model reads them.

        Args:
            store: frames of N clips one after another.
            lengths: how many each has (N,).
            lines: on which they stand (N,).
        """
        ends = np.cumsum(np.array(lengths, dtype=np.int64))
        clips = FrameSpans(
            store.frames(),
            np.append(0, ends[:-1]),
            np.diff(ends, prepend=0),
        )
        return Examples(lines, clips=clips)

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return {
            "column": self.column,
            "height": self.height,
            "width": self.width,
            "colours": self.colours,
        }

    @classmethod
    def from_json(
        cls,
        values: dict[str, Any],
        folder: Path | None = None,
    ) -> Self:
        """Read the field back."""
        sizes = (values["height"], values["width"], values["colours"])
        return cls(values["column"], *sizes)


def _coloured(frames: Frames, colours: int) -> Frames:
    """Return frames (n, H, W, C) in so many colours."""
    if colours == 3:
        return np.repeat(frames, 3, axis=3)
    # what looks equally bright (ITU-R BT.601)
    weights: NDArray[np.float32] = np.array(
        [0.299, 0.587, 0.114],
        dtype=np.float32,
    )
    grey = (frames.astype(np.float32) @ weights).round()
    return grey.astype(np.uint8)[..., None]
