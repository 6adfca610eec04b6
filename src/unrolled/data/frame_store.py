"""Frames of many clips one after another, in memory while they are few and then in a file.

Shapes: S frames of all clips, C colours, H and W sides in pixels.
"""

from __future__ import annotations

import tempfile
import weakref
from typing import IO

import numpy as np

from unrolled.core.errors import UserError
from unrolled.data.clips import Frames

IN_MEMORY = 512 << 20  # bytes of frames that are kept in memory


class FrameStore:
    """What was read of clips, so that recordings may be longer than memory.

    Beyond ``limit`` bytes frames go to a file without a name, in the folder for temporary files
    (TMPDIR; on a disk, not in memory), which is gone with the program.

    Args:
        limit: bytes that are kept in memory.
    """

    def __init__(self, limit: int = IN_MEMORY) -> None:
        self._limit = limit
        self._parts: list[Frames] = []
        self._held = 0
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] | None = None
        self._count = 0

    def __len__(self) -> int:
        """How many frames are kept."""
        return self._count

    def append(self, frames: Frames) -> None:
        """Keep frames (n, C, H, W), all of one size.

        Raises:
            UserError: there is no space left for them.
        """
        self._shape = frames.shape[1:]
        self._count += len(frames)
        if self._file is None and self._held + frames.nbytes <= self._limit:
            self._parts.append(frames)
            self._held += frames.nbytes
            return
        try:
            if self._file is None:
                # it is open as long as the store: a mapping of it is what is read
                self._file = tempfile.TemporaryFile(prefix="unrolled-frames-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)
                for part in self._parts:
                    self._file.write(_content(part))
                self._parts = []
            self._file.write(_content(frames))
        except OSError as error:
            raise UserError(
                f"frames cannot be kept in {tempfile.gettempdir()}: {error.strerror}; set TMPDIR "
                "to a folder with more space, or encoder.size to fewer pixels"
            ) from None

    def cut(self, count: int) -> None:
        """Forget all frames but the first ``count``."""
        if count == self._count:
            return
        if self._file is not None:
            assert self._shape is not None
            self._file.truncate(count * int(np.prod(self._shape)))
            self._file.seek(0, 2)
        else:
            extra = self._count - count
            while extra:
                last = self._parts.pop()
                self._held -= last.nbytes
                if len(last) > extra:
                    # a copy: a view would keep what is forgotten
                    last = last[:-extra].copy()
                    self._parts.append(last)
                    self._held += last.nbytes
                    break
                extra -= len(last)
        self._count = count

    def frames(self) -> Frames:
        """Return all frames (S, C, H, W); of a file what is looked at alone is read."""
        assert self._shape is not None
        if self._file is None:
            self._parts = [np.concatenate(self._parts)]
            return self._parts[0]
        self._file.flush()
        shape = (self._count, *self._shape)
        return np.memmap(self._file, dtype=np.uint8, mode="r", shape=shape)


def _content(frames: Frames) -> memoryview:
    """Return the bytes of frames, without a copy where they lie one after another."""
    return np.ascontiguousarray(frames).data.cast("B")
