"""Gesture phases: what hands and wrists do, and the phase of the gesture at every frame.

Recordings of people who tell a story before a Kinect (Madeo, Lima and Peres 2013; UCI, CC BY 4.0),
30 frames a second, six points of the body a frame. ``python -m unrolled.studies.gesture_phases
FOLDER --source gesture_phase`` reads ``raw/a1_raw.csv`` and the others there, and writes the rows
of train.csv and dev.csv in FOLDER. ``--held-out b1 b3`` scores on a user whom the training
has not seen.

A row holds positions relative to the spine, their velocities, and speeds. People sit at other
distances, at other heights and in front of other cameras, so each column of a recording is scaled
by the recording itself: its median becomes 0, and the spread of its middle four fifths that of a
normal distribution.

Shapes: T frames, P points that are read.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError
from unrolled.core.files import replacing
from unrolled.studies.image_archives import lines_of

Doubles = NDArray[np.float64]

SOURCE = "gesture_phase"
HELD_OUT = ("a3",)  # of a user of whom the training has other sessions
POINTS = ("lh", "rh", "lw", "rw")  # hands and wrists, left and right
HEAD = "h"
SPINE = "s"
AXES = "xyz"
PHASE = "phase"
RECORDING = "recording"
PHASES = ("Rest", "Preparation", "Stroke", "Hold", "Retraction")
# a row of b1 has the Portuguese word
OTHER_NAMES = {"Preparação": "Preparation"}
SMOOTHING = (0.25, 0.5, 0.25)  # weights of a frame and its neighbours
SPEED_REACHES = (1, 3, 6)  # frames to either side that a speed compares
VELOCITY_REACHES = (3, 6)
STILL = 1e-3  # speeds below it are noise of the sensor, and alike in a logarithm
SPREAD = (
    2.563  # between the 10th and the 90th hundredth of a standard normal distribution
)
FAR = 8.0  # scaled values beyond it are jumps of the sensor


def read_recording(path: Path) -> tuple[dict[str, Doubles], list[str]]:
    """Return the positions (T, 3) of each point by its name, and the phases (T,).

    Raises:
        UserError: the file cannot be read, or a row of it is none of a recording.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    rows = list(csv.DictReader(io.StringIO(text)))
    positions: dict[str, Doubles] = {}
    for point in (*POINTS, HEAD, SPINE):
        columns = [_numbers(path, rows, point + axis) for axis in AXES]
        positions[point] = np.stack(columns, 1)
    phases: list[str] = []
    for line, row in enumerate(rows, 2):
        phases.append(_phase(path, line, row))
    return positions, phases


def _numbers(path: Path, rows: list[dict[str, str]], column: str) -> Doubles:
    """Return a column (T,) of a table."""
    if not rows or column not in rows[0]:
        raise UserError(
            f"{path}: there is no column {column!r}; is it a raw recording?"
        )
    try:
        values = np.array([float(row[column]) for row in rows])
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise UserError(f"{path}: column {column!r} holds something else than numbers")
    return values


def _phase(path: Path, line: int, row: dict[str, str]) -> str:
    name = row.get(PHASE) or ""
    name = OTHER_NAMES.get(name, name)
    if name not in PHASES:
        raise UserError(
            f"{path}:{line}: there is no phase {name!r}; expected {', '.join(PHASES)}"
        )
    return name


def features(positions: dict[str, Doubles]) -> dict[str, Doubles]:
    """Return the columns (T,) that describe a recording, by their names.

    Args:
        positions: of each point (T, 3), by its name.
    """
    spine = positions[SPINE]
    heights = np.linalg.norm(positions[HEAD] - spine, axis=1)
    size = max(np.median(heights), STILL)
    relative = [positions[point] - spine for point in POINTS]
    smooth = _smoothed(np.stack(relative, 1) / size)
    columns = _by_axis(smooth, "")
    for reach in SPEED_REACHES:
        velocity = _velocity(smooth, reach)
        if reach in VELOCITY_REACHES:
            columns |= _by_axis(velocity, f"_velocity{reach}")
        speeds = np.linalg.norm(velocity, axis=2)
        for index, point in enumerate(POINTS):
            name = f"{point}_speed{reach}"
            columns[name] = np.log(speeds[:, index] + STILL)
    return {name: _scaled(column) for name, column in columns.items()}


