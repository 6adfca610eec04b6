"""A run that is ready to start: recipe resolved, data read, model built, changes refused."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unrolled.core.errors import UsageError, UserError
from unrolled.data.batches import Buckets
from unrolled.tasks import folder as runs
from unrolled.tasks.base import Task
from unrolled.tasks.prepare import Prepared, prepare
from unrolled.tasks.recipe import Recipe, changed_keys, flat, left_out_lines, resolve
from unrolled.training.loop import Job, epoch_steps, planned_steps
from unrolled.training.parallel import world
from unrolled.training.precision import Place, choose
from unrolled.training.progress import Progress, need_tensorboard
from unrolled.training.settings import LIMITS


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that is ready to start, or to go on."""

    target: str
    folder: Path
    recipe: Recipe
    prepared: Prepared
    model: nn.Module
    place: Place
    finished: str
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Say what was found and what will be trained."""
        size = sum(p.numel() for p in self.model.parameters())
        training = self.recipe.training
        limits = [
            f"{name} {getattr(training, name):g}" for name in LIMITS if getattr(training, name)
        ]
        return [
            *self.prepared.found,
            *self.notes,
            f"model: layer={self.recipe.layer}, {size:,} parameters",
            f"computes on: {self.place.describe()}, {training.threads} threads"
            + (f", in {world().size} processes" if world().size > 1 else ""),
            f"trains until: {', '.join(limits)}"
            + (
                f", or {training.patience} evaluations without progress"
                if training.patience
                else ""
            ),
            f"run: {self.folder}",
        ]

    def job(self, progress: Progress) -> Job:
        """Return what the training loop needs, and write the folder's first files."""
        task, recipe, prepared = self.prepared.task, self.recipe, self.prepared
        model, metric = self.model.to(self.place.device), recipe.training.metric or task.metric

        def evaluate(scored: nn.Module) -> dict[str, float]:
            return task.watch(scored, prepared.dev, self.place)

        objective = task.objective(recipe, model)
        source = task.source(prepared.train, recipe, model)
        if world().first:
            runs.begin(self.folder, recipe, task, prepared.files)
        # a source may cut rows into pieces, which have lines of their own
        read = source.examples if isinstance(source, Buckets) else None
        return Job(
            model=model,
            objective=objective,
            source=source,
            settings=recipe.training,
            place=self.place,
            seed=recipe.seed,
            folder=self.folder / runs.CHECKPOINTS,
            metric=metric,
            higher=task.measures[metric],
            evaluate=evaluate,
            keep_best=lambda weights: runs.save_weights(self.folder, weights),
            progress=progress,
            lines=None if read is None else lambda rows: read.lines[rows].tolist(),
        )


def make_plan(
    target: str,
    changes: dict[str, Any],
    out: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    dry_run: bool = False,
) -> Plan:
    """Resolve a recipe, read its data and build its model; nothing is written.

    A ``dry_run`` may be planned beside a run that exists, since it will not be started.

    Raises:
        UserError: the run exists and is not to be resumed, a key or a file is wrong, or a key or
            the data differ from those the run was begun with.
    """
    if seed is not None:
        changes = changes | {"seed": seed}
    recipe = resolve(target, changes)
    where = folder_of(target, recipe, out)
    known = runs.is_run(where) and (resume or not dry_run)
    if known and not resume:
        refuse_existing(where)
    saved = runs.read_recipe(where) if known else None
    task, files = runs.read_fields(where) if known else (None, {})
    recipe = settle(recipe, saved)
    torch.set_num_threads(recipe.training.threads or torch.get_num_threads())
    prepared = prepare(recipe, task)
    recipe = prepared.recipe
    if saved is not None:
        refuse_changes(where, saved, recipe, files, prepared.files)
    place = choose(recipe.training.device, recipe.training.precision)
    if recipe.training.precision == "auto":
        recipe = recipe.changed(training=recipe.training.changed(precision=place.precision))
        place = Place(place.device, place.precision, place.why)
    check_keys(recipe, prepared.task)
    torch.manual_seed(recipe.seed)
    model = prepared.task.build(recipe)
    check_limits(recipe, prepared, model)
    finished = is_finished(where, recipe, prepared, model) if known else ""
    notes = left_out_lines(target, changes)
    return Plan(target, where, recipe, prepared, model, place, finished, notes)


def refuse_existing(where: Path) -> None:
    """Raise UserError for a folder that holds a run."""
    if runs.is_run(where):
        raise UserError(
            f"{where} holds a run already; go on with it: "
            f"unrolled train {shlex.quote(str(where))} --resume, or choose another --out"
        )


