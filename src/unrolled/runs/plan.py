"""A run that is ready to start: recipe resolved, data read, model built, changes refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unrolled.core.errors import UsageError, UserError, is_out_of_memory, shown
from unrolled.core.files import expanded
from unrolled.core.words import option
from unrolled.data.batches import BatchSource, Buckets
from unrolled.nn.adapters import merged
from unrolled.nn.fitting import depths
from unrolled.runs import folder as runs
from unrolled.runs.adapting import (
    Adaptation,
    adapted,
    check_adapter,
    with_settings,
)
from unrolled.runs.begun import (
    Before,
    ended,
    finished_as_requested,
    read_before,
    refuse_changes,
    refuse_edits,
)
from unrolled.runs.keys import flat
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.pretrained import (
    Pretrained,
    Transfer,
    cut_name,
    located,
    origin_of,
    take,
)
from unrolled.runs.published import is_checkpoint
from unrolled.runs.recipes import FILES, is_available, left_out_lines, requested
from unrolled.runs.resolve import Machine, as_begun
from unrolled.runs.rewards import Alignment
from unrolled.tasks.base import Scores, Task
from unrolled.tasks.recipe import Recipe
from unrolled.training import execution, sharding
from unrolled.training.averaging import Weights
from unrolled.training.job import TrainingJob
from unrolled.training.objectives import Objective
from unrolled.training.parallel import world
from unrolled.training.planning import epoch_steps, planned_steps
from unrolled.training.precision import ComputeDevice
from unrolled.training.progress import Progress, need_tensorboard
from unrolled.training.settings import LIMITS

LONGEST = 100  # characters of a run's name


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked to train, and where: ``changes`` are the dotted keys that were given."""

    target: str
    changes: Mapping[str, Any]
    folder: Path
    recipe: Recipe
    resume: bool

    @classmethod
    def read(
        cls,
        target: str,
        changes: Mapping[str, Any],
        out: str | Path | None = None,
        resume: bool = False,
    ) -> Request:
        """Find the recipe and the folder of a run.

        Raises:
            UsageError: there is no such recipe or file, a key is wrong, or the folder's name.
        """
        refuse_checkpoint(target, resume)
        recipe = requested(target, changes, resume)
        folder = folder_of(target, recipe, out)
        if resume:
            recipe = with_files_of(folder, recipe)
        return cls(target, flat(changes), folder, recipe, resume)

    def finished(self) -> str:
        """Return how the run ended that is to be resumed as it is, else an empty text."""
        return finished_as_requested(self.recipe, self.folder) if self.resume else ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that is ready to start, or to go on.

    ``notes`` are what is said of the changes that a person gave, and ``finished`` how a run ended
    that has nothing left to do; ``transfer`` is what was taken of the run that it began with.
    """

    request: Request
    recipe: Recipe
    prepared: Prepared
    model: nn.Module
    objective: Objective
    source: BatchSource
    compute_device: ComputeDevice
    finished: str
    notes: list[str] = field(default_factory=list)
    transfer: Transfer | None = None
    adaptation: Adaptation | None = None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.request.folder

    def lines(self) -> list[str]:
        """Say what was found and what will be trained."""
        size = sum(p.numel() for p in self.model.parameters())
        training = self.recipe.training
        limits = [
            f"{name} {getattr(training, name):g}"
            for name in LIMITS
            if getattr(training, name)
        ]
        processes = f", in {world().size} processes" if world().size > 1 else ""
        patience = ""
        if training.patience:
            patience = f", or {training.patience} evaluations without progress"
        device = self.compute_device.describe()
        return [
            *self.prepared.lines,
            *self.notes,
            f"model: layer={self.recipe.layer}, {size:,} parameters",
            *(self.transfer.lines() if self.transfer else []),
            *(self.adaptation.lines() if self.adaptation else []),
            f"computes on: {device}, {training.threads} threads{processes}",
            f"trains until: {', '.join(limits)}{patience}",
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
        files = self.prepared.files
        options = self.prepared.options
        metric = recipe.training.metric or task.metric

        def evaluate(scored: nn.Module) -> Scores:
            dev = self.prepared.dev
            with merged(scored):
                return task.validate(scored, dev, self.compute_device, options)

        def keep_best(weights: Weights) -> None:
            if self.adaptation is None:
                runs.save_weights(self.folder, weights)
            else:
                self.adaptation.keep(self.folder, weights)

        if world().first:
            transfer = self.transfer
            begins_with = None if transfer is None else transfer.to_json()
            runs.begin(self.folder, recipe, task, files, begins_with)
        model = self.model
        # divided weights come to their device unit by unit
        if not sharding.is_sharded(recipe.training, world()):
            model = model.to(self.compute_device.device)
        # a source may cut rows into pieces, which have lines of their own
        source = self.source
        read = source.examples if isinstance(source, Buckets) else None
        return TrainingJob(
            model=model,
            objective=self.objective,
            source=source,
            settings=recipe.training,
            compute_device=self.compute_device,
            seed=recipe.seed,
            folder=self.folder / runs.CHECKPOINTS,
            metric=metric,
            higher=task.measures[metric],
            evaluate=evaluate,
            keep_best=keep_best,
            progress=progress,
            lines=None if read is None else lambda rows: read.lines[rows].tolist(),
            begun=runs.begun(recipe, task, files),
            still_ours=still_ours,
            depths=self.depths(),
        )

    def depths(self) -> list[list[str]]:
        """Return the weights in groups, from the bottom of the model to its top.

        What was drawn anew stands at the top; there are none where nothing was taken.
        """
        if self.transfer is None or self.adaptation is not None:
            return []
        drawn = set(self.transfer.drawn)
        groups = depths(self.model)
        taken = [[name for name in names if name not in drawn] for names in groups]
        # a buffer has no rate, and is not frozen
        parameters = dict(self.model.named_parameters())
        taken[-1] += [name for name in self.transfer.drawn if name in parameters]
        return [names for names in taken if names]


def refuse_checkpoint(target: str, resume: bool) -> None:
    """Raise UsageError where a checkpoint of another program stands for data."""
    if is_checkpoint(Path(target)):
        reason = (
            "holds no state of a training to go on with" if resume else "is no data"
        )
        raise UsageError(
            f"{target} is a checkpoint of another program and {reason}; name a recipe or a data "
            f"file, and begin with its weights by model.init={target}"
        )


def make_plan(
    target: str,
    changes: Mapping[str, Any],
    out: str | Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> Plan:
    """Plan a run; see ``Request`` and ``plan_request``."""
    return plan_request(Request.read(target, changes, out, resume), dry_run)


def plan_request(request: Request, dry_run: bool = False) -> Plan:
    """Read the data of a request, resolve its recipe and build its model; nothing is written.

    A ``dry_run`` may be planned beside a run that exists, since it will not be started.

    Raises:
        UserError: the run exists and is not to be resumed, a key or a file is wrong, or a key or
            the data differ from those the run was begun with.
    """
    folder = request.folder
    recipe = request.recipe
    before = _before(request, dry_run)
    if before is not None:
        if runs.is_run(Path(request.target)):
            refuse_edits(folder, before, recipe, request.changes)
        recipe = as_begun(recipe, before.recipe)
    machine = Machine.of(recipe)
    torch.set_num_threads(machine.threads)
    refuse_itself(recipe, folder, before)
    prepared = prepare(recipe, before.task if before else None, machine)
    recipe = prepared.recipe
    task = prepared.task
    if before is not None:
        data = runs.by_role(recipe, prepared.files)
        refuse_changes(folder, before, recipe, data, request.changes)
    check_keys(recipe, task)
    pretrained = prepared.pretrained or _opened_again(folder, recipe, before)
    # what was opened has drawn weights, too
    torch.manual_seed(recipe.seed)
    model = build(recipe, task)
    begins = before is None or not before.has_checkpoint
    if begins:
        task.begin(model, recipe)
    transfer = None if before is None else before.transfer
    if pretrained is not None:
        transfer = take(pretrained, model, task)
    adaptation = _adapted(model, recipe, transfer, folder, begins)
    if recipe.training.checkpoint_activations:
        execution.checkpoint_activations(model)
    recipe = with_settings(recipe, adaptation)
    # the weights of what was opened are in the model now
    prepared = replace(prepared, recipe=recipe, pretrained=None)
    prepared = _judged(prepared, request, before)
    objective, source = _learning(prepared, model)
    check_limits(recipe, source)
    left_out = left_out_lines(request.target, request.changes)
    notes = left_out if before is None else before.notes(recipe)
    return Plan(
        request,
        recipe,
        prepared,
        model,
        objective,
        source,
        machine.compute_device,
        is_finished(folder, recipe, source) if before is not None else "",
        [] if request.resume and before is None else notes,
        transfer,
        adaptation,
    )


def _adapted(
    model: nn.Module,
    recipe: Recipe,
    transfer: Transfer | None,
    folder: Path,
    begins: bool,
) -> Adaptation | None:
    """Put adapters beside what was taken, where a recipe has them."""
    if not recipe.adapter.adapts:
        return None
    drawn = [*transfer.drawn, *transfer.partly] if transfer else []
    return adapted(model, recipe, drawn, folder, begins)


def _judged(prepared: Prepared, request: Request, before: Before | None) -> Prepared:
    """Return prepared data with what judges answers; see ``Alignment.of``."""
    # what a run folder names is no reason to run code: a person has to
    is_own = before is None and not runs.is_run(Path(request.target))
    named = is_own or "align.reward" in request.changes
    alignment = Alignment.of(
        prepared.recipe, prepared.task, request.folder, runs_code=named
    )
    return replace(prepared, alignment=alignment)


def _learning(prepared: Prepared, model: nn.Module) -> tuple[Objective, BatchSource]:
    """Return what a model learns, and what it reads for that."""
    task = prepared.task
    recipe = prepared.recipe
    train = prepared.train
    aligned = task.aligned(train, recipe, model, prepared.options)
    if aligned is not None:
        return aligned
    return task.objective(recipe, model), task.source(train, recipe, model)


def _before(request: Request, dry_run: bool) -> Before | None:
    """Return what the run was begun with that is to go on; refuse one that stands in the way."""
    is_run = runs.is_run(request.folder)
    if request.resume and is_run:
        return read_before(request.folder, request.recipe)
    if not (dry_run and is_run):
        runs.claim(request.folder)
    return None


def refuse_itself(recipe: Recipe, folder: Path, before: Before | None) -> None:
    """Raise UsageError for a new run that is to begin with its own weights."""
    init = recipe.model.init
    if init is None or before is not None:
        return
    if located(init, origin_of(recipe)).resolve() == folder.resolve():
        raise UsageError(
            f"model.init={init} is the run itself; choose another {option('out')}"
        )


def _opened_again(
    folder: Path, recipe: Recipe, before: Before | None
) -> Pretrained | None:
    """Return what a run that is resumed was begun with, where it has no checkpoint yet.

    Raises:
        UserError: it is not there, or its weights were changed since.
    """
    if before is None or before.transfer is None or before.has_checkpoint:
        return None
    name = recipe.model.init or before.transfer.name
    pretrained = Pretrained.open(name, origin_of(recipe), folder)
    if pretrained.digest != before.transfer.digest:
        raise UserError(
            f"model.init={cut_name(name)}: these are no longer the weights that the run was begun "
            f"with; restore them, name where they are with model.init, or choose another "
            f"{option('out')}"
        )
    return pretrained


def build(recipe: Recipe, task: Task) -> nn.Module:
    """Build the model. Raises UserError: it takes more memory than there is."""
    try:
        return task.build(recipe)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "the model is out of memory; lower model.hidden or model.embedding"
        ) from None


def with_files_of(folder: Path, recipe: Recipe) -> Recipe:
    """Return a recipe whose data files are found from where its run was begun.

    Which files they are is compared by their bytes, wherever they lie.
    """
    moved = {}
    for role in FILES:
        name = getattr(recipe.data, role)
        if name is None or is_available(recipe, name):
            continue
        paths = runs.near(folder, name)
        there = next((path for path in paths if path.is_file()), None)
        if there is not None:
            moved[role] = str(there)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=moved)})


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


def check_limits(recipe: Recipe, source: BatchSource) -> None:
    """Raise UsageError for a run whose limits do not fit."""
    training = recipe.training
    first = epoch_steps(training, source, training.pretrain_epochs)
    total = planned_steps(training, source)
    if first and total is not None and total <= first:
        raise UsageError(
            f"pre-training takes {first:,} steps and the run ends after {total:,}, before it sees "
            "a label: raise training.max_steps or lower training.pretrain_epochs"
        )


def check_keys(recipe: Recipe, task: Task) -> None:
    """Raise UsageError for a key that means nothing to the task, or lacks what it needs."""
    task.check_keys(recipe)
    check_adapter(recipe)
    training = recipe.training
    if recipe.model.init is None and (training.unfreeze or training.layer_decay != 1):
        raise UsageError(
            "training.unfreeze and training.layer_decay are for weights that come from another "
            "run: name it with model.init=RUN"
        )
    if training.reward not in ("none", *task.rewards):
        raise UsageError(
            f"training.reward={training.reward} is for task=caption, not for {task.name}"
        )
    sharding.check_shard(recipe.training)
    execution.check_execution(recipe.training)
    if recipe.training.tensorboard:
        need_tensorboard()
    metric = recipe.training.metric
    if metric is not None and metric not in task.measures:
        raise UsageError(
            f"training.metric={metric}: task={task.name} has {', '.join(task.measures)}"
        )


def is_finished(where: Path, recipe: Recipe, source: BatchSource) -> str:
    """Return how a run ended when nothing is left to do, else an empty text."""
    result = runs.read_result(where)
    if not result:
        return ""
    if result["stopped"] != "limit":
        return ended(result)
    limits = recipe.training
    total = planned_steps(limits, source)
    seconds = None if limits.max_minutes is None else 60 * limits.max_minutes
    by_time = seconds is not None and result["seconds"] >= seconds
    if by_time or (total is not None and result["steps"] >= total):
        return ended(result)
    return ""
