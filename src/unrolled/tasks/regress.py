"""A value for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.data.examples import Examples
from unrolled.data.schema import Schema
from unrolled.fields.frames import Frames
from unrolled.fields.number import Number
from unrolled.scores import mean_absolute_error, root_mean_squared_error
from unrolled.tasks import baselines, describing
from unrolled.tasks.base import (
    DOWN,
    AnswerOptions,
    Data,
    Evaluation,
    FileLayout,
    Method,
    Prediction,
    Split,
    Task,
    locate,
    need_table,
    to_numpy,
)
from unrolled.tasks.labelled import (
    Inputs,
    Labelled,
    fit_inputs,
    raw_answers,
    read_inputs,
)
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.step_readers import LabelledSteps
from unrolled.tasks.steps import StepReader
from unrolled.training.objectives import Objective, values
from unrolled.training.precision import ComputeDevice


@dataclass(frozen=True, eq=False)
class Regress(Labelled):
    """A value for each row."""

    name: ClassVar[str] = "regress"
    metric: ClassVar[str] = "rmse"
    measures: ClassVar[dict[str, bool]] = {"mae": DOWN, "rmse": DOWN, "loss": DOWN}
    loss_unit: ClassVar[str] = "scaled squares"
    answers_values: ClassVar[bool] = True
    inputs: Inputs
    output: Number
    layout: FileLayout

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Data,
        labels: Data | None = None,
        pretrained: Task | None = None,
    ) -> Self:
        """Learn the fields from training rows."""
        table = need_table(data)
        assert schema.answer is not None
        (answer_index,) = locate(table, [schema.answer], table.columns)
        answers = raw_answers(recipe, schema, table, answer_index)
        optional = recipe.data.missing != "error"
        decimal = recipe.data.decimal
        output = Number.fit(
            schema.answer,
            answers,
            decimal,
            optional,
            schema.decimal,
            schema.unit_of(schema.answer),
        )
        if recipe.data.difference:
            # whole steps are no sign of whole values
            output = replace(output, whole=False)
        inputs = fit_inputs(recipe, schema, table, pretrained)
        return cls(inputs, output, FileLayout.of(table))

    @property
    def blind_loss(self) -> float:
        """Half the square of a deviation."""
        return 0.5

    @property
    def width(self) -> int:
        """One value."""
        return 1

    def base(self, examples: Examples) -> NDArray[np.float64] | float:
        """Return what decoded outputs are added to: last values (N,), where a change is learnt."""
        if isinstance(self.inputs, Frames) and self.inputs.reading.difference:
            return self.inputs.last_values(self.output.column, examples)
        return 0.0

    def decode(self, scaled: Any, examples: Examples) -> NDArray[np.float64]:
        """Return the values of scaled ones (N,), in the unit of the file."""
        values = self.output.decode(np.asarray(scaled, dtype=np.float64))
        return values + self.base(examples)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return the squared error."""
        return self._pretrained(recipe, values())

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return mae and rmse in the unit of the file, and the loss in scaled units."""
        scaled = to_numpy(self.outputs(model, examples, compute_device))[:, 0]
        goal = np.asarray(examples.targets, dtype=np.float64)
        truth = self.decode(goal, examples)
        predicted = self.decode(scaled, examples)
        scores = {
            "mae": mean_absolute_error(truth, predicted),
            "rmse": root_mean_squared_error(truth, predicted),
            "loss": float(0.5 * np.square(scaled - goal).mean()),
        }
        return Evaluation(scores, pairs=np.stack([truth, predicted], axis=1))

    def predictions(self, outputs: Tensor, examples: Examples) -> list[Prediction]:
        """Return values, rounded where training saw only integers; the exact one is a detail."""
        return [
            Prediction(self.output.show(value), None, {"value": float(value)})
            for value in self.decode(to_numpy(outputs)[:, 0], examples)
        ]

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say between what the values lie."""
        answers = self.flat_answers(values)
        return describing.numbers([self.output.read(answer) for answer in answers])

    def baselines(self, split: Split) -> list[Method]:
        """The mean, the last value, and linear regression."""
        return baselines.of_values(
            split, self.inputs, self.columns, self.output.column, self.decode
        )

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads an input step by step."""
        has_base = isinstance(self.inputs, Frames) and self.inputs.reading.difference
        base = self.output.column if has_base else ""
        return LabelledSteps(self.inputs, (), self.output, base)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        inputs = read_inputs(values["inputs"], folder)
        return cls(inputs, Number.from_json(values["output"]), layout)
