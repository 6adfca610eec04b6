"""Checks of the model: what is promised of every layer, shown on a few real rows.

They compute in fp32 and in evaluation mode, where equal numbers are due up to the order of sums.
Shapes: B rows, T steps, D features.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.checks.base import Context, Finding
from unrolled.data.batches import IGNORED, Batch, collate
from unrolled.data.examples import Examples
from unrolled.nn import Layer
from unrolled.training.objectives import Loss, begun

NEAR = 1e-4  # of the largest number: another order of sums gives about 1e-6
STEPS = 12  # steps that are read one by one


def answer(
    context: Context,
    model: nn.Module,
    batch: Batch,
) -> tuple[Tensor, Loss]:
    """Return a model's outputs (B, ...) for a batch, and the loss that training makes of them."""
    outputs: list[Tensor] = []

    def keep(
        module: nn.Module,
        args: Any,
        kwargs: dict[str, Any],
        made: Any,
    ) -> None:
        if "form" not in kwargs:  # what a head has yet to read is no output
            outputs.append(_without_state(made))

    hook = model.register_forward_hook(keep, with_kwargs=True)
    try:
        loss = context.objective(model, batch, None)
    finally:
        hook.remove()
    if not outputs:  # the objective took a way that scores not every class
        outputs.append(_called(context, model, batch))
    return outputs[-1], loss


def outputs_of(context: Context, batch: Batch) -> Tensor:
    """Return the outputs (B, ...) of the model as it is."""
    outputs, _ = answer(context, context.model, batch)
    return outputs


def _called(
    context: Context,
    model: nn.Module,
    batch: Batch,
) -> Tensor:
    """Return the outputs of calling the model on a batch."""
    decoder_inputs = context.task.decoder_inputs(batch)
    inputs, _ = begun(model, batch, None)
    if decoder_inputs is None:
        made = model(inputs)
    else:
        made = model(
            inputs,
            batch.lengths,
            decoder_inputs,
            *batch.extra,
        )
    return _without_state(made)


def _without_state(made: Any) -> Tensor:
    return made[0] if isinstance(made, tuple) else made


def apart(first: Tensor, second: Tensor) -> float:
    """Return the largest difference as a share of the largest number."""
    if not first.numel():
        return 0.0
    largest = float(first.detach().abs().max())
    difference = float((first - second).detach().abs().max())
    return difference / max(largest, 1e-6)


def verdict(
    difference: float,
    well: str,
    ill: str,
    *,
    where: str,
    advice: str,
) -> Finding:
    """Judge a difference between numbers that are to be equal."""
    if difference < NEAR:
        return Finding("ok", well)
    message = f"{ill}, by {difference:.2%} of the largest number"
    return Finding("problem", message, where, advice)


def layers(model: nn.Module) -> list[Layer]:
    """Return the layers of a model, not those inside them."""
    if isinstance(model, Layer):
        return [model]
    outermost: list[Layer] = []
    for part in model.children():
        outermost += layers(part)
    return outermost


def padded(batch: Batch, by: int = 5) -> Batch:
    """Return the batch with more padding, and real input in it instead of zeros."""
    assert batch.lengths is not None
    rows, steps = batch.inputs.shape[:2]
    inputs = _widened(batch.inputs, batch.lengths, by)
    targets = batch.targets
    behind = (0, inputs.shape[1] - steps)
    if targets is not None and targets.dim() == 2:
        targets = nn.functional.pad(targets, behind, value=IGNORED)
    extra = []
    whole = (rows, steps)
    for tensor in batch.extra:
        if tensor.shape == whole:
            tensor = nn.functional.pad(tensor, behind)
        elif tensor.dim() == 3 and tensor.shape[:2] == whole:
            # features of other columns next to each step
            tensor = _widened(tensor, batch.lengths, by)
        extra.append(tensor)
    return replace(
        batch,
        inputs=inputs,
        targets=targets,
        extra=tuple(extra),
    )


