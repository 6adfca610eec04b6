"""Two processes, a core each, against one on one core: tokens a second of the same training."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from unrolled.training.progress import read_metrics

STEPS = 80
WARM = 20  # steps that are not counted
REPEATS = 3
SETTINGS = {
    "shakespeare-attention": ["training.batch_size=48"],
    "shakespeare-lstm": ["training.batch_size=48"],
}


def speed(recipe: str, words: list[str], processes: int, folder: Path) -> float:
    """Return the tokens a second of a training by so many processes, of one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "unrolled", "train", recipe, *words]
    command += [f"training.max_steps={STEPS}", "training.log_every=10"]
    command += ["training.threads=1", "training.evaluate_every=1000000"]
    command += ["training.checkpoint_every=1000000", "--out", str(folder)]
    started = []
    for rank in range(processes):
        names: dict[str, Any] = {"OMP_NUM_THREADS": 1}
        if processes > 1:
            names |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
            names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in names.items()}
        started.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        )
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(f"a training ended with {codes}")
    speeds = [
        line["tokens_per_second"]
        for line in read_metrics(folder / "metrics.jsonl")
        if line["kind"] == "train" and WARM < line["step"] < STEPS
    ]
    return statistics.median(speeds)


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure each recipe by one process and by two in turn; ``sharded`` divides the weights."""
    shard = ["training.shard=true"] if "sharded" in arguments else []
    results: dict[str, Any] = {"load": os.getloadavg()[0], "repeats": REPEATS}
    print(f"{'recipe':<24} {'one':>9} {'two':>9} {'of twice one':>13}")
    for recipe, words in SETTINGS.items():
        pairs = []
        for repeat in range(REPEATS):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                single = speed(recipe, words, 1, folder / f"one-{repeat}")
                double = speed(recipe, [*words, *shard], 2, folder / f"two-{repeat}")
                pairs.append((single, double))
        single, double = (
            statistics.median(column) for column in zip(*pairs, strict=True)
        )
        ratio = statistics.median(double / (2 * single) for single, double in pairs)
        print(
            f"{recipe:<24} {single:>9,.0f} {double:>9,.0f} {ratio:>13.3f}", flush=True
        )
        results[recipe] = {"one": single, "two": double, "of_twice_one": ratio}
    return results
