"""One competitor in a process of its own: ``python -m benchmarks.layers.child PART WORD...``.

``memory ours|torch CELL T B H`` prints the memory of one training step. ``recipe NAME
KEY=VALUE...`` reads numbers of steps from standard input and answers each with a line once they are
trained. All answers are JSON objects.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.layers.common import CELLS
from unrolled.ops import native


def calls() -> int:
    """Return how many forward calls the native core has made here; 0 without a core."""
    return native.count("forward") if native.available() else 0


def status(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match.group(1)) * 1024


def memory(whose: str, cell: str, *shape: str) -> dict[str, Any]:
    """Return what the peak of the resident memory adds to what stood before one training step."""
    steps, rows, hidden = (int(size) for size in shape)
    kind: Any = CELLS[cell][0 if whose == "ours" else 1]

    def train(layer: Any, x: torch.Tensor, gradient: torch.Tensor) -> None:
        layer(x)[0].backward(gradient)

    # code and pools that every process loads once are no memory of a step
    train(
        kind(32, 32), torch.randn(4, 4, 32, requires_grad=True), torch.randn(4, 4, 32)
    )
    layer = kind(hidden, hidden)
    x = torch.randn(steps, rows, hidden, requires_grad=True)
    gradient = torch.randn(steps, rows, hidden)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew here
    before = status("VmRSS")
    train(layer, x, gradient)
    return {"added": status("VmHWM") - before, "calls": calls()}


class Trained:
    """A recipe's training, some steps at a time."""

    def __init__(self, name: str, changes: dict[str, Any], folder: Path) -> None:
        from unrolled.runs.plan import make_plan
        from unrolled.training.loop import Trainer
        from unrolled.training.progress import MetricsLog, Progress

        self.plan = make_plan(name, changes, folder / "run")
        self.trainer = Trainer(self.plan.job(Progress(quiet=True)))
        self.log = MetricsLog(folder / "metrics.jsonl", 0, False)
        self.trainer.job.model.train()

    def steps(self, count: int) -> dict[str, Any]:
        """Make updates as the training loop does, evaluations and checkpoints left out."""
        trainer = self.trainer
        at = self.trainer.position
        every = self.plan.recipe.training.log_every
        tokens = at.tokens
        before = calls()
        began = time.perf_counter()
        for _ in range(count):
            if at.index >= trainer.job.source.length(at.epoch):
                at.epoch = at.epoch + 1
                at.index = 0
            trainer.step(self.log)
            last = trainer.state.pending[-1] if trainer.state.pending else None
            if at.step % every == 0:
                trainer.report(self.log, 0, 0.0)
        seconds = time.perf_counter() - began
        loss = None if last is None else float(last.sum / last.count)
        return {
            "tokens": at.tokens - tokens,
            "seconds": seconds,
            "loss": loss,
            "calls": calls() - before,
            "precision": self.plan.compute_device.precision,
            "threads": torch.get_num_threads(),
        }


def answer(message: dict[str, Any]) -> None:
    """Print one answer."""
    print(json.dumps(message), flush=True)


def main() -> None:
    """Do what the command line says."""
    part, *words = sys.argv[1:]
    if part == "memory":
        answer(memory(*words))
        return
    name, *keys = words
    changes = {
        key: json.loads(value) for key, value in (word.split("=", 1) for word in keys)
    }
    with tempfile.TemporaryDirectory(prefix="unrolled-layers-") as folder:
        trained = Trained(name, changes, Path(folder))
        for count in sys.stdin:
            answer(trained.steps(int(count)))
        trained.log.close()


if __name__ == "__main__":
    main()
