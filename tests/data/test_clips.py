"""Frames of arrays, folders and video files, in their order, upright and at their times."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unrolled.core.errors import DataError
from unrolled.data.clips import (
    STRETCH,
    ArrayClip,
    Clip,
    FolderClip,
    VideoClip,
    as_frames,
    load_arrays,
)

RNG = np.random.default_rng(0)
COUNT = 10
HEIGHT = 32
WIDTH = 48
# one brightness a frame, which compression keeps
SHADES = 20 * np.arange(COUNT)
FRAMES = np.broadcast_to(SHADES[:, None, None, None], (COUNT, HEIGHT, WIDTH, 3)).astype(
    np.uint8
)
MILLISECOND = Fraction(1, 1000)


def film(
    path: Path,
    frames: NDArray[np.uint8] = FRAMES,
    rate: int = 10,
    codec: str = "mpeg4",
    times: Sequence[int] | None = None,
    turned: int | None = None,
) -> Path:
    """Write frames (T, H, W, 3) as a video.

    Args:
        path, frames: the file, and what it shows.
        rate, codec: frames a second, and what compresses them.
        times: of each frame, in milliseconds, where the rate varies.
        turned: degrees by which it is to be turned to the left when it is shown.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        if times is not None:
            stream.time_base = MILLISECOND
            stream.codec_context.time_base = MILLISECOND
        if turned is not None:
            stream.set_display_rotation(turned)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(pixels), format="rgb24"
            )
            if times is not None:
                frame.pts = times[index]
                frame.time_base = MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sound(path: Path) -> Path:
    """Write a file that holds sound and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = np.zeros((1, 1024), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def whole(clip: Clip) -> NDArray[np.uint8]:
    return np.concatenate(list(clip.frames()))


# ---------------------------------------------------------------------- arrays


@pytest.mark.parametrize("colours", [None, 1, 3])
def test_frames_of_an_array_come_in_stretches(colours: int | None) -> None:
    shape = (2 * STRETCH + 3, 4, 5) + (() if colours is None else (colours,))
    values = RNG.integers(0, 256, shape, dtype=np.uint8)
    clip = ArrayClip("walk", values)
    assert (str(clip), len(clip), clip.rate) == ("walk", len(values), None)
    stretches = list(clip.frames())
    assert [len(stretch) for stretch in stretches] == [STRETCH, STRETCH, 3]
    expected = values if colours is not None else values[..., None]
    np.testing.assert_array_equal(np.concatenate(stretches), expected)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numbers_from_0_to_1_become_bytes(kind: Any) -> None:
    values = np.array([[[0.0, 0.5, 1.0, 1 / 255]]], dtype=kind)
    frames = as_frames(values)
    assert frames.dtype == np.uint8
    assert frames.shape == (1, 1, 4, 1)
    assert frames.ravel().tolist() == [0, 128, 255, 1]


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16, bool])
def test_whole_numbers_become_bytes(kind: Any) -> None:
    values = np.array([[[0, 1], [1, 0]]], dtype=kind)
    frames = as_frames(values)
    assert frames.dtype == np.uint8
    assert frames[0, :, :, 0].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((1, 2, 2), 1.5), "numbers from 0 to 1, or bytes from 0 to 255"),
        (np.full((1, 2, 2), -0.1), "numbers from 0 to 1"),
        (np.full((1, 2, 2), np.nan), "numbers from 0 to 1"),
        (np.full((1, 2, 2), 256), "expected bytes from 0 to 255"),
        (np.full((1, 2, 2), -1), "expected bytes from 0 to 255"),
        (np.full((1, 2, 2), "x"), "expected frames of numbers, got <U1"),
        (np.full((1, 2, 2), None), "expected frames of numbers, got object"),
        (np.zeros((1, 2, 2), complex), "expected frames of numbers, got complex128"),
        (np.zeros(()), r"\(T, H, W\), or \(T, H, W, 3\), got \(\)"),
        (np.zeros(4), r"got \(4,\)"),
        (np.zeros((2, 2)), r"got \(2, 2\)"),
        (np.zeros((1, 2, 2, 4)), r"got \(1, 2, 2, 4\)"),
        (np.zeros((1, 3, 8, 8)), r"got \(1, 3, 8, 8\)"),
        (np.zeros((1, 1, 2, 2, 3)), r"got \(1, 1, 2, 2, 3\)"),
        (np.zeros((2, 0, 0)), r"got \(2, 0, 0\)"),
        (np.zeros((2, 4, 0, 3), np.uint8), r"got \(2, 4, 0, 3\)"),
    ],
)
def test_an_array_that_holds_no_frames_is_refused(
    values: NDArray[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        as_frames(values)
    with pytest.raises(ValueError, match=message):
        list(ArrayClip("x", values).frames())


def test_an_array_of_no_frames_has_none() -> None:
    assert list(ArrayClip("x", np.zeros((0, 4, 4))).frames()) == []


def test_arrays_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, frames=FRAMES, names=np.array(["sit", "walk"]))
    arrays = load_arrays(path)
    assert list(arrays) == ["frames", "names"]
    np.testing.assert_array_equal(arrays["frames"], FRAMES)


def test_arrays_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    # objects are pickles, which can run code
    np.savez(path, frames=FRAMES, labels=np.array([[1], [2, 3]], dtype=object))
    with pytest.raises(
        DataError, match=r"d\.npz: the array 'labels' cannot be read: .*pickle"
    ):
        load_arrays(path)
    np.savez(path, labels=np.zeros(9, np.uint8), frames=FRAMES)
    content = bytearray(path.read_bytes())
    content[2000] ^= 255
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"d\.npz: the array 'frames' cannot be read: .*CRC"
    ):
        load_arrays(path)
    for damaged in (b"", b"PK\x03\x04", bytes(content[:3000])):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"d\.npz: the archive cannot be read"):
            load_arrays(path)
    with pytest.raises(DataError, match=r"none\.npz: the archive cannot be read"):
        load_arrays(tmp_path / "none.npz")


# ---------------------------------------------------------------------- folders


def folder(path: Path, *frames: NDArray[np.uint8]) -> FolderClip:
    """Write frames as images; return their clip."""
    path.mkdir(exist_ok=True)
    files = []
    for number, pixels in enumerate(frames):
        file = path / f"{number:03}.png"
        Image.fromarray(pixels).save(file)
        files.append(file)
    return FolderClip("walk", tuple(files))


def test_frames_of_a_folder_are_its_images(tmp_path: Path) -> None:
    frames = RNG.integers(0, 256, (STRETCH + 2, 3, 4, 3), dtype=np.uint8)
    clip = folder(tmp_path / "f", *frames)
    assert (str(clip), len(clip), clip.rate) == ("walk", STRETCH + 2, None)
    assert [len(stretch) for stretch in clip.frames()] == [STRETCH, 2]
    np.testing.assert_array_equal(whole(clip), frames)


@pytest.mark.parametrize("before", [1, STRETCH])
def test_frames_that_differ_in_size_are_refused_with_their_file(
    tmp_path: Path, before: int
) -> None:
    # within a stretch, and between two
    frames = [np.zeros((3, 4, 3), np.uint8)] * before
    clip = folder(tmp_path / "f", *frames, np.zeros((4, 3, 3), np.uint8))
    message = (
        rf"differ in size: {before:03}\.png has 3 x 4 pixels, and those before it 4 x 3"
    )
    with pytest.raises(ValueError, match=message):
        whole(clip)


@pytest.mark.parametrize("part_of_frames", [0.0, 0.5, None])
def test_a_damaged_frame_is_named(tmp_path: Path, part_of_frames: float | None) -> None:
    noise = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    clip = folder(tmp_path / "f", *noise)
    path = clip.files[1]
    content = path.read_bytes()
    path.write_bytes(
        b"text"
        if part_of_frames is None
        else content[: int(len(content) * part_of_frames)]
    )
    with pytest.raises(ValueError, match=r"^its frame 001\.png: "):
        whole(clip)
    path.unlink()
    with pytest.raises(ValueError, match=r"^its frame 001\.png: "):
        whole(clip)


# ---------------------------------------------------------------------- video files


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("d.mp4", "mpeg4", 10),
        ("d.avi", "mpeg4", 10),
        ("d.mkv", "mpeg4", 10),
        ("d.mov", "mpeg4", 10),
        ("d.mpg", "mpeg1video", 25),
    ],
)
def test_frames_of_a_video(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    clip = VideoClip("walk", film(tmp_path / name, rate=rate, codec=codec))
    assert str(clip) == "walk"
    frames = whole(clip)
    assert frames.shape == FRAMES.shape
    assert frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - FRAMES).max() <= 3
    # from the start, whatever the first time that is written
    np.testing.assert_allclose(clip.times, np.arange(COUNT) / rate, atol=1e-3)


def test_a_long_video_comes_in_stretches(tmp_path: Path) -> None:
    frames = np.repeat(FRAMES[:1, :16, :16], STRETCH + 3, axis=0)
    clip = VideoClip("walk", film(tmp_path / "d.mp4", frames))
    assert [len(stretch) for stretch in clip.frames()] == [STRETCH, 3]


@pytest.mark.parametrize("name", ["d.mp4", "d.mkv"])
def test_frames_of_a_variable_rate_keep_their_times(tmp_path: Path, name: str) -> None:
    times = [0, 100, 150, 400, 450, 500, 900, 1000, 1500, 1600]
    clip = VideoClip("walk", film(tmp_path / name, times=times))
    np.testing.assert_allclose(clip.times, np.array(times) / 1000, atol=1e-3)
    frames = whole(clip)
    # a frame a picture, however long it is shown
    assert len(frames) == COUNT
    assert np.abs(frames.mean((1, 2, 3)) - SHADES).max() <= 3


def quadrants(upright: NDArray[np.uint8]) -> list[list[bool]]:
    """Return which quarters of a frame are red."""
    height, width = upright.shape[:2]
    red = upright[..., 0].astype(int) - upright[..., 1] > 100
    rows = (height // 4, 3 * height // 4)
    columns = (width // 4, 3 * width // 4)
    return [[bool(red[row, column]) for column in columns] for row in rows]


@pytest.mark.parametrize(
    ("turned", "expected"),
    [
        (None, [[True, False], [False, False]]),
        (90, [[False, False], [True, False]]),
        (-90, [[False, True], [False, False]]),
        (180, [[False, False], [False, True]]),
    ],
)
def test_a_video_stands_as_it_is_shown(
    tmp_path: Path, turned: int | None, expected: list[list[bool]]
) -> None:
    corner = np.zeros((3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    corner[:, : HEIGHT // 2, : WIDTH // 2, 0] = 255
    path = film(tmp_path / "d.mp4", corner, turned=turned)
    frames = whole(VideoClip("walk", path))
    sides = (WIDTH, HEIGHT) if turned in (90, -90) else (HEIGHT, WIDTH)
    assert frames.shape == (3, *sides, 3)
    assert all(quadrants(frame) == expected for frame in frames)
    if turned == -90:
        # as telephones write what was filmed upright: to the right goes down, and down to the left
        content = path.read_bytes()
        matrix = content.index(b"tkhd") + 44
        expected_matrix = (0, 1 << 16, 0, -(1 << 16), 0)
        assert struct.unpack(">5i", content[matrix : matrix + 20]) == expected_matrix


@pytest.mark.parametrize("name", ["d.mp4", "d.mov", "d.avi", "d.mkv"])
@pytest.mark.parametrize("part_of_frames", [0.1, 0.6])
def test_a_video_that_is_cut_off_ends_or_is_refused(
    tmp_path: Path, name: str, part_of_frames: float
) -> None:
    noise = RNG.integers(0, 256, FRAMES.shape, dtype=np.uint8)
    path = film(tmp_path / name, noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part_of_frames)])
    clip = VideoClip("walk", path)
    if name in ("d.mp4", "d.mov"):
        # what tells its frames stands at its end
        with pytest.raises(OSError, match="Invalid data"):
            whole(clip)
    elif part_of_frames == 0.6:
        # the frames before the end, whose number a label each must have
        assert 0 < len(whole(clip)) < COUNT
    else:
        with pytest.raises((OSError, ValueError)):
            whole(clip)


@pytest.mark.parametrize("content", [b"", b"this is text\n" * 40, b"\0" * 4000])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.mp4"
    path.write_bytes(content)
    with pytest.raises(OSError, match="Invalid data"):
        whole(VideoClip("walk", path))


def test_a_file_without_video_is_refused(tmp_path: Path) -> None:
    clip = VideoClip("talk", sound(tmp_path / "d.mp4"))
    with pytest.raises(ValueError, match="it holds no video"):
        whole(clip)


def test_a_video_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        whole(VideoClip("walk", tmp_path / "none.mp4"))


def test_the_name_of_a_video_is_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "d.mp4").rename("12:30 걷기.mp4")
    assert len(whole(VideoClip("walk", Path("12:30 걷기.mp4")))) == COUNT
