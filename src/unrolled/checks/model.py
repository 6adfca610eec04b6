"""Checks of the model: what is promised of every layer and training, shown on a few real rows.

They compute in fp32 and in evaluation mode, where equal numbers are due up to the order of sums.
Shapes: B rows, T steps, D features.
"""

from __future__ import annotations

import contextlib
import copy
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.checks.base import Context, Finding
from unrolled.data.batches import IGNORED, Batch, collate
from unrolled.data.examples import Examples
from unrolled.nn import Layer
from unrolled.runs import folder as runs
from unrolled.training import checkpoints
from unrolled.training.loop import fit
from unrolled.training.objectives import Loss, begin_with
from unrolled.training.objectives import begun as begun_rows
from unrolled.training.precision import choose
from unrolled.training.progress import Progress

NEAR = 1e-4  # of the largest number: another order of sums gives about 1e-6
STEPS = 12  # steps that are read one by one
SECONDS = 8.0  # of the processor, for what may take as long as one likes
TRIES = 150  # steps to learn a few rows by heart, at each learning rate
# places of a text where reading is begun, and tokens read from each
STARTS = 16
LENGTH = 512
DEPENDS = 0.05  # nats a token by which a score may depend on where reading begins
FEW = 20  # ends of texts: fewer are not learnt from


def answer(context: Context, model: nn.Module, batch: Batch) -> tuple[Tensor, Loss]:
    """Return a model's outputs (B, ...) for a batch, and the loss that training makes of them."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any], made: Any) -> None:
        if "form" not in kwargs:  # what a head has yet to read is no output
            kept.append(made[0] if isinstance(made, tuple) else made)

    hook = model.register_forward_hook(keep, with_kwargs=True)
    try:
        loss = context.objective(model, batch, None)
    finally:
        hook.remove()
    if not kept:  # the objective took a way that scores not every class
        fed = getattr(context.task, "fed", None)
        told = () if fed is None else (batch.lengths, fed(batch), *batch.extra)
        inputs, _ = begun_rows(model, batch, None)
        made = model(inputs, *told)
        kept.append(made[0] if isinstance(made, tuple) else made)
    return kept[-1], loss


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference as a share of the largest number."""
    if not one.numel():
        return 0.0
    largest = max(float(one.detach().abs().max()), 1e-6)
    return float((one - other).detach().abs().max()) / largest


def verdict(far: float, well: str, ill: str, where: str, advice: str) -> Finding:
    """Judge a difference between numbers that are to be equal."""
    if far < NEAR:
        return Finding("ok", well)
    return Finding(
        "problem", f"{ill}, by {far:.2%} of the largest number", where, advice
    )


def layers(model: nn.Module) -> list[Layer]:
    """Return the layers of a model, not those inside them."""
    if isinstance(model, Layer):
        return [model]
    return [layer for part in model.children() for layer in layers(part)]


def padded(batch: Batch, by: int = 5) -> Batch:
    """Return the batch with more padding, and real input in it instead of zeros."""
    assert batch.lengths is not None
    wide = torch.cat(
        [batch.inputs, batch.inputs[:, :1].expand_as(batch.inputs[:, :by])], 1
    )
    more = wide.shape[1] - batch.inputs.shape[1]
    shape = batch.inputs.shape[:2]
    real = torch.arange(wide.shape[1], device=wide.device) < batch.lengths[:, None]
    real = real.reshape(*real.shape, *[1] * (wide.dim() - 2))
    targets = batch.targets
    extra = batch.extra
    if targets is not None and targets.dim() == 2:
        targets = nn.functional.pad(targets, (0, more), value=IGNORED)
    extra = tuple(
        nn.functional.pad(e, (0, more)) if e.shape == shape else e for e in extra
    )
    inputs = torch.where(real, wide, wide.flip(0)[:, :1])
    return replace(batch, inputs=inputs, targets=targets, extra=extra)


