"""What one training step adds to the peak of the resident memory, each in a fresh process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.layers import common
from benchmarks.layers.common import Options

SHAPES = ((128, 32, 256), (32, 64, 1024))  # T, B, H
ROOT = Path(__file__).parents[2]
WIDTHS = (6, 14, 9, 9, 6, 8)


def added(whose: str, cell: str, shape: tuple[int, int, int]) -> int:
    """Return the bytes that a step of one competitor adds."""
    command = [sys.executable, "-m", "benchmarks.layers.child", "memory", whose, cell]
    command += [str(size) for size in shape]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode:
        common.refuse(
            f"memory of {whose}, {cell} {shape}: its process ended {done.returncode}"
        )
    report = json.loads(done.stdout)
    if (whose == "ours") != (
        report["calls"] >= 2
    ):  # the small layer that warms up, and this one
        common.refuse(
            f"memory of {whose}, {cell} {shape}: {report['calls']} calls of the core"
        )
    return int(report["added"])


def run(options: Options) -> list[dict[str, Any]]:
    """Measure LSTM and GRU, fp32, at two shapes; the ratio is ours over torch's."""
    lines = []
    common.line(WIDTHS, "cell", "T,B,H", "MB", "torch MB", "ratio", "target")
    for cell in ("lstm", "gru"):
        for shape in SHAPES:
            turns: dict[str, list[int]] = {"ours": [], "torch": []}
            for _ in range(1 if options.quick else 3):
                for whose, peaks in turns.items():
                    peaks.append(added(whose, cell, shape))
            mine, theirs = (statistics.median(peaks) / 1e6 for peaks in turns.values())
            ratio = mine / theirs
            common.line(
                WIDTHS,
                cell,
                ",".join(map(str, shape)),
                f"{mine:.1f}",
                f"{theirs:.1f}",
                f"{ratio:.2f}",
                f"1 {'yes' if ratio <= 1 else 'NO'}",
            )
            lines.append({"cell": cell, "shape": shape, "mb": mine, "torch_mb": theirs})
    return lines
