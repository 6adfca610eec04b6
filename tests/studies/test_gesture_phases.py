"""Recordings of gestures: what is made of positions, and the tables to train on and to score on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import unrolled
from unrolled.core.errors import UserError
from unrolled.studies import gesture_phases
from unrolled.studies.gesture_phases import (
    AXES,
    HEAD,
    PHASES,
    POINTS,
    SPINE,
    Doubles,
    features,
    read_recording,
    write,
)

FRAMES = 60
COLUMNS = [
    f"{point}{axis}" for point in ("lh", "rh", "h", "s", "lw", "rw") for axis in AXES
]


def recording(seed: int = 0, frames: int = FRAMES) -> dict[str, Doubles]:
    """Return positions (T, 3) of each point: hands that wander about a body that stands still."""
    generator = np.random.default_rng(seed)
    positions: dict[str, Doubles] = {
        SPINE: np.tile([2.0, 3.0, 2.5], (frames, 1)),
        HEAD: np.tile([2.0, 1.0, 2.5], (frames, 1)),
    }
    for point in POINTS:
        steps = generator.normal(0, 0.1, (frames, 3))
        positions[point] = positions[SPINE] + steps.cumsum(0)
    return positions


def write_raw(source: Path, name: str, seed: int = 0, **changes: str) -> Path:
    positions = recording(seed)
    path = source / "raw" / f"{name}_raw.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join([*COLUMNS, "timestamp", "phase"])]
    for frame in range(FRAMES):
        cells = {
            name: f"{positions[name[:-1]][frame, AXES.index(name[-1])]:.6f}"
            for name in COLUMNS
        }
        cells |= {"timestamp": str(frame), "phase": PHASES[frame // 5 % len(PHASES)]}
        if frame == FRAMES // 2:
            cells |= changes
        lines.append(",".join(cells.values()))
    path.write_text("\r\n".join(lines) + "\r\n", "utf-8-sig")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "gesture_phase"
    for seed, name in enumerate(("a1", "a3", "b1")):
        write_raw(folder, name, seed)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_do_not_depend_on_where_and_how_large_a_person_is() -> None:
    positions = recording()
    columns = features(positions)
    moved = {point: 3 * values + [1, -2, 5] for point, values in positions.items()}
    for name, column in features(moved).items():
        np.testing.assert_allclose(column, columns[name], atol=1e-9)


def test_columns_have_the_median_and_the_spread_of_a_standard_normal() -> None:
    for column in features(recording(frames=500)).values():
        low, middle, high = np.percentile(column, [10, 50, 90])
        assert abs(middle) < 1e-9
        assert abs(high - low - 2.563) < 1e-9
        assert np.abs(column).max() <= 8


def test_velocities_are_changes_a_frame() -> None:
    """A hand that moves evenly along x has one velocity all along but for the ends."""
    positions = recording()
    positions["lh"] = positions[SPINE] + np.outer(np.arange(FRAMES), [0.2, 0, 0])
    columns = features(positions)
    # equal values, and of them the median is taken away
    assert np.abs(columns["lhx_velocity3"][4:-4]).max() < 1e-6
    assert np.abs(columns["lhy_velocity6"]).max() == 0
    assert columns["lhx_velocity3"][0] < 0
    # straight up from the least to the greatest
    assert (np.diff(columns["lhx"]) > 0).all()


def test_a_recording_is_read_as_it_is_written(source: Path) -> None:
    path = write_raw(source, "a1", phase="Preparação")
    positions, phases = read_recording(path)
    for point, values in recording().items():
        np.testing.assert_allclose(positions[point], values, atol=1e-6)
    assert phases[FRAMES // 2] == "Preparation"
    assert set(phases) == set(PHASES)


def test_what_is_written(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert gesture_phases.main([str(folder), "--source", str(source)]) == 0
    assert {path.name for path in folder.iterdir()} == {"train.csv", "dev.csv"}
    train = rows_of(folder / "train.csv")
    dev = rows_of(folder / "dev.csv")
    assert [row["recording"] for row in train] == ["a1"] * FRAMES + ["b1"] * FRAMES
    assert [row["recording"] for row in dev] == ["a3"] * FRAMES
    columns = features(recording(1))
    assert list(dev[0]) == ["recording", *columns, "phase"]
    for name, column in columns.items():
        written = [float(row[name]) for row in dev]
        np.testing.assert_allclose(written, column, atol=2e-4)
    assert [row["phase"] for row in dev[:10]] == ["Rest"] * 5 + ["Preparation"] * 5


def test_a_user_is_held_out(source: Path, tmp_path: Path) -> None:
    words = [str(tmp_path), "--source", str(source), "--held-out", "a1", "a3"]
    assert gesture_phases.main(words) == 0
    assert {row["recording"] for row in rows_of(tmp_path / "train.csv")} == {"b1"}
    assert {row["recording"] for row in rows_of(tmp_path / "dev.csv")} == {"a1", "a3"}


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (("c1",), "there is no recording 'c1'; hold out some of a1, a3, b1"),
        (("a1", "a3", "b1"), "none is left to train on; hold out some of a1, a3, b1"),
    ],
)
def test_what_cannot_be_held_out(
    source: Path, tmp_path: Path, held_out: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path / "new", source, held_out)
    assert not (tmp_path / "new").exists()


def test_a_source_without_recordings_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path / "new"), "--source", str(tmp_path)]
    assert gesture_phases.main(words) == UserError.exit_code
    said = capsys.readouterr().err
    assert said.startswith("unrolled: ")
    assert said.count("\n") == 1
    assert "raw/a1_raw.csv" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lhx": "left"}, "column 'lhx' holds something else than numbers"),
        ({"hz": "nan"}, "column 'hz' holds something else than numbers"),
        ({"rwz": ""}, "column 'rwz' holds something else than numbers"),
        ({"phase": "Wave"}, r"a1_raw\.csv:32: there is no phase 'Wave'"),
    ],
)
def test_a_faulty_row_is_named(
    source: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    write_raw(source, "a1", **changes)
    with pytest.raises(UserError, match=message):
        write(tmp_path / "new", source)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00\xd8"])
def test_a_file_of_another_kind_is_named(
    source: Path, tmp_path: Path, content: bytes
) -> None:
    path = source / "raw" / "a1_raw.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a1_raw\.csv"):
        write(tmp_path / "new", source)


def test_the_recipe_reads_what_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "gesture_phases", source)
    monkeypatch.setenv("UNROLLED_DATA", str(tmp_path))
    out = tmp_path / "run"
    changes = {"training.max_steps": 2, "training.evaluate_every": 1}
    run = unrolled.train("gesture-phases", out=out, quiet=True, **changes)
    assert run.task.class_names == tuple(sorted(PHASES))
    assert (out / "report.html").exists()
