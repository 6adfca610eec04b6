"""The runs of the course: each trained once, then read again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from spacing import write as write_spacing
from torch import Tensor

import unrolled
from unrolled.ops import reference
from unrolled.run import Run
from unrolled.runs.recipes import folder as recipes
from unrolled.training.progress import read_metrics

ROOT = Path(__file__).parent.parent.parent
RUNS = ROOT / "runs" / "course"
LAYERS = ("none", "rnn", "gru", "lstm", "attention")
REFRAIN = "무궁화 삼천리 화려강산\n대한 사람 대한으로 길이 보전하세\n"

LINE = {
    "data.numbers": ["mean_radius"],
    "data.label": "mean_area",
    "task": "regress",
    "training.metric": "rmse",
}
SPACING = {
    "data.on_error": "skip",
    "data.limit": 8000,
    "training.max_epochs": 2,
    "model.spelling": 0,
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "line": (
        "logistic",
        LINE | {"training.weight_decay": 0, "training.learning_rate": 0.05},
    ),
    "curve": ("logistic", LINE | {"model.layers": 2}),
    "logistic": ("logistic", {}),
    "multiplication": ("multiplication", {}),
    **{f"anthem-{layer}": ("anthem", {"layer": layer}) for layer in LAYERS},
    **{
        f"quick-{layer}": ("shakespeare-quick", {"layer": layer})
        for layer in ("rnn", "gru", "lstm")
    },
    "reviews": ("reviews", {}),
    "reviews-gru": ("reviews", {"model.ngrams": 0}),
    "spacing-gru": ("spacing.jsonl", SPACING | {"layer": "gru"}),
    "spacing-none": ("spacing.jsonl", SPACING | {"layer": "none"}),
    "gpt": ("shakespeare-attention", {"model.layers": 2, "training.max_steps": 600}),
}


def run(name: str) -> Run:
    """Return a run of the course, trained first if need be."""
    target, changes = SETTINGS[name]
    where = RUNS / name
    if target == "spacing.jsonl":
        target = str(RUNS / target)
        if not Path(target).exists():
            write_spacing(Path(target))
    if not (where / "result.json").exists():
        print(f"training {name}", file=sys.stderr)
        unrolled.train(target, out=where, resume=where.exists(), **changes)
    return unrolled.load(where)


def losses(name: str, kind: str = "train") -> list[tuple[float, float]]:
    """Return the loss of each logged step."""
    run(name)
    lines = read_metrics(RUNS / name / "metrics.jsonl")
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == kind]


def anthem() -> str:
    """Return the text that is learnt by heart."""
    return (recipes() / "data" / "anthem.txt").read_text("utf-8")


def refrains() -> list[int]:
    """Return where each verse's refrain begins."""
    text = anthem()
    return [at for at in range(len(text)) if text.startswith(REFRAIN[:6], at)]


def read_anthem(made: Run) -> tuple[dict[str, Tensor], Tensor]:
    """Return what the reference equations show at each step, and the scores of the next token.

    Step t stands after t characters were read; step 0 has read the end mark alone.
    """
    model: Any = made.model
    ids = [made.task.tokenizer.eos_id, *made.task.tokenizer.encode(anthem())]  # type: ignore[attr-defined]
    x = model.embedding(torch.tensor([ids]))
    start = model.layer.initial_state(1)
    parts = tuple(part[0] for part in (start.h, start.c) if part is not None)
    y, _, trace = reference.unroll(
        model.layer.cell, x, parts, model.layer._weights(model.layer._places[0])
    )
    return {key: value[0] for key, value in trace.items()}, model.head(y)[0]


def table(path: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table that ships."""
    lines = (recipes() / "data" / path).read_text("utf-8").splitlines()
    rows = [line.split(",") for line in lines]
    return rows[0], rows[1:]
