"""Video as frames: arrays, folders of images and video files, read a stretch at a time.

Shapes: T frames, H and W their sides in pixels, C colours: 1 of grey, or 3.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError, UserError
from unrolled.data.archives import BROKEN
from unrolled.data.image_files import ImageFile

Frames = NDArray[np.uint8]
VIDEO_SUFFIXES = (".mp4", ".mpg", ".mpeg", ".avi", ".webm", ".mov", ".mkv", ".m4v")
STRETCH = 64  # frames that are handed on together
INSTALL = "videos are read by PyAV: pip install 'unrolled[vision]'"


class Clip(ABC):
    """Frames of one recording.

    Attributes:
        name: what errors and reports call it.
    """

    name: str

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def frames(self) -> Iterator[Frames]:
        """Yield all frames, at most ``STRETCH`` at a time (n, H, W, C), in their order.

        Raises:
            OSError, ValueError: they cannot be read.
        """

    @property
    def rate(self) -> float | None:
        """Frames a second, where that is known."""
        return None


@dataclass(frozen=True, slots=True)
class ArrayClip(Clip):
    """A clip of an array of frames (T, H, W) or (T, H, W, C), bytes or numbers from 0 to 1."""

    name: str
    values: NDArray[Any]

    def __str__(self) -> str:
        return self.name

    def __len__(self) -> int:
        return len(self.values)

    def frames(self) -> Iterator[Frames]:
        """Yield all frames; see the base class."""
        refuse_shape(self.values)
        for start in range(0, len(self.values), STRETCH):
            yield as_frames(self.values[start : start + STRETCH])


@dataclass(frozen=True, slots=True)
class FolderClip(Clip):
    """A clip whose frames are the images of a folder, in the order of their names."""

    name: str
    files: tuple[Path, ...]

    @classmethod
    def of(cls, name: str, files: Sequence[Path]) -> Self | None:
        """Return the clip of the images of a folder, frame2 before frame10; None without any."""
        shown = [file for file in files if not file.name.startswith(".")]
        return cls(name, tuple(sorted(shown, key=_by_number))) if shown else None

    def __str__(self) -> str:
        return self.name

    def __len__(self) -> int:
        return len(self.files)

    def frames(self) -> Iterator[Frames]:
        """Yield all frames; see the base class."""
        shape: tuple[int, ...] | None = None
        for start in range(0, len(self.files), STRETCH):
            part: list[Frames] = []
            for file in self.files[start : start + STRETCH]:
                frame = _frame_of(file)
                shape = shape or frame.shape
                if frame.shape != shape:
                    height, width = frame.shape[:2]
                    raise ValueError(
                        f"its frames differ in size: {file.name} has {width} x {height} pixels, "
                        f"and those before it {shape[1]} x {shape[0]}"
                    )
                part.append(frame)
            yield np.stack(part)


@dataclass(frozen=True)
class VideoClip(Clip):
    """A clip of a video file, upright as it is to be shown."""

    name: str
    path: Path

    def frames(self) -> Iterator[Frames]:
        """Yield all frames; see the base class."""
        part: list[Frames] = []
        times: list[float] = []
        for time, frame in self.timed():
            times.append(time)
            part.append(frame)
            if len(part) == STRETCH:
                yield np.stack(part)
                part = []
        if part:
            yield np.stack(part)
        # whoever has looked at all frames need not decode them again for their times
        self.__dict__["times"] = np.array(times)

    @functools.cached_property
    def times(self) -> NDArray[np.float64]:
        """When each frame is shown (T,), in seconds from the start: a rate may be variable."""
        return np.array([time for time, _ in self.timed()])

    def timed(self) -> Iterator[tuple[float, Frames]]:
        """Yield each frame (H, W, 3) with the second from the start at which it is shown."""
        try:
            import av
        except ImportError:
            raise UserError(INSTALL) from None
        try:
            # a relative path with a colon would be read as an address
            with av.open(str(self.path.absolute())) as container:
                if not container.streams.video:
                    raise ValueError("it holds no video")
                stream = container.streams.video[0]
                # recordings of a broadcast begin at any time
                start = (container.start_time or 0) / av.time_base
                for number, frame in enumerate(container.decode(stream)):
                    pixels = frame.to_ndarray(format="rgb24")
                    turns = round(-(frame.rotation or 0) / 90) % 4
                    if frame.time is None:
                        time = number / float(stream.average_rate or 25)
                    else:
                        time = float(frame.time) - start
                    yield time, np.ascontiguousarray(np.rot90(pixels, -turns))
        except av.error.FFmpegError as error:
            raise OSError(f"{error.strerror or error}") from None


def _by_number(file: Path) -> tuple[list[Any], str]:
    """Return what files are sorted by: frame2.png stands before frame10.png."""
    parts = re.split(r"([0-9]+)", file.stem)
    # text and digits take turns, so that the parts of two names are of one kind
    by_value = [int(part) if index % 2 else part for index, part in enumerate(parts)]
    return by_value, file.name


def _frame_of(file: Path) -> Frames:
    """Return the pixels of an image (H, W, 3). Raises ValueError: it cannot be read."""
    from unrolled.data.pixels import read_pixels

    try:
        return np.asarray(read_pixels(ImageFile.of(file).read()))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"its frame {file.name}: {error}") from None


def refuse_shape(values: NDArray[Any]) -> None:
    """Raise ValueError where an array holds no frames of bytes or numbers."""
    shape = values.shape
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if not fits or 0 in shape[1:]:
        raise ValueError(
            f"expected frames of shape (T, H, W), or (T, H, W, 3), got {shape}"
        )
    if values.dtype.kind not in "buif":
        raise ValueError(f"expected frames of numbers, got {values.dtype}")


class NumberedLabel(str):
    """The name of a label that its file holds as a number.

    Attributes:
        number: which; where a file names none, the name is the number itself.
    """

    number: int

    def __new__(cls, name: str, number: int) -> Self:
        """Return a name with its number."""
        label = super().__new__(cls, name)
        label.number = number
        return label

    @property
    def is_named(self) -> bool:
        """Whether the file says what the number stands for."""
        return str(self) != str(self.number)


def as_frames(values: NDArray[Any]) -> Frames:
    """Return frames as bytes (n, H, W, C). Raises ValueError: the numbers are none."""
    refuse_shape(values)
    if values.ndim == 3:
        values = values[..., None]
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError("expected numbers from 0 to 1, or bytes from 0 to 255")
        return (values * 255).round().astype(np.uint8)
    if values.min() < 0 or values.max() > 255:
        raise ValueError("expected bytes from 0 to 255")
    return values.astype(np.uint8)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a ``.npz``, by their names. Raises DataError: it cannot be read."""
    arrays: dict[str, NDArray[Any]] = {}
    reading = "the archive"
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            for name in file.files:
                reading = f"the array {name!r}"
                arrays[name] = file[name]
    # an object array is a pickle, which can run code
    except (*BROKEN, KeyError, MemoryError) as error:
        raise DataError(
            f"{reading} cannot be read: {error}; write it anew as numbers, or as texts",
            path,
        ) from None
    return arrays
