"""AdamW against Muon on tinyshakespeare: the dev loss at equal steps, and at equal time.

Time is the processor's, evaluations left out, so that other work on the machine does not count.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unrolled.runs.plan import make_plan
from unrolled.training.loop import Trainer
from unrolled.training.progress import Progress, SilentLog

RECIPE = "shakespeare-attention"
STEPS = 500
EVERY = 125
SEED = 0
# peak learning rates; Muon's updates are scaled to the size of AdamW's
RATES = {"adamw": 0.005, "muon": 0.005}
Curve = list[dict[str, float]]


def curve(kind: str, rate: float, steps: int, folder: Path) -> Curve:
    """Return dev losses of a training, with the steps and seconds that they took."""
    changes = {
        "training.optimizer": kind,
        "training.learning_rate": rate,
        "training.max_steps": steps,
        "training.threads": 1,
        "training.momentum": 0.95 if kind == "muon" else 0.9,
        "training.average": "none",
        "seed": SEED,
    }
    trainer = Trainer(make_plan(RECIPE, changes, folder).job(Progress(quiet=True)))
    job = trainer.job
    assert job.evaluate is not None
    log = SilentLog()
    seconds = 0.0
    points: Curve = []
    job.model.train()
    for step in range(1, steps + 1):
        began = time.process_time()
        trainer.step(log)
        seconds += time.process_time() - began
        if step % EVERY == 0 or step == steps:
            job.model.eval()
            with torch.no_grad(), job.compute_device.autocast():
                loss = job.evaluate(job.model)["loss"]
            job.model.train()
            points.append({"step": step, "seconds": seconds, "loss": loss})
            print(f"{kind:<6} {step:>6} {seconds:>8.1f} s {loss:>8.4f}", flush=True)
    return points


def at_seconds(points: Curve, seconds: float) -> float:
    """Return the loss after so many seconds, between those that were measured."""
    times = [point["seconds"] for point in points]
    losses = [point["loss"] for point in points]
    return float(np.interp(seconds, times, losses))


def run(arguments: list[str]) -> dict[str, Any]:
    """Train with both; ``arguments`` may hold the number of steps."""
    steps = int(arguments[0]) if arguments else STEPS
    curves: dict[str, Curve] = {}
    for kind, rate in RATES.items():
        with tempfile.TemporaryDirectory() as name:
            curves[kind] = curve(kind, rate, steps, Path(name) / "run")
    shorter = min(points[-1]["seconds"] for points in curves.values())
    results: dict[str, Any] = {"curves": curves, "rates": RATES, "seconds": shorter}
    for kind, points in curves.items():
        equal_steps = points[-1]["loss"]
        equal_time = at_seconds(points, shorter)
        results[kind] = {"equal_steps": equal_steps, "equal_time": equal_time}
        print(
            f"{kind:<6} after {steps} steps {equal_steps:.4f}, after {shorter:.0f} s "
            f"{equal_time:.4f}"
        )
    return results
