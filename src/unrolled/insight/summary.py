"""What closes a training: measured scores, baselines, the files that tell of them, what is next."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unrolled.core.errors import UserError
from unrolled.core.files import write_text
from unrolled.core.terminal import clean
from unrolled.core.words import command, path_word
from unrolled.data.examples import Examples
from unrolled.data.sources import Document, Table
from unrolled.insight import card, report
from unrolled.insight.card import scored_on
from unrolled.insight.mistakes import mistakes
from unrolled.insight.speed import Speed, measure, write
from unrolled.tasks import digests
from unrolled.tasks import folder as runs
from unrolled.tasks.base import locate
from unrolled.tasks.baselines import baselines
from unrolled.tasks.language import Language
from unrolled.tasks.plan import Plan
from unrolled.tasks.recipe import resolve, words
from unrolled.training.job import Position
from unrolled.training.planning import epoch_steps
from unrolled.training.progress import duration


def finish(plan: Plan, at: Position, say: Callable[[str], None]) -> None:
    """Measure the best weights, compare them with the baselines, and write result and report."""
    task = plan.prepared.task
    dev = plan.prepared.dev
    place = plan.place
    model = runs.load(plan.folder).model.to(place.device)
    with torch.no_grad():
        evaluation = task.evaluate(model, dev, place)
    found = [
        {"name": b.name, "scores": b.scores, "seconds": b.seconds}
        for b in baselines(plan.prepared)
    ]
    samples, timed = answer_some(model, plan)
    result = {
        "task": task.name,
        "layer": plan.recipe.layer,
        "scores": evaluation.scores,
        "notes": list(evaluation.notes),
        "baselines": found,
        "steps": at.step,
        "best_step": at.best_step or at.step,
        "stopped": at.stopped,
        "epochs": at.epoch + at.epoch_ended,
        "seconds": at.seconds,
        "tokens": at.tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": (plan.folder / runs.MODEL).stat().st_size / 1e6,
        "milliseconds_an_answer": timed and timed.milliseconds,
        "answers_a_second": timed and timed.per_second,
        "timed": timed and timed.how,
        "scored_rows": len(dev),
        "scored_answers": dev.answers if isinstance(dev, Examples) else len(dev),
        "held_out": plan.prepared.held_out,
        "precision": plan.place.precision,
        "device": str(plan.place.device),
        "threads": plan.recipe.training.threads,
        "found": plan.prepared.found,
        "samples": samples,
    }
    write_text(
        plan.folder / "README.md", card.render(plan.recipe, task, result), parents=False
    )
    told = plan.recipe.report
    worst = mistakes(
        task, plan.prepared.dev_data, dev, evaluation, told.rows if told.samples else 0
    )
    page = report.render(plan.folder, plan.recipe, task, result, evaluation, worst)
    write_text(plan.folder / "report.html", page, parents=False)
    # last: its presence says that the run has ended
    digests.replace_json(plan.folder, runs.RESULT, result)
    digests.settle(plan.folder)
    for line in summary(plan, result):
        say(line)


def answer_some(model: nn.Module, plan: Plan) -> tuple[list[str], Speed | None]:
    """Return texts that a language model writes, where rows may be shown, and the speed."""
    task = plan.prepared.task
    place = plan.place
    data = plan.prepared.dev_data
    if isinstance(task, Language):
        # what it writes may be what it has read
        shown = plan.recipe.report.samples
        samples, timed = write(model, task, place, 3 if shown else 1)
        return samples if shown else [], timed
    if not isinstance(data, Table):
        return [], None
    return [], measure(model, task, data, plan.prepared.dev, place)


def summary(plan: Plan, result: dict[str, Any]) -> list[str]:
    """Return the lines that close a training: scores, baselines, what to type next."""
    task = plan.prepared.task
    metric = plan.prepared.task.metric
    trained = duration(result["seconds"])
    lines = [
        f"trained {result['steps']:,} steps in {trained}; best at step {result['best_step']:,} "
        f"({result['stopped']})",
        "",
        scored_on(result) + ":",
    ]
    rows = [(f"this model ({plan.recipe.layer})", result["scores"])]
    rows += [(b["name"], b["scores"]) for b in result["baselines"]]
    width = max(len(name) for name, _ in rows)
    for name, scores in rows:
        shown = "  ".join(f"{key} {value:.4f}" for key, value in scores.items())
        lines.append(f"  {name:<{width}}  {shown}")
    lines += [f"  {note}" for note in result.get("notes", [])]
    if at_pretraining(plan, result):
        lines.append(
            "Time ran out before the labels were learnt: raise training.max_minutes or lower "
            "training.pretrain_epochs."
        )
    ours = result["scores"][metric]
    for name, scores in rows[1:]:
        theirs = scores.get(metric)
        if theirs is None:
            continue
        if f"{theirs:.4f}" == f"{ours:.4f}":
            lines.append(f"As good as {name}: both have {metric} {ours:.4f}.")
        elif (theirs > ours) == task.measures[metric]:
            lines.append(
                f"The baseline wins: {name} has {metric} {theirs:.4f}, this model {ours:.4f}. "
                "Train longer, or use the baseline."
            )
    return [
        *lines,
        "",
        f"report: {plan.folder / 'report.html'}",
        "next:",
        *next_commands(plan),
    ]


def at_pretraining(plan: Plan, result: dict[str, Any]) -> bool:
    """Whether a run ended before its first pass with labels."""
    training = plan.recipe.training
    if not training.pretrain_epochs:
        return False
    source = plan.prepared.task.source(plan.prepared.train, plan.recipe, plan.model)
    return bool(
        result["steps"] <= epoch_steps(training, source, training.pretrain_epochs)
    )


def next_commands(plan: Plan) -> list[str]:
    """Return the commands to type next, each as a shell takes it."""
    where = path_word(plan.folder)
    task = plan.prepared.task
    if task.name == "language":
        prompt = '--prompt "..." --temperature 0.8'
        lines = [
            f"{command('generate', where)} {prompt}",
            f"{command('evaluate', where)} FILE",
        ]
    else:
        ending = "txt" if task.writes else "csv"
        lines = [
            f"{command('predict', where)} {example_row(plan)}",
            f"{command('predict', where)} --file FILE -o answers.{ending}",
        ]
    other = comparison(plan)
    if other:
        # the same data, read in the same way: what was asked for, but for one thing
        changes = {**plan.changes, **other}
        folder = (
            plan.folder if plan.folder.name else plan.folder.resolve()
        )  # "." has no name
        name = "-".join(str(value) for value in other.values())
        told = [*words(changes), "--out", path_word(f"{folder}-{name}")]
        lines.append(command("train", path_word(plan.target), *told))
    return [f"  {line}" for line in lines]


def comparison(plan: Plan) -> dict[str, Any]:
    """Return what to change for a run to compare with; nothing where no layer could be trained."""
    schema = plan.prepared.task.schema
    layer = plan.recipe.layer
    choices: list[dict[str, Any]] = [{"layer": name} for name in ("gru", "lstm")]
    if schema.frames:
        choices.insert(0, {"layer": "none"})
    elif schema.numbers:
        # rows by themselves: there is no order that a recurrent layer could remember
        deeper = {"layer": "none", "model.layers": 0 if plan.recipe.model.layers else 1}
        choices = [deeper if layer == "none" else {"layer": "none"}]
    others = (other for other in choices if len(other) > 1 or other["layer"] != layer)
    return next((other for other in others if _can_be_built(plan, other)), {})


def _can_be_built(plan: Plan, other: dict[str, Any]) -> bool:
    """Whether the run could be trained with something changed; the keys of a layer are its own."""
    try:
        recipe = resolve(plan.target, {**plan.changes, **other}, resume=True)
        with torch.device("meta"):
            plan.prepared.task.build(recipe)
    except (UserError, NotImplementedError, RuntimeError):
        return False
    return True


def example_row(plan: Plan) -> str:
    """Return a held-out row as the data file writes it, quoted for a shell."""
    data = plan.prepared.dev_data
    task = plan.prepared.task
    if task.schema.frames:
        return f"--file {shlex.quote(path_word(data.path))}"
    if isinstance(data, Document) or not plan.recipe.report.samples:
        return '"..."'
    names = task.schema.inputs
    cells = [data.rows[0][i] for i in locate(data, names, task.columns)]
    words = [" ".join(map(str, c)) if isinstance(c, list) else str(c) for c in cells]
    if len(words) == 1:
        row = " ".join(words[0].split())[:60]
    elif task.format.objects:
        row = json.dumps(dict(zip(names, cells, strict=True)), ensure_ascii=False)
    elif task.format.quoted:
        line = io.StringIO()
        csv.writer(
            line, delimiter=task.format.delimiter or ",", lineterminator=""
        ).writerow(words)
        row = line.getvalue()
    else:
        row = (task.format.delimiter or ",").join(words)
    return ("-- " if row.startswith("-") else "") + shlex.quote(clean(row))