def _widened(steps: Tensor, lengths: Tensor, by: int) -> Tensor:
    """Return ids (B, T) or vectors (B, T, D) with more padding, a step of another row in all."""
    first_steps = steps[:, :1].expand_as(steps[:, :by])
    wide = torch.cat([steps, first_steps], 1)
    rows, count = wide.shape[:2]
    indices = torch.arange(count, device=wide.device)
    real = indices < lengths[:, None]
    # (B, T, 1): for inputs that are vectors
    ones = [1] * (wide.dim() - 2)
    real = real.reshape(rows, count, *ones)
    # the first step of another row stands where nothing is to be read
    others = wide.flip(0)[:, :1]
    return torch.where(real, wide, others)


def padding(context: Context) -> Finding | None:
    """Answers and gradients may not depend on what stands behind the end of a row."""
    batch = context.batch(8)
    # an image, or a row of labels and numbers, has no steps that could be padded
    if batch.lengths is None or not context.task.reads_sequences:
        return None
    outputs, gradients = _outputs_and_gradients(context, batch)
    wide_outputs, wide_gradients = _outputs_and_gradients(context, padded(batch))
    if outputs.shape != wide_outputs.shape:
        # an answer for every step: the real ones are compared
        assert batch.targets is not None
        real = batch.targets != IGNORED
        outputs = outputs[real]
        wide_outputs = wide_outputs[:, : real.shape[1]][real]
    of_outputs = apart(outputs, wide_outputs)
    of_gradients = apart(gradients, wide_gradients)
    return verdict(
        max(of_outputs, of_gradients),
        "answers and gradients are the same, whatever stands in the padding",
        "answers or gradients change with the padding",
        where="the layer or the pooling",
        advice="leave padding out of sums, maxima and states by its lengths",
    )


