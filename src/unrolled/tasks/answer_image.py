"""A question about an image, and its answer written piece by piece: a word or a sentence.

Shapes: N rows, T pieces of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import PAD, BatchSource
from unrolled.data.examples import Examples, Images, Ints, Ragged
from unrolled.data.image_batches import ImageBatches
from unrolled.data.schema import Schema
from unrolled.decoding.search import Hypothesis
from unrolled.fields.base import InvalidCell
from unrolled.fields.image import Image
from unrolled.fields.text import Text
from unrolled.models import Answering, QuestionReader
from unrolled.nn import Pooling, build_layer
from unrolled.nn.image_settings import build_encoder
from unrolled.scores.answers import word_f1
from unrolled.tasks import describing
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    AxisNames,
    Data,
    DefaultSettings,
    Evaluation,
    FileLayout,
    GeneratedTexts,
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
from unrolled.tasks.image_questions import (
    QUESTIONS,
    TOKENIZER,
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
from unrolled.tasks.image_rows import (
    begin_encoder,
    changes_of,
    pixels_of,
    read_rows,
    with_features,
)
from unrolled.tasks.one_to_many import TARGET, OneToManyTask
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.step_readers import AnswerSteps, piece_names
from unrolled.tasks.steps import StepReader
from unrolled.tasks.unaligned import loss_of_batches
from unrolled.tasks.writing import SourceBatches
from unrolled.text.published import load_tokenizer
from unrolled.training.objectives import Objective, seq2seq_loss
from unrolled.training.precision import ComputeDevice

SCORED = 64  # images that are read at once while the loss is measured
LONGEST = 1024  # pieces of an answer; else the most that a training answer has
DEFAULTS = DefaultSettings(
    values={
        "data": {"max_tokens": 64, "min_count": 1},
        "model": {
            "hidden": 256,
            "embedding": 128,
            "pooling": "last",
            # attention at all steps at once
            "attention": "multiplicative",
            "input_feeding": False,
            "head_dropout": 0.3,
        },
        "encoder": {"coordinates": True},
        "training": {
            "batch_size": 32,
            "learning_rate": 1e-3,
            "patience": 5,
            "average": "ema",
            "ema_decay": 0.99,
        },
        # the longest answer of training is the limit
        "decoding": {"max_extra": LONGEST},
    },
    budget=600_000,
    tokenizer=TOKENIZER,
    sizes_vocabulary=False,
)


@dataclass(frozen=True, slots=True)
class WrittenExamples(Examples):
    """Questions about images, with the right answers of each row as they are learnt.

    Attributes:
        names: of the images of the N rows.
        questions: of the rows.
        right: the answers, one or more a row; the first is learnt.
        kinds: of questions, where the file has such a column.
    """

    names: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    right: tuple[tuple[str, ...], ...] = ()
    kinds: tuple[str, ...] = ()

    def pick(self, rows: Any) -> WrittenExamples:
        """Return some of the examples (M,), in that order."""
        # without super(): a class with slots is made anew
        picked = cast(WrittenExamples, Examples.pick(self, rows))
        chosen = np.arange(len(self))[rows].tolist()
        return replace(
            picked,
            names=tuple(self.names[row] for row in chosen),
            questions=tuple(self.questions[row] for row in chosen),
            right=tuple(self.right[row] for row in chosen),
            kinds=tuple(self.kinds[row] for row in chosen) if self.kinds else (),
        )


class QuestionSources(SourceBatches):
    """Questions about images that answers are written to."""

    def __init__(self, sequences: Ragged, images: Images) -> None:
        self.sequences = sequences
        self.images = images

    @property
    def lengths(self) -> Ints:
        """Pieces of each question, (N,)."""
        return self.sequences.lengths

    def take(self, rows: Ints, pad: int) -> tuple[Tensor, ...]:
        """Return questions (B, T) and their lengths, the images, and the image of each (B,)."""
        tokens, lengths = self.sequences.take(rows, PAD)
        distinct, owners = np.unique(self.images.rows[rows], return_inverse=True)
        pixels = self.images.distinct(distinct)
        return tokens, lengths, pixels, torch.from_numpy(owners)


@dataclass(frozen=True, eq=False)
class AnswerImage(OneToManyTask):
    """An image and a question, and an answer in words.

    Attributes:
        inputs, question, output: the fields of images, questions and answers.
        longest: the most pieces of an answer, its end mark included.
    """

    name: ClassVar[str] = "answer-image"
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[dict[str, bool]] = {
        "accuracy": UP,
        "word_f1": UP,
        "loss": DOWN,
        "perplexity": DOWN,
    }
    around: ClassVar[tuple[str, ...]] = (*OneToManyTask.around, "pooling")
    source_name: ClassVar[str] = "a question about an image"
    inputs: Image
    question: Text
    output: Text
    longest: int
    layout: FileLayout

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the tokens of both embeddings and of the output weights."""
        questions = AxisNames(tuple(self.question.tokenizer.texts()))
        return {**super().axis_names(), "question_embedding.weight": questions}

    @property
    def read_unit(self) -> str:
        """Questions are read by their tokens, and images once for all of theirs."""
        return "tokens"

    @property
    def pattern(self) -> str:
        """A sequence for an image and a sequence."""
        return "many to many, with an image"

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(
            self.name,
            self.question.columns,
            answer=self.output.columns[0],
            images=self.inputs.columns,
        )

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
        """Learn the words of questions and of answers from training rows."""
        table = need_table(data)
        need_question(cls.name, schema)
        question = fit_question(recipe.data, schema, table, pretrained)
        answer = schema.answer or ""
        texts: list[str] = []
        for cell in table.cells(answer):
            texts += [as_learnt(value) for value in answers_of(cell)]
        if not texts:
            raise DataError(f"column {answer!r} holds no answer", table.path)
        answering = pretrained if isinstance(pretrained, AnswerImage) else None
        tokenizer = cls.fit_tokenizer(recipe.data, texts, TOKENIZER, answering)
        output = Text((answer,), tokenizer, None)
        longest = max(map(len, output.encode([(text,) for text in texts])))
        return cls(
            Image(schema.images[0], recipe.encoder.size, recipe.encoder.fit),
            question,
            output,
            min(longest, LONGEST),
            FileLayout.of(table),
        )

    # ------------------------------------------------------------------ rows to examples

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[WrittenExamples, list[DataError]]:
        """Read images, questions and answers of a table; see the base class."""
        table = need_table(data)
        known = schema or self.schema
        names = (known.images[0], known.text[0], known.answer or "")
        image, text, answer = locate(table, names, self.columns)

        def check(cells: tuple[Any, ...]) -> tuple[str, tuple[str, ...]]:
            question = check_question(self.question, cells[text])
            right = [as_learnt(value) for value in answers_of(cells[answer])]
            if not any(right):
                raise InvalidCell(f"column {self.output.columns[0]!r} holds no answer")
            return question, tuple(filter(None, right))

        rows = read_rows(self.inputs, table, image, check, on_error)
        questions = tuple(question for question, _ in rows.values)
        right = tuple(answers for _, answers in rows.values)
        # the answer that most people gave is learnt
        learnt = most_frequent_answers(right)
        ids = self.output.encode([(answer,) for answer in learnt])
        examples = WrittenExamples(
            rows.lines,
            Ragged.of(self.question.encode([(question,) for question in questions])),
            images=rows.images,
            targets=Ragged.of(self.cut(ids)),
            names=tuple(rows.names[number] for number in rows.images.rows.tolist()),
            questions=questions,
            right=right,
            kinds=kinds_of(table, rows.lines),
        )
        return examples, rows.errors

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return what reads image and question, and the decoder that writes."""
        config = recipe.model
        embedding = build_embedding(self.question.tokenizer.size, config)
        layer = build_layer(recipe.layer, config, embedding.width)
        check_reach(layer, recipe)
        pooling = Pooling(config.pooling, layer.output_size, layer.reverse_size)
        target, decoder = self.build_writer(recipe)
        try:
            return Answering(
                build_encoder(recipe.encoder),
                QuestionReader(embedding, layer, pooling),
                config.hidden,
                target,
                decoder,
                self.tokenizer.size,
                config.head_dropout,
                config.tie,
                config.head_bias,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def begin(self, model: nn.Module, recipe: Recipe) -> None:
        """Give what reads images the weights that ``encoder.weights`` names."""
        begin_encoder(cast(Any, model).source, recipe.encoder)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of each piece of an answer, given those before it."""
        smoothing = recipe.training.label_smoothing
        return seq2seq_loss(self.tokenizer.bos_id, smoothing)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of ``training.batch_size`` images, each with all its questions."""
        read = with_features(model, examples)
        changes = changes_of(recipe.encoder)
        return ImageBatches(read, recipe.training.batch_size, recipe.seed, changes)

    # ------------------------------------------------------------------ scores

    def evaluate(
        self,
        model: nn.Module,
        examples: WrittenExamples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return the loss of the answers given, and how far those that are written are right.

        ``accuracy`` is the share of answers that are written exactly, and of a question with
        several right ones min(1, n / 3) of the n people who gave it (Antol et al. 2015, section
        3); ``word_f1`` counts the words that a right answer shares with what is written.
        """
        examples = with_features(model, examples, compute_device)
        batches = ImageBatches(examples, SCORED, 0).in_order()
        loss = loss_of_batches(model, batches, compute_device, self.decoder_inputs)
        assert examples.sequences is not None
        assert examples.images is not None
        sources = QuestionSources(examples.sequences, examples.images)
        predictions = self.written(model, sources, compute_device, options)
        texts = [prediction.text for prediction in predictions]
        points = points_of(examples.right, [as_learnt(text) for text in texts])
        overlaps = [
            word_f1(as_learnt(text).split(), [answer.split() for answer in right])
            for text, right in zip(texts, examples.right, strict=True)
        ]
        scores = {
            "accuracy": float(points.mean()),
            "word_f1": float(np.mean(overlaps)),
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
        }
        sources_shown = [
            f"{name}: {question}"
            for name, question in zip(examples.names, examples.questions, strict=True)
        ]
        written = GeneratedTexts(
            examples.lines,
            sources_shown,
            [list(right) for right in examples.right],
            texts,
        )
        by = accuracy_by_kind(points, examples.kinds)
        return Evaluation(scores, written=written, by=by)

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say how many answers there are, and how long."""
        return describing.texts(list(chain.from_iterable(map(answers_of, values))))

    def baselines(self, split: Split) -> list[Method]:
        """The most frequent answer, and the most frequent one to the same question."""
        train = cast(WrittenExamples, split.train)
        dev = cast(WrittenExamples, split.dev)
        (most,) = most_frequent_answers([list(chain.from_iterable(train.right))])

        def scored(answers: Sequence[str]) -> Scores:
            return {"accuracy": float(points_of(dev.right, answers).mean())}

        def one_answer() -> Scores:
            return scored([most] * len(dev))

        def to_the_question() -> Scores:
            given: dict[str, list[str]] = {}
            for question, right in zip(train.questions, train.right, strict=True):
                given.setdefault(question, []).extend(right)
            best = most_frequent_answers(list(given.values()))
            to_question = dict(zip(given, best, strict=True))
            return scored(
                [to_question.get(question, most) for question in dev.questions]
            )

        return [
            ("most frequent answer", one_answer),
            ("question without image", to_the_question),
        ]

    # ------------------------------------------------------------------ predictions

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a question about an image cannot be answered; else nothing."""
        try:
            self._read([tuple(cells)])
        except InvalidCell as error:
            return str(error)
        return ""

    def hypotheses(
        self,
        model: nn.Module,
        sources: SourceBatches,
        compute_device: ComputeDevice,
        options: AnswerOptions,
        seed: int | None = None,
    ) -> list[list[Hypothesis]]:
        """Return what a search writes for each source, no longer than answers of training."""
        most = min(self.longest, options.search.max_length or self.longest)
        search = options.search.changed(max_length=most)
        limited = replace(options, search=search)
        return super().hypotheses(model, sources, compute_device, limited, seed)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Write an answer to the question of each row about its image."""
        try:
            sources = self._read(rows)
        except InvalidCell as error:
            raise UserError(str(error)) from None
        return self.written(model, sources, compute_device, options)

    def sources_of(self, cells: Sequence[Any]) -> QuestionSources:
        """Return the question of one row. Raises InvalidCell: it cannot be read."""
        return self._read([tuple(cells)])

    def _read(self, rows: Rows) -> QuestionSources:
        """Return rows of an image and a question each. Raises InvalidCell."""
        questions = [check_question(self.question, row[1]) for row in rows]
        images = pixels_of(self.inputs, [row[0] for row in rows])
        ids = self.question.encode([(question,) for question in questions])
        return QuestionSources(Ragged.of(ids), images)

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads a question beside its image, and its answer as a search writes it."""
        names = piece_names(self.tokenizer)
        best = self.best_ids(compute_device, options)
        return AnswerSteps(
            self.inputs,
            names,
            best,
            self.decoder_inputs,
            question=self.question,
            learnt=as_learnt,
        )

    # ------------------------------------------------------------------ the run folder

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {**super().to_json(), "question": self.question.to_json()}

    def save(self, folder: Path) -> None:
        """Write the words of questions and of answers."""
        super().save(folder)
        self.question.save(folder, QUESTIONS)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        saved = values["question"]
        question = Text(
            tuple(saved["columns"]),
            load_tokenizer(folder / QUESTIONS),
            saved["max_tokens"],
        )
        columns = tuple(values["output"]["columns"])
        output = Text(columns, load_tokenizer(folder / TARGET), None)
        return cls(
            Image.from_json(values["inputs"]),
            question,
            output,
            values["longest"],
            layout,
        )
