"""Clips of frames in a file of arrays: labels, lengths, names, and shapes that do not fit."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.clips import ArrayClip
from unrolled.data.formats.arrays import is_arrays
from unrolled.data.sources import read, rows_of

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (3, 4, 5, 6), dtype=np.uint8)
LABELS = np.array([[0, 1, 1, 0], [2, 2, -1, -1], [-1, 0, 1, 2]])
LENGTHS = np.array([4, 2, 3])
NAMES = np.array(["앉다", "walk", "run"])


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "clips.npz"
    np.savez_compressed(path, **arrays)
    return path


def frames_of(clip: ArrayClip) -> NDArray[np.uint8]:
    return np.concatenate([np.zeros((0, 5, 6, 1), np.uint8), *clip.frames()])


def test_a_row_is_a_clip_with_a_label_for_each_frame(tmp_path: Path) -> None:
    path = save(tmp_path, frames=FRAMES, labels=LABELS, lengths=LENGTHS, names=NAMES)
    assert is_arrays(path)
    dataset = table(path)
    assert dataset.format.kind == "arrays"
    assert dataset.format.lists == ("labels",)
    assert dataset.format.describe() == "arrays of numpy"
    assert dataset.columns == ["frames", "labels"]
    assert dataset.lines == [1, 2, 3]
    for number, (clip, labels) in enumerate(dataset.rows):
        length = LENGTHS[number]
        assert str(clip) == f"clips.npz[{number}]"
        assert len(clip) == length
        expected = FRAMES[number, :length, ..., None]
        np.testing.assert_array_equal(frames_of(clip), expected)
        # no label is an empty cell, and no class
        assert labels == [
            "" if label < 0 else NAMES[label] for label in LABELS[number, :length]
        ]
    assert dataset.cells("labels")[2] == ["", "앉다", "walk"]


def test_without_labels_there_are_clips_alone(tmp_path: Path) -> None:
    dataset = table(save(tmp_path, frames=FRAMES / 255))
    assert dataset.columns == ["frames"]
    assert dataset.format.lists == ()
    assert [len(clip) for (clip,) in dataset.rows] == [4, 4, 4]
    np.testing.assert_array_equal(frames_of(dataset.rows[1][0])[..., 0], FRAMES[1])


def test_frames_of_three_colours(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    dataset = table(save(tmp_path, frames=colours, labels=np.zeros((2, 3), np.int8)))
    frames = np.concatenate(list(dataset.rows[1][0].frames()))
    np.testing.assert_array_equal(frames, colours[1])
    # without names, the numbers stand for them
    assert dataset.cells("labels") == [["0"] * 3] * 2


@pytest.mark.parametrize("name", ["names", "labels", "label_names"])
def test_names_stand_beside_the_file(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, frames=FRAMES, labels=LABELS)
    (tmp_path / "meta.json").write_text(json.dumps({"about": 1, name: NAMES.tolist()}))
    assert table(path).cells("labels")[0] == ["앉다", "walk", "walk", "앉다"]
    # those in the file itself come first
    save(tmp_path, frames=FRAMES, labels=LABELS, names=np.array(["a", "b", "c"]))
    assert table(path).cells("labels")[0] == ["a", "b", "b", "a"]


@pytest.mark.parametrize("content", ['{"about": []}', "[]", "7", '{"names": "a b c"}'])
def test_a_meta_file_without_names(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, frames=FRAMES, labels=LABELS)
    (tmp_path / "meta.json").write_text(content)
    assert table(path).cells("labels")[0] == ["0", "1", "1", "0"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfa", b"[" * 100_000])
def test_a_meta_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes
) -> None:
    path = save(tmp_path, frames=FRAMES, labels=LABELS)
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(DataError, match=r"meta\.json: cannot be read as JSON"):
        read(path)


@pytest.mark.parametrize(
    "names",
    [
        np.array([b"sit", b"walk", b"run"]),
        np.array([["sit", "walk", "run"]]),
        np.array(["sit", "walk", "run", "jump"]),
    ],
)
def test_names_of_other_forms(tmp_path: Path, names: NDArray[Any]) -> None:
    path = save(tmp_path, frames=FRAMES, labels=LABELS, names=names)
    assert table(path).cells("labels")[0] == ["sit", "walk", "walk", "sit"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"frames": FRAMES[0, 0]},
            r"frames has the shape \(5, 6\); expected \(N, T, H, W\)",
        ),
        ({"frames": np.array(3)}, r"frames has the shape \(\)"),
        (
            {"labels": LABELS[:2]},
            r"labels has the shape \(2, 4\), and frames \(3, 4, 5, 6\)",
        ),
        (
            {"labels": LABELS[:, 0]},
            r"labels has the shape \(3,\).*-1 where there is none",
        ),
        ({"labels": LABELS.astype(float)}, "labels holds float64 where whole numbers"),
        ({"labels": LABELS.astype(str)}, "labels holds <U.* where whole numbers"),
        ({"labels": LABELS > 0}, "labels holds bool where whole numbers"),
        (
            {"lengths": LENGTHS[:2]},
            r"no length of each of the 3 clips: its shape is \(2,\)",
        ),
        ({"lengths": -LENGTHS}, "no length is below 0"),
        ({"lengths": np.array(4)}, r"its shape is \(\)"),
        (
            {"lengths": np.array([4, 5, 9])},
            "lengths says 5 frames of clip 1, and there are 4",
        ),
        (
            {"lengths": np.array([4, np.nan, 2])},
            "lengths holds float64 where whole numbers",
        ),
        (
            {"names": NAMES[:2]},
            "labels holds 2, and there are 2 names of labels; name them all",
        ),
        ({"names": np.array("walk")}, "labels holds 2, and there are 1 names"),
        (
            {"labels": LABELS.astype(object)},
            "the array 'labels' cannot be read: .*pickle",
        ),
        (
            {"frames": FRAMES.astype(object)},
            "the array 'frames' cannot be read: .*pickle",
        ),
        ({"names": NAMES.astype(object)}, "the array 'names' cannot be read: .*pickle"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = save(tmp_path, **{"frames": FRAMES, "labels": LABELS, **arrays})
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.path == str(path)


def test_frames_under_another_name(tmp_path: Path) -> None:
    path = save(tmp_path, x=FRAMES, y=LABELS)
    with pytest.raises(
        DataError, match="holds x, y and no array 'frames'; name the frames"
    ):
        read(path)


def test_no_clips(tmp_path: Path) -> None:
    path = save(tmp_path, frames=FRAMES[:0], labels=LABELS[:0])
    with pytest.raises(DataError, match=r"columns \(frames, labels\) and no row"):
        read(path)


def test_an_empty_clip_is_a_row(tmp_path: Path) -> None:
    path = save(tmp_path, frames=FRAMES, labels=LABELS, lengths=np.array([4, 0, 1]))
    dataset = table(path)
    assert [len(clip) for clip in dataset.cells("frames")] == [4, 0, 1]
    assert dataset.cells("labels")[1:] == [[], [""]]


def test_damaged_files(tmp_path: Path) -> None:
    path = save(tmp_path, frames=FRAMES, labels=LABELS)
    whole = path.read_bytes()
    path.write_bytes(whole[:400])
    with pytest.raises(DataError, match=r"clips\.npz: cannot be read: .*copy it anew"):
        read(path)
    damaged = bytearray(whole)
    damaged[200] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(
        DataError, match=r"clips\.npz: the array 'frames' cannot be read"
    ):
        read(path)
    # what a header says of the size of an array is not believed
    np.savez(path, frames=FRAMES, labels=LABELS)
    content = path.read_bytes()
    shape = b"(3, 4, 5, 6)"
    assert shape in content
    path.write_bytes(content.replace(shape, b"(9**9, 4, 5)"))
    with pytest.raises(DataError, match="the array 'frames' cannot be read"):
        read(path)


def test_a_huge_array_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "clips.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": "<f8", "fortran_order": False, "shape": (2**20, 2**20, 64, 64)},
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("frames.npy", header.getvalue() + bytes(64))
    with pytest.raises(DataError, match="the array 'frames' cannot be read"):
        read(path)


def test_first_rows_and_rows_by_themselves(tmp_path: Path) -> None:
    path = save(tmp_path, frames=FRAMES, labels=LABELS)
    assert len(table(path, limit=2).rows) == 2
    rows = rows_of(path)
    assert rows.columns == ["frames", "labels"]
    assert [line for line, _ in rows] == [1, 2, 3]


def test_other_archives_are_none(tmp_path: Path) -> None:
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("d.csv", "text,label\ngood,1\nbad,0\n")
    assert not is_arrays(path)
    assert table(path).rows == [("good", "1"), ("bad", "0")]
    assert not is_arrays(tmp_path / "none.npz")
    packed = tmp_path / "clips.npz.gz"
    packed.write_bytes(gzip.compress(save(tmp_path, frames=FRAMES).read_bytes()))
    with pytest.raises(DataError, match=r"clips\.npz\.gz: .*unpack it"):
        read(packed)
