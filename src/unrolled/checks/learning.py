"""Checks of the training: whether the loss reaches the weights, begins and falls as it is due."""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.checks.base import Context, Finding, Status
from unrolled.checks.model import answer
from unrolled.data.batches import Batch
from unrolled.runs import folder as runs
from unrolled.training import checkpoints
from unrolled.training.loop import fit
from unrolled.training.objectives import Loss
from unrolled.training.precision import choose
from unrolled.training.progress import Progress

SECONDS = 8.0  # of the processor, for what may take as long as one likes
TRIES = 150  # steps to learn a few rows by heart, at each learning rate
RATES = (3e-3, 3e-2, 3e-4)  # learning rates at which that is tried
SHOWN = 3  # weights that are named


def reached(context: Context) -> Finding:
    """A weight that the loss does not reach stays as it was drawn."""
    weights = dict(context.model.named_parameters())
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    moved = _moved(context)
    lost = [name for name in weights if name not in moved and name not in frozen]
    still = [name for name, has_gradient in moved.items() if not has_gradient]
    total = len(weights)
    if lost:
        advice = "look for a detach or an unused part"
        return _of_weights("problem", lost, total, "are cut off from the loss", advice)
    if frozen:
        advice = "set requires_grad if they are to be trained"
        return _of_weights("warning", frozen, total, "are frozen", advice)
    if still:
        advice = "on these rows they have no say"
        return _of_weights("warning", still, total, "get a gradient of zero", advice)
    return Finding("ok", f"the loss reaches all {total} weights")


def _of_weights(
    status: Status, names: list[str], total: int, remark: str, advice: str
) -> Finding:
    message = f"{len(names)} of {total} weights {remark}"
    return Finding(status, message, ", ".join(names[:SHOWN]), advice)


