"""Clips that a table names: labels of stretches or of frames, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.data.test_clips import film

import unrolled
from unrolled.core.errors import DataError, UserError
from unrolled.data.clips import ArrayClip, FolderClip, VideoClip
from unrolled.data.labelled_clips import SegmentLabels, clip_at
from unrolled.data.sources import read

KEYS: dict[str, Any] = {
    "model.hidden": 8,
    "training.max_steps": 2,
    "training.threads": 1,
    "training.precision": "fp32",
    "report.inside": False,
}


def folder_of_clips(folder: Path, count: int = 4) -> Path:
    """Write videos whose first half is dark, and a table of their halves."""
    folder.mkdir()
    frames = np.zeros((10, 32, 48, 3), dtype=np.uint8)
    frames[5:] = 200
    rows = ["video,start,end,label"]
    for number in range(count):
        film(folder / f"clip{number}.mp4", frames)
        # in no order of time
        rows += [f"clip{number}.mp4,0.5,1,bright", f"clip{number}.mp4,0,0.5,dark"]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_stretches_become_a_row_a_clip(tmp_path: Path) -> None:
    folder = folder_of_clips(tmp_path / "clips", 2)
    table = read(folder)
    assert table.columns == ["video", "label"]
    assert len(table.rows) == 2
    clip, labels = table.rows[1]
    assert isinstance(clip, VideoClip)
    assert clip.path == folder / "clip1.mp4"
    assert labels == ["dark", "bright"]
    assert labels.times == [(0.0, 0.5), (0.5, 1.0)]
    assert table.lines == [2, 4]
    assert labels.of_frames(clip) == ["dark"] * 5 + ["bright"] * 5


def test_frames_between_stretches_have_no_label(tmp_path: Path) -> None:
    times = [0, 40, 100, 300, 350]  # of a variable rate
    frames = np.zeros((5, 32, 48, 3), dtype=np.uint8)
    clip = VideoClip("a", film(tmp_path / "a.mp4", frames, times=times))
    labels = SegmentLabels(["x", "y"], [(0.0, 0.1), (0.3, 0.35)])
    assert labels.of_frames(clip) == ["x", "x", None, "y", None]
    # one shorter than the time between two frames has none, and says nothing
    assert SegmentLabels(["x"], [(0.12, 0.2)]).of_frames(clip) == [None] * 5


def test_a_stretch_after_the_last_frame_is_refused(tmp_path: Path) -> None:
    frames = np.zeros((5, 32, 48, 3), dtype=np.uint8)
    clip = VideoClip("a.mp4", film(tmp_path / "a.mp4", frames))
    with pytest.raises(ValueError, match=r"'x' begins at 2 s, after the last frame of"):
        SegmentLabels(["x"], [(2.0, 3.0)]).of_frames(clip)


def test_only_videos_know_when_frames_are_shown() -> None:
    clip = ArrayClip("a.npy", np.zeros((5, 4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="label each frame by itself"):
        SegmentLabels(["x"], [(0.0, 1.0)]).of_frames(clip)


def test_a_folder_of_videos_is_learnt_from(tmp_path: Path) -> None:
    folder = folder_of_clips(tmp_path / "clips")
    run = unrolled.train(folder, out=tmp_path / "run", quiet=True, **KEYS)
    assert run.task.schema.task == "label-frames"
    assert set(run.task.output.names) == {"dark", "bright"}
    scores = run.evaluate(folder / "labels.csv")
    assert {"accuracy", "edit", "f1_50"} <= set(scores)
    (answer,) = run.predict([str(folder / "clip0.mp4")])
    assert len(answer.split()) == 10


def test_labels_of_frames_in_a_list(tmp_path: Path) -> None:
    rows = []
    for number in range(4):
        frames = tmp_path / f"clip{number}"
        frames.mkdir()
        for index in range(3):
            image = Image.new("RGB", (16, 16), (80 * index,) * 3)
            image.save(frames / f"{index}.png")
        rows.append({"clip": frames.name, "labels": ["a", "b", "a"]})
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read(path)
    assert isinstance(table.rows[0][0], FolderClip)
    run = unrolled.train(path, out=tmp_path / "run", quiet=True, **KEYS)
    assert run.task.name == "label-frames"


def test_labels_beside_arrays_by_the_name_of_their_file(tmp_path: Path) -> None:
    frames: NDArray[np.uint8] = np.zeros((3, 8, 8), dtype=np.uint8)
    rows = ["clip,labels"]
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", frames + number)
        rows.append(f"{number}.npy,x y x")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    clips = [row[0] for row in read(tmp_path / "clips.csv").rows]
    assert all(isinstance(clip, ArrayClip) for clip in clips)
    assert [int(clip.values.max()) for clip in clips] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.mp4,1,0.5,x"], "a stretch from 1 s to 0.5 s has no length"),
        (["a.mp4,0,soon,x"], "column 'end' holds 'soon', no seconds"),
        (["a.mp4,-1,1,x"], "column 'start' holds '-1', no seconds"),
        (["a.mp4,0,1,"], "column 'label' is empty"),
        (["a.mp4,0,1,x", "a.mp4,0.5,2,y"], "stretches overlap: one ends at 1 s"),
    ],
)
def test_stretches_that_cannot_be_are_refused_with_their_line(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    path = tmp_path / "labels.csv"
    film(tmp_path / "a.mp4")
    path.write_text("\n".join(["video,start,end,label", *rows]) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("clip,start,label", "has a column 'start' and none that is called 'end'"),
        ("clip,end,label", "has a column 'end' and none that is called 'start'"),
    ],
)
def test_half_a_stretch_is_refused(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    film(tmp_path / "a.mp4")
    path.write_text(f"{header}\na.mp4,1,x\n")
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_video_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    folder = folder_of_clips(tmp_path / "clips", 3)
    (folder / "clip1.mp4").unlink()
    with pytest.raises(UserError, match=r"labels\.csv:4: clip1\.mp4 cannot be"):
        unrolled.train(folder, out=tmp_path / "run", quiet=True, **KEYS)


def test_folders_that_hold_the_images_of_a_table_are_no_clips(tmp_path: Path) -> None:
    rows = ["image,split,label"]
    for part in ("train", "dev"):
        (tmp_path / part).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / part / f"{number}.png")
            rows.append(f"{part}/{number}.png,{part},{number}")
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(rows) + "\n")
    assert [row[1] for row in read(path).rows] == ["train"] * 3 + ["dev"] * 3
    # nor where the images are not named
    path.write_text("split,number\n" + "train,1\ndev,2\n" * 4)
    assert [row[0] for row in read(path).rows] == ["train", "dev"] * 4


def test_tables_about_other_things_stay_as_they_are(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    path = tmp_path / "subtitles.csv"
    path.write_text("video,start,end,text,label\n" + "a.mp4,0,1,good,yes\n" * 4)
    assert read(path).columns == ["video", "start", "end", "text", "label"]
    path.write_text("video,start,text,label\n" + "a.mp4,0,good,yes\n" * 4)
    assert read(path).rows[0][0] == "a.mp4"
    # of videos that are not there only the names are known
    path.write_text("address,label\n" + "".join(f"b{n}.mp4,{n}\n" for n in range(4)))
    assert read(path).rows[1] == ("b1.mp4", "1")


def test_words_that_are_names_of_folders_are_no_clips(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "plot.png")
    path = tmp_path / "rows.tsv"
    path.write_text("number\tlabel\n" + "1\tcat\n2\tdog\n" * 4)
    assert [row[1] for row in read(path).rows][:2] == ["cat", "dog"]
    path.write_text("number\tnote\n1\t.\n")
    assert read(path).rows[0][1] == "."


def test_a_folder_of_frames_may_be_called_as_a_video_is(tmp_path: Path) -> None:
    (tmp_path / "v1.avi").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "v1.avi" / "0.png")
    assert isinstance(clip_at("v1.avi", tmp_path / "v1.avi"), FolderClip)


def test_times_that_are_rounded_are_those_of_their_frame() -> None:
    class Recording(VideoClip):
        # of a recording that begins at 10 s, at 25 frames a second
        times = np.array([10 + 0.04 * index - 10 for index in range(2000)])

    clip = Recording("a.mp4", Path("a.mp4"))
    starts = [0.04 * index for index in range(2001)]
    spans = list(itertools.pairwise(starts))
    names = [str(index) for index in range(2000)]
    assert SegmentLabels(names, spans).of_frames(clip) == names


def test_names_of_nothing_stay_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("video,number\nmissing/frames,1\n")
    # neither a video nor a folder: the column is no clip's
    assert read(path).rows[0][0] == "missing/frames"
