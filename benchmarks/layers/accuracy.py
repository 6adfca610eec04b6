"""What bf16 and int8 weights cost in the dev score of trained models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import unrolled
from benchmarks.layers import common
from benchmarks.layers.common import Options
from benchmarks.layers.memory import ROOT
from unrolled import ops
from unrolled.runs.prepare import prepare
from unrolled.training.precision import ComputeDevice

NAMES = ("shakespeare-lstm", "shakespeare-gru", "nsmc")  # looked for in runs/
DEVICES = {
    name: ComputeDevice(torch.device("cpu"), name, "as asked")
    for name in ("fp32", "bf16")
}
WIDTHS = (22, 12, 10, 10, 10)


def score(folder: Path) -> dict[str, Any]:
    """Return the dev scores of a run in three precisions, and which of them chose its weights."""
    run = unrolled.load(folder, device="cpu")
    dev = prepare(run.recipe, run.task).dev

    def scores(precision: str) -> dict[str, float]:
        with torch.no_grad(), common.at_work(f"scores of {folder.name}", "forward"):
            return dict(run.task.evaluate(run.model, dev, DEVICES[precision]).scores)

    results = {"fp32": scores("fp32"), "bf16": scores("bf16")}
    with ops.precision("int8"):
        results["int8"] = scores("fp32")
    metric = run.recipe.training.metric or run.task.metric
    return {"metric": metric, "layer": run.recipe.layer, **results}


def run(options: Options) -> dict[str, Any]:
    """Score the runs named, else those of runs/, else a short training of its own."""
    folders = [Path(name) for name in options.runs]
    folders = folders or [ROOT / "runs" / name for name in NAMES]
    folders = [folder for folder in folders if (folder / "result.json").exists()]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        if not folders:
            folders = [Path(name) / "shakespeare-quick"]
            print(
                "no trained run was named or found; training the recipe shakespeare-quick"
            )
            unrolled.train(
                "shakespeare-quick", out=folders[0], quiet=True, say=lambda _: None
            )
        common.line(WIDTHS, "run", "dev score", "fp32", "bf16", "int8")
        for folder in folders:
            result = score(folder)
            numbers = [
                f"{result[kind][result['metric']]:.4f}"
                for kind in ("fp32", "bf16", "int8")
            ]
            common.line(WIDTHS, folder.name, result["metric"], *numbers)
            results[folder.name] = result
    return results