def _smoothed(values: Doubles) -> Doubles:
    """Return each value (T, P, 3) averaged with its neighbours."""
    padded = _extended(values, 1)
    total = np.zeros_like(values)
    for first, weight in enumerate(SMOOTHING):
        part = padded[first : first + len(values)]
        total += weight * part
    return total


def _velocity(values: Doubles, reach: int) -> Doubles:
    """Return the change (T, P, 3) a frame between ``reach`` frames before and as many after."""
    padded = _extended(values, reach)
    later = padded[2 * reach :]
    earlier = padded[: -2 * reach]
    return (later - earlier) / (2 * reach)


def _extended(values: Doubles, reach: int) -> Doubles:
    """Return values (T, P, 3) with ``reach`` copies of the first before and of the last after."""
    before = np.repeat(values[:1], reach, axis=0)
    after = np.repeat(values[-1:], reach, axis=0)
    return np.concatenate([before, values, after])


def _by_axis(values: Doubles, suffix: str) -> dict[str, Doubles]:
    """Return values (T, P, 3) as columns (T,)."""
    columns: dict[str, Doubles] = {}
    for index, point in enumerate(POINTS):
        for number, axis in enumerate(AXES):
            columns[f"{point}{axis}{suffix}"] = values[:, index, number]
    return columns


def _scaled(column: Doubles) -> Doubles:
    """Return a column (T,) scaled by its own median and spread, which jumps do not change."""
    low, middle, high = np.percentile(column, [10, 50, 90])
    # a point that never moves is 0 all along
    deviation = (high - low) / SPREAD or 1.0
    return np.clip((column - middle) / deviation, -FAR, FAR)


def write(folder: Path, source: Path, held_out: tuple[str, ...] = HELD_OUT) -> None:
    """Write the recordings to train on, and those that are held out, as a table each.

    Args:
        folder: is made where it does not exist.
        source: the folder of the corpus, with ``raw`` in it.
        held_out: names of recordings, such as a3.

    Raises:
        UserError: a recording is missing or faulty, none is left to train on, or the disk refused
            a file.
    """
    paths = sorted(source.glob("raw/*_raw.csv"))
    recordings = {path.name.removesuffix("_raw.csv"): path for path in paths}
    if not recordings:
        raise UserError(
            f"{source}: there is no raw/a1_raw.csv or the like; fetch Gesture Phase Segmentation "
            "from archive.ics.uci.edu and name its folder with --source"
        )
    names = ", ".join(recordings)
    for name in held_out:
        if name not in recordings:
            raise UserError(f"there is no recording {name!r}; hold out some of {names}")
    if set(held_out) == set(recordings):
        raise UserError(f"none is left to train on; hold out some of {names}")
    parts: dict[str, list[str]] = {"train": [], "dev": []}
    for name, path in recordings.items():
        header, rows = _table(name, path)
        part = parts["dev" if name in held_out else "train"]
        if not part:
            part.append(header)
        part += rows
    with contextlib.ExitStack() as stack:
        for name, lines in parts.items():
            file = stack.enter_context(replacing(folder / f"{name}.csv"))
            file.write_bytes(lines_of(lines))


def _table(name: str, path: Path) -> tuple[str, list[str]]:
    """Return the names of the columns of a recording, and a line a frame."""
    positions, phases = read_recording(path)
    columns = features(positions)
    values: list[list[float]] = np.stack(list(columns.values()), 1).tolist()
    lines: list[str] = []
    for row, phase in zip(values, phases, strict=True):
        numbers = [f"{value:.4f}" for value in row]
        cells = [name, *numbers, phase]
        lines.append(",".join(cells))
    header = [RECORDING, *columns, PHASE]
    return ",".join(header), lines


def main(arguments: list[str]) -> int:
    """Write what the command line requests, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m unrolled.studies.gesture_phases",
        description="Write recordings of gestures as tables to train on and to score on.",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, default=Path(SOURCE))
    parser.add_argument(
        "--held-out", nargs="+", default=HELD_OUT, help="recordings to score on"
    )
    options = parser.parse_args(arguments)
    try:
        write(options.folder, options.source, tuple(options.held_out))
    except UserError as error:
        print(f"unrolled: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