def padding(context: Context) -> Finding | None:
    """Answers and gradients may not depend on what stands behind the end of a row."""
    batch = context.batch(8)
    found = []
    gradients = []
    if batch.lengths is None:
        return None
    for given in (batch, padded(batch)):
        model = copy.deepcopy(context.model).requires_grad_(True)
        outputs, loss = answer(context, model, given)
        loss.sum.backward()
        found.append(outputs)
        gradients.append(
            torch.cat(
                [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            )
        )
    if found[0].shape != found[1].shape:
        assert batch.targets is not None
        real = batch.targets != IGNORED
        found = [found[0][real], found[1][:, : real.shape[1]][real]]
    return verdict(
        max(apart(*found), apart(*gradients)),
        "answers and gradients are the same, whatever stands in the padding",
        "answers or gradients change with the padding",
        "the layer or the pooling",
        "leave padding out of sums, maxima and states by its lengths",
    )


@torch.no_grad()
def alone(context: Context) -> Finding | None:
    """A row is answered alike by itself and among others."""
    batch = context.batch(4)
    examples = context.plan.prepared.train
    if len(batch.inputs) == 1:
        return None
    together = answer(context, context.model, batch)[0]
    far = []
    for row in range(len(batch.inputs)):
        if isinstance(examples, Examples):
            one = collate(examples, batch.rows[row : row + 1]).to(batch.inputs.device)
        else:
            targets = None if batch.targets is None else batch.targets[row : row + 1]
            one = replace(batch, inputs=batch.inputs[row : row + 1], targets=targets)
        outputs = answer(context, context.model, one)[0]
        beside = together[row : row + 1]
        far.append(
            apart(
                outputs, beside if beside.dim() < 3 else beside[:, : outputs.shape[1]]
            )
        )
    return verdict(
        max(far),
        f"{len(far)} rows are answered alike alone and side by side",
        "a row is answered otherwise when others stand beside it",
        "the model",
        "take no sum, mean or maximum over the rows of a batch",
    )


def drawn(context: Context, layer: Layer) -> Tensor:
    """Return random steps (2, T, D) that a layer can read."""
    steps = min(STEPS, layer.context or STEPS)
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, steps, layer.input_size, generator=draw).to(
        context.plan.place.device
    )


def begun(context: Context, reader: Any, x: Tensor) -> Any:
    """Return the state before the first of steps (B, T, ...); a decoder has read random sources."""
    model: Any = context.model
    if not hasattr(model, "decoder") or model.decoder is not reader:
        return reader.initial_state(len(x))
    shape = (len(x), STEPS, model.encoder.output_size)
    draw = torch.Generator().manual_seed(1)
    memory = torch.randn(shape, generator=draw).to(x.device)
    return reader.attend(memory, torch.full((len(x),), STEPS, device=x.device))


@torch.no_grad()
def ahead(context: Context) -> Finding | None:
    """Who sees what is to come need not predict it."""
    if context.task.pattern == "one to one":
        return None
    far = []
    causal = [layer for layer in layers(context.model) if layer.causal]
    for layer in causal:
        x = drawn(context, layer)
        half = x.shape[1] // 2
        other = torch.cat([x[:, :half], -x[:, half:]], 1)
        one, two = (
            layer.unroll(each, begun(context, layer, each))[0] for each in (x, other)
        )
        far.append(apart(one[:, :half], two[:, :half]))
    batch = context.batch(4)
    outputs = answer(context, context.model, batch)[0]
    half = batch.inputs.shape[-1] // 2
    whole = (
        context.task.pattern == "many to many, unaligned"
    )  # each step reads all of the source
    if (
        not whole
        and causal == layers(context.model)
        and outputs.shape[:2] == batch.inputs.shape[:2]
    ):
        later = replace(batch, inputs=batch.inputs.clone())
        later.inputs[:, half:] = batch.inputs.flip(1)[:, : later.inputs.shape[1] - half]
        changed = answer(context, context.model, later)[0]
        far.append(apart(outputs[:, :half], changed[:, :half]))
    return (
        verdict(
            max(far),
            "what comes later changes no answer",
            "answers change with what comes after them",
            "the layer or the model",
            "mask the steps to come; scores will be too good, and generation poor",
        )
        if causal
        else None
    )


@torch.no_grad()
def stepped(context: Context) -> Finding | None:
    """Text is generated step by step and learnt in one pass: both must be one model."""
    if context.task.pattern == "one to one":
        return None
    readers: list[tuple[Any, Tensor]] = [
        (layer, drawn(context, layer))
        for layer in layers(context.model)
        if layer.causal
    ]
    model: Any = context.model
    if readers and hasattr(model, "step") and hasattr(model, "initial_state"):
        readers.append(
            (model, context.batch(2).inputs[:, : min(STEPS, model.context or STEPS)])
        )
    far = []
    for reader, x in readers:
        state = begun(context, reader, x)
        outputs = []
        for t in range(x.shape[1]):
            output, state = reader.step(x[:, t], state)
            outputs.append(output)
        far.append(
            apart(
                reader.unroll(x, begun(context, reader, x))[0], torch.stack(outputs, 1)
            )
        )
    return (
        verdict(
            max(far),
            "reading step by step gives the numbers of the full pass",
            "reading step by step differs from the full pass",
            "the layer's step or its state",
            "generation would use another model than was trained",
        )
        if far
        else None
    )


