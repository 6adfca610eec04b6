"""Frames of video labelled as they come: a state carried along, and nothing that grows.

Shapes: C colours, H and W sides in pixels of a frame as it comes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from unrolled.core.errors import UserError
from unrolled.data.clips import as_frames
from unrolled.data.pixels import read_pixels
from unrolled.models import Aligned
from unrolled.nn.image_encoder import PooledImages
from unrolled.nn.streaming import open_stream
from unrolled.runs.predictor import Predictor
from unrolled.tasks.base import Prediction

READ = 1 << 16  # bytes that are taken of a stream at once
LARGEST = 1 << 26  # bytes of one image in a stream
# what an image of JPEG begins with, and the marks that matter in it (ITU-T T.81, B.1)
START = b"\xff\xd8"
SCAN = 0xDA
END = 0xD9
ALONE = {0x01, *range(0xD0, 0xD9)}  # marks without a length behind them
BETWEEN = b"\x00\n\r "  # what some programs write between two images


class LiveFrames:
    """Labels frames one after another, each with what was seen before it.

    Args:
        predictor: of a run that labels frames, of a layer that reads forward alone.

    Raises:
        UserError: it is another run, or its layer reads ahead.
    """

    def __init__(self, predictor: Predictor) -> None:
        task = predictor.task
        model = predictor.model
        if task.clips is None or not isinstance(model, Aligned):
            raise UserError(
                f"a run that was trained to {task.name} labels no frames of video"
            )
        if not model.layer.causal:
            raise UserError(
                "this run reads each clip in both directions, so that a frame cannot be labelled "
                "before the last one has come; train it with model.bidirectional=false"
            )
        self.names = task.class_names
        self.field = task.clips
        self.model = model
        self.seconds: list[float] = []
        self._stream = open_stream(model.layer, 1, "float32")
        self._embedding = copy.deepcopy(cast(PooledImages, model.embedding))
        self._embedding.encoder = self._embedding.encoder.for_evaluation()

    @torch.no_grad()
    def push(self, frame: NDArray[np.uint8]) -> Prediction:
        """Return the label of the next frame (H, W) or (H, W, C).

        Raises:
            UserError: it is no frame.
        """
        began = time.perf_counter()
        if frame.ndim == 2:
            frame = frame[..., None]
        if frame.ndim != 3 or frame.shape[2] not in (1, 3):
            raise UserError(
                f"expected a frame (H, W) or (H, W, 3), got one of shape {frame.shape}"
            )
        try:
            frames = self.field.scaled(as_frames(frame[None]))
        except ValueError as error:
            raise UserError(f"this is no frame: {error}") from None
        # a copy: what a stream gave may be read alone, which torch has no tensors of
        pixels = torch.from_numpy(frames.copy()).to(self._stream.input.device)
        vector = self._embedding(pixels)
        try:
            output = self._stream.step(vector.float())
        except ValueError as error:
            raise UserError(f"{error}; reset() begins a new recording") from None
        scores = self.model.head(output)[0].softmax(-1)
        best = int(scores.argmax())
        self.seconds.append(time.perf_counter() - began)
        del self.seconds[:-1000]
        probability = float(scores[best])
        return Prediction(self.names[best], probability)

    def reset(self) -> None:
        """Begin a new recording."""
        self._stream.reset()

    @property
    def latency(self) -> float:
        """The median seconds of a frame, of the last thousand."""
        return float(np.median(self.seconds)) if self.seconds else 0.0


def raw_frames(
    stream: IO[bytes], shape: tuple[int, ...]
) -> Iterator[NDArray[np.uint8]]:
    """Yield frames of bytes that follow each other, each of a shape (H, W) or (H, W, C).

    Raises:
        UserError: the last one is cut off.
    """
    size = int(np.prod(shape))
    while True:
        content = _exactly(stream, size)
        if not content:
            return
        if len(content) < size:
            raise UserError(
                f"the last frame has {len(content):,} bytes of {size:,}: is --shape right?"
            )
        yield np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """Return so many bytes, fewer at the end of a stream."""
    content = bytearray()
    while len(content) < size:
        part = stream.read(size - len(content))
        if not part:
            break
        content += part
    return bytes(content)


def jpeg_frames(stream: IO[bytes]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of a stream of JPEG that follow each other, as cameras send them.

    Raises:
        UserError: what comes is no JPEG, or an image is broken.
    """
    for content in _images_of_jpeg(stream):
        try:
            yield np.asarray(read_pixels(content))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"a frame cannot be read as an image: {error}") from None


def _images_of_jpeg(stream: IO[bytes]) -> Iterator[bytes]:
    held = bytearray()
    while True:
        if held[:1] and held[0] in BETWEEN:
            held = held.lstrip(BETWEEN)
        end = _end_of_jpeg(held)
        if end is not None:
            yield bytes(held[:end])
            del held[:end]
            continue
        if len(held) > LARGEST:
            raise UserError(f"an image of more than {LARGEST >> 20} MB is no frame")
        part = _some(stream)
        if not part:
            if held:
                raise UserError("the last image is cut off")
            return
        held += part


def _some(stream: IO[bytes]) -> bytes:
    """Return what has come, and wait only where nothing has."""
    reader: Any = getattr(stream, "read1", stream.read)
    return cast(bytes, reader(READ))


def _end_of_jpeg(held: bytearray) -> int | None:
    """Return where the first image ends; None where it is not there yet.

    Segments are passed over by their lengths: a picture in the description of another ends with
    the same mark.

    Raises:
        UserError: the bytes are no JPEG.
    """
    if len(held) < 2:
        return None
    if bytes(held[:2]) != START:
        raise UserError(
            "expected images of JPEG one after another, or frames of bytes with --shape H,W,C"
        )
    at = 2
    while at + 2 <= len(held):
        if held[at] != 0xFF:
            raise UserError("a frame cannot be read as an image: it is no JPEG")
        mark = held[at + 1]
        if mark == 0xFF:
            at += 1
        elif mark == END:
            return at + 2
        elif mark in ALONE:
            at += 2
        elif at + 4 > len(held):
            return None
        else:
            at += 2 + int.from_bytes(held[at + 2 : at + 4], "big")
            if mark == SCAN:
                following = _after_scan(held, at)
                if following is None:
                    return None
                at = following
    return None


def _after_scan(held: bytearray, at: int) -> int | None:
    """Return where the mark behind the data of a scan stands; None where it is not there yet."""
    while True:
        at = held.find(b"\xff", at)
        if at < 0 or at + 1 >= len(held):
            return None
        mark = held[at + 1]
        # a stuffed zero, or a mark to begin anew, is part of the data
        if mark == 0 or 0xD0 <= mark <= 0xD7:
            at += 2
        elif mark == 0xFF:
            at += 1
        else:
            return at