def _outputs_and_gradients(context: Context, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return outputs (B, ...) and all gradients of a copy of the model, side by side."""
    model = copy.deepcopy(context.model).requires_grad_(True)
    outputs, loss = answer(context, model, batch)
    loss.sum.backward()
    gradients = [weight.grad for weight in model.parameters()]
    reached = [gradient.flatten() for gradient in gradients if gradient is not None]
    return outputs, torch.cat(reached)


@torch.no_grad()
def alone(context: Context) -> Finding | None:
    """A row is answered alike by itself and among others."""
    batch = context.batch(4)
    count = len(batch.inputs)
    if count == 1:
        return None
    together = outputs_of(context, batch)
    differences = []
    for row in range(count):
        outputs = outputs_of(context, _row(context, batch, row))
        beside = together[row : row + 1]
        if beside.dim() >= 3:
            # by itself a row has no padding
            steps = outputs.shape[1]
            beside = beside[:, :steps]
        differences.append(apart(outputs, beside))
    return verdict(
        max(differences),
        f"{count} rows are answered alike alone and side by side",
        "a row is answered otherwise when others stand beside it",
        where="the model",
        advice="take no sum, mean or maximum over the rows of a batch",
    )


def _row(context: Context, batch: Batch, row: int) -> Batch:
    """Return one row of a batch of training rows as a batch of its own."""
    examples = context.plan.prepared.train
    rows = slice(row, row + 1)
    if isinstance(examples, Examples):
        return collate(examples, batch.rows[rows]).to(batch.inputs.device)
    targets = batch.targets
    if targets is not None:
        targets = targets[rows]
    return replace(
        batch,
        inputs=batch.inputs[rows],
        targets=targets,
    )


def drawn(context: Context, layer: Layer) -> Tensor:
    """Return random steps (2, T, D) that a layer can read."""
    steps = min(STEPS, layer.context or STEPS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(
        2,
        steps,
        layer.input_size,
        generator=generator,
    )
    return x.to(context.plan.compute_device.device)


def first_state(context: Context, reader: Any, x: Tensor) -> Any:
    """Return the state before the first of steps (B, T, ...); a decoder has read random sources."""
    model: Any = context.model
    if not hasattr(model, "decoder") or model.decoder is not reader:
        return reader.initial_state(len(x))
    count = len(x)
    shape = (count, STEPS, model.encoder.output_size)
    generator = torch.Generator().manual_seed(1)
    memory = torch.randn(shape, generator=generator)
    lengths = torch.full((count,), STEPS, device=x.device)
    return reader.attend(memory.to(x.device), lengths)


def unrolled(context: Context, reader: Any, x: Tensor) -> Tensor:
    """Return the outputs (B, T, ...) of the full pass over x (B, T, ...)."""
    outputs, _ = reader.unroll(x, first_state(context, reader, x))
    return outputs


@torch.no_grad()
def ahead(context: Context) -> Finding | None:
    """Who sees what is to come need not predict it."""
    if not context.task.reads_sequences:
        return None
    every = layers(context.model)
    causal = [layer for layer in every if layer.causal]
    if not causal:
        return None
    differences = [_layer_ahead(context, layer) for layer in causal]
    # of an unaligned pair each step reads all of the source
    if causal == every and not context.task.is_generative:
        differences += _model_ahead(context)
    return verdict(
        max(differences),
        "what comes later changes no answer",
        "answers change with what comes after them",
        where="the layer or the model",
        advice="mask the steps to come; scores will be too good, and generation poor",
    )


def _layer_ahead(context: Context, layer: Layer) -> float:
    """Return by how much the first outputs of a layer change with the later inputs."""
    x = drawn(context, layer)
    half = x.shape[1] // 2
    changed = x.clone()
    changed[:, half:] *= -1
    outputs = unrolled(context, layer, x)
    changed_outputs = unrolled(context, layer, changed)
    return apart(outputs[:, :half], changed_outputs[:, :half])


def _model_ahead(context: Context) -> list[float]:
    """Return the same of the model; nothing where it does not answer every step."""
    batch = context.batch(4)
    outputs = outputs_of(context, batch)
    if outputs.shape[:2] != batch.inputs.shape[:2]:
        return []
    half = batch.inputs.shape[-1] // 2
    inputs = batch.inputs.clone()
    count = inputs.shape[1] - half
    inputs[:, half:] = batch.inputs.flip(1)[:, :count]
    changed_outputs = outputs_of(context, replace(batch, inputs=inputs))
    return [apart(outputs[:, :half], changed_outputs[:, :half])]


@torch.no_grad()
def stepped(context: Context) -> Finding | None:
    """Text is generated step by step and learnt in one pass: both must be one model."""
    if not context.task.reads_sequences:
        return None
    readers: list[tuple[Any, Tensor]] = [
        (layer, drawn(context, layer))
        for layer in layers(context.model)
        if layer.causal
    ]
    if not readers:
        return None
    model: Any = context.model
    if hasattr(model, "step") and hasattr(model, "initial_state"):
        steps = min(STEPS, model.context or STEPS)
        inputs = context.batch(2).inputs
        readers.append((model, inputs[:, :steps]))
    differences = [_step_difference(context, reader, x) for reader, x in readers]
    return verdict(
        max(differences),
        "reading step by step gives the numbers of the full pass",
        "reading step by step differs from the full pass",
        where="the layer's step or its state",
        advice="generation would use another model than was trained",
    )


def _step_difference(context: Context, reader: Any, x: Tensor) -> float:
    """Return how far the steps of a layer or model are from its full pass over x (B, T, ...)."""
    state = first_state(context, reader, x)
    outputs = []
    for t in range(x.shape[1]):
        output, state = reader.step(x[:, t], state)
        outputs.append(output)
    stepped_outputs = torch.stack(outputs, 1)
    return apart(unrolled(context, reader, x), stepped_outputs)
