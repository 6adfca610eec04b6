"""A question about an image, and its answer out of those that were learnt.

Shapes: N rows, A answers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from torch import nn

from unrolled.core.errors import DataError, UserError
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.image import Image
from unrolled.fields.label import Label
from unrolled.fields.text import Text
from unrolled.models import Asking
from unrolled.nn import Pooling, build_layer
from unrolled.nn.image_settings import build_encoder
from unrolled.tasks import describing
from unrolled.tasks.base import (
    AnswerOptions,
    Data,
    DefaultSettings,
    Evaluation,
    FileLayout,
    Method,
    Prediction,
    Rows,
    Scores,
    Split,
    Task,
    build_embedding,
    check_reach,
    locate,
    need_table,
)
from unrolled.tasks.image_labels import ImageLabels
from unrolled.tasks.image_questions import (
    QUESTIONS,
    QuestionExamples,
    accuracy_by_kind,
    answers_of,
    as_learnt,
    check_question,
    fit_question,
    kinds_of,
    most_frequent_answers,
    need_question,
    points_of,
)
from unrolled.tasks.image_rows import pixels_of, read_rows
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.step_readers import QuestionSteps
from unrolled.tasks.steps import StepReader
from unrolled.text.published import load_tokenizer
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.precision import ComputeDevice

DEFAULTS = DefaultSettings(
    values={
        "data": {"max_tokens": 64, "min_count": 1},
        "model": {"hidden": 128, "embedding": 64, "pooling": "last"},
        "encoder": {"coordinates": True},
        "training": {
            "batch_size": 32,
            "learning_rate": 1e-3,
            "patience": 5,
            "average": "ema",
            "ema_decay": 0.99,
        },
    },
    budget=600_000,
    tokenizer="words",
    sizes_vocabulary=False,
)


@dataclass(frozen=True, eq=False)
class AskImage(ImageLabels):
    """An image and a question, and the answer.

    Attributes:
        inputs, question, output: the fields of images, questions and answers.
    """

    name: ClassVar[str] = "ask-image"
    measures: ClassVar[dict[str, bool]] = ImageLabels.measures
    around: ClassVar[tuple[str, ...]] = ("pooling", "fusion", "fusion_width")
    inputs: Image
    question: Text
    output: Label
    layout: FileLayout

    @property
    def read_unit(self) -> str:
        """Questions are read by their tokens, and images once for all of theirs."""
        return "tokens"

    @property
    def pattern(self) -> str:
        """A label for an image and a sequence."""
        return "many to one, with an image"

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(
            self.name,
            self.question.columns,
            answer=self.output.column,
            images=self.inputs.columns,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts questions into pieces."""
        return self.question.tokenizer

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
        """Learn the words of questions, and the answers, from training rows."""
        table = need_table(data)
        need_question(cls.name, schema)
        question = fit_question(recipe.data, schema, table, pretrained)
        answer = schema.answer or ""
        named = table if labels is None else need_table(labels)
        answers: list[Any] = []
        for cell in named.cells(answer):
            answers += answers_of(cell)
        output = Label.fit(answer, answers)
        if len(output.names) < 2:
            raise DataError(f"column {answer!r} holds one answer alone", table.path)
        encoder = recipe.encoder
        return cls(
            Image(schema.images[0], encoder.size, encoder.fit),
            question,
            output,
            FileLayout.of(table),
        )

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[QuestionExamples, list[DataError]]:
        """Read images, questions and answers of a table; see the base class."""
        table = need_table(data)
        known = schema or self.schema
        names = (known.images[0], known.text[0], known.answer or "")
        image, text, answer = locate(table, names, self.columns)

        def check(cells: tuple[Any, ...]) -> tuple[str, tuple[int, ...]]:
            question = check_question(self.question, cells[text])
            right = [self.output.check(value) for value in answers_of(cells[answer])]
            if not right:
                raise InvalidCell(f"column {self.output.column!r} holds no answer")
            return question, tuple(right)

        rows = read_rows(self.inputs, table, image, check, on_error)
        questions = [question for question, _ in rows.values]
        right = tuple(right for _, right in rows.values)
        targets = most_frequent_answers(right)
        examples = QuestionExamples(
            rows.lines,
            Ragged.of(self.question.encode([(question,) for question in questions])),
            images=rows.images,
            targets=np.array(targets, dtype=np.int64),
            right=right,
            kinds=kinds_of(table, rows.lines),
        )
        return examples, rows.errors

    def build(self, recipe: Recipe) -> nn.Module:
        """Return what reads image and question, and answers."""
        config = recipe.model
        embedding = build_embedding(self.tokenizer.size, config)
        layer = build_layer(recipe.layer, config, embedding.width)
        check_reach(layer, recipe)
        pooling = Pooling(config.pooling, layer.output_size, layer.reverse_size)
        return Asking(
            build_encoder(recipe.encoder),
            embedding,
            layer,
            pooling,
            len(self.output.names),
            config.fusion,
            config.fusion_width,
            config.head_dropout,
        )

    def image_source(self, model: nn.Module) -> nn.Module:
        """Return what reads images in a model."""
        return cast(Asking, model).source

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return accuracy, macro F1 and cross entropy, and the accuracy of each kind of question.

        Where a question has several answers the accuracy is min(1, n / 3) of the n people who
        gave the one that is predicted (Antol et al. 2015, section 3).
        """
        evaluation = super().evaluate(model, examples, compute_device, options)
        question_examples = cast(QuestionExamples, examples)
        assert evaluation.judged is not None
        predicted = evaluation.judged.predicted.tolist()
        points = points_of(question_examples.right, predicted)
        scores = {**evaluation.scores, "accuracy": float(points.mean())}
        by = accuracy_by_kind(points, question_examples.kinds)
        return replace(evaluation, scores=scores, by=by)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Answer rows of an image and a question each."""
        try:
            questions = [check_question(self.question, row[1]) for row in rows]
            images = pixels_of(self.inputs, [row[0] for row in rows])
        except InvalidCell as error:
            raise UserError(str(error)) from None
        ids = self.question.encode([(question,) for question in questions])
        examples = Examples(np.arange(len(rows)), Ragged.of(ids), images=images)
        return self.predictions(self.outputs(model, examples, compute_device))

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a question about an image cannot be answered; else nothing."""
        try:
            check_question(self.question, cells[1])
            pixels_of(self.inputs, cells[:1])
        except InvalidCell as error:
            return str(error)
        return ""

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say which answers there are, and how often."""
        answers: list[Any] = []
        for value in values:
            answers += answers_of(value)
        return describing.labels(answers)

    def baselines(self, split: Split) -> list[Method]:
        """The most frequent answer, and the most frequent one to the same question."""
        train = cast(QuestionExamples, split.train)
        dev = cast(QuestionExamples, split.dev)

        def to_the_question() -> Scores:
            counts: dict[bytes, Counter[int]] = {}
            targets: list[int] = np.asarray(train.targets).tolist()
            for question, target in zip(_keys(train), targets, strict=True):
                counts.setdefault(question, Counter())[target] += 1
            most = int(np.bincount(targets).argmax())
            predicted = [
                counts[question].most_common(1)[0][0] if question in counts else most
                for question in _keys(dev)
            ]
            return {"accuracy": float(points_of(dev.right, predicted).mean())}

        return [*super().baselines(split), ("question without image", to_the_question)]

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads a question step by step, beside its image."""
        return QuestionSteps(self.inputs, self.question, self.output.names, as_learnt)

    # ------------------------------------------------------------------ the run folder

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "inputs": {"kind": self.inputs.kind, **self.inputs.to_json()},
            "question": self.question.to_json(),
            "output": self.output.to_json(),
        }

    def save(self, folder: Path) -> None:
        """Write the words of questions."""
        self.question.save(folder, QUESTIONS)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        tokenizer = load_tokenizer(folder / QUESTIONS)
        saved = values["question"]
        question = Text(tuple(saved["columns"]), tokenizer, saved["max_tokens"])
        inputs = Image.from_json(values["inputs"])
        return cls(inputs, question, Label.from_json(values["output"]), layout)


def _keys(examples: Examples) -> list[bytes]:
    """Return what is equal for equal questions."""
    assert examples.sequences is not None
    offsets = examples.sequences.offsets.tolist()
    flat = np.asarray(examples.sequences.flat)
    return [flat[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