def reached(context: Context) -> Finding:
    """A weight that the loss does not reach stays as it was drawn."""
    frozen = [
        name for name, p in context.model.named_parameters() if not p.requires_grad
    ]
    model = copy.deepcopy(context.model)
    gradients = dict[str, bool]()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    batch = context.batch(8)
    blind = (
        [replace(batch, targets=None)]
        if context.plan.recipe.training.pretrain_epochs
        else []
    )
    # three times: behind a weight of zero nothing is reached before that has moved
    for given in [*blind, batch, batch, batch]:
        optimizer.zero_grad(set_to_none=True)
        context.objective(model, given, None).sum.backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                gradients[name] = gradients.get(name, False) or bool(p.grad.any())
        optimizer.step()
    every = [name for name, _ in model.named_parameters()]
    lost = [name for name in every if name not in gradients and name not in frozen]
    still = [name for name, moved in gradients.items() if not moved]
    for names, status, what, advice in (
        (
            lost,
            "problem",
            "are cut off from the loss",
            "look for a detach or an unused part",
        ),
        (
            frozen,
            "warning",
            "are frozen",
            "set requires_grad if they are to be trained",
        ),
        (still, "warning", "get a gradient of zero", "on these rows they have no say"),
    ):
        if names:
            told = f"{len(names)} of {len(every)} weights {what}"
            return Finding(status, told, ", ".join(names[:3]), advice)  # type: ignore[arg-type]
    return Finding("ok", f"the loss reaches all {len(every)} weights")


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
    told = f"loss {mean:.3g} {when}, {blind:.3g} for a blind guess"
    if context.trained and mean > 0.99 * blind:
        return Finding(
            "problem",
            told,
            "",
            "nothing was learnt; see the learning rate in report.html",
        )
    if not context.trained and mean < 0.1 * blind:
        return Finding(
            "problem", told, "", "an untrained model cannot know: look for a leak"
        )
    if mean > 1.5 * blind + 0.5:
        return Finding(
            "warning", told, "", "first answers are too sure: lower model.embedding_std"
        )
    return Finding("ok", told)


def ending(context: Context) -> Finding | None:
    """A language model that is never shown an end never stops."""
    tokenizer = getattr(context.task, "tokenizer", None)
    prepared = context.plan.prepared
    if tokenizer is None or context.task.pattern != "language model":
        return None
    end = tokenizer.eos_id
    began = time.process_time()
    source = context.task.source(prepared.train, context.plan.recipe, context.model)
    for index in range(3 * source.length(0)):
        batch = source.batch(*divmod(index, source.length(0))).to(
            context.plan.place.device
        )
        if batch.targets is not None and (batch.targets == end).any():
            seen = prepared.train.tokens[: 1 << 24]  # a text may be larger than memory
            return ended(context, batch, end, max(1, int((seen == end).sum())))
        if time.process_time() - began > SECONDS:
            break
    told = f"no end mark among the targets of {index + 1:,} batches"
    return Finding(
        "problem", told, "", "end every text with the end mark, or nothing will stop"
    )


@torch.no_grad()
def ended(context: Context, batch: Batch, end: int, total: int) -> Finding:
    """Judge a batch whose targets hold the end mark."""
    assert batch.targets is not None
    ends = batch.targets == end
    without = replace(batch, targets=batch.targets.masked_fill(ends, IGNORED))
    sums = []
    for given in (batch, without):
        with torch.random.fork_rng(devices=[]):  # an objective may draw
            torch.manual_seed(0)
            outputs, loss = answer(context, context.model, given)
        sums.append(float(loss.sum))
    chance = outputs.float().softmax(-1)[..., end]
    here = float(chance[ends].mean())
    elsewhere = float(chance[~ends].mean())
    if sums[0] == sums[1] and here < 0.999:
        told = "the end mark is among the targets, but the loss leaves it out"
        return Finding(
            "problem", told, "the objective", "score it, or nothing will stop"
        )
    told = f"the loss scores the end mark; training holds {total:,}"
    if context.trained:
        told += f"; its probability is {here:.2g} at ends and {elsewhere:.2g} elsewhere"
    if context.trained and total >= FEW and here < 2 * elsewhere:
        return Finding("warning", told, "", "it has not learnt to stop: train longer")
    return Finding("ok", told)


