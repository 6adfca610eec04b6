"""A label for every word of a row: the aligned pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import DataError, UserError
from unrolled.data.batches import IGNORED, Buckets, Source, collate
from unrolled.data.examples import Examples, Ragged
from unrolled.data.fields import Bad, Label, Words, bad_row
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.data.tokenizers import Tokenizer
from unrolled.models import Aligned
from unrolled.nn import build_layer
from unrolled.scores import accuracy, confusion, macro_f1
from unrolled.tasks.base import (
    Answer,
    Evaluation,
    Rows,
    Task,
    build_embedding,
    check_reach,
    locate,
    score_batches,
)
from unrolled.tasks.labelled import TOKENIZER, need_table
from unrolled.tasks.recipe import Recipe
from unrolled.training.objectives import Objective, classes
from unrolled.training.precision import Place


def tags_of(cell: Any) -> list[str]:
    """Return the tags of a row: a list, or text with blanks between the tags."""
    return [str(tag) for tag in cell] if isinstance(cell, list) else str(cell or "").split()


class Tag(Task):
    """Words and their tags; a word cut into pieces is tagged at its first piece."""

    name: ClassVar[str] = "tag"
    pattern: ClassVar[str] = "many to many, aligned"
    metric: ClassVar[str] = "accuracy"
    higher: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "loss")

    def __init__(self, inputs: Words, output: Label) -> None:
        self.inputs, self.output = inputs, output

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn the vocabulary and the tags from training rows."""
        table = need_table(data)
        assert schema.answer is not None
        if len(schema.text) != 1:
            raise DataError("tagging reads one column of words; name it with data.text", table.path)
        words_at, tags_at = locate(table, [schema.text[0], schema.answer], table.columns)
        named = table if labels is None else need_table(labels)
        tags = [tag for row in named.rows for tag in tags_of(row[tags_at])]
        words: list[str] = []
        probe = Words(schema.text[0], None, None)  # type: ignore[arg-type]
        for row, line in zip(table.rows, table.lines, strict=True):
            try:
                words += probe.check([row[words_at]])
            except Bad as error:
                if recipe.data.on_error != "skip":
                    raise bad_row(error, table.path, line) from None
        data_config = recipe.data
        tokenizer = Tokenizer.fit(
            data_config.tokenizer or "unigram", words, data_config.vocabulary, data_config.min_count
        )
        inputs = Words(schema.text[0], tokenizer, data_config.max_tokens)
        return cls(inputs, Label.fit(schema.answer, tags))

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, (self.inputs.column,), (), self.output.column)

    def encode(
        self, data: Table | Document, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Encode the rows of a table with their tags; see the base class."""
        table, schema = need_table(data), schema or self.schema
        assert schema.answer is not None
        words_at, tags_at = locate(table, [schema.text[0], schema.answer], self.columns)
        sequences, targets, lines, skipped = [], [], [], list(table.skipped)
        for row, line in zip(table.rows, table.lines, strict=True):
            try:
                ids, goal = self._row(row[words_at], row[tags_at])
            except Bad as error:
                if on_error != "skip":
                    raise bad_row(error, table.path, line) from None
                skipped.append(bad_row(error, table.path, line))
                continue
            sequences.append(ids)
            targets.append(goal)
            lines.append(line)
        if not lines:
            raise DataError("no row is left to read", table.path)
        examples = Examples(np.array(lines), Ragged.of(sequences), None, Ragged.of(targets))
        return examples, skipped

    def _row(self, cell: Any, tags_cell: Any) -> tuple[list[int], list[int]]:
        words, tags = self.inputs.check([cell]), tags_of(tags_cell)
        if len(words) != len(tags):
            raise Bad(f"{len(words)} words but {len(tags)} tags")
        ids, firsts = self._encode(words)
        goal = [IGNORED] * len(ids)
        for place, tag in zip(firsts, tags, strict=True):
            goal[place] = self.output.check(tag)
        return ids, goal

    def _encode(self, words: list[str]) -> tuple[list[int], list[int]]:
        """Return ids and first places; a row that is cut would leave words without a tag."""
        ids, firsts = self.inputs.encode(words)
        limit = self.inputs.max_tokens
        if limit is not None and len(ids) > limit:
            raise Bad(
                f"{len(words)} words make {len(ids)} pieces and data.max_tokens is {limit}; split "
                "the row or raise it"
            )
        return ids, firsts

    def build(self, recipe: Recipe) -> nn.Module:
        """Return an aligned model."""
        config = recipe.model
        embedding = build_embedding(self.inputs.tokenizer.size, config)
        layer = build_layer(recipe.layer, config, config.embedding)
        check_reach(layer, recipe)
        return Aligned(embedding, layer, len(self.output.names), config.head_dropout)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy over the words."""
        return classes(recipe.training.label_smoothing)

    def source(self, examples: Examples, recipe: Recipe, model: nn.Module) -> Source:
        """Return batches of rows of like length."""
        return Buckets(
            examples, recipe.training.batch_size, recipe.training.batch_tokens, recipe.seed
        )

    @torch.no_grad()
    def evaluate(self, model: nn.Module, examples: Examples, place: Place) -> Evaluation:
        """Return accuracy and macro F1 over words, and the mean cross entropy in nats."""
        count, total, scored = len(self.output.names), 0.0, 0
        matrix = np.zeros((count, count), dtype=np.int64)
        for rows in score_batches(examples.lengths):
            batch = collate(examples, rows).to(place.device)
            assert batch.targets is not None
            with place.autocast():
                outputs = model(batch.inputs, batch.lengths).float()
            real = batch.targets != IGNORED
            total += float(F.cross_entropy(outputs[real], batch.targets[real], reduction="sum"))
            scored += int(real.sum())
            truth, found = batch.targets[real].cpu().numpy(), outputs[real].argmax(-1).cpu().numpy()
            matrix += confusion(truth, found, count)
        scores = {
            "accuracy": accuracy(matrix),
            "macro_f1": macro_f1(matrix),
            "loss": total / max(1, scored),
        }
        return Evaluation(scores, confusion=matrix)

    @torch.no_grad()
    def predict(self, model: nn.Module, rows: Rows, place: Place) -> list[Answer]:
        """Tag rows of words; a word past ``data.max_tokens`` is an error."""
        encoded = []
        for row in rows:
            try:
                words = self.inputs.check(row)
                encoded.append((words, *self._encode(words)))
            except Bad as error:
                raise UserError(str(error)) from None
        examples = Examples(np.arange(len(rows)), Ragged.of([ids for _, ids, _ in encoded]))
        answers: dict[int, Answer] = {}
        for chosen in score_batches(examples.lengths):
            batch = collate(examples, chosen).to(place.device)
            with place.autocast():
                shares = model(batch.inputs, batch.lengths).float().softmax(-1).cpu()
            for row, share in zip(chosen.tolist(), shares, strict=True):
                answers[row] = self._answer(encoded[row][0], share[encoded[row][2]])
        return [answers[i] for i in range(len(rows))]

    def _answer(self, words: list[str], shares: Tensor) -> Answer:
        """Return the tags of one row, and the mean probability of them."""
        best = shares.max(-1)
        tags = [self.output.names[i] for i in best.indices.tolist()]
        details = {"words": words, "tags": tags, "probabilities": best.values.tolist()}
        return Answer(" ".join(tags), float(best.values.mean()), details)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "inputs": self.inputs.to_json(),
            "output": self.output.to_json(),
        }

    def save(self, folder: Path) -> None:
        """Write the vocabulary."""
        self.inputs.tokenizer.save(folder / TOKENIZER)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields back."""
        told = values["inputs"]
        inputs = Words(told["column"], Tokenizer.load(folder / TOKENIZER), told["max_tokens"])
        output = Label(values["output"]["column"], tuple(values["output"]["names"]))
        return cls(inputs, output)
