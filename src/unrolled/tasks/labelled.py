"""One answer a row: what classification and regression share, for text or for numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import Batch, BatchSource, Buckets, collate
from unrolled.data.examples import Examples
from unrolled.data.schema import Schema
from unrolled.data.sources import Table
from unrolled.fields.base import InvalidCell
from unrolled.fields.frames import Frames
from unrolled.fields.inputs import read_input
from unrolled.fields.label import Label
from unrolled.fields.number import Number
from unrolled.fields.rows import numbered, valid_rows
from unrolled.fields.series import spans
from unrolled.fields.text import Text
from unrolled.fields.text_and_columns import TextAndColumns
from unrolled.fields.vector import Vector
from unrolled.models import ManyToOne, OneToOne
from unrolled.nn import Layer, NGrams, Pooling, ScaledNumbers, build_layer
from unrolled.nn.build import LayerConfig
from unrolled.tasks import series
from unrolled.tasks.base import (
    AnswerOptions,
    AxisNames,
    Data,
    DefaultSettings,
    Prediction,
    Rows,
    Task,
    build_embedding,
    check_reach,
    locate,
    need_table,
    score_batches,
)
from unrolled.tasks.recipe import ModelConfig, Recipe
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, pretrained
from unrolled.training.precision import ComputeDevice

WEIGHTS = 2**23  # of n-grams at most: with many labels more n-grams share a vector
COLUMNS_HIDDEN = 64  # of the network that reads other columns than texts
Inputs = Text | Vector | Frames | TextAndColumns

TEXT = DefaultSettings(
    values={
        "model": {
            "bidirectional": True,
            "embedding_dropout": 0.4,
            "head_dropout": 0.5,
            # phrases tell much where there are few rows: without them n-gram regression wins
            "ngrams": 4,
        },
        "training": {
            "learning_rate": 2e-3,
            "label_smoothing": 0.05,
            "patience": 3,
            "average": "ema",
            "ema_decay": 0.99,
        },
    },
    budget=250_000,
    tokenizer="unigram",
)
NUMBERS = DefaultSettings(
    values={
        "model": {"hidden": 64, "layers": 2},
        "training": {"learning_rate": 5e-3, "weight_decay": 1e-4, "patience": 20},
    },
    budget=600_000,
    layer="none",
)


def fit_text(
    recipe: Recipe,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    pretrained: Task | None,
) -> Text:
    """Learn a text field from the cells of its columns; its pieces may be those of another task."""
    data = recipe.data
    texts: list[str] = []
    for row in rows:
        texts += [str(cell) for cell in row if cell is not None and cell != ""]
    if not texts:
        raise UserError(
            f"column {columns[0]!r} holds no text at all; name another with data.text"
        )
    tokenizer = None if pretrained is None else pretrained.tokenizer
    if tokenizer is None:
        kind = data.tokenizer or "unigram"
        tokenizer = Tokenizer.fit(kind, texts, data.vocabulary, data.min_count)
    return Text(columns, tokenizer, data.max_tokens, characters=recipe.model.ngrams > 0)


def fit_inputs(
    recipe: Recipe, schema: Schema, table: Table, pretrained: Task | None
) -> Inputs:
    """Learn the input field of a table."""
    if schema.frames:
        return series.fit_frames(recipe, schema, table)
    indices = locate(table, schema.inputs, table.columns)
    rows = [[row[i] for i in indices] for row in table.rows]
    count = len(schema.text)
    columns = None
    if schema.inputs[count:]:
        data = recipe.data
        cells = [row[count:] for row in rows]
        columns = Vector.fit(schema, cells, data.missing, data.decimal)
    if not count:
        assert columns is not None
        return columns
    texts = [row[:count] for row in rows]
    text = fit_text(recipe, schema.text, texts, pretrained)
    return text if columns is None else TextAndColumns(text, columns)


def raw_answers(
    recipe: Recipe, schema: Schema, table: Table, answer_index: int
) -> list[Any]:
    """Return the answers of all examples of a table, as the file has them."""
    if not schema.frames:
        return [row[answer_index] for row in table.rows]
    goals = series.one_answer(series.reading(recipe, schema))
    return series.answers_in(table, schema, goals)


class Labelled(Task):
    """What classification and regression share: any input field, one answer a row."""

    around: ClassVar[tuple[str, ...]] = ("pooling", "ngrams")
    inputs: Inputs
    output: Label | Number

    @property
    def pattern(self) -> str:
        """One to one for rows of numbers, many to one for sequences."""
        return "one to one" if isinstance(self.inputs, Vector) else "many to one"

    @property
    @abstractmethod
    def width(self) -> int:
        """Outputs of the model."""

    @property
    def reads_sequences(self) -> bool:
        """Whether what is read has steps, one after another."""
        return not isinstance(self.inputs, Vector)

    @property
    def text_field(self) -> Text | None:
        """The field of a text, where one is read."""
        inputs = self.inputs
        if isinstance(inputs, TextAndColumns):
            return inputs.text
        return inputs if isinstance(inputs, Text) else None

    @property
    def columns_field(self) -> Vector | None:
        """The field of numbers, categories and dates, where some are read."""
        inputs = self.inputs
        if isinstance(inputs, TextAndColumns):
            return inputs.vector
        return inputs if isinstance(inputs, Vector) else None

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The column that each feature of a row is of."""
        field = self.columns_field
        return () if field is None else field.feature_columns

    @property
    def frames(self) -> Frames | None:
        """The field of a sequence of numbers, where one is read."""
        return self.inputs if isinstance(self.inputs, Frames) else None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What cuts the texts that are read into pieces."""
        return self.text_field.tokenizer if self.text_field is not None else None

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        inputs = self.inputs
        answer = self.output.column
        if isinstance(inputs, Frames):
            return series.schema_of(inputs, self.name, answer)
        text = self.text_field.columns if self.text_field is not None else ()
        if self.columns_field is None:
            return Schema(self.name, text, (), answer)
        return replace(
            self.columns_field.schema, task=self.name, text=text, answer=answer
        )

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        if schema.frames:
            return series.default_settings(recipe)
        return TEXT if schema.text else NUMBERS

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the tokens of the embedding."""
        if self.tokenizer is None:
            return {}
        tokens = AxisNames(tuple(self.tokenizer.texts()))
        return {"embedding.weight": tokens, "recovery_bias": tokens}

    def check_keys(self, recipe: Recipe) -> None:
        """Refuse what is for texts alone; where steps are read, their reader does."""
        self.refuse_documents(recipe)
        if self.pattern == "one to one":
            super().check_keys(recipe)

    # ------------------------------------------------------------------ rows to examples

    def gather(
        self, data: Data, schema: Schema, on_error: str, answered: bool = True
    ) -> Data:
        """Return rows that are steps as sequences; all other rows as they are."""
        if not isinstance(self.inputs, Frames):
            return data
        output = self.output if answered else None
        return series.gathered(
            self.inputs, output, data, schema, self.columns, on_error
        )

    def flat_answers(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return the answers of all steps, where a cell holds those of a sequence."""
        if not isinstance(self.inputs, Frames):
            return values
        answers: list[Any] = []
        for cell in values:
            answers += cell if isinstance(cell, list) else [cell]
        return answers

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Encode the rows of a table with their answers; see the base class."""
        table = need_table(data)
        schema = schema or self.schema
        assert schema.answer is not None
        dtype: Any = np.int64 if isinstance(self.output, Label) else np.float32
        if isinstance(self.inputs, Frames):
            goals = series.one_answer(self.inputs.reading)
            examples, answers, errors = series.encode(
                self.inputs, self.output, table, schema, self.columns, on_error, goals
            )
            return replace(examples, targets=np.array(answers, dtype=dtype)), errors
        indices = locate(table, schema.inputs, self.columns)
        (answer_index,) = locate(table, [schema.answer], self.columns)
        field = self.inputs

        def check(row: Sequence[Any]) -> tuple[Any, Any]:
            checked = field.check([row[i] for i in indices])
            return checked, self.output.check(row[answer_index])

        errors = list(table.skipped)
        lines: list[int] = []
        inputs: Any = []
        targets: list[Any] = []
        rows = valid_rows(numbered(table), table, check, on_error, errors)
        for line, (checked, target) in rows:
            lines.append(line)
            inputs.append(checked)
            targets.append(target)
        if not lines:
            raise DataError("no row is left to read", table.path)
        examples = field.examples(inputs, np.array(lines))
        return replace(examples, targets=np.array(targets, dtype=dtype)), errors

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return a many-to-one model for sequences, a one-to-one model for rows of numbers."""
        config = recipe.model
        if isinstance(self.inputs, Vector):
            layer = build_layer(recipe.layer, config, self.inputs.width)
            return OneToOne(layer, self.width, config.head_dropout)
        if isinstance(self.inputs, Frames):
            layer = series.build_reader(recipe, self.inputs)
            pooling = Pooling(config.pooling, layer.output_size, layer.reverse_size)
            return ManyToOne(
                ScaledNumbers(), layer, pooling, self.width, config.head_dropout
            )
        assert self.text_field is not None
        return self._build_reader_of_text(recipe, self.text_field)

    def _build_reader_of_text(self, recipe: Recipe, inputs: Text) -> nn.Module:
        config = recipe.model
        embedding = build_embedding(inputs.tokenizer.size, config)
        layer = build_layer(recipe.layer, config, config.embedding)
        check_reach(layer, recipe, len(inputs.columns))
        pooling = Pooling(config.pooling, layer.output_size, layer.reverse_size)
        ngrams = self._build_ngrams(config)
        pretrain = recipe.training.pretrain_epochs > 0
        if pretrain and not layer.causal and config.layers > 1:
            # the second layer would read, forward, what the first read backward: the very token
            raise UsageError(
                "training.pretrain_epochs guesses tokens from what stands before and after; a "
                "stack that reads both ways sees them: set model.layers=1 or "
                "model.bidirectional=false"
            )
        try:
            return ManyToOne(
                embedding,
                layer,
                pooling,
                self.width,
                config.head_dropout,
                pretrain,
                ngrams,
                *self._build_reader_of_columns(config),
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _build_reader_of_columns(self, config: ModelConfig) -> tuple[Layer | None, int]:
        """Return what reads other columns than texts, and how many features they are."""
        if self.columns_field is None:
            return None, 0
        width = self.columns_field.width
        settings = LayerConfig(hidden=COLUMNS_HIDDEN, layers=2, dropout=config.dropout)
        return build_layer("none", settings, width), width

    def _build_ngrams(self, config: ModelConfig) -> NGrams | None:
        if not config.ngrams:
            return None
        buckets = min(2**19, 2 ** (WEIGHTS // self.width).bit_length() // 2)
        return NGrams(config.ngrams, self.width, buckets, config.ngram_dropout)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of rows of like length."""
        training = recipe.training
        return Buckets(
            examples,
            training.batch_size,
            training.batch_tokens,
            recipe.seed,
            unlabelled=training.pretrain_epochs,
        )

    def _pretrained(self, recipe: Recipe, objective: Objective) -> Objective:
        """Put learning the language before ``objective``, where the recipe asks for it."""
        if not recipe.training.pretrain_epochs:
            return objective
        assert self.tokenizer is not None
        return pretrained(objective, self.tokenizer.size)

    # ------------------------------------------------------------------ predictions

    @torch.no_grad()
    def outputs(
        self, model: nn.Module, examples: Examples, compute_device: ComputeDevice
    ) -> Tensor:
        """Return the model's outputs (N, O) in the order of the examples, fp32 on the host."""
        outputs = torch.empty(len(examples), self.width)
        for rows in score_batches(examples.lengths):
            batch = collate(examples, rows).to(compute_device.device)
            with compute_device.autocast():
                outputs[torch.from_numpy(rows)] = self._forward(model, batch)
        return outputs

    def _forward(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.inputs, batch.lengths, *batch.extra).float().cpu()

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a sequence of numbers cannot be answered; else nothing."""
        if not isinstance(self.inputs, Frames):
            return ""
        return series.why_not_answerable(self.inputs, cells)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Answer rows of input cells, one cell a column of ``schema.inputs``."""
        try:
            inputs: Any = [self.inputs.check_to_predict(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        examples = self.inputs.examples(inputs, np.arange(len(rows)))
        outputs = self.outputs(model, examples, compute_device)
        if not bool(torch.isfinite(outputs).all()):
            raise UserError(
                "the model answers with no number: the row is out of all proportion"
            )
        return self.predictions(outputs, examples)

    def predict_steps(
        self, model: nn.Module, cells: Sequence[Any], compute_device: ComputeDevice
    ) -> list[Prediction]:
        """Answer at every step of a sequence: for the window that ends there, or for all of it.

        Where no whole window has been read yet the answer is empty.
        """
        assert isinstance(self.inputs, Frames)
        spec = self.inputs.reading
        if spec.window is None:
            prediction = self.predict(model, [tuple(cells)], compute_device)[0]
            return [prediction] * len(cells[0])
        try:
            steps = self.inputs.whole().check_to_predict(cells)
        except InvalidCell as error:
            raise UserError(str(error)) from None
        predictions: list[Prediction] = []
        if len(steps) >= spec.window:
            # up to the last step, whose answer lies beyond the file
            windows = spans([steps], replace(spec, ahead=0))
            examples = Examples(np.arange(len(windows.starts)), frames=windows)
            outputs = self.outputs(model, examples, compute_device)
            predictions = self.predictions(outputs, examples)
        return [Prediction("")] * (len(steps) - len(predictions)) + predictions

    @abstractmethod
    def predictions(self, outputs: Tensor, examples: Examples) -> list[Prediction]:
        """Turn the outputs (N, O) for examples into predictions."""

    # ------------------------------------------------------------------ the run folder

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "inputs": {"kind": self.inputs.kind, **self.inputs.to_json()},
            "output": self.output.to_json(),
        }

    def save(self, folder: Path) -> None:
        """Write the vocabulary, if there is one."""
        self.inputs.save(folder)


def read_inputs(values: dict[str, Any], folder: Path) -> Inputs:
    """Read the input field back from plain values and the files in a run folder."""
    field = read_input(values, folder)
    if not isinstance(field, Inputs):
        raise ValueError(f"one answer a row is not read from {values['kind']}")
    return field
