"""What closes a training: measured scores, baselines, the files that tell of them, what is next."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unrolled.core import digests
from unrolled.core.errors import UserError
from unrolled.core.files import write_text
from unrolled.core.terminal import clean
from unrolled.core.words import command, path_word
from unrolled.data.examples import Examples
from unrolled.data.sources import Document, Table
from unrolled.insight import card, report
from unrolled.insight.card import scored_on
from unrolled.insight.held_out import importances, inside_of_held_out
from unrolled.insight.mistakes import mistakes, right_answers
from unrolled.insight.speed import Speed, measure, write
from unrolled.insight.utilization import closing_line, utilization
from unrolled.nn.without_memory import without_memory
from unrolled.runs import folder as runs
from unrolled.runs.keys import words
from unrolled.runs.plan import Plan
from unrolled.runs.predictor import Predictor
from unrolled.runs.recipes import requested
from unrolled.runs.rows import as_typed
from unrolled.tasks.base import Evaluation, Task, locate
from unrolled.tasks.baselines import measured
from unrolled.training.job import Position
from unrolled.training.parallel import world
from unrolled.training.planning import epoch_steps
from unrolled.training.progress import duration

# simple methods may take this part of the time of training, and so many seconds at least
SHARE = 0.25
LEAST = 20.0
RIGHT = 5  # right answers that are shown
FAR = 3.0  # times the loss of a blind guess


def finish(
    plan: Plan,
    at: Position,
    say: Callable[[str], None],
    baseline_seconds: float | None = None,
) -> runs.Loaded:
    """Measure the best weights, compare them with the baselines, and write result and report.

    Args:
        plan: of the run.
        at: where its training ended.
        say: takes the lines that close it.
        baseline_seconds: how long simple methods may take before the rest of them is left out; 0
            leaves out all, None is a share of the time of training.

    Returns:
        The run, as it would be loaded.
    """
    task = plan.prepared.task
    compute_device = plan.compute_device
    options = plan.prepared.options
    loaded = runs.load(plan.folder, result=False)
    model = loaded.model.to(compute_device.device)
    with torch.no_grad():
        evaluation = task.evaluate(model, plan.prepared.dev, compute_device, options)
    if baseline_seconds is None:
        baseline_seconds = seconds_for_baselines(plan)
    methods = task.baselines(plan.prepared.split) if baseline_seconds else []
    baselines, left_out = measured(methods, baseline_seconds)
    compared = [
        {"name": b.name, "scores": b.scores, "seconds": b.seconds} for b in baselines
    ]
    samples, timed = answer_some(model, plan)
    result: dict[str, Any] = {
        "task": task.name,
        "layer": plan.recipe.layer,
        "scores": evaluation.scores,
        "notes": list(evaluation.notes),
        "baselines": compared,
        "baselines_left_out": left_out,
        **_progress(at),
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": (plan.folder / runs.MODEL).stat().st_size / 1e6,
        **_speed(timed),
        **_utilization(plan),
        **_conditions(plan),
        **({"init": plan.transfer.to_json()} if plan.transfer else {}),
        "samples": samples,
    }
    most = plan.recipe.data.max_row
    predictor = Predictor(task, model, compute_device, most, options)
    _write_pages(plan, result, evaluation, predictor, say)
    # last: its presence says that the run has ended
    digests.replace_json(plan.folder, runs.RESULT, result)
    digests.settle(plan.folder)
    for line in summary(plan, result):
        say(line)
    return replace(loaded, result=result)


def _progress(at: Position) -> dict[str, Any]:
    """Return how far the training went."""
    return {
        "steps": at.step,
        "best_step": at.best_step or at.step,
        "stopped": at.stopped,
        "epochs": at.epoch + at.epoch_ended,
        "seconds": at.seconds,
        "tokens": at.tokens,
    }


def _speed(timed: Speed | None) -> dict[str, Any]:
    """Return how fast the model answers; None where that was not measured."""
    return {
        "milliseconds_an_answer": timed and timed.milliseconds,
        "answers_a_second": timed and timed.per_second,
        "timed": timed and timed.how,
    }


def _utilization(plan: Plan) -> dict[str, float]:
    """Return how fast the training was beside what the machine can do, where that is known."""
    operations = plan.prepared.task.operations_per_token(plan.model, plan.recipe)
    compute_device = plan.compute_device
    used = utilization(plan.folder, operations, compute_device, world().size)
    return used.as_dict() if used else {}


def _conditions(plan: Plan) -> dict[str, Any]:
    """Return what was scored, and on what it was computed."""
    dev = plan.prepared.dev
    return {
        "scored_rows": len(dev),
        "scored_answers": dev.answers if isinstance(dev, Examples) else len(dev),
        "held_out": plan.prepared.held_out,
        "precision": plan.compute_device.precision,
        "device": str(plan.compute_device.device),
        "threads": plan.recipe.training.threads,
        "found": plan.prepared.lines,
    }


def _write_pages(
    plan: Plan,
    result: dict[str, Any],
    evaluation: Evaluation,
    predictor: Predictor,
    say: Callable[[str], None],
) -> None:
    """Write the model card, a look into some held-out rows, and the report."""
    prepared = plan.prepared
    task = prepared.task
    model_card = card.render(plan.recipe, task, result)
    write_text(plan.folder / "README.md", model_card, parents=False)
    settings = plan.recipe.report
    count = settings.rows if settings.samples else 0
    rows = (task, prepared.dev_data, prepared.dev, evaluation)
    inside = None
    if settings.samples and settings.inside:
        title = f"{plan.recipe.name}: {task.name}, {plan.recipe.layer}"
        data = prepared.dev_data
        inside = inside_of_held_out(predictor, data, result, title, say)
    if inside is not None:
        write_text(plan.folder / report.INSIDE, inside, parents=False)
    columns = task.feature_columns
    held_out = report.HeldOut(
        worst=mistakes(*rows, count),
        right=right_answers(*rows, min(count, RIGHT)),
        importances=importances(predictor, prepared.dev, columns),
        has_inside=inside is not None,
    )
    page = report.render(plan.folder, plan.recipe, task, result, evaluation, held_out)
    write_text(plan.folder / "report.html", page, parents=False)


def answer_some(model: nn.Module, plan: Plan) -> tuple[list[str], Speed | None]:
    """Return texts that a language model writes, where rows may be shown, and the speed."""
    task = plan.prepared.task
    compute_device = plan.compute_device
    data = plan.prepared.dev_data
    if not task.answers_rows:
        # what it writes may be what it has read
        shown = plan.recipe.report.samples
        samples, timed = write(model, task, compute_device, 3 if shown else 1)
        return samples if shown else [], timed
    if not isinstance(data, Table):
        return [], None
    dev = plan.prepared.dev
    options = plan.prepared.options
    return [], measure(model, task, data, dev, compute_device, options)


def summary(plan: Plan, result: dict[str, Any]) -> list[str]:
    """Return the lines that close a training: scores, baselines, what to type next."""
    trained = duration(result["seconds"])
    lines = [
        f"trained {result['steps']:,} steps in {trained}; best at step {result['best_step']:,} "
        f"({result['stopped']})",
        *filter(None, [closing_line(result)]),
        "",
        scored_on(result, plan.prepared.task) + ":",
    ]
    rows = [(f"this model ({plan.recipe.layer})", result["scores"])]
    rows += [(b["name"], b["scores"]) for b in result["baselines"]]
    width = max(len(name) for name, _ in rows)
    for name, scores in rows:
        shown = "  ".join(f"{key} {score:.4f}" for key, score in scores.items())
        lines.append(f"  {name:<{width}}  {shown}")
    lines += [f"  {note}" for note in result.get("notes", [])]
    if result.get("baselines_left_out"):
        lines.append(
            f"  left out for time: {', '.join(result['baselines_left_out'])} "
            "(training.max_minutes is that of training; simple methods have a quarter more)"
        )
    lines += divergence(plan, result)
    if at_pretraining(plan, result):
        lines.append(
            "Time ran out before the labels were learnt: raise training.max_minutes or lower "
            "training.pretrain_epochs."
        )
    return [
        *lines,
        *verdicts(plan.prepared.task, result, plan.recipe.training.metric),
        "",
        f"report: {plan.folder / 'report.html'}",
        "next:",
        *next_commands(plan),
    ]


def seconds_for_baselines(plan: Plan) -> float:
    """Return how long simple methods may take before the rest of them is left out."""
    minutes = plan.recipe.training.max_minutes
    return math.inf if minutes is None else max(LEAST, 60 * minutes * SHARE)


def divergence(plan: Plan, result: dict[str, Any]) -> list[str]:
    """Return a line where the loss is far above that of a blind guess."""
    loss = result["scores"].get("loss")
    blind = plan.prepared.task.blind_loss
    if loss is None or blind is None or loss <= FAR * blind:
        return []
    rate = plan.recipe.training.learning_rate
    return [
        f"The loss is {loss:.4g}, where a blind guess has {blind:.3g}: training went astray at "
        f"training.learning_rate={rate:g}; try {rate / 10:g}, and training.clip."
    ]


def verdicts(
    task: Task, result: dict[str, Any], metric: str | None = None
) -> list[str]:
    """Return a line for each baseline that is as good as the model, or better."""
    metric = metric or task.metric
    ours = result["scores"].get(metric)
    if ours is None:
        return []  # it was scored by other means, as where it learns from rewards
    lines = []
    for baseline in result["baselines"]:
        name = baseline["name"]
        theirs = baseline["scores"].get(metric)
        if theirs is None:
            continue
        # equal is what reads as equal
        if f"{theirs:.4f}" == f"{ours:.4f}":
            lines.append(f"As good as {name}: both have {metric} {ours:.4f}.")
        elif (theirs > ours) == task.measures[metric]:
            lines.append(
                f"The baseline wins: {name} has {metric} {theirs:.4f}, this model {ours:.4f}. "
                "Train longer, or use the baseline."
            )
    return lines


def at_pretraining(plan: Plan, result: dict[str, Any]) -> bool:
    """Whether a run ended before its first pass with labels."""
    training = plan.recipe.training
    if not training.pretrain_epochs:
        return False
    steps = epoch_steps(training, plan.source, training.pretrain_epochs)
    return bool(result["steps"] <= steps)


def next_commands(plan: Plan) -> list[str]:
    """Return the commands to type next, each as a shell takes it."""
    where = path_word(plan.folder)
    task = plan.prepared.task
    if not task.answers_rows:
        prompt = '--prompt "..." --temperature 0.8'
        lines = [
            f"{command('generate', where)} {prompt}",
            f"{command('evaluate', where)} FILE",
        ]
    else:
        ending = "txt" if task.is_generative else "csv"
        lines = [
            f"{command('predict', where)} {example_row(plan)}",
            f"{command('predict', where)} --file FILE -o answers.{ending}",
        ]
    other = comparison(plan)
    if other:
        # "." has no name
        folder = plan.folder if plan.folder.name else plan.folder.resolve()
        name = "-".join(str(setting) for setting in other.values())
        # the same data, read in the same way: what was asked for, but for one thing
        arguments = words({**plan.request.changes, **other})
        out = path_word(f"{folder}-{name}")
        target = path_word(plan.request.target)
        lines.append(command("train", target, *arguments, "--out", out))
    return [f"  {line}" for line in lines]


def comparison(plan: Plan) -> dict[str, Any]:
    """Return what to change for a run to compare with; nothing where no layer could be trained."""
    schema = plan.prepared.task.schema
    layer = plan.recipe.layer
    choices: list[dict[str, Any]] = [{"layer": name} for name in ("gru", "lstm")]
    if schema.frames:
        choices.insert(0, {"layer": "none"})
    elif not plan.prepared.task.reads_sequences:
        # rows by themselves: there is no order that a recurrent layer could remember
        deeper = {"layer": "none", "model.layers": 0 if plan.recipe.model.layers else 1}
        choices = [deeper if layer == "none" else {"layer": "none"}]
    others = (other for other in choices if len(other) > 1 or other["layer"] != layer)
    return next((other for other in others if _can_be_built(plan, other)), {})


def _can_be_built(plan: Plan, other: dict[str, Any]) -> bool:
    """Whether the run could be trained with something changed; the keys of a layer are its own."""
    try:
        recipe = requested(
            plan.request.target, {**plan.request.changes, **other}, resume=True
        )
        with without_memory():
            plan.prepared.task.build(recipe)
    except (UserError, NotImplementedError, RuntimeError):
        return False
    return True


def example_row(plan: Plan) -> str:
    """Return a held-out row as the data file writes it, quoted for a shell."""
    data = plan.prepared.dev_data
    task = plan.prepared.task
    if task.schema.frames or task.schema.clips:
        return f"--file {shlex.quote(path_word(data.path))}"
    if isinstance(data, Document) or not plan.recipe.report.samples:
        return '"..."'
    names = as_typed(task)
    columns = locate(data, names, task.columns)
    cells = [data.rows[0][column] for column in columns]
    row = _written_row(task, names, cells)
    # what begins with a dash would be read as an option
    options_end = "-- " if row.startswith("-") else ""
    return options_end + shlex.quote(clean(row))


def _written_row(task: Task, names: list[str], cells: list[Any]) -> str:
    """Return the named input cells of a row in the format of the data file."""
    texts = [
        " ".join(map(str, cell)) if isinstance(cell, list) else str(cell)
        for cell in cells
    ]
    if len(texts) == 1:
        return " ".join(texts[0].split())[:60]
    if task.format.objects or any(isinstance(cell, list) for cell in cells):
        row = dict(zip(names, cells, strict=True))
        return json.dumps(row, ensure_ascii=False, default=str)
    delimiter = task.format.delimiter or ","
    if not task.format.quoted:
        return delimiter.join(texts)
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="").writerow(texts)
    return line.getvalue()
