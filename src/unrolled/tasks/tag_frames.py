"""A label at every step of a sequence of numbers: frames of video, rows of sensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

from unrolled.core.errors import DataError, UserError
from unrolled.data.batches import BatchSource
from unrolled.data.examples import Examples, Ragged, Spans
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.frames import Frames
from unrolled.fields.label import Label
from unrolled.models import Aligned
from unrolled.nn import ScaledNumbers
from unrolled.scores.segments import segment_scores
from unrolled.tasks import baselines, series
from unrolled.tasks.base import (
    UP,
    AnswerOptions,
    Data,
    DefaultSettings,
    Evaluation,
    FileLayout,
    Method,
    Prediction,
    Rows,
    Split,
    Task,
    need_table,
)
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.tag import Tagger
from unrolled.training.precision import ComputeDevice

# scores of stretches of equal labels, beside those of steps
SEGMENTS = {"edit": UP, "f1_10": UP, "f1_25": UP, "f1_50": UP}


def of_segments(evaluation: Evaluation) -> Evaluation:
    """Return an evaluation of steps with the scores of their segments."""
    judged = evaluation.judged
    assert judged is not None
    ends = np.flatnonzero(np.diff(judged.rows)) + 1
    truth = np.split(judged.truth, ends)
    predicted = np.split(judged.predicted, ends)
    scores = {**evaluation.scores, **segment_scores(truth, predicted)}
    return replace(evaluation, scores=scores)


def every_label(cell: Any, steps: int) -> list[Any]:
    """Return the labels of a sequence, one a step. Raises InvalidCell."""
    # a step may be without a label, which is named when the rows are encoded
    tags = cell if isinstance(cell, list) else str(cell or "").split()
    if len(tags) != steps:
        raise InvalidCell(f"{steps} steps but {len(tags)} labels")
    return tags


class SegmentTagger(Tagger):
    """Labels of steps that stand in stretches, each of which is to be said once."""

    scored_unit: ClassVar[str] = "steps"
    measures: ClassVar[dict[str, bool]] = {**Tagger.measures, **SEGMENTS}

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return accuracy, macro F1 and cross entropy of steps, and the scores of segments."""
        evaluation = super().evaluate(model, examples, compute_device, options)
        return of_segments(evaluation)


@dataclass(frozen=True, eq=False)
class FrameTag(SegmentTagger):
    """Sequences of numbers, and a label for each step."""

    name: ClassVar[str] = "tag"
    inputs: Frames
    output: Label
    layout: FileLayout

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        # there is no vocabulary: its size stays as it is in runs that were begun before
        return replace(series.default_settings(recipe), sizes_vocabulary=False)

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Data,
        labels: Data | None = None,
        pretrained: Task | None = None,
    ) -> Self:
        """Learn the scales and the labels from training rows."""
        table = need_table(data)
        named = table if labels is None else need_table(labels)
        answers = series.answers_in(named, schema, every_label)
        output = Label.fit(schema.answer or "", answers)
        if len(output.names) < 2:
            raise DataError(
                f"column {schema.answer!r} holds one label alone", table.path
            )
        inputs = series.fit_frames(recipe, schema, table)
        return cls(inputs, output, FileLayout.of(table))

    @property
    def frames(self) -> Frames:
        """The field of a sequence of numbers."""
        return self.inputs

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return series.schema_of(self.inputs, self.name, self.output.column)

    def gather(
        self, data: Data, schema: Schema, on_error: str, answered: bool = True
    ) -> Data:
        """Return rows that are steps as sequences."""
        output = self.output if answered else None
        return series.gathered(
            self.inputs, output, data, schema, self.columns, on_error
        )

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Encode the sequences of a table with their labels; see the base class."""
        examples, labels, errors = series.encode(
            self.inputs,
            self.output,
            need_table(data),
            schema or self.schema,
            self.columns,
            on_error,
            every_label,
        )
        offsets = np.concatenate([[0], np.cumsum(examples.lengths)])
        targets = Ragged(np.array(labels, dtype=np.int32), offsets)
        return replace(examples, targets=targets), errors

    def build(self, recipe: Recipe) -> nn.Module:
        """Return an aligned model over the numbers themselves."""
        layer = series.build_reader(recipe, self.inputs)
        dropout = recipe.model.head_dropout
        return Aligned(ScaledNumbers(), layer, len(self.output.names), dropout)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of sequences, or of pieces of ``data.window`` steps, of like length."""
        size = recipe.data.window
        if size is not None:
            examples = _pieces(examples, size)
        return super().source(examples, recipe, model)

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a sequence cannot be answered; else nothing."""
        return series.why_not_answerable(self.inputs, cells)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Label every step of each row, a row being the cells of ``schema.inputs``."""
        try:
            sequences = [self.inputs.check_to_predict(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        examples = self.inputs.examples(sequences, np.arange(len(rows)))
        probabilities = self.probabilities(model, examples, compute_device)
        return [self.prediction(row) for row in probabilities]

    def predict_steps(
        self, model: nn.Module, cells: Sequence[Any], compute_device: ComputeDevice
    ) -> list[Prediction]:
        """Return the label of every step of a sequence, with its probability."""
        details = self.predict(model, [tuple(cells)], compute_device)[0].details
        pairs = zip(details["tags"], details["probabilities"], strict=True)
        return [Prediction(tag, probability) for tag, probability in pairs]

    def baselines(self, split: Split) -> list[Method]:
        """The most frequent label, and logistic regression on a step by itself."""
        return baselines.of_steps(split, len(self.output.names))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        inputs = {"kind": self.inputs.kind, **self.inputs.to_json()}
        return {"inputs": inputs, "output": self.output.to_json()}

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        inputs = Frames.from_json(values["inputs"], folder)
        return cls(inputs, Label.from_json(values["output"]), layout)


def _pieces(examples: Examples, size: int) -> Examples:
    """Return sequences cut into pieces of ``size`` steps, the last of each what is left."""
    assert examples.frames is not None
    assert isinstance(examples.targets, Ragged)
    ends = np.cumsum(examples.lengths)
    begins = ends - examples.lengths
    cuts = [np.arange(a, b, size) for a, b in zip(begins, ends, strict=True)]
    starts = np.concatenate(cuts)
    offsets = np.append(starts, ends[-1])
    lines = examples.frames.lines
    return Examples(
        starts if lines is None else lines[starts],
        frames=Spans(examples.frames.flat, starts, np.diff(offsets), lines),
        targets=Ragged(examples.targets.flat, offsets),
    )