@torch.no_grad()
def begins(context: Context) -> Finding | None:
    """A state carried without end must not depend on which token reading began with."""
    model: Any = context.model
    if context.task.pattern != "language model" or model.context is not None:
        return None
    mark = context.task.tokenizer.eos_id  # type: ignore[attr-defined]
    device = context.plan.place.device
    tokens = torch.from_numpy(
        context.plan.prepared.dev.tokens[: STARTS * LENGTH].astype(np.int64)
    )
    length = min(LENGTH, len(tokens) - 1)
    if length < 1:
        return None
    first = torch.linspace(0, len(tokens) - length - 1, STARTS).long()
    rows = tokens[first[:, None] + torch.arange(length + 1)].to(device)
    nats = []
    for inputs in (begin_with(rows[:, :-1], mark), rows[:, :-1]):
        scores = model(inputs)[0][:, 1:].flatten(
            0, 1
        )  # the first is seen in one of them alone
        nats.append(
            float(nn.functional.cross_entropy(scores.float(), rows[:, 2:].flatten()))
        )
    told = f"after a mark of beginning {nats[0]:.3f} nats a token, from the middle {nats[1]:.3f}"
    if nats[1] - nats[0] <= DEPENDS:
        return Finding("ok", told)
    return Finding(
        "warning",
        told,
        "",
        "scores and generated texts begin with the mark; so must whoever steps the model by "
        "himself: the end mark first (training.reset=0.02 teaches to begin)",
    )


def by_heart(context: Context) -> Finding:
    """Who cannot learn a few rows by heart cannot learn many."""
    batch = context.batch(2 if context.batch(1).lengths is None else 4)
    began = time.process_time()
    with torch.no_grad():
        outputs, loss = answer(context, context.model, batch)
    first = float(loss.sum / loss.count)
    late = False
    last = first
    goal = max(0.1 * first, 0.02 * blind_loss(batch, outputs))
    for rate in (3e-3, 3e-2, 3e-4):
        model = copy.deepcopy(context.model).requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for _ in range(TRIES):
            loss = context.objective(model, batch, None)
            last = float(loss.sum.detach() / loss.count)
            late = time.process_time() - began > SECONDS
            if last <= goal or late:
                break
            optimizer.zero_grad(set_to_none=True)
            loss.sum.backward()
            optimizer.step()
        if last <= goal or late:
            break
    told = f"the loss of {len(batch.inputs)} rows goes from {first:.3g} to {last:.3g}"
    if last <= max(goal, 0.5 * first):
        return Finding("ok", told)
    if late:
        return Finding(
            "warning", f"{told}, then time was up", "", "watch the first training loss"
        )
    return Finding(
        "problem", told, "the model or the objective", "see what the loss cannot reach"
    )


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
    few: Any = {
        "max_steps": 5,
        "max_epochs": None,
        "max_minutes": None,
        "checkpoint_every": 3,
    }
    recipe = context.small(
        8, **few, accumulate=1, log_every=1, patience=None, average_last=1
    )
    device = context.plan.place.device.type
    # on a GPU its own kernels decide on bits
    place = context.plan.place if device == "cpu" else choose("cpu", "fp32")

    def train(folder: Path, progress: Progress, seed: int) -> dict[str, Tensor]:
        model = copy.deepcopy(context.model).requires_grad_(True)
        if seed:  # another process, which knows nothing but the checkpoint
            model.load_state_dict(
                {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
            )
        torch.manual_seed(seed)
        plan = replace(
            context.plan, folder=folder, recipe=recipe, model=model, place=place
        )
        fit(replace(plan.job(progress), evaluate=None), resume=seed > 0)
        found, _ = checkpoints.newest(folder / runs.CHECKPOINTS)
        assert found is not None
        return found.tensors

    with tempfile.TemporaryDirectory() as home, torch.random.fork_rng(devices=[]):
        whole = train(Path(home, "whole"), Progress(quiet=True), 0)
        with contextlib.suppress(Halt):
            train(Path(home, "parts"), Halting(quiet=True), 0)
        parts = train(Path(home, "parts"), Progress(quiet=True), 1)
    other = [k for k in whole if k not in parts or not torch.equal(whole[k], parts[k])]
    if not other and whole.keys() == parts.keys():
        return Finding("ok", "3 steps, a stop and 2 more give the bits of 5 steps")
    differing = f"{len(other)} of {len(whole)} tensors differ"
    told = f"3 steps, a stop and 2 more are not 5 steps: {differing}"
    return Finding(
        "problem", told, ", ".join(other[:3]), "train it in one go; do not resume it"
    )
