"""Tables of texts larger than memory, from a file to shards."""

from __future__ import annotations

import functools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unrolled.core.errors import DataError
from unrolled.core.words import counted
from unrolled.data.columns import label
from unrolled.data.encoding import PIECE, EncodingJob
from unrolled.data.shards import Encoded, Writer
from unrolled.data.sources import Rows, Table
from unrolled.data.split import is_held
from unrolled.fields.label import Label
from unrolled.fields.rows import valid_rows
from unrolled.fields.text import Text
from unrolled.runs import shard_files
from unrolled.runs.divide import key_of
from unrolled.runs.resolve import DataFacts, resolve
from unrolled.runs.shard_files import (
    COUNTED,
    NumberedRow,
    ShardFile,
    ShardParts,
    as_table,
    describe_encoding,
    first,
    spaced,
    write_ids,
)
from unrolled.tasks.base import FileLayout, Shards, Task, locate
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class

ARRAYS = ("lines", "offsets", "targets")  # of training rows, beside their tokens


def prepare_table(file: ShardFile, task: Task | None) -> ShardParts | None:
    """Encode the training rows; None where the file has to be read whole."""
    survey = file.remember("survey", lambda: _survey(file))
    if not survey["kept"] or (file.fraction and survey["kept"] == survey["rows"]):
        return None  # so few rows that one side of the split would be empty
    facts = DataFacts(file.schema, survey["kept"], survey["characters"], sharded=True)
    recipe = resolve(file.recipe, facts, file.machine, file.pretrained)
    task = task or _fit(file, recipe, survey)
    if task is None:
        return None
    field, output = task.shard_fields()
    kept = file.encode(
        field.tokenizer,
        functools.partial(_write_rows, file, field, output),
        limit=field.max_tokens,
        names=output.names if output else (),
    )
    lines, offsets, targets = (np.asarray(kept.array(name)) for name in ARRAYS)
    rows = (lines, offsets, targets)
    shards = Shards(
        kept.tokens(), kept.manifest["size"], kept.manifest["unknown"], rows
    )
    dev = None
    if file.fraction:
        dev = _beginning(file, True, shard_files.SCORED)
    start = _beginning(file, False, shard_files.FIRST)
    return ShardParts(
        recipe,
        task,
        task.of_shards(shards),
        start,
        len(start.rows) < survey["kept"],
        dev,
        _describe(file, task, recipe, survey, kept, dev),
        survey["labels"],
    )


def _fit(file: ShardFile, recipe: Recipe, survey: dict[str, Any]) -> Task | None:
    texts = functools.partial(_sample, file, survey)
    learn_vocabulary = functools.partial(file.vocabulary, recipe, texts)
    kind = task_class(file.schema.task)
    layout = FileLayout.of(file.head)
    labels = list(survey["labels"])
    return kind.of_vocabulary(recipe, file.schema, learn_vocabulary, labels, layout)


