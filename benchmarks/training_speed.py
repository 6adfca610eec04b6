"""Training tokens a second of a GPT, beside a plain loop in the manner of nanoGPT.

The same model (learned positions, LayerNorm, GELU, no biases, tied weights), the same sizes of
batches of tinyshakespeare, AdamW, gradients clipped at 1, no dropout; the loop runs in fp32, in
bf16 by autocast, and compiled, ours in fp32 and in bf16. Losses are written down beside each other.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.nanogpt import CharGPT
from unrolled.runs.plan import make_plan
from unrolled.training.loop import Trainer
from unrolled.training.losses import mean_logs
from unrolled.training.memory import freed_memory_kept
from unrolled.training.progress import Progress, SilentLog

TEXT = Path(__file__).parent.parent / "src/unrolled/recipes/data/shakespeare.txt.gz"
REPEATS = 3
RATE = 1e-3


@dataclass(frozen=True)
class Setting:
    """Sizes of a model and of its batches, and how many steps are timed."""

    layers: int
    heads: int
    width: int
    rows: int
    window: int
    warm: int
    steps: int


SETTINGS = {
    "small": Setting(4, 4, 128, 12, 64, 20, 100),
    "large": Setting(6, 6, 384, 16, 256, 1, 3),
}


class Loop:
    """The plain loop: one step after the other, and the losses of them."""

    def __init__(
        self, setting: Setting, precision: str, text: Tensor, compiled: bool
    ) -> None:
        torch.manual_seed(1337)
        self.setting = setting
        self.text = text
        self.precision = precision
        vocabulary = int(text.max()) + 1
        self.model = CharGPT(
            vocabulary, setting.layers, setting.heads, setting.width, setting.window
        )
        weights = list(self.model.parameters())
        groups = [
            {"params": [p for p in weights if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99))
        self.run: Callable[[Tensor], Tensor] = self.model
        if compiled:
            self.run = torch.compile(self.model)
        self.losses: list[float] = []

    def step(self) -> None:
        """Make one update."""
        setting = self.setting
        span = torch.arange(setting.window + 1)
        starts = torch.randint(len(self.text) - setting.window, (setting.rows, 1))
        rows = self.text[starts + span]
        context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.precision == "bf16":
            context = torch.autocast("cpu", torch.bfloat16)
        with context:
            scores = self.run(rows[:, :-1]).flatten(0, 1)
            loss = F.cross_entropy(scores.float(), rows[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.losses.append(loss.item())


class Ours:
    """A training of the package, step by step."""

    def __init__(self, setting: Setting, precision: str, folder: Path) -> None:
        changes: dict[str, Any] = {
            "layer": "attention",
            "data.tokenizer": "chars",
            "model.embedding": setting.width,
            "model.embedding_std": 0.02,
            "model.hidden": setting.width,
            "model.layers": setting.layers,
            "model.heads": setting.heads,
            "model.context": setting.window,
            "model.positions": "learned",
            "model.norm": "layer",
            "model.feedforward": "gelu",
            "model.tie": True,
            "model.head_bias": False,
            "model.dropout": 0.0,
            "model.embedding_dropout": 0.0,
            "model.head_dropout": 0.0,
            "training.precision": precision,
            "training.batch_size": setting.rows,
            "training.window": setting.window,
            "training.learning_rate": RATE,
            "training.weight_decay": 0.1,
            "training.beta2": 0.99,
            "training.clip": 1.0,
            "training.schedule": "constant",
            "training.warmup_steps": 0,
            "training.max_steps": 10**6,
            "training.checkpoint_every": 10**6,
            "training.evaluate_every": 10**6,
            "training.average": "none",
            "report.inside": False,
        }
        plan = make_plan(str(TEXT), changes, folder)
        self.tokens = plan.prepared.train.tokens
        self.trainer = Trainer(plan.job(Progress(quiet=True)))
        self.trainer.job.model.train()
        self.losses: list[float] = []
        self.log = SilentLog()

    def step(self) -> None:
        """Make one update, and read its loss, as the loop does."""
        self.trainer.step(self.log)
        state = self.trainer.state
        self.losses.append(mean_logs(state.pending)["loss"])
        state.pending = []


def speed(side: Loop | Ours, setting: Setting) -> float:
    """Return the tokens a second of some steps."""
    with freed_memory_kept() if isinstance(side, Ours) else contextlib.nullcontext():
        for _ in range(2):
            side.step()
        began = time.perf_counter()
        for _ in range(setting.steps):
            side.step()
        seconds = time.perf_counter() - began
    return setting.steps * setting.rows * setting.window / seconds


def compare(setting: Setting, folder: Path) -> dict[str, Any]:
    """Measure all sides of one setting in turn; return medians and losses."""
    ours = {kind: Ours(setting, kind, folder / kind) for kind in ("fp32", "bf16")}
    threads = torch.get_num_threads()
    text = torch.from_numpy(ours["fp32"].tokens).long()
    loops = {
        "loop fp32": functools.partial(Loop, setting, "fp32", text, False),
        "loop bf16": functools.partial(Loop, setting, "bf16", text, False),
        "loop compiled": functools.partial(Loop, setting, "fp32", text, True),
        "loop compiled bf16": functools.partial(Loop, setting, "bf16", text, True),
    }
    sides: dict[str, Loop | Ours] = {name: make() for name, make in loops.items()}
    sides |= {f"unrolled {kind}": side for kind, side in ours.items()}
    for side in sides.values():
        for _ in range(setting.warm):
            side.step()
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(REPEATS):
        for name, side in sides.items():
            speeds[name].append(speed(side, setting))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    fastest = max((name for name in sides if name.startswith("loop")), key=medians.get)
    pairs = zip(speeds["unrolled bf16"], speeds[fastest], strict=True)
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    for name, median in medians.items():
        print(f"  {name:<20} {median:>10,.0f} tokens/s", flush=True)
    print(f"  unrolled bf16 / {fastest}: {ratio:.3f}", flush=True)
    losses = {name: side.losses for name, side in sides.items()}
    return {
        "tokens_per_second": medians,
        "fastest_loop": fastest,
        "ratio": ratio,
        "losses": losses,
        "threads": threads,
    }


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure the settings that are named, else both."""
    results: dict[str, Any] = {}
    for name in arguments or SETTINGS:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = compare(SETTINGS[name], Path(folder))
    return {"settings": results, "repeats": REPEATS}
