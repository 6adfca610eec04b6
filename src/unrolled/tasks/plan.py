"""A run that is ready to start: recipe resolved, data read, model built, changes refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unrolled.core.errors import UsageError, UserError, is_out_of_memory, shown
from unrolled.core.files import expanded
from unrolled.core.words import option
from unrolled.data.batches import Buckets
from unrolled.tasks import digests
from unrolled.tasks import folder as runs
from unrolled.tasks.base import Task
from unrolled.tasks.prepare import Prepared, prepare
from unrolled.tasks.recipe import (
    CONFIG,
    FILES,
    Recipe,
    changed_keys,
    flat,
    left_out_lines,
    resolve,
)
from unrolled.training.job import TrainingJob
from unrolled.training.parallel import world
from unrolled.training.planning import epoch_steps, planned_steps
from unrolled.training.precision import ComputeDevice, choose
from unrolled.training.progress import Progress, need_tensorboard
from unrolled.training.settings import LIMITS

LONGEST = 100  # characters of a run's name


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that is ready to start, or to go on.

    ``changes`` are the dotted keys that the person gave for ``target``, ``notes`` what is said of
    them, and ``finished`` how a run ended that has nothing left to do.
    """

    target: str
    folder: Path
    recipe: Recipe
    prepared: Prepared
    model: nn.Module
    place: ComputeDevice
    finished: str
    notes: list[str] = field(default_factory=list)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Say what was found and what will be trained."""
        size = sum(p.numel() for p in self.model.parameters())
        training = self.recipe.training
        limits = [
            f"{name} {getattr(training, name):g}"
            for name in LIMITS
            if getattr(training, name)
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

    def job(
        self, progress: Progress, still_ours: Callable[[], bool] = lambda: True
    ) -> TrainingJob:
        """Return what the training loop needs, and write the folder's first files.

        Args:
            progress: shows how far the training is.
            still_ours: says whether the folder is the one that the training began in.
        """
        task = self.prepared.task
        recipe = self.recipe
        prepared = self.prepared
        model = self.model.to(self.place.device)
        metric = recipe.training.metric or task.metric

        def evaluate(scored: nn.Module) -> dict[str, float]:
            return task.watch(scored, prepared.dev, self.place)

        objective = task.objective(recipe, model)
        source = task.source(prepared.train, recipe, model)
        if world().first:
            runs.begin(self.folder, recipe, task, prepared.files)
        # a source may cut rows into pieces, which have lines of their own
        read = source.examples if isinstance(source, Buckets) else None
        return TrainingJob(
            model=model,
            objective=objective,
            source=source,
            settings=recipe.training,
            compute_device=self.place,
            seed=recipe.seed,
            folder=self.folder / runs.CHECKPOINTS,
            metric=metric,
            higher=task.measures[metric],
            evaluate=evaluate,
            keep_best=lambda weights: runs.save_weights(self.folder, weights),
            progress=progress,
            lines=None if read is None else lambda rows: read.lines[rows].tolist(),
            begun=runs.begun(recipe, task, prepared.files),
            still_ours=still_ours,
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
    recipe = resolve(target, changes, resume)
    where = folder_of(target, recipe, out)
    known = runs.is_run(where) and (resume or not dry_run)
    if not known and not (dry_run and runs.is_run(where)):
        runs.claim(where)
    elif known and not resume:
        runs.claim(where)  # which refuses a run
    before = read_before(where, recipe) if known else None
    if before is not None and runs.is_run(Path(target)):
        refuse_edits(where, before.recipe, recipe, changes)
    task = before.task if before else None
    recipe = settle(recipe, before.recipe if before else None)
    torch.set_num_threads(recipe.training.threads or torch.get_num_threads())
    prepared = prepare(recipe, task)
    recipe = prepared.recipe
    if before is not None:
        refuse_changes(
            where, before, recipe, runs.by_role(recipe, prepared.files), changes
        )
    place = choose(recipe.training.device, recipe.training.precision)
    if recipe.training.precision == "auto":
        recipe = recipe.changed(
            training=recipe.training.changed(precision=place.precision)
        )
        place = ComputeDevice(place.device, place.precision, place.why)
    check_keys(recipe, prepared.task)
    torch.manual_seed(recipe.seed)
    model = build(recipe, prepared)
    check_limits(recipe, prepared, model)
    finished = is_finished(where, recipe, prepared, model) if known else ""
    notes = [] if resume else left_out_lines(target, changes)
    return Plan(
        target, where, recipe, prepared, model, place, finished, notes, flat(changes)
    )


def build(recipe: Recipe, prepared: Prepared) -> nn.Module:
    """Build the model. Raises UserError: it takes more memory than there is."""
    try:
        return prepared.task.build(recipe)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "the model is out of memory; lower model.hidden or model.embedding"
        ) from None


def folder_of(target: str, recipe: Recipe, out: str | Path | None) -> Path:
    """Return the folder of a run: as given, the run that is named, or runs/<name>.

    Raises:
        UsageError: it is empty, or the name leads out of runs.
    """
    if out is not None:
        text = os.fspath(out)
        if not text or "\0" in text:
            raise UsageError(f"{option('out')} is {shown(text)}; name a folder")
        if not _is_utf8(text):  # which the files of weights are opened by
            raise UsageError(
                f"{option('out')} is {shown(text)}, no UTF-8; choose another name"
            )
        return expanded(text)
    if runs.is_run(Path(target)):
        return Path(target)
    name = recipe.name
    strange = any(not character.isprintable() for character in name)
    if (
        name in ("", ".", "..")
        or strange
        or "/" in name
        or "\\" in name
        or len(name) > LONGEST
    ):
        raise UsageError(
            f"name={shown(name)} is no name of a folder in runs; choose another name, or a folder "
            f"with {option('out')}"
        )
    return Path("runs") / name


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True, slots=True)
class Before:
    """What a run was begun with: as its newest checkpoint says, else as its files do.

    ``data`` are hashes by the keys that name the files; ``fields`` the hash of the fields, None
    where no checkpoint keeps it.
    """

    recipe: Recipe
    task: Task
    data: dict[str, str]
    fields: str | None


def read_before(where: Path, recipe: Recipe) -> Before:
    """Read what a run was begun with. Raises UserError: its fields are no longer those."""
    runs.look(where)
    task, files = runs.read_fields(where)
    digests.verify(
        where, [name for name in runs.READ if name not in (CONFIG, runs.RESULT)]
    )
    told = runs.read_begun(where)
    if not told and runs.is_ended_without_checkpoints(where):
        raise UserError(
            f"{where} has no checkpoint left, so it answers as before and cannot go on; choose "
            f"another {option('out')} to train anew"
        )
    if not told:
        saved = runs.read_recipe(where)
        return Before(saved, task, runs.by_role(saved, files), None)
    saved = Recipe.read(told["recipe"], str(where))
    before = Before(saved, task, told["data"], told["fields"])
    if runs.digest_of(task) != before.fields:
        raise UserError(
            f"{where} cannot be resumed: its fields or its vocabulary are not those that it was "
            f"begun with; restore them, or choose another {option('out')}"
        )
    return before


def finished_as_asked(recipe: Recipe, where: Path) -> str:
    """Return how a run ended that was asked for as it is, else an empty text.

    Needs no data file: it may have moved since.
    """
    if not runs.is_run(where):
        return ""
    runs.look(where)
    result = runs.read_result(where)
    if not result:
        return ""
    if digests.is_changed(where, CONFIG):
        return ""  # what was changed is told by its key, when the plan is made
    digests.verify(where, runs.READ)
    asked = flat(recipe.model_dump(exclude_unset=True))
    kept = flat(runs.read_recipe(where).model_dump())
    return (
        ""
        if any(kept.get(key) != value for key, value in asked.items())
        else _ended(result)
    )


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


def refuse_edits(
    where: Path, before: Recipe, recipe: Recipe, changes: Mapping[str, Any]
) -> None:
    """Refuse a run whose file of settings was edited, before any of them is followed.

    Args:
        where: the run.
        before: what it was begun with.
        recipe: as the file and the keys that are given now say.
        changes: the keys that are given now.

    Raises:
        UserError: a key of the file is another, other than a limit that was raised or the place of
            a data file.
    """
    if not digests.is_changed(where, CONFIG):
        return
    old = flat(before.model_dump())
    new = flat(recipe.model_dump())
    given = flat(changes)
    raised = {
        key
        for key in (f"training.{name}" for name in LIMITS)
        if not _is_lower(new[key], old[key])
    }
    # of files their bytes are compared, once they are read
    moved = {key for key in (f"data.{role}" for role in FILES) if new[key] and old[key]}
    free = {*given, *raised, *moved}
    _refuse(
        where,
        [key for key in old if new[key] != old[key] and key not in free],
        old,
        new,
    )


def _refuse(
    where: Path, differing: list[str], old: dict[str, Any], new: dict[str, Any]
) -> None:
    if differing:
        told = "; ".join(
            f"{key} was {shown(old[key])} and is now {shown(new[key])}"
            for key in differing
        )
        limits = ", ".join(f"training.{name}" for name in LIMITS)
        raise UserError(
            f"{where} cannot be resumed with other settings: {told}. Only limits ({limits}) may "
            f"change; for the rest choose another {option('out')}"
        )


def refuse_changes(
    where: Path,
    before: Before,
    recipe: Recipe,
    data: dict[str, str],
    changes: Mapping[str, Any],
) -> None:
    """Refuse a run that was begun with other settings or other data.

    A limit may be another where it is given now; in the run's own file it may be raised. Data may
    lie in another place.

    Args:
        where: the run.
        before: what it was begun with.
        recipe: resolved now.
        data: hashes of the data files by the keys that name them.
        changes: the keys that are given now.

    Raises:
        UserError: a key, or a file, is another; it names the first ones.
    """
    altered = [role for role, digest in data.items() if before.data.get(role) != digest]
    if altered:
        name = getattr(recipe.data, altered[0])
        raise UserError(
            f"{where} cannot be resumed: {name} is not the file it was begun with; restore it, or "
            f"choose another {option('out')}"
        )
    moved = {f"data.{role}" for role in data}
    old = flat(before.recipe.model_dump())
    new = flat(recipe.model_dump())
    differing = [key for key in changed_keys(before.recipe, recipe) if key not in moved]
    limits = [f"training.{name}" for name in LIMITS]
    given = any(key in flat(changes) for key in limits)
    if not given:
        differing += [key for key in limits if _is_lower(new[key], old[key])]
    _refuse(where, differing, old, new)


def _is_lower(now: float | None, before: float | None) -> bool:
    """Whether a limit is lower than it was; None is none."""
    return now is not None and (before is None or now < before)


def check_limits(recipe: Recipe, prepared: Prepared, model: nn.Module) -> None:
    """Raise UsageError for a run whose limits do not fit, or that its task cannot be trained by."""
    task = prepared.task
    training = recipe.training
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
    told = recipe.training
    many_to_one = task.pattern == "many to one"
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


def is_finished(
    where: Path, recipe: Recipe, prepared: Prepared, model: nn.Module
) -> str:
    """Return how a run ended when nothing is left to do, else an empty text."""
    result = runs.read_result(where)
    if not result:
        return ""
    if result["stopped"] != "limit":
        return _ended(result)
    limits = recipe.training
    total = planned_steps(limits, prepared.task.source(prepared.train, recipe, model))
    by_time = (
        limits.max_minutes is not None and result["seconds"] >= 60 * limits.max_minutes
    )
    if by_time or (total is not None and result["steps"] >= total):
        return _ended(result)
    return ""
