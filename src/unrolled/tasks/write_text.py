"""One to many: a text for labels and numbers, such as a name for a language.

Shapes: N rows, T pieces of a text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.core.errors import DataError, UserError
from unrolled.data.batches import BatchSource, Buckets, collate
from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.columns import Features
from unrolled.fields.conditions import Conditions
from unrolled.fields.rows import numbered, valid_rows
from unrolled.fields.text import Text
from unrolled.nn import ConditionEncoder
from unrolled.tasks import describing
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
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
    locate,
    need_table,
)
from unrolled.tasks.ngram_model import ngram_nats
from unrolled.tasks.one_to_many import TARGET, OneToManyTask
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.unaligned import target_loss
from unrolled.tasks.writing import SourceBatches
from unrolled.text.published import load_tokenizer
from unrolled.training.objectives import Objective, seq2seq_loss
from unrolled.training.precision import ComputeDevice

LONGEST = 256  # pieces of a text, where nobody says otherwise
DRAWN = 1000  # scored rows for which a text is drawn
SEED = 0  # of what is drawn for them
ORDERS = (3, 5)  # pieces of the longest n-grams of simple methods
DEFAULTS = DefaultSettings(
    values={
        "data": {"max_tokens": LONGEST},
        "model": {
            "hidden": 256,
            "embedding": 64,
            "head_dropout": 0.2,
            # a row is one place: looking at it again costs least so
            "attention": "multiplicative",
            "input_feeding": False,
        },
        "decoding": {"max_extra": LONGEST - 1},
        "training": {
            "batch_size": 64,
            "learning_rate": 2e-3,
            "patience": 4,
            "average": "ema",
            "ema_decay": 0.99,
        },
    },
    budget=600_000,
    tokenizer="chars",
    sizes_vocabulary=False,
)


@dataclass(frozen=True, slots=True)
class ConditionedTexts(Examples):
    """Rows with the N texts that were written for them, and what these rows say."""

    sources: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def answers(self) -> int:
        """One answer a row."""
        return len(self.lines)

    def pick(self, rows: Any) -> ConditionedTexts:
        """Return some of the examples (M,), in that order."""
        # without super(): a class with slots is made anew
        picked = cast(ConditionedTexts, Examples.pick(self, rows))
        chosen = np.arange(len(self))[rows].tolist()
        return replace(
            picked,
            sources=tuple(self.sources[row] for row in chosen),
            references=tuple(self.references[row] for row in chosen),
        )


class ConditionSources(SourceBatches):
    """Rows that texts are written for."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    @property
    def lengths(self) -> Ints:
        """One step each, (N,)."""
        return np.ones(len(self.examples), dtype=np.int64)

    def take(self, rows: Ints, pad: int) -> tuple[Tensor, Tensor]:
        """Return rows as the model reads them, and ones (B,)."""
        inputs = collate(self.examples, rows).inputs
        return inputs, torch.ones(len(rows), dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class WriteText(OneToManyTask):
    """Labels and numbers, and a text for each row of them.

    Attributes:
        inputs: the field of labels and numbers.
        output: the field of texts.
        longest: the most pieces of a text, its end mark included.
        seen: hashes of the texts of training, in order.
    """

    name: ClassVar[str] = "write"
    metric: ClassVar[str] = "loss"
    measures: ClassVar[dict[str, bool]] = {
        "loss": DOWN,
        "perplexity": DOWN,
        "bits_per_character": DOWN,
        "new": UP,
        "distinct": UP,
    }
    untested_score: ClassVar[str | None] = "bits_per_character"
    source_name: ClassVar[str] = "a row"
    inputs: Conditions
    output: Text
    longest: int
    seen: NDArray[np.uint64]
    layout: FileLayout

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        answer = self.output.columns[0]
        return replace(self.inputs.schema, task=self.name, answer=answer)

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
        """Learn labels, scales and the vocabulary of texts from training rows."""
        table = need_table(data)
        named = table if labels is None else need_table(labels)
        config = recipe.data
        indices = locate(table, schema.inputs, table.columns)
        inputs = Conditions.fit(
            schema,
            [[row[index] for index in indices] for row in table.rows],
            [[row[index] for index in indices] for row in named.rows],
            config.missing,
            config.decimal,
        )
        answer = schema.answer or ""
        texts = [str(cell) for cell in table.cells(answer) if cell is not None]
        tokenizer = cls.fit_tokenizer(config, texts, DEFAULTS.tokenizer, pretrained)
        return cls(
            inputs,
            Text((answer,), tokenizer, None),
            config.max_tokens or LONGEST,
            np.unique(hashes(texts)),
            FileLayout.of(table),
        )

    # ------------------------------------------------------------------ rows to examples

    def check_text(self, cell: Any) -> tuple[str, list[int]]:
        """Return a text and its ids. Raises InvalidCell: it is none, empty or too long."""
        (text,) = self.output.check([cell])
        column = self.output.columns[0]
        if not text.strip():
            raise InvalidCell(f"column {column!r} is empty")
        ((*ids, end),) = self.output.encode([(text,)])
        if len(ids) >= self.longest:
            raise InvalidCell(
                f"column {column!r} has {len(ids) + 1:,} tokens with its end mark; data.max_tokens "
                f"is {self.longest}"
            )
        return text, [*ids, end]

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[ConditionedTexts, list[DataError]]:
        """Encode the rows of a table with their texts; see the base class."""
        table = need_table(data)
        known = schema or self.schema
        names = (*known.inputs, known.answer or "")
        *indices, answer = locate(table, names, self.columns)

        def check(row: Sequence[Any]) -> tuple[str, Features, str, list[int]]:
            cells = [row[index] for index in indices]
            features = self.inputs.check(cells)
            return self.inputs.describe(cells), features, *self.check_text(row[answer])

        errors = list(table.skipped)
        rows = list(valid_rows(numbered(table), table, check, on_error, errors))
        if not rows:
            raise DataError("no row is left to read", table.path)
        lines = np.array([line for line, _ in rows])
        sources, features, texts, ids = zip(*(row for _, row in rows), strict=True)
        read = self.inputs.examples(features, lines)
        examples = ConditionedTexts(
            lines,
            vectors=read.vectors,
            targets=Ragged.of(ids),
            sources=sources,
            references=texts,
        )
        return examples, errors

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return what reads a row, and the decoder that writes."""
        source = ConditionEncoder(
            [len(label.names) for label in self.inputs.labels],
            self.inputs.numbers.width,
            recipe.model.embedding,
        )
        return self.build_for(source, recipe)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of each piece of a text, given those before it."""
        smoothing = recipe.training.label_smoothing
        return seq2seq_loss(self.tokenizer.bos_id, smoothing)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of rows whose texts are alike in length."""
        training = recipe.training
        return Buckets(
            examples, training.batch_size, training.batch_tokens, recipe.seed
        )

    # ------------------------------------------------------------------ scores

    def validate(
        self,
        model: nn.Module,
        examples: ConditionedTexts,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Scores:
        """Return what the texts given cost a model; nothing is written.

        ``loss`` is the mean cross entropy of a piece in nats, the end mark among them, and
        ``bits_per_character`` the sum of all over the characters of the texts.
        """
        loss = target_loss(model, examples, compute_device, self.decoder_inputs)
        return _costs(loss, examples)

    def evaluate(
        self,
        model: nn.Module,
        examples: ConditionedTexts,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return what the texts given cost, and what is said of texts that are drawn.

        One is drawn for each row, of ``DRAWN`` at most: ``new`` is the share that training did not
        hold, ``distinct`` that of different ones.
        """
        scores = self.validate(model, examples, compute_device, options)
        spaced = np.linspace(0, len(examples) - 1, min(DRAWN, len(examples)))
        chosen = examples.pick(spaced.astype(np.int64))
        search = options.search.changed(beam=1, n_best=1, diverse_groups=1, sample=True)
        predictions = self.written(
            model,
            ConditionSources(chosen),
            compute_device,
            replace(options, search=search),
            SEED,
        )
        texts = [prediction.text for prediction in predictions]
        is_new = ~np.isin(hashes(texts), self.seen)
        shares = {
            "new": float(is_new.mean()),
            "distinct": len(set(texts)) / len(texts),
        }
        written = GeneratedTexts(
            chosen.lines, chosen.sources, [[text] for text in chosen.references], texts
        )
        notes = (
            f"new, distinct: of {len(texts):,} texts that were drawn, one for a row",
        )
        return Evaluation({**scores, **shares}, written=written, notes=notes)

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say how many texts there are, and how long."""
        return describing.texts(values)

    def baselines(self, split: Split) -> list[Method]:
        """Models of n-grams: one of all texts, and one of the texts of each row of labels."""
        train = cast(ConditionedTexts, split.train)
        dev = cast(ConditionedTexts, split.dev)
        targets = (cast(Ragged, train.targets), cast(Ragged, dev.targets))

        def scored(order: int, kinds: tuple[Ints, Ints] | None) -> Scores:
            nats = ngram_nats(*targets, order, self.tokenizer.size, kinds)
            return _costs(nats / len(targets[1].flat), dev)

        methods: list[Method] = []
        for order in ORDERS:
            methods.append((f"{order}-grams", partial(scored, order, None)))
        if self.inputs.labels:
            kinds = self._kinds(train, dev)
            for order in ORDERS:
                name = f"{order}-grams of each label"
                methods.append((name, partial(scored, order, kinds)))
        return methods

    def _kinds(self, *parts: Examples) -> tuple[Ints, Ints]:
        """Return a number for the labels of each row of two parts, equal for equal ones."""
        count = len(self.inputs.labels)
        vectors = [cast(Any, part.vectors)[:, -count:] for part in parts]
        _, numbers = np.unique(np.concatenate(vectors), axis=0, return_inverse=True)
        first, second = np.split(numbers.reshape(-1), [len(parts[0])])
        return first, second

    # ------------------------------------------------------------------ predictions

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a row cannot be answered, empty where it can."""
        try:
            self.inputs.check_to_predict(cells)
        except InvalidCell as error:
            return str(error)
        return ""

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Write a text for the labels and numbers of each row."""
        return self.written(
            model, ConditionSources(self._read(rows)), compute_device, options
        )

    def _read(self, rows: Rows) -> Examples:
        """Return rows as a model reads them. Raises UserError: a cell does not fit."""
        try:
            features = [self.inputs.check_to_predict(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        return self.inputs.examples(features, np.arange(len(rows)))

    def sources_of(self, cells: Sequence[Any]) -> ConditionSources:
        """Return one row as a model reads it. Raises UserError: a cell does not fit."""
        return ConditionSources(self._read([tuple(cells)]))

    # ------------------------------------------------------------------ the run folder

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        seen = base64.b64encode(self.seen.astype("<u8").tobytes()).decode()
        return {**super().to_json(), "seen": seen}

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        tokenizer = load_tokenizer(folder / TARGET)
        seen = np.frombuffer(base64.b64decode(values["seen"]), "<u8")
        return cls(
            Conditions.from_json(values["inputs"]),
            Text(tuple(values["output"]["columns"]), tokenizer, None),
            values["longest"],
            seen.astype(np.uint64),
            layout,
        )


def hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return a number for each of N texts by which equal ones are told."""
    digests = [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for text in texts
    ]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _costs(loss: float, examples: ConditionedTexts) -> Scores:
    """Return a loss in nats a piece, and what follows from it."""
    assert isinstance(examples.targets, Ragged)
    nats = loss * len(examples.targets.flat)
    characters = sum(map(len, examples.references))
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "bits_per_character": nats / math.log(2) / characters,
    }
