"""Data larger than memory: ``python -m benchmarks shards FILE [MEGABYTES [KEY=VALUE]...]``.

The lines of FILE are repeated in random order until they fill so many megabytes. The command line
then reads the text with an empty cache, once more with the cache filled, and trains 20 steps.
"""

from __future__ import annotations

import gzip
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 20


def write_text(path: Path, source: Path, size: int) -> int:
    """Write about ``size`` bytes of shuffled lines of ``source``; return the number of lines."""
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rb") as handle:
        lines = [
            line for line in handle.read().splitlines(keepends=True) if line.strip()
        ]
    draw = random.Random(0)
    count = 0
    with path.open("wb") as out:
        while out.tell() < size:
            draw.shuffle(lines)
            out.writelines(lines)
            count += len(lines)
    return count


def status(process: int) -> dict[str, int]:
    """Return the memory of a process in kB, from /proc/PID/status; nothing once it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return {}
    return {
        name: int(kb)
        for name, kb in re.findall(r"(VmHWM|RssAnon|RssFile):\s+(\d+) kB", text)
    }


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        paths = Path(f"/proc/{process}/task").glob("*/children")
        words = " ".join(path.read_text() for path in paths)
        return [int(child) for child in words.split()]
    except OSError:
        return []


def measure(words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command; return its output, wall time and the peak memory of it and its workers."""
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "unrolled", *words]
    peak = 0
    anonymous = 0
    workers = dict[int, int]()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        while process.poll() is None:
            now = status(process.pid)
            peak = max(peak, now.get("VmHWM", 0))
            anonymous = max(anonymous, now.get("RssAnon", 0))
            for child in children(process.pid):
                workers[child] = max(
                    workers.get(child, 0), status(child).get("VmHWM", 0)
                )
            time.sleep(0.05)
        out.seek(0)
        output = out.read()
    if process.returncode:
        raise SystemExit(output)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    measurements = {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(
            used, 2
        ),  # of the command and its workers; a busy machine adds little
        "peak_mb": peak // 1000,
        "peak_anonymous_mb": anonymous // 1000,
        "workers_peak_mb": sorted(kb // 1000 for kb in workers.values()),
    }
    print(f"{output.splitlines()[0]}\n{measurements}", flush=True)
    return {**measurements, "output": output}


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure encoding, a second start, and training from the shards."""
    if not arguments:
        raise SystemExit(__doc__)
    source = Path(arguments[0])
    size = int([*arguments, "2000"][1])
    keys = ["task=language", "data.shards=always", *arguments[2:]]
    with tempfile.TemporaryDirectory(prefix="unrolled-shards-") as name:
        folder = Path(name)
        text = folder / "text.txt"
        lines = write_text(text, source, size * 1_000_000)
        environment = {**os.environ, "UNROLLED_CACHE": str(folder / "cache")}
        train = ["train", str(text), *keys, f"training.max_steps={STEPS}"]
        measurements = {
            "first start": measure([*train, "--dry-run"], environment),
            "second start": measure([*train, "--dry-run"], environment),
            f"training, {STEPS} steps": measure(
                [*train, "--out", name + "/run"], environment
            ),
        }
        taken = re.search(
            r"encoded in ([\d.]+) s.*", measurements["first start"]["output"]
        )
        assert taken is not None
        summary = {
            "file_mb": text.stat().st_size / 1e6,
            "rows": lines,
            "encoding_mb_a_second": text.stat().st_size / 1e6 / float(taken.group(1)),
            "encoding_rows_a_second": lines / float(taken.group(1)),
            "cache_mb": sum(p.stat().st_size for p in (folder / "cache").rglob("*.bin"))
            / 1e6,
            "load": os.getloadavg(),
        }
    for key, value in summary.items():
        print(f"{key:<24} {value if not isinstance(value, float) else round(value, 1)}")
    runs = {
        key: {k: v for k, v in run.items() if k != "output"}
        for key, run in measurements.items()
    }
    return {**summary, "runs": runs}
