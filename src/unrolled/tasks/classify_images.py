"""A label for each image: one to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from torch import nn

from unrolled.core.errors import DataError, UserError
from unrolled.data.examples import Examples
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.image import Image
from unrolled.fields.label import Label
from unrolled.models import OneToOne
from unrolled.nn import build_layer
from unrolled.nn.image_encoder import PooledImages
from unrolled.nn.image_settings import build_encoder
from unrolled.tasks.base import (
    AnswerOptions,
    Data,
    DefaultSettings,
    FileLayout,
    Prediction,
    Rows,
    Task,
    locate,
    need_table,
)
from unrolled.tasks.image_labels import ImageLabels
from unrolled.tasks.image_rows import pixels_of, read_rows
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.step_readers import LabelledSteps
from unrolled.tasks.steps import StepReader
from unrolled.training.precision import ComputeDevice

DEFAULTS = DefaultSettings(
    values={
        "model": {"hidden": 128, "layers": 1, "head_dropout": 0.2},
        "encoder": {"crop": 0.15, "colour": 0.2},
        "training": {
            "batch_size": 32,
            "learning_rate": 1e-3,
            "label_smoothing": 0.05,
            "patience": 6,
            "average": "ema",
            "ema_decay": 0.99,
        },
    },
    budget=100_000,
    layer="none",
    sizes_vocabulary=False,
)


@dataclass(frozen=True, eq=False)
class ClassifyImages(ImageLabels):
    """Images, and a label for each."""

    name: ClassVar[str] = "classify"
    inputs: Image
    output: Label
    layout: FileLayout

    @property
    def pattern(self) -> str:
        """A label for an image."""
        return "one to one"

    @property
    def reads_sequences(self) -> bool:
        """An image has no steps."""
        return False

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, answer=self.output.column, images=self.inputs.columns)

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        return DEFAULTS

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Data,
        labels: Data | None = None,
        pretrained: Task | None = None,
    ) -> Self:
        """Learn the labels from training rows."""
        table = need_table(data)
        answer = schema.answer or ""
        named = table if labels is None else need_table(labels)
        output = Label.fit(answer, named.cells(answer), recipe.data.missing != "error")
        if len(output.names) < 2:
            raise DataError(f"column {answer!r} holds one label alone", table.path)
        encoder = recipe.encoder
        inputs = Image(schema.images[0], encoder.size, encoder.fit)
        return cls(inputs, output, FileLayout.of(table))

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Read the images of a table with their labels; see the base class."""
        table = need_table(data)
        known = schema or self.schema
        names = (known.images[0], known.answer or "")
        image, answer = locate(table, names, self.columns)

        def check(cells: tuple[Any, ...]) -> int:
            return self.output.check(cells[answer])

        rows = read_rows(self.inputs, table, image, check, on_error)
        targets = np.array(rows.values, dtype=np.int64)
        return Examples(rows.lines, images=rows.images, targets=targets), rows.errors

    def build(self, recipe: Recipe) -> nn.Module:
        """Return what reads an image, a layer over its vector, and output weights."""
        config = recipe.model
        size = recipe.encoder.size
        encoder = build_encoder(recipe.encoder)
        pooled = PooledImages(encoder, size, size, config.hidden, config.head_dropout)
        layer = build_layer(recipe.layer, config, pooled.output_size)
        return OneToOne(
            layer, len(self.output.names), config.head_dropout, embedding=pooled
        )

    def image_source(self, model: nn.Module) -> nn.Module:
        """Return what reads images in a model."""
        return cast(PooledImages, cast(OneToOne, model).embedding).encoder

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Label the image of each row."""
        try:
            images = pixels_of(self.inputs, [row[0] for row in rows])
        except InvalidCell as error:
            raise UserError(str(error)) from None
        examples = Examples(np.arange(len(rows)), images=images)
        return self.predictions(self.outputs(model, examples, compute_device))

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why an image cannot be answered; else nothing."""
        try:
            pixels_of(self.inputs, cells[:1])
        except InvalidCell as error:
            return str(error)
        return ""

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads an image."""
        return LabelledSteps(self.inputs, self.output.names)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        inputs = {"kind": self.inputs.kind, **self.inputs.to_json()}
        return {"inputs": inputs, "output": self.output.to_json()}

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        inputs = Image.from_json(values["inputs"])
        return cls(inputs, Label.from_json(values["output"]), layout)