def _sample(file: ShardFile, survey: dict[str, Any], kind: str) -> Iterable[str]:
    """Return the texts from which a vocabulary of a kind is learnt."""
    texts = _texts(file)
    characters = survey["characters"]
    if kind in COUNTED or characters <= shard_files.SAMPLE:
        return texts
    count = survey["texts"]
    return spaced(texts, count, max(1, count * shard_files.SAMPLE // characters))


def _texts(file: ShardFile) -> Iterator[str]:
    """Yield the texts of the training rows; of labelled rows those that are not empty."""
    indices = _indices(file, file.schema.text)
    labelled = file.schema.answer is not None
    for _, row in _divided(file, file.open(), False):
        for i in indices:
            if row[i] is not None and not (labelled and row[i] == ""):
                yield str(row[i])


def _describe(
    file: ShardFile,
    task: Task,
    recipe: Recipe,
    survey: dict[str, Any],
    kept: Encoded,
    dev: Table | None,
) -> list[str]:
    schema = file.schema
    lines = [
        f"{file.path}: {file.head.format.describe()}, {counted(survey['rows'], 'row')}",
        f"reads: {', '.join(schema.text)} (data.text=COLUMN)",
        *([f"predicts: {schema.answer} (data.label=COLUMN)"] if schema.answer else []),
        f"task: {task.name} ({task.pattern}) (task=NAME)",
        *describe_encoding(file, kept, recipe, survey["characters"]),
    ]
    if kept.manifest["skipped"]:
        # what is wrong with a row is often told in its own words
        error = (
            kept.manifest["fault"] if recipe.report.samples else kept.manifest["where"]
        )
        lines.append(
            f"skipped {counted(kept.manifest['skipped'], 'faulty row')}; the first: {error}"
        )
    if dev is not None:
        held = survey["rows"] - survey["kept"]
        by = file.recipe.data.group or "their inputs"
        lines.append(
            f"held out {held:,} of {survey['rows']:,} rows by the hash of "
            f"{by} (data.dev=FILE); scored: the first {len(dev.rows):,} of them"
        )
    return lines


def _indices(file: ShardFile, names: Sequence[str]) -> list[int]:
    assert isinstance(file.head, Table)
    return locate(file.head, names, file.head.columns)


def _divided(
    file: ShardFile, rows: Iterable[NumberedRow], held: bool
) -> Iterator[NumberedRow]:
    """Yield the rows that are held out, or those that are not."""
    group = file.recipe.data.group
    indices = _indices(file, file.schema.inputs if group is None else [group])
    seed = file.recipe.seed
    for line, row in rows:
        if held == is_held(key_of(row, indices), seed, file.fraction):
            yield line, row


def _beginning(file: ShardFile, held: bool, characters: int) -> Table:
    """Return the first rows of one part as a table, which the cache keeps."""

    def read() -> Any:
        reader = file.open()
        rows = first(_divided(file, reader, held), characters)
        return {"rows": rows, "parts": reader.parts}

    kept = file.remember(f"first rows, held={held}", read)
    assert isinstance(file.head, Table)
    parts = [(before, name) for before, name in kept["parts"]]
    return replace(as_table(file.head, kept["rows"]), parts=parts)


def _survey(file: ShardFile) -> dict[str, Any]:
    """Return how much there is of what: rows, training rows, their texts, labels."""
    indices = _indices(file, file.schema.text)
    labels = Counter[str]()
    answers = _indices(file, [file.schema.answer]) if file.schema.answer else []
    rows = 0
    kept = 0
    texts = 0
    characters = 0

    def counted() -> Iterator[NumberedRow]:
        nonlocal rows
        for line, row in file.open():
            rows += 1
            labels.update(label(row[i]) for i in answers)
            yield line, row

    for _, row in _divided(file, counted(), False):
        cells = [row[i] for i in indices]
        kept += 1
        texts += sum(cell is not None for cell in cells)
        characters += sum(len(cell) for cell in cells if isinstance(cell, str | list))
    counts = {"rows": rows, "kept": kept, "texts": texts, "characters": characters}
    return {**counts, "labels": dict(labels)}


@dataclass(frozen=True, slots=True)
class _RowWriter:
    """Checks the training rows of a file, and keeps the lines and targets of the valid ones."""

    file: ShardFile
    field: Text
    output: Label | None
    reader: Rows
    lines: array[int]
    targets: array[int]
    errors: list[DataError]

    def jobs(self) -> Iterator[EncodingJob]:
        """Yield the texts of valid rows, about ``PIECE`` characters at a time."""
        rows = valid_rows(
            _divided(self.file, self.reader, False),
            self.reader,
            self._checker(),
            self.file.recipe.data.on_error,
            self.errors,
        )
        limit = self.field.max_tokens
        texts = list[str]()
        size = 0
        for line, (row_texts, row_targets) in rows:
            self.lines.append(line)
            self.targets.extend(row_targets)
            texts.extend(row_texts)
            size += sum(map(len, row_texts))
            if size >= PIECE:
                yield EncodingJob(texts, ended=True, limit=limit)
                texts = []
                size = 0
        if texts:
            yield EncodingJob(texts, ended=True, limit=limit)

    def _checker(self) -> Any:
        output = self.output
        indices = _indices(self.file, self.field.columns)
        answers = _indices(self.file, [output.column]) if output else []

        def check(row: Sequence[Any]) -> tuple[tuple[str, ...], list[int]]:
            texts = self.field.check([row[i] for i in indices])
            return texts, [output.check(row[i]) for i in answers if output]

        return check


def _write_rows(
    file: ShardFile, field: Text, output: Label | None, writer: Writer
) -> dict[str, Any]:
    """Encode the training rows, their lines and their targets."""
    rows = _RowWriter(file, field, output, file.open(), array("q"), array("q"), [])
    facts, counts = write_ids(field.tokenizer, rows.jobs(), writer)
    if not len(counts):
        raise DataError("no row is left to read", file.path)
    lengths = counts.reshape(-1, len(field.columns)).sum(1)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    arrays = (np.array(rows.lines), offsets, np.array(rows.targets))
    for name, values in zip(ARRAYS, arrays, strict=True):
        writer.array(name, values)
    errors = [*rows.reader.skipped, *rows.errors]
    if errors:
        facts["fault"] = str(errors[0])
        facts["where"] = f"{errors[0].path}:{errors[0].line}"
    return {**facts, "skipped": len(errors)}
