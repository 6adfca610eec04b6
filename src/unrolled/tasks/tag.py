"""A label for every word of a row: the aligned pattern."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import DataError, UserError
from unrolled.data.batches import IGNORED, BatchSource, Buckets, collate
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.frames import Frames
from unrolled.fields.label import Label
from unrolled.fields.rows import numbered, valid_rows
from unrolled.fields.words import Words, words_of
from unrolled.models import Aligned
from unrolled.nn import SpelledWords, TokenEmbedding, build_layer
from unrolled.scores import accuracy, confusion_counts, macro_f1
from unrolled.tasks import baselines, describing
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    ClassPredictions,
    Data,
    DefaultSettings,
    Evaluation,
    FileLayout,
    Method,
    Prediction,
    Rows,
    Split,
    Task,
    build_embedding,
    check_reach,
    locate,
    need_table,
    score_batches,
)
from unrolled.tasks.recipe import ModelConfig, Recipe
from unrolled.tasks.step_readers import TaggedSteps
from unrolled.tasks.steps import StepReader
from unrolled.tasks.weights import weights_of
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, classes
from unrolled.training.precision import ComputeDevice

DEFAULTS = DefaultSettings(
    values={
        "data": {"min_count": 2},
        "model": {
            "bidirectional": True,
            "ngrams": 5,
            "token_dropout": 0.2,
            "embedding_dropout": 0.5,
            "head_dropout": 0.5,
        },
        "training": {
            "batch_size": 32,
            "learning_rate": 2e-3,
            "patience": 4,
            "average": "ema",
            "ema_decay": 0.99,
        },
    },
    budget=150_000,
    sizes_vocabulary=False,
)


class Tagger(Task):
    """A label at every step of a sequence, be it of words or of numbers."""

    name: ClassVar[str] = "tag"
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[dict[str, bool]] = {"accuracy": UP, "macro_f1": UP, "loss": DOWN}
    inputs: Words | Frames
    output: Label

    @property
    def pattern(self) -> str:
        """A label for every step."""
        return "many to many, aligned"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels to choose from."""
        return self.output.names

    def refuse_ngrams(self, recipe: Recipe) -> None:
        """Refuse none: words are read with their n-grams, and the reader of numbers refuses."""

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say which tags there are, and how often."""
        return describing.tags(values)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy over the steps."""
        weights = weights_of(recipe, self.output.names)
        return classes(recipe.training.label_smoothing, weights)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of rows of like length."""
        training = recipe.training
        return Buckets(
            examples, training.batch_size, training.batch_tokens, recipe.seed
        )

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return accuracy and macro F1 over steps, and the mean cross entropy in nats."""
        total = 0.0
        scored = 0
        judged_parts = []
        for rows in score_batches(examples.lengths):
            batch = collate(examples, rows).to(compute_device.device)
            assert batch.targets is not None
            with compute_device.autocast():
                outputs = model(batch.inputs, batch.lengths, *batch.extra).float()
            real = batch.targets != IGNORED
            targets = batch.targets[real]
            total += float(F.cross_entropy(outputs[real], targets, reduction="sum"))
            scored += int(real.sum())
            best = outputs[real].softmax(-1).max(-1)
            words = (real.cumsum(1) - 1)[real]
            columns = (targets, best.indices, best.values.double(), words)
            judged_rows = rows[real.nonzero()[:, 0].cpu().numpy()]
            judged_parts.append(
                (judged_rows, *(column.cpu().numpy() for column in columns))
            )
        parts = zip(*judged_parts, strict=True)
        judged = ClassPredictions(*(np.concatenate(part) for part in parts))
        count = len(self.output.names)
        confusion = confusion_counts(judged.truth, judged.predicted, count)
        scores = {
            "accuracy": accuracy(confusion),
            "macro_f1": macro_f1(confusion),
            "loss": total / max(1, scored),
        }
        return Evaluation(scores, confusion=confusion, judged=judged)

    @torch.no_grad()
    def probabilities(
        self, model: nn.Module, examples: Examples, compute_device: ComputeDevice
    ) -> list[Tensor]:
        """Return the probabilities of labels at each step of each row, (T, C)."""
        by_row: dict[int, Tensor] = {}
        lengths = examples.lengths
        for chosen in score_batches(lengths):
            batch = collate(examples, chosen).to(compute_device.device)
            with compute_device.autocast():
                scores = model(batch.inputs, batch.lengths, *batch.extra)
            padded = scores.float().softmax(-1).cpu()
            for row, probabilities in zip(chosen.tolist(), padded, strict=True):
                by_row[row] = probabilities[: lengths[row]]
        return [by_row[row] for row in range(len(examples))]

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads an input step by step."""
        return TaggedSteps(self.inputs, self.output.names)

    def prediction(self, probabilities: Tensor, **details: Any) -> Prediction:
        """Return the tags of one row, and the mean probability of them."""
        best = probabilities.max(-1)
        tags = [self.output.names[i] for i in best.indices.tolist()]
        details |= {"tags": tags, "probabilities": best.values.tolist()}
        return Prediction(" ".join(tags), float(best.values.mean()), details)


@dataclass(frozen=True, eq=False)
class Tag(Tagger):
    """Words, read as wholes and by their spelling, and a tag for each."""

    scored_unit: ClassVar[str] = "words"
    inputs: Words
    output: Label
    layout: FileLayout

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        return DEFAULTS

    @classmethod
    def fit(
        cls, recipe: Recipe, schema: Schema, data: Data, labels: Data | None = None
    ) -> Self:
        """Learn the words, their spelling and the tags from training rows."""
        table = need_table(data)
        answer = schema.answer
        assert answer is not None
        if len(schema.text) != 1:
            raise DataError(
                "tagging reads one column of words; name it with data.text", table.path
            )
        column = schema.text[0]
        words_index, tags_index = locate(table, [column, answer], table.columns)
        named = table if labels is None else need_table(labels)
        tags: list[str] = []
        for row in named.rows:
            # an invalid one is named, with its line, when the rows are encoded
            with contextlib.suppress(InvalidCell):
                tags += words_of(answer, row[tags_index], "tag")
        config = recipe.data
        probe = Words(column, (), None, config.max_tokens)
        rows = valid_rows(
            numbered(table),
            table,
            lambda row: probe.check([row[words_index]]),
            config.on_error,
            [],
        )
        words = [row_words for _, row_words in rows]
        inputs = fit_words(recipe, column, words)
        return cls(inputs, Label.fit(answer, tags), FileLayout.of(table))

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, (self.inputs.column,), (), self.output.column)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What cuts words into pieces."""
        return self.inputs.tokenizer

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Encode the rows of a table with their tags; see the base class."""
        table = need_table(data)
        schema = schema or self.schema
        answer = schema.answer
        assert answer is not None
        words_index, tags_index = locate(table, [schema.text[0], answer], self.columns)

        def check(row: Sequence[Any]) -> tuple[list[str], list[int]]:
            words = self.inputs.check([row[words_index]])
            tags = words_of(answer, row[tags_index], "tag")
            if len(words) != len(tags):
                raise InvalidCell(f"{len(words)} words but {len(tags)} tags")
            return words, [self.output.check(tag) for tag in tags]

        errors = list(table.skipped)
        lines: list[int] = []
        inputs: list[list[str]] = []
        targets: list[list[int]] = []
        rows = valid_rows(numbered(table), table, check, on_error, errors)
        for line, (words, tags) in rows:
            lines.append(line)
            inputs.append(words)
            targets.append(tags)
        if not lines:
            raise DataError("no row is left to read", table.path)
        examples = self.inputs.examples(inputs, np.array(lines))
        return replace(examples, targets=Ragged.of(targets)), errors

    def build(self, recipe: Recipe) -> nn.Module:
        """Return an aligned model over words, and their spelling where the recipe asks for it."""
        config = recipe.model
        embedding = build_words(self.inputs, config)
        layer = build_layer(recipe.layer, config, embedding.width)
        check_reach(layer, recipe)
        return Aligned(embedding, layer, len(self.output.names), config.head_dropout)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Tag rows of words; more than ``data.max_tokens`` of them are an error."""
        try:
            words = [self.inputs.check(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        examples = self.inputs.examples(words, np.arange(len(rows)))
        probabilities = self.probabilities(model, examples, compute_device)
        return [
            self.prediction(row_probabilities, words=row_words)
            for row_words, row_probabilities in zip(words, probabilities, strict=True)
        ]

    def words(self, cells: Sequence[Any]) -> list[str]:
        """Return the words of a row."""
        return self.inputs.check(cells)

    def baselines(self, split: Split) -> list[Method]:
        """The most frequent tag of each word."""
        return baselines.of_tags(split, self.inputs, self.output, self.columns)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "inputs": self.inputs.to_json(),
            "output": self.output.to_json(),
        }

    def save(self, folder: Path) -> None:
        """Write the words, and the vocabulary that they are spelt with."""
        self.inputs.save(folder)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        inputs = Words.from_json(values["inputs"], folder)
        return cls(inputs, Label.from_json(values["output"]), layout)


def fit_words(recipe: Recipe, column: str, rows: Sequence[Sequence[str]]) -> Words:
    """Learn a field of words, with their spelling where the recipe reads it."""
    config = recipe.data
    kind = (config.tokenizer or "chars") if recipe.model.spelling else None
    return Words.fit(
        column, rows, config.vocabulary, config.min_count, kind, config.max_tokens
    )


def build_words(inputs: Words, config: ModelConfig) -> TokenEmbedding | SpelledWords:
    """Return what turns words into vectors: their own ones, and their spelling where it is read."""
    words = build_embedding(inputs.size, config)
    if inputs.tokenizer is None:
        return words
    return SpelledWords(
        words,
        inputs.tokenizer.size,
        config.spelling,
        config.ngrams,
        config.ngram_dropout,
        dropout=config.embedding_dropout,
        std=config.embedding_std,
    )