def _moved(context: Context) -> dict[str, bool]:
    """Return of each weight that gets a gradient whether any of it is not zero."""
    model = copy.deepcopy(context.model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    batch = context.batch(8)
    # three times: behind a weight of zero nothing is reached before that has moved
    batches = [batch, batch, batch]
    if context.plan.recipe.training.pretrain_epochs:
        batches.insert(0, replace(batch, targets=None))
    moved: dict[str, bool] = {}
    for given in batches:
        optimizer.zero_grad(set_to_none=True)
        context.objective(model, given, None).sum.backward()
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                moved[name] = moved.get(name, False) or bool(weight.grad.any())
        optimizer.step()
    return moved


def blind_loss(batch: Batch, outputs: Tensor) -> float:
    """Return the loss of knowing nothing: ln(classes), or half the mean square of values."""
    assert batch.targets is not None
    if batch.targets.dtype == torch.int64:
        return math.log(outputs.shape[-1])
    return float(0.5 * batch.targets.square().mean())


@torch.no_grad()
def beginning(context: Context) -> Finding:
    """The loss begins at that of a blind guess, and training brings it below."""
    batch = context.batch(64)
    outputs, loss = answer(context, context.model, batch)
    mean = float(loss.sum / loss.count)
    blind = blind_loss(batch, outputs)
    when = "after training" if context.trained else "before training"
    message = f"loss {mean:.3g} {when}, {blind:.3g} for a blind guess"
    if context.trained and mean > 0.99 * blind:
        advice = "nothing was learnt; see the learning rate in report.html"
        return Finding("problem", message, advice=advice)
    if not context.trained and mean < 0.1 * blind:
        advice = "an untrained model cannot know: look for a leak"
        return Finding("problem", message, advice=advice)
    if mean > 1.5 * blind + 0.5:
        advice = "first answers are too sure: lower model.embedding_std"
        return Finding("warning", message, advice=advice)
    return Finding("ok", message)


def by_heart(context: Context) -> Finding:
    """Who cannot learn a few rows by heart cannot learn many."""
    batch = context.batch(2 if context.batch(1).lengths is None else 4)
    deadline = time.process_time() + SECONDS
    with torch.no_grad():
        outputs, loss = answer(context, context.model, batch)
    first = _mean(loss)
    goal = max(0.1 * first, 0.02 * blind_loss(batch, outputs))
    last = first
    for rate in RATES:
        model = copy.deepcopy(context.model).requires_grad_(True)
        last = _learnt(context, model, batch, rate, goal, deadline)
        if last <= goal or time.process_time() > deadline:
            break
    count = len(batch.inputs)
    message = f"the loss of {count} rows goes from {first:.3g} to {last:.3g}"
    if last <= max(goal, 0.5 * first):
        return Finding("ok", message)
    if time.process_time() > deadline:
        message += ", then time was up"
        return Finding("warning", message, advice="watch the first training loss")
    where = "the model or the objective"
    return Finding("problem", message, where, "see what the loss cannot reach")


def _learnt(
    context: Context,
    model: nn.Module,
    batch: Batch,
    rate: float,
    goal: float,
    deadline: float,
) -> float:
    """Train on one batch until the loss is at its goal or time is up; return the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    last = math.inf
    for _ in range(TRIES):
        loss = context.objective(model, batch, None)
        last = _mean(loss)
        if last <= goal or time.process_time() > deadline:
            break
        optimizer.zero_grad(set_to_none=True)
        loss.sum.backward()
        optimizer.step()
    return last


def _mean(loss: Loss) -> float:
    return float(loss.sum.detach() / loss.count)


class Halt(Exception):
    """The stop that a training is resumed from."""


class Halting(Progress):
    """Stops a training after its fourth step."""

    def update(self, step: int, *rest: Any) -> None:
        """Raise Halt once the checkpoint of step 3 is not the newest step."""
        if step > 3:
            raise Halt


def resumed(context: Context) -> Finding:
    """Five steps give the same weights, bit for bit, also with a stop in the middle."""
    with tempfile.TemporaryDirectory() as home, torch.random.fork_rng(devices=[]):
        whole = _five_steps(context, Path(home, "whole"), Progress(quiet=True))
        parts = Path(home, "parts")
        with contextlib.suppress(Halt):
            _five_steps(context, parts, Halting(quiet=True))
        resumed = _five_steps(context, parts, Progress(quiet=True), resume=True)
    other = [
        name
        for name, tensor in whole.items()
        if name not in resumed or not torch.equal(tensor, resumed[name])
    ]
    if not other and whole.keys() == resumed.keys():
        return Finding("ok", "3 steps, a stop and 2 more give the bits of 5 steps")
    differing = f"{len(other)} of {len(whole)} tensors differ"
    return Finding(
        "problem",
        f"3 steps, a stop and 2 more are not 5 steps: {differing}",
        where=", ".join(other[:SHOWN]),
        advice="train it in one go; do not resume it",
    )


def _five_steps(
    context: Context, folder: Path, progress: Progress, resume: bool = False
) -> dict[str, Tensor]:
    """Train five steps with a checkpoint at the third; return the tensors of the newest one."""
    limits: Any = {"max_steps": 5, "max_epochs": None, "max_minutes": None}
    recipe = context.small(
        8,
        **limits,
        checkpoint_every=3,
        accumulate=1,
        log_every=1,
        patience=None,
        average_last=1,
    )
    compute_device = context.plan.compute_device
    if compute_device.device.type != "cpu":
        # on a GPU its own kernels decide on bits
        compute_device = choose("cpu", "fp32")
    model = copy.deepcopy(context.model).requires_grad_(True)
    if resume:  # another process, which knows nothing but the checkpoint
        state = model.state_dict()
        model.load_state_dict({k: torch.zeros_like(v) for k, v in state.items()})
    torch.manual_seed(int(resume))
    train = context.plan.prepared.train
    plan = replace(
        context.plan,
        request=replace(context.plan.request, folder=folder),
        recipe=recipe,
        model=model,
        objective=context.task.objective(recipe, model),
        source=context.task.source(train, recipe, model),
        compute_device=compute_device,
    )
    fit(replace(plan.job(progress), evaluate=None), resume=resume)
    checkpoint, _ = checkpoints.newest(folder / runs.CHECKPOINTS)
    assert checkpoint is not None
    return checkpoint.tensors
