"""A model that reads one input, perhaps with gates or units held.

Legend: T steps, O outputs, N rows that are read together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError, listed, unknown
from unrolled.insight.trace import Outcome, StepPrediction, spans_of
from unrolled.ops.recording import Hold, LayerRecord, Recorder
from unrolled.tasks.steps import InputSteps, StepReader

SHOWN = 5  # outcomes of a step
READ = 200  # ends of an input that are read one by one, to see what is answered there
READ_LONG = 50
CHUNK = 256  # steps whose scores are made at once


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
                f"there is no gate {hold.name!r} in these layers: {listed(list(known))} can be "
                "held, and unit:NUMBER=VALUE"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold what is to be held, and record nothing."""
        if not self.holds:
            yield
            return
        with Recorder(self.names, self.holds, keeps=False):
            yield

    def outputs(self, steps: InputSteps) -> Tensor:
        """Return the probabilities or values at the last step (O,)."""
        with torch.no_grad(), self.held():
            features = self.reader.read_features(self.model, steps.batch)
            return self.probabilities(features, steps, -1)[0]

    def probabilities(self, features: Tensor, steps: InputSteps, at: int) -> Tensor:
        """Return the probabilities or values (N, O) that features give at a step."""
        chosen = features[:, at] if self.reader.at_each_step else features
        scores = self.reader.scores(self.model, chosen)
        return self.reader.probabilities(scores, steps)

    def likeliest(self, probabilities: Tensor) -> list[tuple[Outcome, ...]]:
        """Return the likeliest outcomes of rows of probabilities (N, O)."""
        best = probabilities.topk(min(SHOWN, probabilities.shape[1]))
        rows: list[tuple[Outcome, ...]] = []
        for indices, values in zip(
            best.indices.tolist(), best.values.tolist(), strict=True
        ):
            pairs = zip(indices, values, strict=True)
            rows.append(
                tuple(
                    Outcome(self.reader.outcome(index), value) for index, value in pairs
                )
            )
        return rows

    def predictions(
        self, steps: InputSteps, features: Tensor
    ) -> tuple[StepPrediction, ...]:
        """Return what is likeliest after each step; where an input is long, after some of them."""
        if not self.reader.at_each_step:
            return self._predictions_of_beginnings(steps)
        predictions: list[StepPrediction] = []
        with torch.no_grad():
            for first in range(0, features.shape[1], CHUNK):
                part = features[0, first : first + CHUNK]
                scores = self.reader.scores(self.model, part)
                rows = self.reader.probabilities(scores, steps)
                for step, outcomes in enumerate(self.likeliest(rows), first):
                    predictions.append(StepPrediction(step, outcomes))
        return tuple(predictions)

    def _predictions_of_beginnings(
        self, steps: InputSteps
    ) -> tuple[StepPrediction, ...]:
        count = len(steps)
        most = READ if count <= READ else READ_LONG
        predictions: list[StepPrediction] = []
        for _, end in spans_of(count, most):
            beginning = self.reader.until(steps, end)
            (outcomes,) = self.likeliest(self.outputs(beginning)[None])
            predictions.append(StepPrediction(end - 1, outcomes))
        return tuple(predictions)
