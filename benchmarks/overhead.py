"""What the training loop costs: tokens a second beside a plain loop, and the share of kernels."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from unrolled.models import LanguageModel
from unrolled.runs.plan import make_plan
from unrolled.training.loop import Trainer
from unrolled.training.progress import MetricsLog, Progress

STEPS = 60
WARM = 10
REPEATS = 5
LAYERS = ("lstm", "gru", "rnn", "attention")


def changes(layer: str, steps: int) -> dict[str, Any]:
    """Return the settings that both loops share."""
    return {
        "layer": layer,
        "data.tokenizer": "chars",
        "model.embedding": 128,
        "model.hidden": 256,
        "model.head_dropout": 0.0,
        "training.batch_size": 32,
        "training.window": 64,
        "training.max_steps": steps,
        "training.checkpoint_every": 10**6,
        "training.log_every": 20,
        "training.evaluate_every": 10**6,
        "training.schedule": "constant",
    }


def loop_speed(layer: str, folder: Path) -> tuple[float, float]:
    """Return our loop's tokens a second, and the share of a step spent in torch's operators."""
    target = str(
        Path(__file__).parent.parent / "src/unrolled/recipes/data/shakespeare.txt.gz"
    )
    plan = make_plan(target, changes(layer, WARM + STEPS), folder / layer)
    trainer = Trainer(plan.job(Progress(quiet=True)))
    log = MetricsLog(folder / f"{layer}.jsonl", 0, False)
    trainer.job.model.train()
    for _ in range(WARM):
        trainer.step(log)
    tokens = trainer.position.tokens
    began = time.perf_counter()
    for number in range(STEPS):
        trainer.step(log)
        if number % 20 == 19:
            trainer.report(log, 0, 0.0)
    speed = (trainer.position.tokens - tokens) / (time.perf_counter() - began)
    fraction = kernel_share(trainer, log)
    log.close()
    return speed, fraction


def kernel_share(trainer: Trainer, log: MetricsLog) -> float:
    """Return the share of the time of a step that torch's operators take, the backward included."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        for _ in range(20):
            with torch.profiler.record_function("one_step"):
                trainer.step(log)
    events = profile.events()
    assert events is not None
    steps = [e for e in events if e.name == "one_step"]
    total = sum(e.time_range.elapsed_us() for e in steps)
    # union of all operator intervals inside a step: what remains is Python between them
    inside = sorted(
        (e.time_range.start, e.time_range.end)
        for e in events
        if e.name != "one_step" and not e.name.startswith("Optimizer.")
    )
    covered = 0.0
    last = 0.0
    for start, end in inside:
        if end > last:
            covered += end - max(start, last)
            last = end
    return min(1.0, covered / total)


def plain_speed(layer: str, folder: Path) -> float:
    """Return the tokens a second of a loop written by hand around the same model and batches."""
    target = str(
        Path(__file__).parent.parent / "src/unrolled/recipes/data/shakespeare.txt.gz"
    )
    plan = make_plan(target, changes(layer, WARM + STEPS), folder / f"{layer}-plain")
    model = plan.model
    settings = plan.recipe.training
    prepared = plan.prepared
    assert isinstance(model, LanguageModel)
    model.train()
    stream = torch.from_numpy(prepared.train.tokens).long()
    rows = settings.batch_size
    window = settings.window
    lanes = stream[: len(stream) // rows * rows].view(rows, -1)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, fused=True
    )
    state = None
    began = 0.0
    for step in range(WARM + STEPS):
        if step == WARM:
            began = time.perf_counter()
        part = lanes[:, step * window : (step + 1) * window + 1]
        with plan.compute_device.autocast():
            logits, state = model(
                part[:, :-1], state if model.context is None else None
            )
            loss = F.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten())
        state = state.detach()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            loss.item()
    return STEPS * rows * window / (time.perf_counter() - began)


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure every layer, the two loops in turn, several times; print the medians."""
    results: dict[str, Any] = {}
    print(
        f"{'layer':<10} {'unrolled':>12} {'plain loop':>12} {'ratio':>7} {'in torch':>9}"
    )
    for layer in arguments or LAYERS:
        with tempfile.TemporaryDirectory() as name:
            pairs = []
            fractions = []
            for repeat in range(REPEATS):
                speed, fraction = loop_speed(layer, Path(name) / str(repeat))
                pairs.append((speed, plain_speed(layer, Path(name) / str(repeat))))
                fractions.append(fraction)
        ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        fraction = statistics.median(fractions)
        print(
            f"{layer:<10} {ours:>12,.0f} {plain:>12,.0f} {ratio:>7.3f} {fraction:>9.1%}",
            flush=True,
        )
        results[layer] = {
            "ours": ours,
            "plain": plain,
            "ratio": ratio,
            "share_in_torch": fraction,
        }
    return {"layers": results, "repeats": REPEATS, "threads": torch.get_num_threads()}
