"""How soon the command line answers: ``unrolled --help`` beside a bare Python."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any


def seconds(command: list[str]) -> float:
    """Return the wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure both in turn, ten times, and print the medians."""
    commands = {
        "bare python": [sys.executable, "-c", "pass"],
        "unrolled --help": [sys.executable, "-m", "unrolled", "--help"],
        "import unrolled.nn": [sys.executable, "-c", "import unrolled.nn"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(10):
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(durations) for name, durations in times.items()}
    for name, median in medians.items():
        print(f"{name:<20} {median:.3f} s")
    return {"seconds": medians}
