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
from typing import Any, ClassVar, Self, cast

import numpy as np
from torch import Tensor, nn

from unrolled.core import digests
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import Batch, BatchSource, Buckets
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.decoding.search import Hypothesis
from unrolled.decoding.settings import Search
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.text import Text
from unrolled.models import Unaligned
from unrolled.tasks.base import (
    Evaluation,
    GeneratedTexts,
    OutputConstraints,
    Prediction,
    Rows,
    Task,
    build_embedding,
    locate,
)
from unrolled.tasks.labelled import TOKENIZER, need_table
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.unaligned import assemble, told_loss
from unrolled.tasks.writing import (
    WHOLE,
    Weights,
    aligned,
    copied,
    looks,
    refuse_unknown,
    units,
    write,
)
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, seq2seq_loss, shifted
from unrolled.training.precision import ComputeDevice

TARGET = "target.json"
SAMPLES = 1000  # of the bootstrap
TEXTS = 1 << 16  # encoded at once: a list of ids takes ten times the memory of an array


@dataclass(frozen=True, slots=True)
class PairExamples(Examples):
    """Encoded pairs, with the N texts that are read and their right answers as they were given."""

    sources: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def answers(self) -> int:
        """One answer a row."""
        return len(self.lines)


class Pairs(Task):
    """Two fields of text, and a model that writes the second for the first."""

    pattern: ClassVar[str] = "many to many, unaligned"
    writes: ClassVar[bool] = True
    kind: ClassVar[str]  # of pieces, where nobody named one
    grouped: ClassVar[bool]  # whether all answers to equal sources are right
    search: Search = Search()
    copying: bool = True
    asks: OutputConstraints = OutputConstraints()

    def __init__(
        self, inputs: Text, output: Text, longest: int | None, without: str = ""
    ) -> None:
        """Take the fields; with one tokenizer in both of them the vocabulary is joint.

        Args:
            inputs, output: the fields of source and target, which never cut a text.
            longest: the most tokens of either side, its end mark included.
            without: characters that are left out of targets.
        """
        self.inputs = inputs
        self.output = output
        self.longest = longest
        self.without = without

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn the vocabularies from training rows."""
        table = need_table(data)
        told = recipe.data
        source, target = pair_of(schema)
        places = locate(table, (source, target), table.columns)
        texts = [
            [str(row[i]) for row in table.rows if row[i] is not None] for i in places
        ]
        texts[1] = [without(text, told.target_without) for text in texts[1]]
        kind = told.tokenizer or cls.kind
        size = told.vocabulary
        least = told.min_count
        if told.joint:
            if told.target_tokenizer not in (None, kind):
                raise UsageError(
                    "data.joint=true is one tokenizer: leave out data.target_tokenizer"
                )
            both = Tokenizer.fit(kind, [*texts[0], *texts[1]], size, least)
            learnt = both, both
        else:
            other = told.target_tokenizer or cls.target_kind(kind, texts[1])
            size_of_target = told.target_vocabulary or size
            learnt = (
                Tokenizer.fit(kind, texts[0], size, least),
                Tokenizer.fit(other, texts[1], size_of_target, least),
            )
        inputs = Text((source,), learnt[0], None)
        output = Text((target,), learnt[1], None)
        return cls(inputs, output, told.max_tokens, told.target_without)

    @classmethod
    def target_kind(cls, kind: str, texts: Sequence[str]) -> str:
        """Return the kind of pieces of targets, where nobody named one."""
        return kind

    def answer_by(self, recipe: Recipe) -> None:
        """Take how answers are searched for, and whether unknown words are copied."""
        self.search = recipe.decoding
        self.copying = recipe.data.copy_unknown

    def ask(self, model: nn.Module, asks: OutputConstraints) -> None:
        """Say what answers are to hold from now on.

        Raises:
            UsageError: words that the vocabulary has no pieces for, or an alignment that the model
                does not make.
        """
        if asks.alignment and not self.aligns(model):
            raise UsageError("this model has no attention, so there is no alignment")
        refuse_unknown(self.output.tokenizer, asks)
        self.asks = asks

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
        self, data: Table | Document, on_error: str, schema: Schema | None = None
    ) -> tuple[PairExamples, list[DataError]]:
        """Encode the rows of a table, both sides; see the base class."""
        table = need_table(data)
        places = locate(table, pair_of(schema or self.schema), self.columns)
        fields = self.inputs, self.output
        faults: dict[int, InvalidCell] = {}
        kept: list[tuple[int, list[str]]] = []
        for line, row in zip(table.lines, table.rows, strict=True):
            try:
                cells = [row[place] for place in places]
                kept.append(
                    (
                        line,
                        [self.check(f, c) for f, c in zip(fields, cells, strict=True)],
                    )
                )
            except InvalidCell as error:
                faults[line] = error
        texts = [[pair[side] for _, pair in kept] for side in (0, 1)]
        ids = [_encoded(field, side) for field, side in zip(fields, texts, strict=True)]
        steps = [side.lengths.tolist() for side in ids]
        rows = []
        for at, (line, _) in enumerate(kept):
            try:
                for field, side in zip(fields, steps, strict=True):
                    self.fit_in(side[at], field)
                rows.append(at)
            except InvalidCell as error:
                faults[line] = error
        found = [
            invalid_row(faults[line], *table.position(line)) for line in sorted(faults)
        ]
        if found and on_error != "skip":
            raise found[0]
        if not rows:
            raise found[0] if found else DataError("no row is left to read", table.path)
        inputs, targets = (
            side if len(rows) == len(side) else side.pick(rows) for side in ids
        )
        examples = PairExamples(
            np.array([kept[row][0] for row in rows]),
            inputs,
            targets=targets,
            sources=tuple(texts[0][row] for row in rows),
            references=tuple(texts[1][row] for row in rows),
        )
        return examples, [*table.skipped, *found]

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

    def fed(self, batch: Batch) -> Tensor:
        """Return what the decoder reads before each target (B, T)."""
        assert batch.targets is not None
        return shifted(batch.targets, self.output.tokenizer.bos_id)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of each target piece, given those before it."""
        return seq2seq_loss(
            self.output.tokenizer.bos_id, recipe.training.label_smoothing
        )

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of pairs whose longer sides are alike."""
        told = recipe.training
        return Buckets(examples, told.batch_size, told.batch_tokens, recipe.seed)

    # ------------------------------------------------------------------ scores

    def loss(self, model: nn.Module, examples: Examples, place: ComputeDevice) -> float:
        """Return the mean cross entropy of target pieces in nats, those before each being told."""
        return told_loss(model, examples, place, self.fed)

    def evaluate(
        self, model: nn.Module, examples: PairExamples, place: ComputeDevice
    ) -> Evaluation:
        """Return loss and perplexity of the right answers, and the scores of what is written."""
        loss = self.loss(model, examples, place)
        written = self.written(model, examples, place)
        scores, notes = self.measure(written, SAMPLES)
        return Evaluation(self._with_loss(loss, scores), written=written, notes=notes)

    def watch(
        self, model: nn.Module, examples: PairExamples, place: ComputeDevice
    ) -> dict[str, float]:
        """Return the scores of what is written without a search, at a fraction of its time."""
        loss = self.loss(model, examples, place)
        told = self.search
        greedy = told.changed(beam=1, n_best=1, diverse_groups=1, sample=False)
        scores, _ = self.measure(self.written(model, examples, place, greedy))
        return self._with_loss(loss, scores)

    def written(
        self,
        model: nn.Module,
        examples: PairExamples,
        place: ComputeDevice,
        settings: Search | None = None,
    ) -> GeneratedTexts:
        """Return what a model writes for each source, beside its right answers."""
        asked = self.asked(examples)
        answers = self._answers(
            model, asked.sources, self._ids(asked.sources), place, settings
        )
        return replace(asked, answers=[answer.text for answer in answers])

    @staticmethod
    def _with_loss(loss: float, scores: dict[str, float]) -> dict[str, float]:
        return {**scores, "loss": loss, "perplexity": math.exp(min(loss, 700))}

    def asked(self, examples: PairExamples) -> GeneratedTexts:
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

    # ------------------------------------------------------------------ answers

    def fault(self, cells: Sequence[Any]) -> str:
        """Return what is wrong with a row that is to be answered, empty where nothing is."""
        try:
            text = self.check(self.inputs, cells[0])
            self.fit_in(len(self._ids([text])[0]), self.inputs)
        except InvalidCell as error:
            return str(error)
        return ""

    def predict(
        self, model: nn.Module, rows: Rows, place: ComputeDevice
    ) -> list[Prediction]:
        """Answer rows of one text each; of empty ones and those that are too long none."""
        try:
            texts = [self.check(self.inputs, row[0]) for row in rows]
            ids = self._ids(texts)
            for each in ids:
                self.fit_in(len(each), self.inputs)
        except InvalidCell as error:
            raise UserError(str(error)) from None
        return self._answers(model, texts, ids, place)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.inputs.encode([(text,) for text in texts])

    def _answers(
        self,
        model: nn.Module,
        texts: Sequence[str],
        ids: Sequence[Sequence[int]],
        place: ComputeDevice,
        settings: Search | None = None,
    ) -> list[Prediction]:
        """Write answers to sources, the best of each with its score and the others beside it."""
        target = self.output.tokenizer
        copying = self._copies(model)
        settings = settings or self.search
        found = write(
            model, target, ids, settings, place, asks=self.asks, unknown=copying
        )
        flat = [(row, each) for row, answers in enumerate(found) for each in answers]
        # all of them are looked at once more where they are to be aligned, else the unknown ones
        chosen = [
            place_
            for place_, (_, each) in enumerate(flat)
            if each.tokens
            and (self.asks.alignment or (copying and target.unk_id in each.tokens))
        ]
        weights = looks(
            model,
            [ids[flat[i][0]] for i in chosen],
            [flat[i][1].tokens for i in chosen],
            target.bos_id,
            place,
        )
        looked = dict(zip(chosen, weights, strict=True))
        told: list[list[tuple[str, dict[str, Any]]]] = [[] for _ in texts]
        for i, (row, each) in enumerate(flat):
            told[row].append(self._told(texts[row], ids[row], each, looked.get(i)))
        return [
            answer_of(answers, hypotheses)
            for answers, hypotheses in zip(told, found, strict=True)
        ]

    def aligns(self, model: nn.Module) -> bool:
        """Whether the model looks back at its source, so that words can be aligned."""
        return cast(Unaligned, model).attends

    def _copies(self, model: nn.Module) -> bool:
        """Whether unknown words are written, to be replaced by words of the source."""
        return (
            self.copying and self.output.tokenizer.kind in WHOLE and self.aligns(model)
        )

    def _told(
        self, text: str, ids: Sequence[int], found: Hypothesis, weights: Weights | None
    ) -> tuple[str, dict[str, Any]]:
        """Return the text of one answer, and what is told of it beside its score."""
        target = self.output.tokenizer
        if weights is None:
            return target.decode(found.tokens), {}
        source = units(self.inputs.tokenizer, ids[:-1], text)
        unknown = target.unk_id in found.tokens
        answer = (
            copied(target, found.tokens, weights, source, self.asks.banned)
            if unknown and target.kind in WHOLE
            else target.decode(found.tokens)
        )
        if not self.asks.alignment:
            return answer, {}
        return answer, aligned(source, units(target, found.tokens, answer), weights)

    @abstractmethod
    def measure(
        self, written: GeneratedTexts, samples: int = 0
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Return the scores of what was written, and lines that say how it was scored.

        Args:
            written: answers beside the right ones.
            samples: of the bootstrap, for intervals of 95 %; 0 draws none.
        """

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
        digests.replace(folder, TOKENIZER, self.inputs.tokenizer.save)
        if not self.joint:
            digests.replace(folder, TARGET, self.output.tokenizer.save)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields back."""
        source = Tokenizer.load(folder / TOKENIZER)
        target = source if values["joint"] else Tokenizer.load(folder / TARGET)
        inputs = Text(tuple(values["inputs"]["columns"]), source, None)
        output = Text(tuple(values["output"]["columns"]), target, None)
        return cls(inputs, output, values["longest"], values["without"])


def pair_of(schema: Schema) -> tuple[str, str]:
    """Return the columns of source and target."""
    if len(schema.text) != 1 or schema.answer is None:
        raise UsageError(
            f"task={schema.task} reads one column (data.text) and answers with another"
        )
    return schema.text[0], schema.answer


def without(text: str, characters: str) -> str:
    """Return a text without certain characters."""
    return text.translate(dict.fromkeys(map(ord, characters))) if characters else text


def answer_of(
    told: Sequence[tuple[str, dict[str, Any]]], found: Sequence[Hypothesis]
) -> Prediction:
    """Return the best of the answers to a source, with its score, and the others beside it."""
    (text, details) = told[0]
    best = found[0]
    details = {"score": best.score, "finished": best.finished, **details}
    if len(found) > 1:
        details["n_best"] = [
            {"text": text, "score": each.score, **more}
            for (text, more), each in zip(told, found, strict=True)
        ]
    return Prediction(text, math.exp(best.log_probability), details)


def _encoded(field: Text, texts: Sequence[str]) -> Ragged:
    chunks = (texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS))
    return Ragged.join(
        [Ragged.of(field.encode([(t,) for t in chunk])) for chunk in chunks]
    )
