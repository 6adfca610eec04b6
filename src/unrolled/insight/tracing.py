"""Looks inside a model while it reads one input: one pass of the equations, and its gradients.

Legend: T steps, H units, O outputs, N rows that are read together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError, unknown
from unrolled.insight.attribution import attribute
from unrolled.insight.gradients import (
    EXACT,
    LONGEST,
    PROBES,
    gradient_norms,
    state_gradient_norms,
)
from unrolled.insight.recorded import attention_traces, layer_traces
from unrolled.insight.trace import (
    Explained,
    LayerTrace,
    Outcome,
    StepPrediction,
    Trace,
    spans_of,
)
from unrolled.insight.tracking import tracking_units
from unrolled.ops.recording import Hold, LayerRecord, Recorder
from unrolled.tasks.steps import StepReader, Steps

SHOWN = 5  # outcomes of a step
READ = 200  # ends of an input that are read one by one, to see what is answered there
READ_LONG = 50
CHUNK = 256  # steps whose scores are made at once


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


class Looker:
    """A model that reads one input under some holds.

    Args:
        model: in evaluation mode.
        reader: of its task.
        holds: gates and units that are held.
    """

    def __init__(
        self, model: nn.Module, reader: StepReader, holds: Sequence[Hold] = ()
    ) -> None:
        self.model = model
        self.reader = reader
        self.holds = tuple(holds)
        self.names = reader.layers(model)

    @contextmanager
    def recording(self) -> Iterator[list[LayerRecord]]:
        """Record the layers that run in the block; they are in the list once it is left."""
        layers: list[LayerRecord] = []
        recorder = Recorder(self.names, self.holds)
        try:
            with recorder:
                yield layers
        except IndexError as error:
            raise UsageError(str(error)) from None
        layers += recorder.layers
        self._check_holds(layers)

    def _check_holds(self, layers: Sequence[LayerRecord]) -> None:
        applied: set[Hold] = set()
        known: dict[str, None] = {}
        for layer in layers:
            applied |= layer.applied
            known |= dict.fromkeys(layer.steps[0] if layer.steps else ())
        for hold in self.holds:
            if hold in applied:
                continue
            if hold.layer is not None and hold.layer not in {x.name for x in layers}:
                raise UsageError(
                    unknown("layer", hold.layer, [layer.name for layer in layers])
                )
            raise UsageError(
                f"{unknown('gate', hold.name, list(known))}; a unit of the state is held with "
                "unit:NUMBER=VALUE"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold what is to be held, and record nothing."""
        if not self.holds:
            yield
            return
        with Recorder(self.names, self.holds, keeps=False):
            yield

    def outputs(self, steps: Steps, at: int | None = None) -> Tensor:
        """Return the probabilities or values at one step (O,), at the last by default."""
        with torch.no_grad(), self.held():
            features = self.reader.read_features(self.model, steps.batch)
            return self.probabilities(features, steps, -1 if at is None else at)[0]

    def probabilities(self, features: Tensor, steps: Steps, at: int) -> Tensor:
        """Return the probabilities or values (N, O) that features give at a step."""
        chosen = features[:, at] if self.reader.at_each_step else features
        scores = self.reader.scores(self.model, chosen)
        return self.reader.probabilities(scores, steps)

    def likeliest(self, probabilities: Tensor) -> tuple[Outcome, ...]:
        """Return the likeliest outcomes of some probabilities (O,)."""
        best = probabilities.topk(min(SHOWN, len(probabilities)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple(
            Outcome(self.reader.outcome(index), value) for index, value in pairs
        )

    def predictions(self, steps: Steps, features: Tensor) -> tuple[StepPrediction, ...]:
        """Return what is likeliest after each step; where an input is long, after some of them."""
        if not self.reader.at_each_step:
            return self._predictions_of_beginnings(steps)
        predictions: list[StepPrediction] = []
        with torch.no_grad():
            for first in range(0, features.shape[1], CHUNK):
                part = features[0, first : first + CHUNK]
                scores = self.reader.scores(self.model, part)
                rows = self.reader.probabilities(scores, steps)
                for offset, row in enumerate(rows):
                    outcomes = self.likeliest(row)
                    predictions.append(StepPrediction(first + offset, outcomes))
        return tuple(predictions)

    def _predictions_of_beginnings(self, steps: Steps) -> tuple[StepPrediction, ...]:
        count = len(steps)
        most = READ if count <= READ else READ_LONG
        predictions: list[StepPrediction] = []
        for _, end in spans_of(count, most):
            beginning = self.reader.until(steps, end)
            outcomes = self.likeliest(self.outputs(beginning))
            predictions.append(StepPrediction(end - 1, outcomes))
        return tuple(predictions)


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
    layers = layer_traces(records, norms, options.units, reader.writes)
    attention = attention_traces(records)
    features = features.detach()
    predictions = looker.predictions(steps, features)
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
        attributions=attribute(looker, steps, explained),
        attention=attention,
        tracking=tracking_units(layers, steps.names, predictions),
        written=steps.written,
        answer=answer_of(steps, predictions, reader),
        state_gradient_norms=state_norms,
        numbers=steps.numbers,
        columns=steps.columns,
        holds=tuple(map(str, options.holds)),
        unheld=unheld,
        notices=notices(steps, layers, norms is not None),
    )


def notices(
    steps: Steps, layers: Sequence[LayerTrace], has_norms: bool
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
    if reader.writes:
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
    return Explained(step, reader.outcome(index), float(probabilities[index]), index)


def answer_of(
    steps: Steps, predictions: Sequence[StepPrediction], reader: StepReader
) -> str:
    """Return the whole answer: the labels of all steps, the last prediction, what is written."""
    if reader.writes:
        return "".join(steps.written[:-1])
    if reader.labels_steps:
        return " ".join(step.outcomes[0].name for step in predictions)
    best = predictions[-1].outcomes[0]
    return f"{best.probability:.6g}" if reader.are_values else best.name
