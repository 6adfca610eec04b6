"""Clips as cells: videos, arrays and folders of frames, scaled to one size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from unrolled.data.clips import STRETCH, ArrayClip, FolderClip, VideoClip
from unrolled.fields.base import InvalidCell
from unrolled.fields.clips import Clips

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 6, 8), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
FIELD = Clips("film", 6, 8, 3)


def film(path: Path, count: int = 4, height: int = 32, width: int = 48) -> Path:
    """Write a video whose frames become brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height = height
        stream.width = width
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(count):
            pixels = np.full((height, width, 3), 50 * number, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def draw(folder: Path, names: tuple[str, ...]) -> Path:
    """Write frames as images of a folder, the first one black, others brighter."""
    folder.mkdir()
    for number, name in enumerate(names):
        Pillow.new("RGB", (8, 6), (20 * number,) * 3).save(folder / name)
    return folder


def shades(frames: NDArray[np.uint8]) -> list[int]:
    return [round(float(frame.mean())) for frame in frames]


# ---------------------------------------------------------------------- cells


def test_a_clip_may_be_an_array_a_file_or_a_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", COLOURS)
    folder = draw(tmp_path / "frames", ("a.png", "b.png"))
    video = film(tmp_path / "walk.MP4")
    for cell, kind in (
        (COLOURS, ArrayClip),
        (ArrayClip("x", COLOURS), ArrayClip),
        (tmp_path / "a.npy", ArrayClip),
        (folder, FolderClip),
        (video, VideoClip),
    ):
        clip = FIELD.check(cell)
        assert isinstance(clip, kind)
        frames = FIELD.check_to_predict((cell,))
        assert frames.dtype == np.uint8
        assert frames.shape[1:] == (3, 6, 8)
        if kind is ArrayClip:
            np.testing.assert_array_equal(frames, COLOURS.transpose(0, 3, 1, 2))
    for cell in (str(tmp_path / "a.npy"), str(folder), str(video)):
        assert str(FIELD.check(cell)) == cell


def test_frames_of_a_folder_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ("f1.png", "f2.png", "f9.jpg", "f10.png", "f010b.png", "f100.png")
    folder = draw(tmp_path / "a", names)
    (folder / "notes.txt").write_text("about")
    # as a Mac writes them beside files that it copies
    (folder / "._f1.png").write_bytes(b"\0")
    assert shades(FIELD.whole(FIELD.check(folder))) == [20 * n for n in range(6)]
    words = draw(tmp_path / "b", ("first.png", "second.png", "third.png"))
    assert shades(FIELD.whole(FIELD.check(words))) == [0, 20, 40]
    mixed = draw(tmp_path / "c", ("1.png", "1a.png", "a.png", "a1.png"))
    assert shades(FIELD.whole(FIELD.check(mixed))) == [0, 20, 40, 60]


@pytest.mark.parametrize(
    "cell",
    [None, "", 7, ["a"], b"bytes"],
)
def test_a_cell_that_is_no_clip(cell: Any) -> None:
    with pytest.raises(
        InvalidCell, match=r"column 'film' holds .* where a clip is expected"
    ):
        FIELD.check(cell)


@pytest.mark.parametrize(
    "name",
    ["none.mp4", "notes.txt", "empty", "~nobody/x.mp4", "x" * 3000 + ".mp4", "a\0.mp4"],
)
def test_a_path_without_a_clip(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("about")
    (tmp_path / "empty").mkdir()
    for cell in (name, str(tmp_path / name)):
        with pytest.raises(
            InvalidCell, match="is no video, no array of frames"
        ) as caught:
            FIELD.check(cell)
        assert "column 'film'" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(3), r"a\.npy cannot be read: expected frames of shape .*got \(\)"),
        (np.zeros(4), r"got \(4,\)"),
        (np.zeros((0, 6, 8)), r"a\.npy has no frames"),
        (np.zeros((2, 0, 8)), r"got \(2, 0, 8\)"),
        (
            np.full((2, 6, 8), 3.0),
            r"a\.npy cannot be read: expected numbers from 0 to 1",
        ),
        (np.full((2, 6, 8), "x"), r"a\.npy cannot be read: expected frames of numbers"),
        (np.full((2, 6, 8), None), r"'.*a\.npy' is no array of frames \(\.npy\)"),
    ],
)
def test_an_array_that_holds_no_frames(
    tmp_path: Path, values: NDArray[Any], message: str
) -> None:
    path = tmp_path / "a.npy"
    np.save(path, values)
    with pytest.raises(InvalidCell, match=message):
        FIELD.whole(FIELD.check(path))


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, COLOURS)
    for damaged in (b"", path.read_bytes()[:-9], b"this is text"):
        path.write_bytes(damaged)
        with pytest.raises(InvalidCell, match=r"'.*a\.npy' is no array of frames"):
            FIELD.check(path)
    with path.open("wb") as file:
        np.savez(file, frames=COLOURS)
    with pytest.raises(InvalidCell, match=r"is an archive of arrays \(\.npz\)"):
        FIELD.check(path)


