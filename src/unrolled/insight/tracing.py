"""Looks inside a model while it reads one input: one pass of the equations, and its gradients.

Legend: T steps, H units, O outputs, N rows that are read together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError
from unrolled.insight.attribution import attribute
from unrolled.insight.gradients import (
    EXACT,
    LONGEST,
    PROBES,
    gradient_norms,
    state_gradient_norms,
)
from unrolled.insight.looker import Looker
from unrolled.insight.recorded import attention_traces, layer_traces
from unrolled.insight.regions import beside_image, image_trace
from unrolled.insight.trace import (
    Explained,
    LayerTrace,
    StepPrediction,
    Trace,
)
from unrolled.insight.tracking import tracking_units
from unrolled.ops.recording import Hold
from unrolled.tasks.steps import InputSteps, StepReader


@dataclass(frozen=True)
class Options:
    """What is asked of a look inside.

    Attributes:
        holds: gates and units that are held.
        units: which units are shown; None chooses.
        at: the step whose output is explained, from 0; None chooses.
    """

    holds: tuple[Hold, ...] = ()
    units: tuple[int, ...] | None = None
    at: int | None = None


def look(
    model: nn.Module,
    reader: StepReader,
    cells: Sequence[Any],
    text: str,
    options: Options,
) -> Trace:
    """Return what is seen while a model reads an input, given by its cells.

    Raises:
        UserError: the input cannot be read.
        UsageError: a gate, unit or step that is not there.
    """
    steps = reader.read(model, cells)
    looker = Looker(model, reader, options.holds)
    with torch.enable_grad(), looker.recording() as records:
        features = reader.read_features(model, steps.batch)
    at = chosen_step(looker, features, options.at)
    probabilities = looker.probabilities(features, steps, at)[0]
    explained = explain(reader, probabilities, at)
    norms = gradient_norms(records, probabilities[explained.index], reader.are_values)
    state_norms = state_gradient_norms(records)
    layers = layer_traces(records, norms, options.units, reader.is_generative)
    attention = attention_traces(records, reader.is_generative)
    features = features.detach()
    predictions = looker.predictions(steps, features)
    image = image_trace(looker, steps, explained, attention, steps.grid)
    # of pixels no shares are worked out: the regions of an image tell which parts matter
    is_image = steps.batch.inputs.dtype == torch.uint8
    unheld: tuple[StepPrediction, ...] = ()
    if options.holds:
        plain = Looker(model, reader)
        with torch.no_grad():
            read = reader.read_features(model, steps.batch)
        unheld = plain.predictions(steps, read)
    return Trace(
        text=text,
        tokens=steps.names,
        layers=layers,
        predictions=predictions,
        explained=explained,
        attributions=None if is_image else attribute(looker, steps, explained),
        attention=beside_image(attention, steps),
        tracking=tracking_units(layers, steps.names, predictions),
        written=steps.written,
        answer=answer_of(steps, predictions, reader),
        state_gradient_norms=state_norms,
        numbers=steps.numbers,
        columns=steps.columns,
        holds=tuple(map(str, options.holds)),
        unheld=unheld,
        notices=notices(steps, layers, norms is not None),
        image=image,
    )


def notices(
    steps: InputSteps, layers: Sequence[LayerTrace], has_norms: bool
) -> tuple[str, ...]:
    """Return what was left out, and why."""
    lines = [steps.notice] if steps.notice else []
    count = len(steps)
    if any(len(layer.units) < layer.size for layer in layers):
        lines.append(
            f"{len(layers[0].units)} units of a layer are shown, those that vary most, and the "
            "length of its whole state; --units chooses"
        )
    if count > EXACT and has_norms:
        lines.append(
            f"how the last state hangs on earlier ones is estimated in {PROBES} random directions"
        )
    if count > LONGEST:
        lines.append(f"gradients are worked out for inputs of up to {LONGEST:,} steps")
    return tuple(lines)


def chosen_step(looker: Looker, features: Tensor, at: int | None) -> int:
    """Return the step whose output is explained, from 0.

    Untold it is the last one; of what is written the first; of labels the first that is not the
    most frequent one.

    Raises:
        UsageError: there is no such step.
    """
    reader = looker.reader
    if not reader.at_each_step:
        if at is not None:
            raise UsageError("--at is for models with an output at each step")
        return -1
    count = features.shape[1]
    if at is not None:
        if not 0 <= at < count:
            raise UsageError(f"--at {at + 1}: there are steps 1 to {count}")
        return at
    if reader.is_generative:
        return 0
    if not reader.labels_steps:
        return count - 1
    labels = features[0].argmax(-1)
    others = (labels != labels.mode().values).nonzero()
    return int(others[0]) if len(others) else count - 1


def explain(reader: StepReader, probabilities: Tensor, at: int) -> Explained:
    """Return the number that is explained: that of the likeliest outcome."""
    probabilities = probabilities.detach()
    index = int(probabilities.argmax())
    step = at if reader.at_each_step else None
    probability = float(probabilities[index])
    outcome = reader.outcome(index)
    return Explained(step, outcome, probability, index, reader.are_values)


def answer_of(
    steps: InputSteps, predictions: Sequence[StepPrediction], reader: StepReader
) -> str:
    """Return the whole answer: the labels of all steps, the last prediction, what is written."""
    if reader.is_generative:
        return steps.answer
    if reader.labels_steps:
        return " ".join(step.outcomes[0].name for step in predictions)
    best = predictions[-1].outcomes[0]
    return reader.show(best.probability) if reader.are_values else best.name
