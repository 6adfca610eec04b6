"""What closes a training: measured scores, baselines, the files that tell of them, what is next."""

from __future__ import annotations

import csv
import io
import json
import shlex
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unrolled.core.files import write_json, write_text
from unrolled.data.sources import Document
from unrolled.decoding.sampling import Sampling
from unrolled.insight import card, report
from unrolled.tasks import folder as runs
from unrolled.tasks.base import locate
from unrolled.tasks.baselines import baselines
from unrolled.tasks.language import Language
from unrolled.tasks.plan import Plan
from unrolled.training.loop import Position
from unrolled.training.progress import duration


def finish(plan: Plan, at: Position, say: Callable[[str], None]) -> None:
    """Measure the best weights, compare them with the baselines, and write result and report."""
    task, dev, place = plan.prepared.task, plan.prepared.dev, plan.place
    model = runs.load(plan.folder).model.to(place.device)
    began = time.monotonic()
    with torch.no_grad():
        evaluation = task.evaluate(model, dev, place)
    per_row = 1000 * (time.monotonic() - began) / max(1, len(dev))
    found = [
        {"name": b.name, "scores": b.scores, "seconds": b.seconds} for b in baselines(plan.prepared)
    ]
    samples = sample_texts(task, model, plan) if isinstance(task, Language) else []
    result = {
        "task": task.name,
        "layer": plan.recipe.layer,
        "scores": evaluation.scores,
        "baselines": found,
        "steps": at.step,
        "best_step": at.best_step or at.step,
        "stopped": at.stopped,
        "seconds": at.seconds,
        "tokens": at.tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": (plan.folder / runs.MODEL).stat().st_size / 1e6,
        "milliseconds_a_row": per_row,
        "held_out_rows": len(dev),
        "precision": plan.place.precision,
        "device": str(plan.place.device),
        "threads": plan.recipe.training.threads,
        "found": plan.prepared.found,
        "samples": samples,
    }
    write_text(plan.folder / "README.md", card.render(plan.recipe, task, result))
    page = report.render(plan.folder, plan.recipe, task, result, evaluation)
    write_text(plan.folder / "report.html", page)
    # last: its presence says that the run has ended
    write_json(plan.folder / runs.RESULT, result)
    for line in summary(plan, result):
        say(line)


def sample_texts(task: Language, model: nn.Module, plan: Plan) -> list[str]:
    """Return a few texts the model writes, for the report."""
    chosen = Sampling(temperature=0.8)
    with plan.place.autocast():
        return [
            "".join(task.generate(model, "", 300, chosen, seed=n, device=plan.place.device))
            for n in range(3)
        ]


def summary(plan: Plan, result: dict[str, Any]) -> list[str]:
    """Return the lines that close a training: scores, baselines, what to type next."""
    task, metric = plan.prepared.task, plan.prepared.task.metric
    trained = duration(result["seconds"])
    lines = [
        f"trained {result['steps']:,} steps in {trained}; best at step {result['best_step']:,} "
        f"({result['stopped']})",
        "",
        f"held out: {result['held_out_rows']:,} {'tokens' if task.name == 'language' else 'rows'}",
    ]
    rows = [(f"this model ({plan.recipe.layer})", result["scores"])]
    rows += [(b["name"], b["scores"]) for b in result["baselines"]]
    width = max(len(name) for name, _ in rows)
    for name, scores in rows:
        shown = "  ".join(f"{key} {value:.4f}" for key, value in scores.items())
        lines.append(f"  {name:<{width}}  {shown}")
    ours = result["scores"][metric]
    for name, scores in rows[1:]:
        theirs = scores.get(metric)
        if theirs is None:
            continue
        if f"{theirs:.4f}" == f"{ours:.4f}":
            lines.append(f"As good as {name}: both have {metric} {ours:.4f}.")
        elif (theirs > ours) == task.higher:
            lines.append(
                f"The baseline wins: {name} has {metric} {theirs:.4f}, this model {ours:.4f}. "
                "Train longer, or use the baseline."
            )
    return [*lines, "", f"report: {plan.folder / 'report.html'}", "next:", *next_commands(plan)]


def next_commands(plan: Plan) -> list[str]:
    """Return three commands to type next."""
    where, task, other = plan.folder, plan.prepared.task, other_layer(plan)
    compare = f"  unrolled train {plan.target} layer={other} --out {where}-{other}"
    if task.name == "language":
        return [
            f'  unrolled generate {where} --prompt "..." --temperature 0.8',
            f"  unrolled evaluate {where} FILE",
            compare,
        ]
    row = example_row(plan)
    return [
        f"  unrolled predict {where} {row}",
        f"  unrolled predict {where} --file FILE -o answers.csv",
        compare,
    ]


def other_layer(plan: Plan) -> str:
    """Return a layer to compare with."""
    if plan.prepared.task.schema.numbers:
        return "lstm" if plan.recipe.layer == "none" else "none"
    return "gru" if plan.recipe.layer != "gru" else "lstm"


def example_row(plan: Plan) -> str:
    """Return a held-out row as the data file writes it, quoted for a shell."""
    data, task = plan.prepared.dev_data, plan.prepared.task
    if isinstance(data, Document):
        return '"..."'
    names = task.schema.inputs
    cells = [data.rows[0][i] for i in locate(data, names, task.columns)]
    words = [" ".join(map(str, c)) if isinstance(c, list) else str(c) for c in cells]
    if len(words) == 1:
        row = " ".join(words[0].split())[:60]
    elif task.format.kind == "jsonl":
        row = json.dumps(dict(zip(names, cells, strict=True)), ensure_ascii=False)
    elif task.format.quoted:
        line = io.StringIO()
        csv.writer(line, delimiter=task.format.delimiter or ",", lineterminator="").writerow(words)
        row = line.getvalue()
    else:
        row = (task.format.delimiter or ",").join(words)
    return ("-- " if row.startswith("-") else "") + shlex.quote(row)