def folder_of(target: str, recipe: Recipe, out: str | Path | None) -> Path:
    """Return the folder of a run: as given, the run that is named, or runs/<name>."""
    if out is not None:
        return Path(out)
    return Path(target) if runs.is_run(Path(target)) else Path("runs") / recipe.name


def finished_as_asked(recipe: Recipe, where: Path) -> str:
    """Return how a run ended that was asked for as it is, else an empty text.

    Needs no data file: it may have moved since.
    """
    result = runs.read_result(where) if runs.is_run(where) else {}
    if not result:
        return ""
    asked, kept = (
        flat(recipe.model_dump(exclude_unset=True)),
        flat(runs.read_recipe(where).model_dump()),
    )
    return "" if any(kept.get(key) != value for key, value in asked.items()) else _ended(result)


def _ended(result: dict[str, Any]) -> str:
    if result["stopped"] != "limit":
        return str(result["stopped"])
    return f"it reached its limit at step {result['steps']:,} (raise training.max_steps to go on)"


def settle(recipe: Recipe, saved: Recipe | None) -> Recipe:
    """Fill what the machine decides: threads, and on resume what the run was begun with."""
    training = recipe.training
    threads = saved.training.threads if saved else torch.get_num_threads()
    values: dict[str, Any] = {"threads": training.threads or threads}
    if saved is not None:
        if training.precision == "auto":
            values["precision"] = saved.training.precision
        # these follow from the limits or the data where nobody set them, and limits may be raised
        derived = {"patience", "evaluate_every"} - training.model_fields_set
        values |= {name: getattr(saved.training, name) for name in derived}
        if not training.bounded:
            values |= {name: getattr(saved.training, name) for name in LIMITS}
    # a copy keeps in mind which keys were set, and which are still to be chosen
    return recipe.model_copy(update={"training": training.model_copy(update=values)})


def refuse_changes(
    where: Path, saved: Recipe, recipe: Recipe, before: dict[str, str], now: dict[str, str]
) -> None:
    """Raise UserError when a key other than a limit, or the data, differ from the run's."""
    differing = changed_keys(saved, recipe)
    if differing:
        old, new = flat(saved.model_dump()), flat(recipe.model_dump())
        told = "; ".join(f"{key} was {old[key]!r} and is now {new[key]!r}" for key in differing)
        raise UserError(
            f"{where} cannot be resumed with other settings: {told}. Only limits "
            f"({', '.join('training.' + name for name in LIMITS)}) may change; for the rest choose "
            "another --out"
        )
    altered = [name for name in now if before.get(name) != now[name]]
    if altered:
        raise UserError(
            f"{where} cannot be resumed: {altered[0]} is not the file it was begun with; restore "
            "it, or choose another --out"
        )


def check_limits(recipe: Recipe, prepared: Prepared, model: nn.Module) -> None:
    """Raise UsageError for a run whose limits do not fit, or that its task cannot be trained by."""
    task, training = prepared.task, recipe.training
    task.objective(recipe, model)
    source = task.source(prepared.train, recipe, model)
    first = epoch_steps(training, source, training.pretrain_epochs)
    total = planned_steps(training, source)
    if first and total is not None and total <= first:
        raise UsageError(
            f"pre-training takes {first:,} steps and the run ends after {total:,}, before it sees "
            "a label: raise training.max_steps or lower training.pretrain_epochs"
        )


def check_keys(recipe: Recipe, task: Task) -> None:
    """Raise UsageError for a key that means nothing to the task, or lacks what it needs."""
    told, many_to_one = recipe.training, task.pattern == "many to one"
    if told.pretrain_epochs and not many_to_one:
        raise UsageError(
            f"training.pretrain_epochs={told.pretrain_epochs} is for a label or value of a text, "
            f"not for {task.name}"
        )
    if recipe.model.ngrams and not (many_to_one or task.name == "tag"):
        raise UsageError(
            f"model.ngrams={recipe.model.ngrams} is for a label or value of a text, or for tags of "
            f"words, not for {task.name}"
        )
    if recipe.training.tensorboard:
        need_tensorboard()
    metric = recipe.training.metric
    if metric is not None and metric not in task.measures:
        raise UsageError(
            f"training.metric={metric}: task={task.name} has {', '.join(task.measures)}"
        )


def is_finished(where: Path, recipe: Recipe, prepared: Prepared, model: nn.Module) -> str:
    """Return how a run ended when nothing is left to do, else an empty text."""
    result = runs.read_result(where)
    if not result:
        return ""
    if result["stopped"] != "limit":
        return _ended(result)
    limits = recipe.training
    total = planned_steps(limits, prepared.task.source(prepared.train, recipe, model))
    by_time = limits.max_minutes is not None and result["seconds"] >= 60 * limits.max_minutes
    if by_time or (total is not None and result["steps"] >= total):
        return _ended(result)
    return ""
