"""A data file larger than memory: read in passes, what each pass gives kept in the cache.

Another run on the same file then starts at once. The key of all that is kept holds the SHA-256 of
the file, and every setting from which it follows.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.files import Watched
from unrolled.data.encoding import EncodingJob, in_order, processors
from unrolled.data.schema import Schema
from unrolled.data.shards import Encoded, Writer, encoded, refuse_changed, remembered
from unrolled.data.sources import Document, Rows, Table, rows_of
from unrolled.runs.pretrained import Pretrained
from unrolled.runs.resolve import Machine
from unrolled.tasks.base import Data, Task
from unrolled.tasks.recipe import Recipe
from unrolled.text.tokenizers import Tokenizer

HEAD = 20_000  # rows that columns are told from
SAMPLE = 32 << 20  # characters that words and pieces are learnt from
SCORED = 2 << 20  # characters of the held-out part that are scored
FIRST = 10 << 20  # characters of training rows that stay in memory, for simple methods
# vocabularies that are counted over all of the text
COUNTED = ("chars", "jamo", "bytes")
NumberedRow = tuple[int, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A large file; ``head`` are its first rows, ``fraction`` of it is held out.

    ``key`` is what everything that is encoded from it follows from.
    """

    recipe: Recipe
    machine: Machine
    path: Path
    head: Data
    schema: Schema
    fraction: float
    key: dict[str, Any]
    watched: Watched
    pretrained: Pretrained | None = None

    @property
    def known_vocabulary(self) -> Tokenizer | None:
        """The tokenizer of what the training begins with, where it serves."""
        if self.pretrained is None:
            return None
        task = self.pretrained.vocabulary(self.recipe, self.schema)
        return None if task is None else task.tokenizer

    def open(self) -> Rows:
        """Start to read the file."""
        return read_rows(self.recipe, self.path)

    def remember(self, what: str, compute: Callable[[], Any], **more: Any) -> Any:
        """Return what is worked out once for this file."""

        def unmixed() -> Any:
            value = compute()
            # the key is of the file that was there at first
            refuse_changed([self.watched])
            return value

        return remembered({**self.key, "what": what, **more}, unmixed)

    def vocabulary(
        self, recipe: Recipe, texts: Callable[[str], Iterable[str]]
    ) -> Tokenizer:
        """Return the tokenizer that is learnt from ``texts``, a function of its kind.

        Not so where the training begins with one.
        """
        known = self.known_vocabulary
        if known is not None:
            return known
        kind = str(recipe.data.tokenizer)
        size = recipe.data.vocabulary
        min_count = recipe.data.min_count

        def learn() -> Any:
            return Tokenizer.fit(kind, texts(kind), size, min_count).document

        more = {"kind": kind, "size": size, "least": min_count}
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
            facts = make(writer)
            refuse_changed([self.watched])
            return {**facts, "seconds": round(time.monotonic() - began, 1)}

        key = {**self.key, "what": "tokens", "tokenizer": tokenizer.digest, **more}
        return encoded(key, np.min_scalar_type(tokenizer.size - 1).name, written)


@dataclass(frozen=True, slots=True)
class ShardParts:
    """What a file was made into.

    ``kept`` are its first training rows, ``partial`` whether there are more; ``dev`` is scored.
    ``labels`` counts the answers of all of its rows.
    """

    recipe: Recipe
    task: Task
    train: Any
    kept: Data
    partial: bool
    dev: Data | None
    lines: list[str]
    labels: Mapping[str, int] = field(default_factory=dict)


def read_rows(recipe: Recipe, path: Path, limit: int | None = -1) -> Rows:
    """Start to read a file as the recipe says."""
    data = recipe.data
    limit = data.limit if limit == -1 else limit
    return rows_of(
        path,
        encoding=data.encoding,
        on_error=data.on_error,
        limit=limit,
        max_row=data.max_row,
        header=data.header,
        sheet=data.sheet,
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
    parts = list(rows.parts)
    return Table(
        str(rows.path),
        rows.format,
        rows.columns,
        cells,
        lines,
        parts=parts,
        warnings=rows.warnings,
    )


def first(rows: Iterable[NumberedRow], characters: int) -> list[NumberedRow]:
    """Return the first rows, one at least, until they have about so many characters."""
    kept = []
    size = 0
    for line, row in rows:
        kept.append((line, row))
        size += sum(len(cell) if isinstance(cell, str) else 8 for cell in row)
        if size >= characters:
            break
    return kept


def spaced(items: Iterable[Any], count: int, requested: int) -> Iterator[Any]:
    """Yield ``requested`` of ``count`` items, evenly spaced."""
    for number, item in enumerate(items):
        if number * requested // count != (number - 1) * requested // count:
            yield item


def write_ids(
    tokenizer: Tokenizer, jobs: Iterable[EncodingJob], writer: Writer
) -> tuple[dict[str, Any], NDArray[np.int32]]:
    """Write the ids of all jobs; return how much was written, and how many ids each text has."""
    size = 0
    unknown = 0
    counts = [np.zeros(0, dtype=np.int32)]
    for ids in in_order(tokenizer, writer.dtype, jobs, processors()):
        writer.add(ids.ids)
        counts.append(ids.counts)
        size += ids.size
        unknown += ids.unknown
    text_counts = np.concatenate(counts)
    total = int(text_counts.sum(dtype=np.int64))
    return {"size": size, "unknown": unknown, "count": total}, text_counts


def describe_encoding(
    file: ShardFile, kept: Encoded, recipe: Recipe, characters: int
) -> list[str]:
    """Say what was encoded, and from what the vocabulary was learnt."""
    count = kept.manifest["count"]
    lines = []
    is_sample = recipe.data.tokenizer not in COUNTED and characters > SAMPLE
    if is_sample and file.known_vocabulary is None:
        lines.append(
            f"vocabulary: learnt from {SAMPLE:,} of {characters:,} characters, spread evenly"
        )
    if kept.known:
        return [*lines, f"encoded before: {count:,} tokens in {kept.folder}"]
    return [
        *lines,
        f"encoded in {kept.manifest['seconds']:g} s by {processors()} processes: {count:,} tokens, "
        f"kept for later runs in {kept.folder}",
    ]
