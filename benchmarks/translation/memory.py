"""What decoding adds to the memory, against beam x length and against the length of a file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.layers import common
from benchmarks.layers.common import Options
from benchmarks.translation.decoding import ROWS
from unrolled.run import load
from unrolled.runs.recipes import find_data

ROOT = Path(__file__).parents[2]
BEAMS = (1, 2, 4, 8)
LENGTHS = (32, 64, 128, 250)
TIMES = (1, 2, 4)
WIDTHS = (10, 10, 10, 12)


def added(folder: Path, beam: int, length: int) -> int:
    """Return the bytes that a search adds to what stood before, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.translation.child", str(folder)]
    done = subprocess.run(
        [*command, str(beam), str(length)], cwd=ROOT, stdout=subprocess.PIPE
    )
    if done.returncode:
        common.refuse(
            f"memory, beam {beam}, {length} tokens: its process ended {done.returncode}"
        )
    return int(json.loads(done.stdout)["added"])


def peak(folder: Path, file: Path) -> int:
    """Return the largest resident memory of the command line while it translates a file, bytes."""
    out = file.with_suffix(".jsonl")
    words = ["predict", str(folder), "--file", str(file), "-o", str(out)]
    command = [sys.executable, "-m", "benchmarks.translation.peak", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        common.refuse(f"memory: predict ended {done.returncode}")
    if out.read_text("utf-8").count("\n") != file.read_text("utf-8").count("\n"):
        common.refuse("memory: predict gave more or fewer lines than it read")
    return int(done.stdout.splitlines()[-1])


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Measure both, and fit a line to the first."""
    beams, lengths = (BEAMS[:2], LENGTHS[:2]) if options.quick else (BEAMS, LENGTHS)
    cells = []
    for beam in beams:
        for length in lengths:
            megabytes = added(folder, beam, length) / 1e6
            cells.append({"beam": beam, "length": length, "mb": megabytes})
    sizes = np.array([cell["beam"] * cell["length"] for cell in cells], float)
    peaks = np.array([cell["mb"] for cell in cells])
    gradient, start = np.polyfit(sizes, peaks, 1)
    common.line(WIDTHS, "beam", "tokens", "MB", "line's MB")
    for cell, size in zip(cells, sizes, strict=True):
        cell["line_mb"] = float(start + gradient * size)
        columns = (
            cell["beam"],
            cell["length"],
            f"{cell['mb']:.1f}",
            f"{cell['line_mb']:.1f}",
        )
        common.line(WIDTHS, *columns)
    explained = float(np.corrcoef(sizes, peaks)[0, 1] ** 2)
    bytes_each = 1e6 * gradient / ROWS
    print(f"{bytes_each:,.0f} bytes a token of a hypothesis; r^2 {explained:.4f}")
    files = _files(
        folder, TIMES[:2] if options.quick else TIMES, 200 if options.quick else None
    )
    return {
        "sources": ROWS,
        "cells": cells,
        "bytes_a_token": bytes_each,
        "r2": explained,
        "files": files,
    }


def _files(
    folder: Path, times: tuple[int, ...], count: int | None
) -> list[dict[str, Any]]:
    """Translate the validation set, and files of several times its length."""
    recipe = load(folder, "cpu").recipe
    lines = (
        find_data(recipe, str(recipe.data.dev)).read_text("utf-8").splitlines()[:count]
    )
    measurements = []
    common.line(WIDTHS, "lines", "peak MB", "", "")
    with tempfile.TemporaryDirectory(prefix="unrolled-memory-") as name:
        for number in times:
            file = Path(name) / f"{number}.txt"
            file.write_text("\n".join(lines * number) + "\n", "utf-8")
            measurements.append(
                {"lines": len(lines) * number, "peak_mb": peak(folder, file) / 1e6}
            )
            common.line(
                WIDTHS,
                measurements[-1]["lines"],
                f"{measurements[-1]['peak_mb']:.1f}",
                "",
                "",
            )
    return measurements
