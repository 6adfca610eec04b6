"""Data files larger than memory: read in passes, encoded once into the cache, mapped from there.

A first pass measures, a second learns the vocabulary, a third encodes. What each found is kept in
the cache, so that another run on the same file starts at once. Tokens, targets and held-out part
are those that reading the file whole gives. Three things differ, and are said: a vocabulary of
words or pieces is learnt from ``SAMPLE`` characters, ``SCORED`` characters of the held-out part are
scored, and simple methods are fitted on the first rows.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.core.errors import DataError, UsageError
from unrolled.core.files import Watched
from unrolled.data.encoding import PIECE, EncodingJob, in_order, pieces, processors
from unrolled.data.examples import Examples, Ragged
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.label import Label
from unrolled.fields.text import Text
from unrolled.data.schema import Schema, label
from unrolled.data.shards import (
    Encoded,
    Writer,
    encoded,
    identity,
    refuse_changed,
    remembered,
)
from unrolled.data.sources import Document, Rows, Table, fingerprint, rows_of
from unrolled.data.split import cut_at, is_held
from unrolled.text.tokenizers import Tokenizer
from unrolled.tasks.base import Task, locate
from unrolled.tasks.defaults import fill
from unrolled.tasks.labelled import Classify
from unrolled.tasks.language import Language, TokenStream
from unrolled.runs.prepare import Data, Prepared, key_of, load_data, schema_of
from unrolled.tasks.recipe import Recipe
from unrolled.runs.recipes import find_data
from unrolled.tasks.weights import weigh

LARGE = 128 << 20  # bytes of a file that is encoded into shards without being told
HEAD = 20_000  # rows that columns are told from
SAMPLE = 32 << 20  # characters that words and pieces are learnt from
SCORED = 2 << 20  # characters of the held-out part that are scored
FIRST = 10 << 20  # characters of training rows that stay in memory, for simple methods
COUNTED = (
    "chars",
    "jamo",
    "bytes",
)  # vocabularies that are counted over all of the text

ARRAYS = ("lines", "offsets", "targets")  # of training rows, beside their tokens

Numbered = tuple[int, tuple[Any, ...]]


def is_large(recipe: Recipe, path: Path) -> bool:
    """Whether a file is to be encoded into shards; a packed one counts four times its size.

    Raises:
        UsageError: ``data.shards=always`` for a folder or a name of the hub.
    """
    if recipe.data.shards == "always" and not path.is_file():
        raise _unable()
    if recipe.data.shards != "auto" or not path.is_file():
        return recipe.data.shards == "always"
    packed = path.suffix.lower() == ".gz"
    return path.stat().st_size * (4 if packed else 1) >= LARGE


@dataclass(frozen=True, slots=True)
class File:
    """A large file; ``head`` are its first rows, ``share`` of it is held out.

    ``key`` is what everything that is encoded from it follows from.
    """

    recipe: Recipe
    path: Path
    head: Data
    schema: Schema
    share: float
    key: dict[str, Any]
    watched: Watched

    def open(self) -> Rows:
        """Start to read the file."""
        return read_rows(self.recipe, self.path)

    def remember(self, what: str, compute: Callable[[], Any], **more: Any) -> Any:
        """Return what is worked out once for this file."""

        def unmixed() -> Any:
            value = compute()
            refuse_changed(
                [self.watched]
            )  # the key is of the file that was there at first
            return value

        return remembered({**self.key, "what": what, **more}, unmixed)

    def vocabulary(
        self, recipe: Recipe, texts: Callable[[str], Iterable[str]]
    ) -> Tokenizer:
        """Return the tokenizer that is learnt from ``texts``, a function of its kind."""
        kind = str(recipe.data.tokenizer)
        told = recipe.data

        def learn() -> Any:
            return Tokenizer.fit(
                kind, texts(kind), told.vocabulary, told.min_count
            ).document

        more = {"kind": kind, "size": told.vocabulary, "least": told.min_count}
        return Tokenizer(kind, self.remember("vocabulary", learn, **more))

    def encode(
        self,
        tokenizer: Tokenizer,
        make: Callable[[Writer], dict[str, Any]],
        **more: Any,
    ) -> Encoded:
        """Return the encoded training part; ``make`` writes it where it is not there yet."""

        def written(writer: Writer) -> dict[str, Any]:
            began = time.monotonic()
            if sys.stderr.isatty():
                print(f"encoding {self.path}, which is done once", file=sys.stderr)
            told = make(writer)
            refuse_changed([self.watched])
            return {**told, "seconds": round(time.monotonic() - began, 1)}

        key = {**self.key, "what": "tokens", "tokenizer": tokenizer.digest, **more}
        return encoded(key, np.min_scalar_type(tokenizer.size - 1).name, written)


@dataclass(frozen=True, slots=True)
class LargeParts:
    """What a file was made into.

    ``kept`` are its first training rows, ``partial`` whether there are more; ``dev`` is scored.
    """

    recipe: Recipe
    task: Task
    train: TokenStream | Examples
    kept: Data
    partial: bool
    dev: Data | None
    found: list[str]


def prepare(recipe: Recipe, path: Path, task: Task | None) -> Prepared | None:
    """Prepare a large file as ``tasks.prepare`` does; None where it has to be read whole.

    Raises:
        DataError, UserError: a file cannot be read, or the cache cannot be written.
        UsageError: ``data.shards=always`` for what cannot be encoded so.
    """
    config = recipe.data
    if config.train_target is not None:
        if config.shards == "always":
            raise _unable()
        return None
    watched = [Watched(path)]
    head = begin(read_rows(recipe, path), HEAD, FIRST)
    schema = schema_of(head, recipe)
    able = schema.task == "language" or (schema.task == "classify" and schema.text)
    if not able or recipe.model.ngrams:
        if config.shards != "always":
            return None
        raise _unable()
    digest = identity(path)
    share = 0.0 if config.dev else config.holdout
    files = {str(config.train): digest}
    key: dict[str, Any] = {"sha256": digest, "share": share, "seed": recipe.seed}
    key |= {
        name: getattr(config, name)
        for name in ("encoding", "on_error", "limit", "max_row")
    }
    key |= {"text": schema.text, "label": schema.answer}
    refuse_changed(watched)
    file = File(recipe, path, head, schema, share, key, watched[0])
    parts = _text(file, task) if isinstance(head, Document) else _rows(file, task)
    if parts is None:
        return None
    task = parts.task
    dev_data = parts.dev
    found = parts.found
    if config.dev is not None:
        other = find_data(recipe, config.dev)
        watched.append(Watched(other))
        files[config.dev] = identity(other) if other.is_file() else fingerprint(other)
        how = "the training data itself" if files[config.dev] == digest else config.dev
        if other.is_file() and is_large(recipe, other):
            how = f"the first {SCORED:,} characters of {how}"
            dev_data = begin(read_rows(recipe, other, None), sys.maxsize, SCORED)
        else:
            dev_data, _ = load_data(recipe, config.dev)
        found.append(f"scored on {how}")
    assert dev_data is not None
    train: Any = parts.train
    recipe = weigh(parts.recipe, task, train)
    dev, skipped = task.encode(dev_data, config.on_error)
    if skipped:
        found.append(f"skipped {len(skipped):,} faulty rows among those scored")
    if isinstance(dev, TokenStream) and dev.unknown:
        found.append(f"{dev.unknown:,} scored tokens are unknown to the vocabulary")
    refuse_changed(watched)
    return Prepared(
        recipe,
        task,
        parts.kept,
        dev_data,
        train,
        dev,
        found,
        files,
        partial=parts.partial,
    )


def _unable() -> UsageError:
    return UsageError(
        "data.shards=always is for one file, for language models and labels of texts, without "
        "model.ngrams, and not for pairs of texts; leave it out"
    )


def read_rows(recipe: Recipe, path: Path, limit: int | None = -1) -> Rows:
    """Start to read a file as the recipe says."""
    told = recipe.data
    limit = told.limit if limit == -1 else limit
    return rows_of(
        path,
        encoding=told.encoding,
        on_error=told.on_error,
        limit=limit,
        max_row=told.max_row,
    )


def begin(rows: Rows, count: int, characters: int) -> Data:
    """Return the beginning of a file: at most ``count`` rows, about so many characters."""
    if rows.format.kind != "text":
        return as_table(rows, first(itertools.islice(rows, count), characters))
    blocks = first(((0, (block,)) for block in rows.text()), characters)
    text = "".join(block for _, (block,) in blocks)
    return Document(str(rows.path), rows.format, text[:characters])


def as_table(rows: Rows | Table, chosen: Iterable[Any]) -> Table:
    """Return rows, given as (line, cells), as a table of the file they are from."""
    pairs = [(line, tuple(cells)) for line, cells in chosen]
    cells = [row for _, row in pairs]
    lines = [line for line, _ in pairs]
    return Table(
        str(rows.path), rows.format, rows.columns, cells, lines, parts=list(rows.parts)
    )


def first(rows: Iterable[Numbered], characters: int) -> list[Numbered]:
    """Return the first rows, one at least, until they have about so many characters."""
    kept = []
    size = 0
    for line, row in rows:
        kept.append((line, row))
        size += sum(len(cell) if isinstance(cell, str) else 8 for cell in row)
        if size >= characters:
            break
    return kept


def spaced(items: Iterable[Any], count: int, wanted: int) -> Iterator[Any]:
    """Yield ``wanted`` of ``count`` items, evenly spaced."""
    for number, item in enumerate(items):
        if number * wanted // count != (number - 1) * wanted // count:
            yield item


# ---------------------------------------------------------------------- running text


def _text(file: File, task: Task | None) -> LargeParts:
    assert isinstance(file.head, Document)
    sizes = file.remember(
        "blocks", lambda: [len(block) for block in file.open().text()]
    )
    total = sum(sizes)
    cut = cut_at(total, file.share) if file.share else total
    recipe = fill(file.recipe, file.schema, 1, cut)

    def texts(kind: str) -> Iterable[str]:
        if kind in COUNTED:
            return _blocks(file, cut)
        if cut <= SAMPLE:
            return ["".join(_blocks(file, cut))]
        count = sum(
            start < cut for start in itertools.accumulate(sizes[:-1], initial=0)
        )
        return spaced(_blocks(file, cut), count, max(1, count * SAMPLE // cut))

    if task is None:
        task = Language(file.vocabulary(recipe, texts), ())
        task.format = file.head.format
        task.columns = []
    assert isinstance(task, Language)
    kept = file.encode(
        task.tokenizer, functools.partial(_write_text, file, task.tokenizer, cut)
    )
    train = TokenStream(
        kept.tokens([task.tokenizer.eos_id]), kept.manifest["size"], kept.manifest["unknown"]
    )
    found = [
        f"{file.path}: {file.head.format.describe()}, {total:,} characters",
        f"task: language ({task.pattern})",
        *said(kept, recipe, cut),
    ]
    dev = None
    if file.share:
        text = kept.manifest["held"]
        dev = Document(str(file.path), file.head.format, text)
        found.append(
            f"held out the last {file.share:.0%} of the text, {total - cut:,} characters "
            f"(data.dev=FILE); scored: the first {len(text):,} of them"
        )
    start = Document(str(file.path), file.head.format, file.head.text[:cut])
    return LargeParts(recipe, task, train, start, len(start.text) < cut, dev, found)


def _blocks(file: File, cut: int, after: list[str] | None = None) -> Iterator[str]:
    """Yield the text up to a character, in blocks; what follows, up to ``SCORED``, to ``after``."""
    at = 0
    end = cut if after is None else cut + SCORED
    for block in file.open().text():
        if at < cut:
            yield block[: cut - at]
        if after is not None and at + len(block) > cut:
            after.append(block[max(0, cut - at) : end - at])
        at += len(block)
        if at >= end:
            return


def _write_text(
    file: File, tokenizer: Tokenizer, cut: int, writer: Writer
) -> dict[str, Any]:
    """Encode the text before the cut, and keep what is scored after it."""
    held: list[str] = []
    told, _ = _write(tokenizer, pieces(_blocks(file, cut, held)), writer)
    return {**told, "held": "".join(held)}


def _write(
    tokenizer: Tokenizer, jobs: Iterable[EncodingJob], writer: Writer
) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.int32]]]:
    """Write the ids of all jobs; return what is told of them, and how many each text has."""
    size = unknown = 0
    counts = [np.zeros(0, dtype=np.int32)]
    for ids in in_order(tokenizer, writer.dtype, jobs, processors()):
        writer.add(ids.ids)
        counts.append(ids.counts)
        size = size + ids.size
        unknown = unknown + ids.unknown
    each = np.concatenate(counts)
    return {
        "size": size,
        "unknown": unknown,
        "count": int(each.sum(dtype=np.int64)),
    }, each


def said(kept: Encoded, recipe: Recipe, characters: int) -> list[str]:
    """Say what was encoded, and from what the vocabulary was learnt."""
    told = kept.manifest
    lines = []
    if recipe.data.tokenizer not in COUNTED and characters > SAMPLE:
        lines.append(
            f"vocabulary: learnt from {SAMPLE:,} of {characters:,} characters, spread evenly"
        )
    if kept.known:
        return [*lines, f"encoded before: {told['count']:,} tokens in {kept.folder}"]
    return [
        *lines,
        f"encoded in {told['seconds']:g} s by {processors()} processes: {told['count']:,} tokens, "
        f"kept for later runs in {kept.folder}",
    ]


# ---------------------------------------------------------------------- tables of texts


def _rows(file: File, task: Task | None) -> LargeParts | None:
    schema = file.schema
    seen = file.remember("survey", lambda: _survey(file))
    if not seen["kept"] or (file.share and seen["kept"] == seen["rows"]):
        return None  # so few rows that one side of the split would be empty
    recipe = fill(file.recipe, schema, seen["kept"], seen["characters"])
    # n-grams read the text itself, which is not kept
    recipe = recipe.changed(model=recipe.model.changed(ngrams=0))
    places = _places(file, schema.text)

    def texts(kind: str) -> Iterable[str]:
        cells = (
            str(row[i])
            for _, row in _divided(file, file.open(), False)
            for i in places
            if row[i] is not None and (row[i] != "" or schema.answer is None)
        )
        if kind in COUNTED or seen["characters"] <= SAMPLE:
            return cells
        return spaced(
            cells, seen["texts"], max(1, seen["texts"] * SAMPLE // seen["characters"])
        )

    if task is None and schema.answer is None:
        task = Language(file.vocabulary(recipe, texts), schema.text)
    elif task is None:
        assert schema.answer is not None
        names = Label.fit(schema.answer, list(seen["labels"]))
        if len(names.names) < 2:
            return None  # the reader of whole files says what is wrong
        inputs = Text(
            schema.text, file.vocabulary(recipe, texts), recipe.data.max_tokens
        )
        task = Classify(inputs, names)
    assert isinstance(file.head, Table)
    task.format = file.head.format
    task.columns = file.head.columns
    assert isinstance(task, Language | Classify)
    field = (
        Text(schema.text, task.tokenizer, None)
        if isinstance(task, Language)
        else task.inputs
    )
    assert isinstance(field, Text)
    output = task.output if isinstance(task, Classify) else None
    told = {"limit": field.max_tokens, "names": output.names if output else ()}
    kept = file.encode(
        field.tokenizer, functools.partial(_write_rows, file, field, output), **told
    )
    train: TokenStream | Examples = TokenStream(
        kept.tokens(), kept.manifest["size"], kept.manifest["unknown"]
    )
    if output is not None:
        lines, offsets, targets = (np.asarray(kept.array(name)) for name in ARRAYS)
        train = Examples(lines, Ragged(kept.tokens(), offsets), targets=targets)
    found = [
        f"{file.path}: {file.head.format.describe()}, {seen['rows']:,} rows",
        f"reads: {', '.join(schema.text)} (data.text=COLUMN)",
        *([f"predicts: {schema.answer} (data.label=COLUMN)"] if schema.answer else []),
        f"task: {task.name} ({task.pattern}) (task=NAME)",
        *said(kept, recipe, seen["characters"]),
    ]
    if kept.manifest["skipped"]:
        fault = kept.manifest["fault"] if recipe.report.samples else kept.manifest["where"]
        found.append(
            f"skipped {kept.manifest['skipped']:,} faulty rows; the first: {fault}"
        )
    dev = None
    if file.share:
        dev = _beginning(file, True, SCORED)
        found.append(
            f"held out {seen['rows'] - seen['kept']:,} of {seen['rows']:,} rows by the hash of "
            f"their inputs (data.dev=FILE); scored: the first {len(dev.rows):,} of them"
        )
    start = _beginning(file, False, FIRST)
    return LargeParts(
        recipe, task, train, start, len(start.rows) < seen["kept"], dev, found
    )


def _places(file: File, names: Sequence[str]) -> list[int]:
    assert isinstance(file.head, Table)
    return locate(file.head, names, file.head.columns)


def _divided(file: File, rows: Iterable[Numbered], held: bool) -> Iterator[Numbered]:
    """Yield the rows that are held out, or those that are not."""
    places = _places(file, file.schema.inputs)
    seed = file.recipe.seed
    for line, row in rows:
        if held == is_held(key_of(row, places), seed, file.share):
            yield line, row


def _beginning(file: File, held: bool, characters: int) -> Table:
    """Return the first rows of one part as a table, which the cache keeps."""

    def found() -> Any:
        reader = file.open()
        return {
            "rows": first(_divided(file, reader, held), characters),
            "parts": reader.parts,
        }

    kept = file.remember(f"first rows, held={held}", found)
    assert isinstance(file.head, Table)
    parts = [(before, name) for before, name in kept["parts"]]
    return replace(as_table(file.head, kept["rows"]), parts=parts)


def _survey(file: File) -> dict[str, Any]:
    """Return how much there is of what: rows, training rows, their texts, labels."""
    places = _places(file, file.schema.text)
    labels = Counter[str]()
    answers = _places(file, [file.schema.answer]) if file.schema.answer else []
    rows = kept = texts = characters = 0

    def counted() -> Iterator[Numbered]:
        nonlocal rows
        for line, row in file.open():
            rows += 1
            labels.update(label(row[i]) for i in answers)
            yield line, row

    for _, row in _divided(file, counted(), False):
        cells = [row[i] for i in places]
        kept = kept + 1
        texts = texts + sum(cell is not None for cell in cells)
        characters += sum(len(cell) for cell in cells if isinstance(cell, str | list))
    told = {"rows": rows, "kept": kept, "texts": texts, "characters": characters}
    return {**told, "labels": dict(labels)}


def _write_rows(
    file: File, field: Text, output: Label | None, writer: Writer
) -> dict[str, Any]:
    """Encode the training rows, their lines and their targets."""
    places = _places(file, field.columns)
    skip = file.recipe.data.on_error == "skip"
    answers = _places(file, [output.column]) if output else []
    reader = file.open()
    lines = array("q")
    targets = array("q")
    faults = list[DataError]()

    def jobs() -> Iterator[EncodingJob]:
        texts = list[str]()
        size = 0
        for line, row in _divided(file, reader, False):
            try:
                found = field.check([row[i] for i in places])
                targets.extend(output.check(row[i]) for i in answers if output)
            except InvalidCell as error:
                faults.append(invalid_row(error, *reader.position(line)))
                if not skip:
                    raise faults[0] from None
                continue
            lines.append(line)
            texts.extend(found)
            size += sum(map(len, found))
            if size >= PIECE:
                yield EncodingJob(texts, ended=True, limit=field.max_tokens)
                texts = []
                size = 0
        if texts:
            yield EncodingJob(texts, ended=True, limit=field.max_tokens)

    told, counts = _write(field.tokenizer, jobs(), writer)
    if not len(counts):
        raise DataError("no row is left to read", file.path)
    lengths = counts.reshape(-1, len(places)).sum(1)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    for name, values in zip(
        ARRAYS, (np.array(lines), offsets, np.array(targets)), strict=True
    ):
        writer.array(name, values)
    faults = [*reader.skipped, *faults]
    if faults:
        told |= {"fault": str(faults[0]), "where": f"{faults[0].path}:{faults[0].line}"}
    return {**told, "skipped": len(faults)}
