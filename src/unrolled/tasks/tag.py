"""A label for every word of a row: the aligned pattern."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import DataError, UserError
from unrolled.data.batches import IGNORED, BatchSource, Buckets, collate
from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.clips import Clips
from unrolled.fields.frames import Frames
from unrolled.fields.inputs import read_input
from unrolled.fields.label import Label
from unrolled.fields.rows import numbered, valid_rows
from unrolled.fields.steps import rows_of_words
from unrolled.fields.vector import Vector
from unrolled.fields.words import Words, words_of
from unrolled.fields.words_and_columns import WordsAndColumns
from unrolled.models import Aligned
from unrolled.nn import SpelledWords, TokenEmbedding, build_layer
from unrolled.scores import accuracy, confusion_counts, macro_f1
from unrolled.tasks import baselines, describing
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    AxisNames,
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
    label_names,
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


class ScoredSteps(NamedTuple):
    """The scores of labels (B, T, C) in fp32, and the targets (B, T) where there are any."""

    outputs: Tensor
    targets: Tensor | None


class Tagger(Task):
    """A label at every step of a sequence, be it of words or of numbers."""

    name: ClassVar[str] = "tag"
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[dict[str, bool]] = {"accuracy": UP, "macro_f1": UP, "loss": DOWN}
    around: ClassVar[tuple[str, ...]] = ("spelling", "ngrams")
    learns_words: ClassVar[bool] = True
    inputs: Words | WordsAndColumns | Frames | Clips
    output: Label

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the labels of the output weights."""
        labels = label_names(self.output.names)
        return {"head.weight": labels, "head.bias": labels}

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

    def scored(
        self,
        model: nn.Module,
        examples: Examples,
        rows: Ints,
        compute_device: ComputeDevice,
    ) -> ScoredSteps:
        """Return the scores of labels at the steps of some rows (B,)."""
        batch = collate(examples, rows).to(compute_device.device)
        with compute_device.autocast():
            outputs = model(batch.inputs, batch.lengths, *batch.extra)
        return ScoredSteps(outputs.float(), batch.targets)

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
            outputs, all_targets = self.scored(model, examples, rows, compute_device)
            assert all_targets is not None
            real = all_targets != IGNORED
            targets = all_targets[real]
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
            scores, _ = self.scored(model, examples, chosen, compute_device)
            padded = scores.softmax(-1).cpu()
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
    """Words, read as wholes and by their spelling, and a tag for each.

    Columns that say something of each word may be read beside them.
    """

    scored_unit: ClassVar[str] = "words"
    inputs: Words | WordsAndColumns
    output: Label
    layout: FileLayout

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
        """Learn the words, their spelling and the tags from training rows."""
        table = need_table(data)
        answer = schema.answer
        assert answer is not None
        if len(schema.text) != 1:
            raise DataError(
                "tagging reads one column of words; name it with data.text", table.path
            )
        column = schema.text[0]
        *indices, tags_index = locate(table, [*schema.inputs, answer], table.columns)
        named = table if labels is None else need_table(labels)
        tags: list[str] = []
        for row in named.rows:
            # an invalid one is named, with its line, when the rows are encoded
            with contextlib.suppress(InvalidCell):
                tags += words_of(answer, row[tags_index], "tag")
        config = recipe.data
        probe = Words(column, (), None, config.max_tokens)

        def check(row: Sequence[Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
            cells = [row[i] for i in indices]
            words = probe.check(cells[:1])
            return words, rows_of_words(schema.inputs[1:], cells, len(words))

        pairs = valid_rows(numbered(table), table, check, config.on_error, [])
        checked = [pair for _, pair in pairs]
        inputs = fit_words(recipe, column, [words for words, _ in checked])
        output = Label.fit(answer, tags)
        layout = FileLayout.of(table)
        if not schema.inputs[1:]:
            return cls(inputs, output, layout)
        beside = list(itertools.chain.from_iterable(cells for _, cells in checked))
        vector = Vector.fit(schema, beside, config.missing, config.decimal)
        return cls(WordsAndColumns(inputs, vector), output, layout)

    @property
    def words_field(self) -> Words:
        """The field of the words."""
        inputs = self.inputs
        return inputs.words if isinstance(inputs, WordsAndColumns) else inputs

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the words and pieces of the embedding, and the labels of the output weights."""
        words = axis_names_of_words(self.words_field, "embedding.")
        return {**super().axis_names(), **words}

    @property
    def columns_field(self) -> Vector | None:
        """The field of what other columns say of each word, where some are read."""
        inputs = self.inputs
        return inputs.vector if isinstance(inputs, WordsAndColumns) else None

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        vector = self.columns_field
        others = Schema("") if vector is None else vector.schema
        text = (self.inputs.column,)
        return replace(others, task=self.name, text=text, answer=self.output.column)

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
        *indices, tags_index = locate(table, [*schema.inputs, answer], self.columns)

        def check(row: Sequence[Any]) -> tuple[Any, list[int]]:
            checked = self.inputs.check([row[i] for i in indices])
            count = len(_words_in(checked))
            tags = words_of(answer, row[tags_index], "tag")
            if count != len(tags):
                raise InvalidCell(f"{count} words but {len(tags)} tags")
            return checked, [self.output.check(tag) for tag in tags]

        errors = list(table.skipped)
        lines: list[int] = []
        inputs: list[Any] = []
        targets: list[list[int]] = []
        rows = valid_rows(numbered(table), table, check, on_error, errors)
        for line, (checked, tags) in rows:
            lines.append(line)
            inputs.append(checked)
            targets.append(tags)
        if not lines:
            raise DataError("no row is left to read", table.path)
        examples = self.inputs.examples(inputs, np.array(lines))
        return replace(examples, targets=Ragged.of(targets)), errors

    def build(self, recipe: Recipe) -> nn.Module:
        """Return an aligned model over words, and their spelling where the recipe asks for it."""
        config = recipe.model
        embedding = build_words(self.words_field, config)
        features = 0 if self.columns_field is None else self.columns_field.width
        layer = build_layer(recipe.layer, config, embedding.width + features)
        check_reach(layer, recipe)
        labels = len(self.output.names)
        return Aligned(embedding, layer, labels, config.head_dropout, features)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Tag rows of words; more than ``data.max_tokens`` of them are an error."""
        try:
            inputs: Any = [self.inputs.check_to_predict(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        examples = self.inputs.examples(inputs, np.arange(len(rows)))
        probabilities = self.probabilities(model, examples, compute_device)
        return [
            self.prediction(row_probabilities, words=_words_in(checked))
            for checked, row_probabilities in zip(inputs, probabilities, strict=True)
        ]

    def words(self, cells: Sequence[Any]) -> list[str]:
        """Return the words of a row."""
        return self.words_field.check(cells[:1])

    def baselines(self, split: Split) -> list[Method]:
        """The most frequent tag of each word, and of what its columns say."""
        return baselines.of_tags(
            split, self.words_field, self.columns_field, self.output, self.columns
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        inputs = self.inputs.to_json()
        if isinstance(self.inputs, WordsAndColumns):
            inputs = {"kind": self.inputs.kind, **inputs}
        return {"inputs": inputs, "output": self.output.to_json()}

    def save(self, folder: Path) -> None:
        """Write the words, and the vocabulary that they are spelt with."""
        self.inputs.save(folder)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        # words by themselves are saved without the name of their kind
        saved = {"kind": Words.kind, **values["inputs"]}
        inputs = read_input(saved, folder)
        if not isinstance(inputs, Words | WordsAndColumns):
            raise ValueError(f"words are not read from {saved['kind']}")
        return cls(inputs, Label.from_json(values["output"]), layout)


def _words_in(checked: Any) -> list[str]:
    """Return the words of a row that was checked, without what stands next to them."""
    return checked if isinstance(checked, list) else checked[0]


def fit_words(recipe: Recipe, column: str, rows: Sequence[Sequence[str]]) -> Words:
    """Learn a field of words, with their spelling where the recipe reads it."""
    config = recipe.data
    kind = (config.tokenizer or "chars") if recipe.model.spelling else None
    return Words.fit(
        column, rows, config.vocabulary, config.min_count, kind, config.max_tokens
    )


def axis_names_of_words(inputs: Words, prefix: str) -> dict[str, AxisNames]:
    """Return the words and pieces of what ``build_words`` makes, which stands at ``prefix``."""
    words = AxisNames(tuple(inputs.texts()))
    if inputs.tokenizer is None:
        return {f"{prefix}weight": words}
    pieces = AxisNames(tuple(inputs.tokenizer.texts()))
    return {f"{prefix}words.weight": words, f"{prefix}pieces.weight": pieces}


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
