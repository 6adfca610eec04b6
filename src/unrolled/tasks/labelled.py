"""One answer a row: a label (classify) or a value (regress), for text or for numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core import digests
from unrolled.core.errors import DataError, UsageError, UserError, shown
from unrolled.data.batches import Batch, BatchSource, Buckets, collate
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.frames import Frames
from unrolled.fields.label import Label
from unrolled.fields.number import Number
from unrolled.fields.text import Text
from unrolled.fields.vector import Vector
from unrolled.models import ManyToOne, OneToOne
from unrolled.nn import NGrams, Pooling, ScaledNumbers, build_layer
from unrolled.scores import (
    accuracy,
    confusion_counts,
    macro_f1,
    mean_absolute_error,
    root_mean_squared_error,
)
from unrolled.tasks import series
from unrolled.tasks.base import (
    DOWN,
    UP,
    ClassPredictions,
    Evaluation,
    Prediction,
    Rows,
    Task,
    build_embedding,
    check_reach,
    locate,
    score_batches,
    to_numpy,
)
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.weights import weights_of
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, classes, pretrained, values
from unrolled.training.precision import ComputeDevice

TOKENIZER = "tokenizer.json"
SIDE_BY_SIDE = 2**24  # scores that are looked at together
WEIGHTS = 2**23  # of n-grams at most: with many labels more n-grams share a vector
Inputs = Text | Vector | Frames
KINDS: dict[str, type[Inputs]] = {"text": Text, "vector": Vector, "frames": Frames}


def need_table(data: Table | Document) -> Table:
    """Return a table, or say why a plain text does not do."""
    if isinstance(data, Document):
        raise DataError(
            "this is one plain text; a table with an answer column is needed", data.path
        )
    return data


def fit_text(
    recipe: Recipe, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> Text:
    """Learn a text field from the cells of its columns."""
    data = recipe.data
    texts = [
        str(cell) for row in rows for cell in row if cell is not None and cell != ""
    ]
    if not texts:
        raise UserError(
            f"column {columns[0]!r} holds no text at all; name another with data.text"
        )
    kind = data.tokenizer or "unigram"
    tokenizer = Tokenizer.fit(kind, texts, data.vocabulary, data.min_count)
    return Text(columns, tokenizer, data.max_tokens, characters=recipe.model.ngrams > 0)


def fit_inputs(recipe: Recipe, schema: Schema, table: Table) -> Inputs:
    """Learn the input field of a table."""
    if schema.frames:
        return series.fit_frames(recipe, schema, table)
    places = locate(table, schema.inputs, table.columns)
    rows = [[row[i] for i in places] for row in table.rows]
    if schema.text:
        return fit_text(recipe, schema.text, rows)
    return Vector.fit(schema.numbers, rows)


def raw_answers(recipe: Recipe, schema: Schema, table: Table, place: int) -> list[Any]:
    """Return the answers of all examples of a table, as the file has them."""
    if not schema.frames:
        return [row[place] for row in table.rows]
    goals = series.one_answer(series.reading(recipe, schema))
    return series.answers_in(table, schema, goals)


class Labelled(Task):
    """What classification and regression share: any input field, one answer a row."""

    output: Label | Number

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.pattern = "one to one" if isinstance(inputs, Vector) else "many to one"  # type: ignore[misc]

    @property
    @abstractmethod
    def width(self) -> int:
        """Outputs of the model."""

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        inputs = self.inputs
        answer = self.output.column
        if isinstance(inputs, Text):
            return Schema(self.name, inputs.columns, (), answer)
        if isinstance(inputs, Vector):
            return Schema(self.name, (), inputs.columns, answer)
        return Schema(self.name, (), inputs.columns, answer, True, inputs.reading.steps)

    def encode(
        self, data: Table | Document, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Encode the rows of a table with their answers; see the base class."""
        table = need_table(data)
        schema = schema or self.schema
        assert schema.answer is not None
        dtype: Any = np.int64 if isinstance(self.output, Label) else np.float32
        if isinstance(self.inputs, Frames):
            goals = series.one_answer(self.inputs.reading)
            skip = on_error == "skip"
            examples, found, skipped = series.encode(
                self.inputs, self.output, table, schema, self.columns, skip, goals
            )
            return replace(examples, targets=np.array(found, dtype=dtype)), skipped
        places = locate(table, schema.inputs, self.columns)
        (answer,) = locate(table, [schema.answer], self.columns)
        inputs = []
        targets = []
        lines = []
        skipped = list(table.skipped)
        for row, line in zip(table.rows, table.lines, strict=True):
            try:
                checked = self.inputs.check([row[i] for i in places])
                target = self.output.check(row[answer])
            except InvalidCell as error:
                if on_error != "skip":
                    raise invalid_row(error, *table.position(line)) from None
                skipped.append(invalid_row(error, *table.position(line)))
                continue
            inputs.append(checked)
            targets.append(target)
            lines.append(line)
        if not inputs:
            raise DataError("no row is left to read", table.path)
        return self._examples(
            inputs, np.array(lines), np.array(targets, dtype=dtype)
        ), skipped

    def _examples(
        self, inputs: Sequence[Any], lines: Any, targets: Any = None
    ) -> Examples:
        if isinstance(self.inputs, Text):
            sequences = Ragged.of(self.inputs.encode(inputs))
            characters = (
                self.inputs.code_points(inputs) if self.inputs.characters else None
            )
            return Examples(lines, sequences, None, targets, characters)
        if isinstance(self.inputs, Frames):
            return Examples(
                lines, frames=series.spans(inputs, self.inputs.reading, last=True)
            )
        return Examples(
            lines, vectors=np.array(inputs, dtype=np.float32), targets=targets
        )

    def build(self, recipe: Recipe) -> nn.Module:
        """Return a many-to-one model for sequences, a one-to-one model for rows of numbers."""
        config = recipe.model
        if isinstance(self.inputs, Vector):
            layer = build_layer(recipe.layer, config, len(self.inputs.columns))
            return OneToOne(layer, self.width, config.head_dropout)
        if isinstance(self.inputs, Frames):
            layer = series.build_reader(recipe, self.inputs)
            pooling = Pooling(config.pooling, layer.output_size, layer.reverse_size)
            return ManyToOne(
                ScaledNumbers(), layer, pooling, self.width, config.head_dropout
            )
        embedding = build_embedding(self.inputs.tokenizer.size, config)
        layer = build_layer(recipe.layer, config, config.embedding)
        check_reach(layer, recipe, len(self.inputs.columns))
        pooling = Pooling(config.pooling, layer.output_size, layer.reverse_size)
        ngrams = None
        if config.ngrams:
            buckets = min(2**19, 2 ** (WEIGHTS // self.width).bit_length() // 2)
            ngrams = NGrams(config.ngrams, self.width, buckets, config.ngram_dropout)
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
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of rows of like length."""
        told = recipe.training
        return Buckets(
            examples,
            told.batch_size,
            told.batch_tokens,
            recipe.seed,
            unlabelled=told.pretrain_epochs,
        )

    def _pretrained(self, recipe: Recipe, objective: Objective) -> Objective:
        """Put learning the language before ``objective``, where the recipe asks for it."""
        if not recipe.training.pretrain_epochs:
            return objective
        assert isinstance(self.inputs, Text)
        return pretrained(objective, self.inputs.tokenizer.size)

    @torch.no_grad()
    def outputs(
        self, model: nn.Module, examples: Examples, place: ComputeDevice
    ) -> Tensor:
        """Return the model's outputs (N, O) in the order of the examples, fp32 on the host."""
        found = torch.empty(len(examples), self.width)
        for rows in score_batches(examples.lengths):
            batch = collate(examples, rows).to(place.device)
            with place.autocast():
                found[torch.from_numpy(rows)] = self._forward(model, batch)
        return found

    def predict(
        self, model: nn.Module, rows: Rows, place: ComputeDevice
    ) -> list[Prediction]:
        """Answer rows of input cells, one cell a column of ``schema.inputs``."""
        inputs: list[Any] = []
        for row in rows:
            if isinstance(self.inputs, Frames):
                inputs.append(series.asked(self.inputs, row))
                continue
            try:
                inputs.append(self.inputs.check(row))
            except InvalidCell as error:
                raise UserError(str(error)) from None
        examples = self._examples(inputs, np.arange(len(rows)))
        outputs = self.outputs(model, examples, place)
        if not bool(torch.isfinite(outputs).all()):
            raise UserError(
                "the model answers with no number: the row is out of all proportion"
            )
        return self.answers(outputs, examples)

    def each_step(
        self, model: nn.Module, cells: Sequence[Any], place: ComputeDevice
    ) -> list[Prediction]:
        """Answer at every step of a sequence: for the window that ends there, or for all of it.

        Where no whole window has been read yet the answer is empty.
        """
        assert isinstance(self.inputs, Frames)
        told = self.inputs.reading
        if told.window is None:
            answer = self.predict(model, [tuple(cells)], place)[0]
            return [answer] * len(cells[0])
        steps = series.asked(
            replace(self.inputs, reading=replace(told, window=None)), cells
        )
        found: list[Prediction] = []
        if len(steps) >= told.window:
            # up to the last step, whose answer lies beyond the file
            here = series.spans([steps], replace(told, ahead=0))
            examples = Examples(np.arange(len(here.starts)), frames=here)
            found = self.answers(self.outputs(model, examples, place), examples)
        return [Prediction("")] * (len(steps) - len(found)) + found

    def _forward(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.inputs, batch.lengths, *batch.extra).float().cpu()

    @abstractmethod
    def answers(self, outputs: Tensor, examples: Examples) -> list[Prediction]:
        """Turn the outputs (N, O) for examples into answers."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        kind = next(
            name for name, field in KINDS.items() if isinstance(self.inputs, field)
        )
        return {
            "inputs": {"kind": kind, **self.inputs.to_json()},
            "output": self.output.to_json(),
        }

    def save(self, folder: Path) -> None:
        """Write the vocabulary, if there is one."""
        if isinstance(self.inputs, Text):
            digests.replace(folder, TOKENIZER, self.inputs.tokenizer.save)


def read_inputs(told: dict[str, Any], folder: Path) -> Inputs:
    """Read an input field back from a run folder."""
    if told["kind"] == "frames":
        return Frames.from_json(told)
    if told["kind"] == "text":
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        return Text(
            tuple(told["columns"]), tokenizer, told["max_tokens"], told["characters"]
        )
    return Vector(
        tuple(told["columns"]), tuple(told["means"]), tuple(told["deviations"])
    )


class Classify(Labelled):
    """A label for each row."""

    name: ClassVar[str] = "classify"
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[dict[str, bool]] = {"accuracy": UP, "macro_f1": UP, "loss": DOWN}

    def __init__(self, inputs: Inputs, output: Label) -> None:
        super().__init__(inputs)
        self.output: Label = output

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn the fields from training rows."""
        table = need_table(data)
        assert schema.answer is not None
        (place,) = locate(table, [schema.answer], table.columns)
        named = table if labels is None else need_table(labels)
        output = Label.fit(schema.answer, raw_answers(recipe, schema, named, place))
        if len(output.names) < 2:
            raise DataError(
                f"column {schema.answer!r} holds only {shown(output.names[0])}; a classifier "
                "needs two labels or more (name another column with data.label)",
                table.path,
            )
        return cls(fit_inputs(recipe, schema, table), output)

    @property
    def width(self) -> int:
        """One score a label."""
        return len(self.output.names)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy, labels weighed as the recipe says."""
        weights = weights_of(recipe, self.output.names)
        return self._pretrained(
            recipe, classes(recipe.training.label_smoothing, weights)
        )

    def evaluate(
        self, model: nn.Module, examples: Examples, place: ComputeDevice
    ) -> Evaluation:
        """Return accuracy, macro F1 and the mean cross entropy in nats."""
        outputs = self.outputs(model, examples, place)
        truth = np.asarray(examples.targets)
        total = 0.0
        best = []
        surest = []
        # in pieces: in float64, and of many labels, all rows side by side take gigabytes
        for rows in torch.arange(len(truth)).split(max(1, SIDE_BY_SIDE // self.width)):
            piece = outputs[rows].double()
            right = torch.from_numpy(truth[rows.numpy()])
            total += float(F.cross_entropy(piece, right, reduction="sum"))
            likeliest = piece.softmax(-1).max(-1)
            best.append(likeliest.indices)
            surest.append(likeliest.values)
        found = torch.cat(best).numpy()
        matrix = confusion_counts(truth, found, self.width)
        loss = total / len(truth)
        scores = {
            "accuracy": accuracy(matrix),
            "macro_f1": macro_f1(matrix),
            "loss": loss,
        }
        judged = ClassPredictions(
            np.arange(len(truth)), truth, found, torch.cat(surest).numpy()
        )
        return Evaluation(scores, confusion=matrix, judged=judged)

    def answers(self, outputs: Tensor, examples: Examples) -> list[Prediction]:
        """Return the likeliest label with its probability, and all probabilities as details."""
        names = self.output.names
        answers = []
        for row in outputs.double().softmax(-1).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            details = {"probabilities": dict(zip(names, row, strict=True))}
            answers.append(Prediction(names[best], row[best], details))
        return answers

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields back."""
        told = values["output"]
        output = Label(told["column"], tuple(told["names"]))
        return cls(read_inputs(values["inputs"], folder), output)


class Regress(Labelled):
    """A value for each row."""

    name: ClassVar[str] = "regress"
    metric: ClassVar[str] = "rmse"
    measures: ClassVar[dict[str, bool]] = {"mae": DOWN, "rmse": DOWN, "loss": DOWN}

    def __init__(self, inputs: Inputs, output: Number) -> None:
        super().__init__(inputs)
        self.output: Number = output

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn the fields from training rows."""
        table = need_table(data)
        assert schema.answer is not None
        (place,) = locate(table, [schema.answer], table.columns)
        output = Number.fit(schema.answer, raw_answers(recipe, schema, table, place))
        if recipe.data.difference:
            # whole steps are no sign of whole values
            output = replace(output, whole=False)
        return cls(fit_inputs(recipe, schema, table), output)

    @property
    def width(self) -> int:
        """One value."""
        return 1

    def base(self, examples: Examples) -> np.ndarray[Any, np.dtype[np.float64]] | float:
        """Return what decoded outputs are added to: last values (N,), where a change is learnt."""
        if isinstance(self.inputs, Frames) and self.inputs.reading.difference:
            return series.last_values(self.inputs, self.output.column, examples)
        return 0.0

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return the squared error."""
        return self._pretrained(recipe, values())

    def evaluate(
        self, model: nn.Module, examples: Examples, place: ComputeDevice
    ) -> Evaluation:
        """Return mae and rmse in the unit of the file, and the loss in scaled units."""
        scaled = to_numpy(self.outputs(model, examples, place))[:, 0]
        goal = np.asarray(examples.targets, dtype=np.float64)
        base = self.base(examples)
        truth = self.output.decode(goal) + base
        found = self.output.decode(scaled) + base
        scores = {
            "mae": mean_absolute_error(truth, found),
            "rmse": root_mean_squared_error(truth, found),
            "loss": float(0.5 * np.square(scaled - goal).mean()),
        }
        return Evaluation(scores, pairs=np.stack([truth, found], axis=1))

    def answers(self, outputs: Tensor, examples: Examples) -> list[Prediction]:
        """Return values, rounded where training saw only integers; the exact one is a detail."""
        found = self.output.decode(to_numpy(outputs)[:, 0]) + self.base(examples)
        return [
            Prediction(self.output.show(v), None, {"value": float(v)}) for v in found
        ]

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields back."""
        return cls(read_inputs(values["inputs"], folder), Number(**values["output"]))
