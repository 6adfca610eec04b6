"""A label for every word of a row: the aligned pattern."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core import digests
from unrolled.core.errors import DataError, UserError
from unrolled.core.files import read_json_list
from unrolled.data.batches import IGNORED, BatchSource, Buckets, collate
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.label import Label
from unrolled.fields.words import Words, words_of
from unrolled.models import Aligned
from unrolled.nn import SpelledWords, TokenEmbedding, build_layer
from unrolled.scores import accuracy, confusion_counts, macro_f1
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
)
from unrolled.tasks.labelled import TOKENIZER, need_table
from unrolled.tasks.recipe import ModelConfig, Recipe
from unrolled.tasks.weights import weights_of
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, classes
from unrolled.training.precision import ComputeDevice

WORDS = "words.json"


class Tag(Task):
    """Words, read as wholes and by their spelling, and a tag for each."""

    name: ClassVar[str] = "tag"
    pattern: ClassVar[str] = "many to many, aligned"
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[dict[str, bool]] = {"accuracy": UP, "macro_f1": UP, "loss": DOWN}

    def __init__(self, inputs: Words, output: Label) -> None:
        self.inputs = inputs
        self.output = output

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn the words, their spelling and the tags from training rows."""
        table = need_table(data)
        assert schema.answer is not None
        if len(schema.text) != 1:
            raise DataError(
                "tagging reads one column of words; name it with data.text", table.path
            )
        words_at, tags_at = locate(
            table, [schema.text[0], schema.answer], table.columns
        )
        named = table if labels is None else need_table(labels)
        tags: list[str] = []
        for row in named.rows:
            with contextlib.suppress(
                InvalidCell
            ):  # named, with its line, when the rows are encoded
                tags += words_of(schema.answer, row[tags_at], "tag")
        told = recipe.data
        words: list[list[str]] = []
        probe = Words(schema.text[0], (), None, told.max_tokens)
        for row, line in zip(table.rows, table.lines, strict=True):
            try:
                words.append(probe.check([row[words_at]]))
            except InvalidCell as error:
                if told.on_error != "skip":
                    raise invalid_row(error, *table.position(line)) from None
        kind = (told.tokenizer or "chars") if recipe.model.spelling else None
        inputs = Words.fit(
            schema.text[0],
            words,
            told.vocabulary,
            told.min_count,
            kind,
            told.max_tokens,
        )
        return cls(inputs, Label.fit(schema.answer, tags))

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, (self.inputs.column,), (), self.output.column)

    def encode(
        self, data: Table | Document, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Encode the rows of a table with their tags; see the base class."""
        table = need_table(data)
        schema = schema or self.schema
        assert schema.answer is not None
        words_at, tags_at = locate(table, [schema.text[0], schema.answer], self.columns)
        rows = []
        targets = []
        lines = []
        skipped = list(table.skipped)
        for row, line in zip(table.rows, table.lines, strict=True):
            try:
                words = self.inputs.check([row[words_at]])
                tags = words_of(schema.answer, row[tags_at], "tag")
                if len(words) != len(tags):
                    raise InvalidCell(f"{len(words)} words but {len(tags)} tags")
                goal = [self.output.check(tag) for tag in tags]
            except InvalidCell as error:
                if on_error != "skip":
                    raise invalid_row(error, *table.position(line)) from None
                skipped.append(invalid_row(error, *table.position(line)))
                continue
            rows.append(words)
            targets.append(goal)
            lines.append(line)
        if not lines:
            raise DataError("no row is left to read", table.path)
        sequences, spellings = self.inputs.encode(rows)
        return Examples(
            np.array(lines),
            sequences,
            targets=Ragged.of(targets),
            spellings=spellings,
        ), skipped

    def build(self, recipe: Recipe) -> nn.Module:
        """Return an aligned model over words, and their spelling where the recipe asks for it."""
        config = recipe.model
        embedding = build_words(self.inputs, recipe.model)
        layer = build_layer(recipe.layer, config, embedding.width)
        check_reach(layer, recipe)
        return Aligned(embedding, layer, len(self.output.names), config.head_dropout)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy over the words."""
        return classes(
            recipe.training.label_smoothing, weights_of(recipe, self.output.names)
        )

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of rows of like length."""
        return Buckets(
            examples,
            recipe.training.batch_size,
            recipe.training.batch_tokens,
            recipe.seed,
        )

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, examples: Examples, place: ComputeDevice
    ) -> Evaluation:
        """Return accuracy and macro F1 over words, and the mean cross entropy in nats."""
        count = len(self.output.names)
        total = 0.0
        scored = 0
        parts = []
        for rows in score_batches(examples.lengths):
            batch = collate(examples, rows).to(place.device)
            assert batch.targets is not None
            with place.autocast():
                outputs = model(batch.inputs, batch.lengths, *batch.extra).float()
            real = batch.targets != IGNORED
            total += float(
                F.cross_entropy(outputs[real], batch.targets[real], reduction="sum")
            )
            scored += int(real.sum())
            best = outputs[real].softmax(-1).max(-1)
            words = (real.cumsum(1) - 1)[real]
            told = [batch.targets[real], best.indices, best.values.double(), words]
            truth, found, *others = (part.cpu().numpy() for part in told)
            parts.append(
                (rows[real.nonzero()[:, 0].cpu().numpy()], truth, found, *others)
            )
        judged = ClassPredictions(
            *(np.concatenate(part) for part in zip(*parts, strict=True))
        )
        matrix = confusion_counts(judged.truth, judged.found, count)
        scores = {
            "accuracy": accuracy(matrix),
            "macro_f1": macro_f1(matrix),
            "loss": total / max(1, scored),
        }
        return Evaluation(scores, confusion=matrix, judged=judged)

    @torch.no_grad()
    def predict(
        self, model: nn.Module, rows: Rows, place: ComputeDevice
    ) -> list[Prediction]:
        """Tag rows of words; more than ``data.max_tokens`` of them are an error."""
        try:
            words = [self.inputs.check(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        sequences, spellings = self.inputs.encode(words)
        examples = Examples(np.arange(len(rows)), sequences, spellings=spellings)
        answers: dict[int, Prediction] = {}
        for chosen in score_batches(examples.lengths):
            batch = collate(examples, chosen).to(place.device)
            with place.autocast():
                scores = model(batch.inputs, batch.lengths, *batch.extra)
            shares = scores.float().softmax(-1).cpu()
            for row, share in zip(chosen.tolist(), shares, strict=True):
                answers[row] = self._answer(words[row], share[: len(words[row])])
        return [answers[i] for i in range(len(rows))]

    def _answer(self, words: list[str], shares: Tensor) -> Prediction:
        """Return the tags of one row, and the mean probability of them."""
        best = shares.max(-1)
        tags = [self.output.names[i] for i in best.indices.tolist()]
        details = {"words": words, "tags": tags, "probabilities": best.values.tolist()}
        return Prediction(" ".join(tags), float(best.values.mean()), details)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "inputs": self.inputs.to_json(),
            "output": self.output.to_json(),
        }

    def save(self, folder: Path) -> None:
        """Write the words, and the vocabulary that they are spelt with."""
        save_words(self.inputs, folder)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields back."""
        inputs = load_words(values["inputs"], folder)
        output = Label(values["output"]["column"], tuple(values["output"]["names"]))
        return cls(inputs, output)


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


def save_words(inputs: Words, folder: Path) -> None:
    """Write the words of a field, and the vocabulary that they are spelt with."""
    digests.replace_json(folder, WORDS, list(inputs.known))
    if inputs.tokenizer is not None:
        digests.replace(folder, TOKENIZER, inputs.tokenizer.save)


def load_words(told: dict[str, Any], folder: Path) -> Words:
    """Read back the field that ``told`` describes and ``save_words`` wrote.

    Raises:
        DataError: the words are not what was saved.
    """
    tokenizer = Tokenizer.load(folder / TOKENIZER) if told["spelt"] else None
    return Words(told["column"], _known(folder / WORDS), tokenizer, told["max_words"])


def _known(path: Path) -> tuple[str, ...]:
    try:
        words = read_json_list(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}; train anew", path) from None
    if not all(isinstance(word, str) for word in words):
        raise DataError(
            "this is no list of words that unrolled saved; train anew", path
        )
    return tuple(words)