@pytest.mark.parametrize("content", [b"", b"this is text"])
def test_a_damaged_video_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "walk.mp4"
    path.write_bytes(content)
    with pytest.raises(InvalidCell, match=r"walk\.mp4 cannot be read: Invalid data"):
        FIELD.whole(FIELD.check(path))


def test_a_damaged_frame_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = draw(tmp_path / "walk", ("a.png", "b.png", "c.png"))
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:-30])
    with pytest.raises(InvalidCell, match=r"walk cannot be read: its frame b\.png: "):
        FIELD.whole(FIELD.check(folder))
    Pillow.new("RGB", (6, 8)).save(folder / "b.png")
    with pytest.raises(
        InvalidCell, match=r"walk cannot be read: its frames differ in size"
    ):
        FIELD.whole(FIELD.check(folder))


# ---------------------------------------------------------------------- sizes and colours


def test_the_size_of_frames_is_that_of_the_first_clip() -> None:
    wide = np.zeros((2, 30, 60, 3), dtype=np.uint8)
    assert Clips.fit("film", [wide, GREY], 20) == Clips("film", 10, 20, 3)
    assert Clips.fit("film", [GREY, wide], 20) == Clips("film", 6, 8, 1)
    # nothing is enlarged, and no side is lost
    assert Clips.fit("film", [np.zeros((1, 2, 900))], 20) == Clips("film", 1, 20, 1)


def test_clips_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    video = film(tmp_path / "walk.mp4")
    cells = [None, np.zeros((0, 4, 4)), "none.mp4", np.full((2, 3, 3), -1), video]
    assert Clips.fit("film", cells, 24) == Clips("film", 16, 24, 3)
    # where none is left, the last error says why
    with pytest.raises(InvalidCell, match="expected bytes from 0 to 255"):
        Clips.fit("film", cells[:-1], 24)
    with pytest.raises(InvalidCell, match="column 'film' holds no clip"):
        Clips.fit("film", [], 24)


def test_frames_of_that_size_keep_their_pixels() -> None:
    grey = Clips("film", 6, 8, 1)
    np.testing.assert_array_equal(grey.whole(ArrayClip("x", GREY)), GREY[:, None])
    shown = FIELD.whole(ArrayClip("x", COLOURS))
    np.testing.assert_array_equal(shown, COLOURS.transpose(0, 3, 1, 2))


def test_grey_and_colours_become_each_other() -> None:
    np.testing.assert_array_equal(
        FIELD.whole(ArrayClip("x", GREY)), np.repeat(GREY[:, None], 3, axis=1)
    )
    grey = Clips("film", 6, 8, 1).whole(ArrayClip("x", COLOURS))
    expected = COLOURS @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (5, 1, 6, 8)
    assert np.abs(grey[:, 0] - expected).max() <= 0.51
    white = Clips("film", 6, 8, 1).whole(ArrayClip("x", np.full_like(COLOURS, 255)))
    assert (white == 255).all()


@pytest.mark.parametrize("colours", [1, 3])
def test_frames_are_scaled_as_the_library_scales_images(colours: int) -> None:
    field = Clips("film", 4, 5, colours)
    values = GREY if colours == 1 else COLOURS
    shown = field.whole(ArrayClip("x", values))
    assert shown.shape == (5, colours, 4, 5)
    for frame, scaled in zip(values, shown, strict=True):
        image = Pillow.fromarray(frame).resize((5, 4), Pillow.Resampling.BILINEAR)
        expected = np.asarray(image).reshape(4, 5, colours)
        np.testing.assert_array_equal(scaled.transpose(1, 2, 0), expected)


def test_a_clip_is_read_a_stretch_at_a_time() -> None:
    values = np.repeat(GREY[:1], STRETCH + 2, axis=0)
    parts = [len(part) for part in FIELD.read(ArrayClip("x", values))]
    assert parts == [STRETCH, 2]


def test_a_video_is_scaled(tmp_path: Path) -> None:
    field = Clips("film", 8, 12, 3)
    frames = field.whole(field.check(film(tmp_path / "walk.mp4")))
    assert frames.shape == (4, 3, 8, 12)
    brightness = frames.reshape(4, -1).mean(1)
    assert np.abs(brightness - [0, 50, 100, 150]).max() < 3


# ---------------------------------------------------------------------- examples


def test_examples_hold_clips_one_after_another() -> None:
    lengths = (5, 2, 3)
    clips = [FIELD.whole(ArrayClip("x", COLOURS[:length])) for length in lengths]
    examples = FIELD.examples(clips, np.array([4, 6, 9]))
    assert examples.lines.tolist() == [4, 6, 9]
    assert examples.lengths.tolist() == list(lengths)
    assert examples.clips is not None
    frames, counts = examples.clips.take(np.array([2, 0]))
    assert counts.tolist() == [3, 5]
    np.testing.assert_array_equal(frames[0, :3].numpy(), clips[2])
    np.testing.assert_array_equal(frames[1].numpy(), clips[0])
    assert not frames[0, 3:].any()


def test_a_field_is_saved_and_read_back() -> None:
    values = json.loads(json.dumps(FIELD.to_json()))
    assert Clips.from_json(values) == FIELD
    assert FIELD.columns == ("film",)
