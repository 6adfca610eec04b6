"""A label for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import DataError, shown
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.fields.label import Label
from unrolled.fields.text import Text
from unrolled.scores import accuracy, confusion_counts, macro_f1
from unrolled.tasks import baselines, describing
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    AxisNames,
    ClassPredictions,
    Data,
    Evaluation,
    FileLayout,
    Method,
    Prediction,
    Shards,
    Split,
    Task,
    label_names,
    likeliest_labels,
    locate,
    need_table,
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
from unrolled.tasks.weights import weights_of
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, classes
from unrolled.training.precision import ComputeDevice

SIDE_BY_SIDE = 2**24  # scores that are looked at together


@dataclass(frozen=True, eq=False)
class Classify(Labelled):
    """A label for each row."""

    name: ClassVar[str] = "classify"
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[dict[str, bool]] = {"accuracy": UP, "macro_f1": UP, "loss": DOWN}
    inputs: Inputs
    output: Label
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
        named = table if labels is None else need_table(labels)
        answers = raw_answers(recipe, schema, named, answer_index)
        output = Label.fit(schema.answer, answers, recipe.data.missing != "error")
        if len(output.names) < 2:
            raise DataError(
                f"column {schema.answer!r} holds only {shown(output.names[0])}; a classifier "
                "needs two labels or more (name another column with data.label)",
                table.path,
            )
        inputs = fit_inputs(recipe, schema, table, pretrained)
        return cls(inputs, output, FileLayout.of(table))

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the tokens of the embedding, and the labels of what makes outputs."""
        labels = label_names(self.output.names)
        by_gram = label_names(self.output.names, axis=1)
        outputs = {
            "head.weight": labels,
            "head.bias": labels,
            "ngrams.weight": by_gram,
        }
        return {**super().axis_names(), **outputs}

    @property
    def width(self) -> int:
        """One score a label."""
        return len(self.output.names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels to choose from."""
        return self.output.names

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy, labels weighed as the recipe says."""
        weights = weights_of(recipe, self.output.names)
        smoothing = recipe.training.label_smoothing
        return self._pretrained(recipe, classes(smoothing, weights))

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return accuracy, macro F1 and the mean cross entropy in nats."""
        outputs = self.outputs(model, examples, compute_device)
        truth = np.asarray(examples.targets)
        total = 0.0
        best = []
        surest = []
        # in pieces: in float64, and of many labels, all rows side by side take gigabytes
        for rows in torch.arange(len(truth)).split(max(1, SIDE_BY_SIDE // self.width)):
            scores = outputs[rows].double()
            targets = torch.from_numpy(truth[rows.numpy()])
            total += float(F.cross_entropy(scores, targets, reduction="sum"))
            likeliest = scores.softmax(-1).max(-1)
            best.append(likeliest.indices)
            surest.append(likeliest.values)
        predicted = torch.cat(best).numpy()
        confidence = torch.cat(surest).numpy()
        confusion = confusion_counts(truth, predicted, self.width)
        return Evaluation(
            {
                "accuracy": accuracy(confusion),
                "macro_f1": macro_f1(confusion),
                "loss": total / len(truth),
            },
            confusion=confusion,
            judged=ClassPredictions(
                np.arange(len(truth)), truth, predicted, confidence
            ),
        )

    def predictions(self, outputs: Tensor, examples: Examples) -> list[Prediction]:
        """Return the likeliest label with its probability, and all probabilities as details."""
        return likeliest_labels(self.output.names, outputs)

    @classmethod
    def reads_shards(cls, schema: Schema) -> bool:
        """Texts alone are read in pieces."""
        return schema.is_text_alone

    @classmethod
    def of_vocabulary(
        cls,
        recipe: Recipe,
        schema: Schema,
        learn_vocabulary: Callable[[], Tokenizer],
        labels: Sequence[str],
        layout: FileLayout,
    ) -> Self | None:
        """Return the task of a file that was read in pieces."""
        assert schema.answer is not None
        output = Label.fit(schema.answer, labels, recipe.data.missing != "error")
        if len(output.names) < 2:
            return None  # the reader of whole files says what is wrong
        inputs = Text(schema.text, learn_vocabulary(), recipe.data.max_tokens)
        return cls(inputs, output, layout)

    def shard_fields(self) -> tuple[Text, Label | None]:
        """Return the fields of texts and labels."""
        assert isinstance(self.inputs, Text)
        return self.inputs, self.output

    def of_shards(self, shards: Shards) -> Examples:
        """Return examples that are mapped from shards."""
        assert shards.rows is not None
        lines, offsets, targets = shards.rows
        return Examples(lines, Ragged(shards.tokens, offsets), targets=targets)

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say which labels there are, and how often."""
        return describing.labels(self.flat_answers(values))

    def baselines(self, split: Split) -> list[Method]:
        """The most frequent label, and logistic regression."""
        return baselines.of_labels(split, self.inputs, self.columns, self.width)

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads an input step by step."""
        return LabelledSteps(self.inputs, self.output.names)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        inputs = read_inputs(values["inputs"], folder)
        return cls(inputs, Label.from_json(values["output"]), layout)
