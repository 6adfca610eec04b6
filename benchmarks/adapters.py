"""A training by adapters beside peft and transformers: same weights, talks, rank and precision.

``python -m benchmarks adapters CHECKPOINT DATA [--rank 8 --rows 8 --steps 20 --rounds 7]``. Both
begin with the same adapters beside all products, and make the same updates by the same talks; a
step of theirs reads them padded, as transformers' collator has them, and ours read both padded and
packed as a training packs them. Counted are the tokens of talks. Peak memory is that of a process
which makes a few updates. Needs transformers and peft.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import unrolled
from unrolled.data.batches import IGNORED, Batch, collate
from unrolled.runs.plan import Plan, make_plan
from unrolled.training.averaging import snapshot

RATE = 0.0005
BATCHES = "batches.pt"


@dataclass(frozen=True)
class Learner:
    """A side: its update by a batch, and its mean loss of one without learning."""

    update: Callable[[Batch], None]
    loss: Callable[[Batch], tuple[float, int]]

    def mean_loss(self, batches: list[Batch]) -> float:
        """Return the mean loss of the tokens of answers."""
        sums = [self.loss(batch) for batch in batches]
        return sum(total for total, _ in sums) / sum(count for _, count in sums)


def planned(checkpoint: str, data: str, rank: int, longest: int) -> Plan:
    """Return our training, which is not begun: the model, its adapters and the talks."""
    changes = {
        "task": "chat",
        "model": {"init": checkpoint},
        "data": {"max_tokens": longest, "on_error": "skip"},
        "adapter": {"rank": rank},
        "training": {"precision": "fp32", "device": "cpu"},
    }
    return make_plan(data, changes, tempfile.mkdtemp() + "/run", dry_run=True)


def our_learner(plan: Plan) -> Learner:
    """Return our side."""
    model: Any = plan.model
    trained = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, weight_decay=0.0)

    def update(batch: Batch) -> None:
        loss = plan.objective(model.train(), batch, None)
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()

    def loss_of(batch: Batch) -> tuple[float, int]:
        with torch.no_grad():
            loss = plan.objective(model.eval(), batch, None)
        return float(loss.sum), int(loss.count)

    return Learner(update, loss_of)


def their_learner(base: Path, adapter: Path) -> Learner:
    """Return peft's side."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(plain, adapter, is_trainable=True)
    trained = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, weight_decay=0.0)

    def mean(batch: Batch) -> Tensor:
        assert batch.targets is not None
        # theirs shifts the labels itself
        ids = torch.nn.functional.pad(batch.inputs, (0, 1))
        labels = torch.nn.functional.pad(batch.targets, (1, 0), value=IGNORED)
        assert batch.lengths is not None
        mask = (torch.arange(ids.shape[1]) <= batch.lengths[:, None]).long()
        loss: Tensor = model(ids, attention_mask=mask, labels=labels).loss
        return loss

    def update(batch: Batch) -> None:
        model.train()
        mean(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    def loss_of(batch: Batch) -> tuple[float, int]:
        model.eval()
        assert batch.targets is not None
        count = int((batch.targets != IGNORED).sum())
        with torch.no_grad():
            return float(mean(batch)) * count, count

    return Learner(update, loss_of)


def packed(batch: Batch) -> Batch:
    """Return the talks of a padded batch in one row, none of which sees another."""
    assert batch.lengths is not None
    assert batch.targets is not None
    real = torch.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
    starts = torch.zeros_like(real)
    starts[:, 0] = True
    return Batch(
        batch.inputs[real][None],
        None,
        batch.targets[real][None],
        batch.rows,
        starts=starts[real][None],
    )


def tokens_of(batch: Batch) -> int:
    """Return the tokens of talks in a padded batch."""
    assert batch.lengths is not None
    return int(batch.lengths.sum())


def batches_of(examples: Any, rows: int, count: int, seed: int) -> list[Batch]:
    """Return padded batches of talks, drawn without order."""
    order = np.random.default_rng(seed).permutation(len(examples))
    chosen = np.resize(order, rows * count).reshape(count, rows)
    return [collate(examples, row) for row in chosen]


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure both in turns, then memory in processes of their own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks adapters")
    parser.add_argument("checkpoint")
    parser.add_argument("data")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "packed", "theirs"))
    parser.add_argument("--home", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.side:
        return memory_of(options)
    plan = planned(options.checkpoint, options.data, options.rank, options.longest)
    train = plan.prepared.train
    batches = batches_of(train, options.rows, options.steps, 0)
    home = Path(tempfile.mkdtemp())
    written(plan, options.checkpoint, home)
    kept = [(part.inputs, part.targets, part.lengths) for part in batches[:3]]
    torch.save(kept, home / BATCHES)
    theirs = their_learner(home / "base", home / "run" / "adapter")
    ours = our_learner(plan)
    dev = batches_of(plan.prepared.dev, options.rows, 2, 0)
    before = {"ours": ours.mean_loss(dev), "theirs": theirs.mean_loss(dev)}
    speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for batch in batches:
        for name, learner in (("ours", ours), ("theirs", theirs)):
            began = time.perf_counter()
            learner.update(batch)
            seconds = time.perf_counter() - began
            speeds[name].append(tokens_of(batch) / seconds)
    after = {"ours": ours.mean_loss(dev), "theirs": theirs.mean_loss(dev)}
    speeds["packed"] = []
    for batch in batches[: options.rounds]:
        began = time.perf_counter()
        ours.update(packed(batch))
        speeds["packed"].append(tokens_of(batch) / (time.perf_counter() - began))
    first = statistics.median(speeds["theirs"][: options.rounds])
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    memory = {
        side: in_own_process(side, arguments, home)
        for side in ("ours", "packed", "theirs")
    }
    for name, value in medians.items():
        print(f"{name:<8}{value:>9,.1f} tokens a second{memory[name]:>8,.0f} MiB")
    print(f"ratio {medians['ours'] / medians['theirs']:.2f}")
    print(f"ratio packed {medians['packed'] / first:.2f}")
    print(f"loss before {before}, after {options.steps} updates {after}")
    return {
        "speeds": speeds,
        "memory": memory,
        "before": before,
        "after": after,
        "ratio": medians["ours"] / medians["theirs"],
        "ratio_packed": medians["packed"] / first,
    }


def written(plan: Plan, checkpoint: str, home: Path) -> None:
    """Write the checkpoint as transformers reads it, and the adapters as peft does."""
    unrolled.load(checkpoint).export("hf", home / "base", say=lambda text: None)
    (home / "run").mkdir()
    assert plan.adaptation is not None
    plan.adaptation.keep(home / "run", snapshot(plan.model))


def memory_of(options: Any) -> dict[str, Any]:
    """Make a few updates by one side, and print the peak memory of them in MiB."""
    if options.side == "theirs":
        learner = their_learner(options.home / "base", options.home / "run" / "adapter")
    else:
        plan = planned(
            options.checkpoint,
            options.data,
            options.rank,
            options.longest,
        )
        learner = our_learner(plan)
    # what reading the checkpoint took does not count
    Path("/proc/self/clear_refs").write_text("5")
    kept = torch.load(options.home / BATCHES, weights_only=True)
    for inputs, targets, lengths in kept:
        batch = Batch(inputs, lengths, targets, np.arange(len(inputs)))
        learner.update(packed(batch) if options.side == "packed" else batch)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(row for row in status if row.startswith("VmHWM"))
    kilobytes = float(peak.split()[1])
    print(f"peak {kilobytes / 1024:.1f}")
    return {"peak": kilobytes / 1024}


def in_own_process(side: str, arguments: list[str], home: Path) -> float:
    """Return the peak memory in MiB of a process that makes the updates of one side."""
    code = "import sys; from benchmarks import adapters; adapters.run(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments, "--side", side]
    done = subprocess.run(
        [*command, "--home", str(home)],
        check=True,
        capture_output=True,
        text=True,
    )
    line = next(row for row in done.stdout.splitlines() if row.startswith("peak"))
    return float(line.split()[1])
