"""Running text larger than memory, from a file to shards."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from unrolled.data.encoding import pieces
from unrolled.data.shards import Writer
from unrolled.data.sources import Document
from unrolled.data.split import cut_at
from unrolled.runs import shard_files
from unrolled.runs.resolve import DataFacts, resolve
from unrolled.runs.shard_files import (
    COUNTED,
    ShardFile,
    ShardParts,
    describe_encoding,
    spaced,
    write_ids,
)
from unrolled.tasks.base import FileLayout, Shards, Task
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class
from unrolled.text.tokenizers import Tokenizer


def prepare_text(file: ShardFile, task: Task | None) -> ShardParts | None:
    """Encode a text before the cut, and keep the beginning of what is scored after it."""
    assert isinstance(file.head, Document)
    sizes = file.remember("blocks", lambda: _block_sizes(file))
    total = sum(sizes)
    cut = cut_at(total, file.fraction) if file.fraction else total
    facts = DataFacts(file.schema, 1, cut, sharded=True)
    recipe = resolve(file.recipe, facts, file.machine, file.pretrained)
    task = task or _fit(file, recipe, sizes, cut)
    if task is None:
        return None
    tokenizer = task.shard_fields()[0].tokenizer
    make = functools.partial(_write_text, file, tokenizer, cut)
    kept = file.encode(tokenizer, make)
    tokens = kept.tokens([tokenizer.eos_id])
    size = kept.manifest["size"]
    unknown = kept.manifest["unknown"]
    train = task.of_shards(Shards(tokens, size, unknown))
    name = str(file.path)
    format = file.head.format
    lines = [
        f"{name}: {format.describe()}, {total:,} characters",
        f"task: {task.name} ({task.pattern})",
        *describe_encoding(file, kept, recipe, cut),
    ]
    dev = None
    if file.fraction:
        text = kept.manifest["held"]
        dev = Document(name, format, text)
        lines.append(
            f"held out the last {file.fraction:.0%} of the text, {total - cut:,} characters "
            f"(data.dev=FILE); scored: the first {len(text):,} of them"
        )
    beginning = file.head.text[:cut]
    start = Document(name, format, beginning)
    partial = len(beginning) < cut
    return ShardParts(recipe, task, train, start, partial, dev, lines)


def _fit(file: ShardFile, recipe: Recipe, sizes: list[int], cut: int) -> Task | None:
    texts = functools.partial(_sample, file, sizes, cut)
    learn_vocabulary = functools.partial(file.vocabulary, recipe, texts)
    layout = FileLayout.of(file.head)
    schema = file.schema
    kind = task_class(schema.task)
    return kind.of_vocabulary(recipe, schema, learn_vocabulary, (), layout)


def _sample(file: ShardFile, sizes: list[int], cut: int, kind: str) -> Iterable[str]:
    """Return the text from which a vocabulary of a kind is learnt."""
    sample = shard_files.SAMPLE
    if kind in COUNTED:
        return _blocks(file, cut)
    if cut <= sample:
        return ["".join(_blocks(file, cut))]
    starts = itertools.accumulate(sizes[:-1], initial=0)
    count = sum(start < cut for start in starts)
    requested = max(1, count * sample // cut)
    return spaced(_blocks(file, cut), count, requested)


def _block_sizes(file: ShardFile) -> list[int]:
    return [len(block) for block in file.open().text()]


def _blocks(file: ShardFile, cut: int, after: list[str] | None = None) -> Iterator[str]:
    """Yield the text up to a character, in blocks; what follows, up to ``SCORED``, to ``after``."""
    at = 0
    end = cut if after is None else cut + shard_files.SCORED
    for block in file.open().text():
        if at < cut:
            yield block[: cut - at]
        block_end = at + len(block)
        if after is not None and block_end > cut:
            first = max(0, cut - at)
            after.append(block[first : end - at])
        at = block_end
        if at >= end:
            return


def _write_text(
    file: ShardFile, tokenizer: Tokenizer, cut: int, writer: Writer
) -> dict[str, Any]:
    """Encode the text before the cut, and keep what is scored after it."""
    held: list[str] = []
    jobs = pieces(_blocks(file, cut, held))
    facts, _ = write_ids(tokenizer, jobs, writer)
    return {**facts, "held": "".join(held)}
