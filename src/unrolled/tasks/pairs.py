"""A text for a text: what translation and rewriting share.

A source is its pieces and an end mark. The model reads it whole and then writes the target piece
by piece, a start mark before the first, until it writes an end mark.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np
from torch import Tensor, nn

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.core.words import either
from unrolled.data.batches import Batch, BatchSource, Buckets
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.decoding.search import Hypothesis
from unrolled.fields.base import TOKENIZER, InvalidCell, invalid_row
from unrolled.fields.text import Text
from unrolled.models import Unaligned
from unrolled.tasks import describing
from unrolled.tasks.alignment import (
    WHOLE,
    Weights,
    aligned,
    attention_weights,
    copied,
    units,
)
from unrolled.tasks.base import (
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
    locate,
    need_table,
)
from unrolled.tasks.recipe import DataConfig, Recipe
from unrolled.tasks.step_readers import WrittenSteps, piece_names
from unrolled.tasks.steps import StepReader
from unrolled.tasks.unaligned import (
    AROUND,
    assemble,
    axis_names_of_tokens,
    columns_of_pair,
    target_loss,
)
from unrolled.tasks.writing import TextWithDetails, best_of, refuse_unknown, write
from unrolled.text.published import load_tokenizer
from unrolled.text.tokenizers import KINDS, Tokenizer
from unrolled.training.objectives import Objective, seq2seq_loss, shifted
from unrolled.training.precision import ComputeDevice

TARGET = "target.json"
SAMPLES = 1000  # of the bootstrap
TEXTS = 1 << 16  # encoded at once: a list of ids takes ten times the memory of an array
DEFAULTS = DefaultSettings(
    values={
        "model": {
            "bidirectional": True,
            "hidden": 256,
            "embedding": 256,
            "embedding_dropout": 0.2,
            "dropout": 0.2,
            "head_dropout": 0.2,
        },
        "training": {
            "batch_tokens": 4096,
            "learning_rate": 1e-3,
            "label_smoothing": 0.1,
            "patience": 4,
            "average": "ema",
            "ema_decay": 0.99,
        },
    },
    budget=600_000,
)


@dataclass(frozen=True, slots=True)
class PairExamples(Examples):
    """Encoded pairs, with the N texts that are read and their right answers as they were given."""

    sources: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def answers(self) -> int:
        """One answer a row."""
        return len(self.lines)


class _Pair(NamedTuple):
    """The texts of a row, which is given by its index in the table."""

    row: int
    source: str
    target: str


@dataclass(frozen=True, eq=False)
class Pairs(Task):
    """Two fields of text, and a model that writes the second for the first.

    With one tokenizer in both of them the vocabulary is joint.

    Attributes:
        inputs, output: the fields of source and target, which never cut a text.
        longest: the most tokens of either side, its end mark included.
        without: characters that are left out of targets.
        kind: the pieces of texts, where nobody named any.
        grouped: whether all answers to equal sources are right.
    """

    is_generative: ClassVar[bool] = True
    reads_pairs: ClassVar[bool] = True
    around: ClassVar[tuple[str, ...]] = AROUND
    kind: ClassVar[str]
    grouped: ClassVar[bool]
    inputs: Text
    output: Text
    longest: int | None
    without: str
    layout: FileLayout

    @property
    def pattern(self) -> str:
        """A sequence for a sequence."""
        return "many to many, unaligned"

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        return replace(DEFAULTS, tokenizer=cls.kind)

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Data,
        labels: Data | None = None,
        pretrained: Task | None = None,
    ) -> Self:
        """Learn the vocabularies from training rows."""
        table = need_table(data)
        config = recipe.data
        source, target = columns_of_pair(schema)
        indices = locate(table, (source, target), table.columns)
        sources, targets = (_texts_of(table, index) for index in indices)
        targets = [without(text, config.target_without) for text in targets]
        source_tokenizer, target_tokenizer = cls._fit_tokenizers(
            config, sources, targets, pretrained
        )
        return cls(
            Text((source,), source_tokenizer, None),
            Text((target,), target_tokenizer, None),
            config.max_tokens,
            config.target_without,
            FileLayout.of(table),
        )

    @classmethod
    def _fit_tokenizers(
        cls,
        config: DataConfig,
        sources: list[str],
        targets: list[str],
        pretrained: Task | None,
    ) -> tuple[Tokenizer, Tokenizer]:
        if isinstance(pretrained, Pairs):
            return pretrained.vocabularies()
        known = pretrained and pretrained.tokenizer
        # nothing is learnt of how somebody else cuts text
        kind = config.tokenizer if config.tokenizer in KINDS else cls.kind
        size = config.vocabulary
        min_count = config.min_count
        if config.joint:
            if config.target_tokenizer not in (None, kind):
                raise UsageError(
                    "data.joint=true is one tokenizer: leave out data.target_tokenizer"
                )
            sources = [*sources, *targets]
            both = known or Tokenizer.fit(kind, sources, size, min_count)
            return both, both
        target_kind = config.target_tokenizer or cls.target_kind(kind, targets)
        target_size = config.target_vocabulary or size
        source = known or Tokenizer.fit(kind, sources, size, min_count)
        return source, Tokenizer.fit(target_kind, targets, target_size, min_count)

    @classmethod
    def target_kind(cls, kind: str, texts: Sequence[str]) -> str:
        """Return the kind of pieces of targets, where nobody named one."""
        return kind

    def check_options(
        self, options: AnswerOptions, model: nn.Module | None = None
    ) -> None:
        """Raise UsageError for options that cannot be followed.

        These are words that the vocabulary has no pieces for, and an alignment that the model
        does not make.
        """
        constraints = options.constraints
        if constraints.alignment and model is not None and not self.aligns(model):
            raise UsageError("this model has no attention, so there is no alignment")
        refuse_unknown(self.output.tokenizer, constraints)

    def pair_columns(self, schema: Schema) -> tuple[str, str]:
        """Return the columns of source and target."""
        return columns_of_pair(schema)

    def check_data(self, data: Data) -> None:
        """Raise DataError for a text without the one that answers it."""
        if isinstance(data, Document):
            raise DataError(
                "this is one plain text; give the file whose lines are its answers too: "
                + either("--target FILE", "target=FILE"),
                data.path,
            )

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts sources into pieces."""
        return self.inputs.tokenizer

    def vocabularies(self) -> tuple[Tokenizer, Tokenizer]:
        """Return what cuts sources and targets into pieces."""
        return self.inputs.tokenizer, self.output.tokenizer

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the tokens of both embeddings and of the output weights."""
        return axis_names_of_tokens(*self.vocabularies())

    @property
    def joint(self) -> bool:
        """Whether source and target have one vocabulary."""
        return self.inputs.tokenizer is self.output.tokenizer

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, self.inputs.columns, (), self.output.columns[0])

    # ------------------------------------------------------------------ rows to examples

    def check(self, field: Text, cell: Any) -> str:
        """Return the text of one side of a pair. Raises InvalidCell: it is none, or empty."""
        (text,) = field.check([cell])
        text = without(text, self.without) if field is self.output else text
        if not text.strip():
            raise InvalidCell(f"column {field.columns[0]!r} is empty")
        if "\x00" in text:
            raise InvalidCell(f"column {field.columns[0]!r} holds a NUL character")
        return text

    def fit_in(self, tokens: int, field: Text) -> None:
        """Raise InvalidCell for a text of more tokens than are read."""
        if self.longest is not None and tokens > self.longest:
            raise InvalidCell(
                f"column {field.columns[0]!r} has {tokens:,} tokens with its end mark; "
                f"data.max_tokens is {self.longest}"
            )

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[PairExamples, list[DataError]]:
        """Encode the rows of a table, both sides; see the base class."""
        table = need_table(data)
        columns = columns_of_pair(schema or self.schema)
        # what is too long is only known once it is encoded, so errors are kept by row until then
        pairs, error_of_row = self._check_pairs(table, columns)
        sources = _encoded(self.inputs, [pair.source for pair in pairs])
        targets = _encoded(self.output, [pair.target for pair in pairs])
        source_sizes = sources.lengths.tolist()
        target_sizes = targets.lengths.tolist()
        kept: list[int] = []
        for position, pair in enumerate(pairs):
            try:
                self.fit_in(source_sizes[position], self.inputs)
                self.fit_in(target_sizes[position], self.output)
                kept.append(position)
            except InvalidCell as error:
                error_of_row[pair.row] = _error_of_row(table, pair.row, error)
        errors = [error_of_row[row] for row in sorted(error_of_row)]
        if errors and on_error != "skip":
            raise errors[0]
        if not kept:
            nothing = DataError("no row is left to read", table.path)
            raise errors[0] if errors else nothing
        if len(kept) < len(pairs):
            sources = sources.pick(kept)
            targets = targets.pick(kept)
        pairs = [pairs[position] for position in kept]
        examples = PairExamples(
            np.array([table.lines[pair.row] for pair in pairs]),
            sources,
            targets=targets,
            sources=tuple(pair.source for pair in pairs),
            references=tuple(pair.target for pair in pairs),
        )
        return examples, [*table.skipped, *errors]

    def _check_pairs(
        self, table: Table, columns: tuple[str, str]
    ) -> tuple[list[_Pair], dict[int, DataError]]:
        """Return the pairs of a table whose texts can be read, and the errors of other rows."""
        source_index, target_index = locate(table, columns, self.columns)

        pairs: list[_Pair] = []
        error_of_row: dict[int, DataError] = {}
        for row, cells in enumerate(table.rows):
            try:
                source = self.check(self.inputs, cells[source_index])
                target = self.check(self.output, cells[target_index])
                pairs.append(_Pair(row, source, target))
            except InvalidCell as error:
                error_of_row[row] = _error_of_row(table, row, error)
        return pairs, error_of_row

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return encoder and decoder; one whose reach is limited reads ``data.max_tokens``."""
        config = recipe.model
        if config.share and not self.joint:
            raise UsageError(
                "model.share=true needs one vocabulary; set data.joint=true"
            )
        scale = math.sqrt(config.embedding) if config.scale_embedding else 1.0
        source = build_embedding(self.inputs.tokenizer.size, config, scale)
        size = self.output.tokenizer.size
        target = source if config.share else build_embedding(size, config, scale)
        return assemble(recipe, source, target, size, self.longest, self.longest)

    def decoder_inputs(self, batch: Batch) -> Tensor:
        """Return what the decoder reads before each target (B, T)."""
        assert batch.targets is not None
        return shifted(batch.targets, self.output.tokenizer.bos_id)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of each target piece, given those before it."""
        smoothing = recipe.training.label_smoothing
        return seq2seq_loss(self.output.tokenizer.bos_id, smoothing)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of pairs whose longer sides are alike."""
        training = recipe.training
        return Buckets(
            examples, training.batch_size, training.batch_tokens, recipe.seed
        )

    # ------------------------------------------------------------------ scores

    def loss(
        self, model: nn.Module, examples: Examples, compute_device: ComputeDevice
    ) -> float:
        """Return the mean cross entropy of target pieces in nats, given those before each."""
        return target_loss(model, examples, compute_device, self.decoder_inputs)

    def evaluate(
        self,
        model: nn.Module,
        examples: PairExamples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return loss and perplexity of the right answers, and the scores of what is written."""
        loss = self.loss(model, examples, compute_device)
        texts = self.write(model, examples, compute_device, options)
        scores, notes = self.measure(texts, options, SAMPLES)
        return Evaluation(_with_loss(loss, scores), written=texts, notes=notes)

    def validate(
        self,
        model: nn.Module,
        examples: PairExamples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Scores:
        """Return the scores of what is written without a search, at a fraction of its time."""
        loss = self.loss(model, examples, compute_device)
        search = options.search.changed(
            beam=1, n_best=1, diverse_groups=1, sample=False
        )
        greedy = replace(options, search=search)
        texts = self.write(model, examples, compute_device, greedy)
        scores, _ = self.measure(texts, options)
        return _with_loss(loss, scores)

    def write(
        self,
        model: nn.Module,
        examples: PairExamples,
        compute_device: ComputeDevice,
        options: AnswerOptions,
    ) -> GeneratedTexts:
        """Return what a model writes for each source, beside its right answers."""
        requested = self.requested(examples)
        ids = self._ids(requested.sources)
        predictions = self._predictions(
            model, requested.sources, ids, compute_device, options
        )
        return replace(requested, answers=[answer.text for answer in predictions])

    def requested(self, examples: PairExamples) -> GeneratedTexts:
        """Return what is to be written: each source with its right answers, none yet given.

        With ``grouped`` equal sources are one, and each of their answers is right.
        """
        rows: dict[Any, list[int]] = {}
        for row, source in enumerate(examples.sources):
            rows.setdefault(source if self.grouped else row, []).append(row)
        first = [group[0] for group in rows.values()]
        return GeneratedTexts(
            examples.lines[first],
            [examples.sources[row] for row in first],
            [[examples.references[row] for row in group] for group in rows.values()],
            [],
        )

    @abstractmethod
    def measure(
        self,
        written: GeneratedTexts,
        options: AnswerOptions = AnswerOptions(),
        samples: int = 0,
    ) -> tuple[Scores, tuple[str, ...]]:
        """Return the scores of what was written, and lines that say how it was scored.

        Args:
            written: answers beside the right ones.
            options: how texts are cut to be scored.
            samples: of the bootstrap, for intervals of 95 %; 0 draws none.
        """

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say how many texts there are, and how long."""
        return describing.texts(values)

    def baselines(self, split: Split) -> list[Method]:
        """Answer each text with itself."""

        def copied_sources() -> Scores:
            requested = self.requested(split.dev)
            options = split.options
            return self.measure(replace(requested, answers=requested.sources), options)[
                0
            ]

        return [("copy of the source", copied_sources)]

    # ------------------------------------------------------------------ predictions

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a row cannot be answered, empty where it can."""
        try:
            text = self.check(self.inputs, cells[0])
            self.fit_in(len(self._ids([text])[0]), self.inputs)
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
        """Answer rows of one text each; an empty one, or one that is too long, is an error."""
        try:
            texts = [self.check(self.inputs, row[0]) for row in rows]
            ids = self._ids(texts)
            for text_ids in ids:
                self.fit_in(len(text_ids), self.inputs)
        except InvalidCell as error:
            raise UserError(str(error)) from None
        return self._predictions(model, texts, ids, compute_device, options)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.inputs.encode([(text,) for text in texts])

    def _predictions(
        self,
        model: nn.Module,
        texts: Sequence[str],
        ids: Sequence[Sequence[int]],
        compute_device: ComputeDevice,
        options: AnswerOptions,
    ) -> list[Prediction]:
        """Write answers to sources, the best of each with its score and the others beside it."""
        target = self.output.tokenizer
        copies = self._copies(model, options)
        hypotheses = write(
            model,
            target,
            ids,
            options.search,
            compute_device,
            constraints=options.constraints,
            unknown=copies,
        )
        flat: list[tuple[int, Hypothesis]] = []
        for row, answers in enumerate(hypotheses):
            flat += [(row, answer) for answer in answers]
        # all of them are read once more where they are to be aligned, else those with unknowns
        chosen: list[int] = []
        for index, (_, answer) in enumerate(flat):
            unknown = copies and target.unk_id in answer.tokens
            if answer.tokens and (options.constraints.alignment or unknown):
                chosen.append(index)
        weights = attention_weights(
            model,
            [ids[flat[index][0]] for index in chosen],
            [flat[index][1].tokens for index in chosen],
            target.bos_id,
            compute_device,
        )
        weights_of = dict(zip(chosen, weights, strict=True))
        texts_of_rows: list[list[TextWithDetails]] = [[] for _ in texts]
        for index, (row, answer) in enumerate(flat):
            source = SourceText(texts[row], ids[row])
            text = self._text(source, answer, weights_of.get(index), options)
            texts_of_rows[row].append(text)
        return [
            best_of(answer_texts, answers)
            for answer_texts, answers in zip(texts_of_rows, hypotheses, strict=True)
        ]

    def aligns(self, model: nn.Module) -> bool:
        """Whether the model looks back at its source, so that words can be aligned."""
        return cast(Unaligned, model).attends

    def _copies(self, model: nn.Module, options: AnswerOptions) -> bool:
        """Whether unknown words are written, to be replaced by words of the source."""
        whole_words = self.output.tokenizer.kind in WHOLE
        return options.copy_unknown and whole_words and self.aligns(model)

    def _text(
        self,
        source: SourceText,
        answer: Hypothesis,
        weights: Weights | None,
        options: AnswerOptions,
    ) -> TextWithDetails:
        """Return the text of one answer, and its details beside the score."""
        target = self.output.tokenizer
        if weights is None:
            return target.decode(answer.tokens), {}
        constraints = options.constraints
        source_units = units(self.inputs.tokenizer, source.ids[:-1], source.text)
        if target.unk_id in answer.tokens and target.kind in WHOLE:
            text = copied(
                target, answer.tokens, weights, source_units, constraints.banned
            )
        else:
            text = target.decode(answer.tokens)
        if not constraints.alignment:
            return text, {}
        answer_units = units(target, answer.tokens, text)
        return text, aligned(source_units, answer_units, weights)

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads a source step by step, and its answer as a search writes it."""
        target = self.output.tokenizer

        def best(model: nn.Module, cells: Sequence[Any]) -> tuple[str, Sequence[int]]:
            reason = self.why_not_answerable(cells)
            if reason:
                raise UserError(reason)
            ids = self._ids([self.check(self.inputs, cells[0])])
            (hypotheses,) = write(model, target, ids, options.search, compute_device)
            tokens = hypotheses[0].tokens
            return target.decode(tokens), [*tokens, target.eos_id]

        names = piece_names(target)
        return WrittenSteps(self.inputs, names, best, self.decoder_inputs)

    # ------------------------------------------------------------------ the run folder

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "inputs": self.inputs.to_json(),
            "output": self.output.to_json(),
            "longest": self.longest,
            "without": self.without,
            "joint": self.joint,
        }

    def save(self, folder: Path) -> None:
        """Write the vocabularies."""
        self.inputs.save(folder)
        if not self.joint:
            self.output.save(folder, TARGET)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        source = load_tokenizer(folder / TOKENIZER)
        target = source if values["joint"] else load_tokenizer(folder / TARGET)
        inputs = Text(tuple(values["inputs"]["columns"]), source, None)
        output = Text(tuple(values["output"]["columns"]), target, None)
        return cls(inputs, output, values["longest"], values["without"], layout)


@dataclass(frozen=True, slots=True)
class SourceText:
    """A text that is read, and its ids with the end mark."""

    text: str
    ids: Sequence[int]


def _error_of_row(table: Table, row: int, error: InvalidCell) -> DataError:
    """Return the error of a row, which is given by its index in the table."""
    line = table.lines[row]
    return invalid_row(error, *table.position(line))


def _texts_of(table: Table, index: int) -> list[str]:
    return [str(row[index]) for row in table.rows if row[index] is not None]


def _with_loss(loss: float, scores: Scores) -> Scores:
    return {**scores, "loss": loss, "perplexity": math.exp(min(loss, 700))}


def without(text: str, characters: str) -> str:
    """Return a text without certain characters."""
    return text.translate(dict.fromkeys(map(ord, characters))) if characters else text


def _encoded(field: Text, texts: Sequence[str]) -> Ragged:
    """Return the ids of texts, encoded ``TEXTS`` at a time."""
    parts = []
    for start in range(0, len(texts), TEXTS):
        chunk = texts[start : start + TEXTS]
        parts.append(Ragged.of(field.encode([(text,) for text in chunk])))
    return Ragged.join(parts)
