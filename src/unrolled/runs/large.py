"""Data larger than memory: read in passes, encoded once into the cache, mapped from there.

It is a file, a folder, or a data set of the hub, which lies in the hub's own cache. A first pass
measures, a second learns the vocabulary, a third encodes. Tokens, targets and held-out part are
those that reading it whole gives. Three things differ, and are said: a vocabulary of words or
pieces is learnt from ``SAMPLE`` characters, ``SCORED`` characters of the held-out part are scored,
and simple methods are fitted on the first rows.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from unrolled.core.errors import DataWarning, UsageError
from unrolled.core.files import Watched
from unrolled.core.words import counted
from unrolled.data.shards import identity, refuse_changed
from unrolled.data.sources import Document, Table, size
from unrolled.data.warnings import (
    warnings_of,
    warnings_of_labels,
    warnings_of_text,
)
from unrolled.runs import shard_files
from unrolled.runs.describe import facts_of
from unrolled.runs.prepared import Prepared, column_hints, load_data, schema_of
from unrolled.runs.pretrained import Pretrained
from unrolled.runs.recipes import find_data
from unrolled.runs.resolve import Machine
from unrolled.runs.shard_files import ShardFile, ShardParts, begin, read_rows
from unrolled.runs.shard_table import prepare_table
from unrolled.runs.shard_text import prepare_text
from unrolled.tasks.base import AnswerOptions, Data, Task
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class
from unrolled.tasks.weights import weigh

LARGE = 128 << 20  # bytes of what is encoded into shards without being told


def is_large(recipe: Recipe, path: Path) -> bool:
    """Whether a file, a folder or a data set of the hub is to be encoded into shards.

    Raises:
        DataError: a folder holds no data file.
        UserError: a data set of the hub cannot be had.
    """
    if recipe.data.shards != "auto":
        return recipe.data.shards == "always"
    return size(path) >= LARGE


def prepare(
    requested: Recipe,
    path: Path,
    task: Task | None,
    machine: Machine,
    pretrained: Pretrained | None = None,
) -> Prepared | None:
    """Prepare a large source as ``runs.prepare`` does; None where it has to be read whole.

    Raises:
        DataError, UserError: a file cannot be read, or the cache cannot be written.
        UsageError: ``data.shards=always`` for what cannot be encoded so.
    """
    config = requested.data
    file = _open(requested, path, machine, pretrained)
    if file is None and config.shards == "always":
        raise _unable()
    if file is None:
        return None
    make = prepare_text if isinstance(file.head, Document) else prepare_table
    parts = make(file, task)
    if parts is None:
        return None
    task = parts.task
    warnings = _warnings(file, parts)
    files = {str(config.train): file.key["sha256"]}
    dev_data = parts.dev
    lines = [*parts.lines, *map(str, warnings)]
    if warnings and parts.partial and isinstance(file.head, Table):
        count = f"{len(file.head.rows):,}"
        lines.append(f"warnings: told from the first {count} rows, and from all labels")
    watched = [file.watched]
    if config.dev is not None:
        dev_path = find_data(requested, config.dev)
        watched.append(Watched(dev_path))
        dev_data, files[config.dev], part = _read_dev(requested, dev_path)
        same = files[config.dev] == files[str(config.train)]
        name = "the training data itself" if same else config.dev
        lines.append(f"scored on {part}{name}")
    assert dev_data is not None
    recipe = weigh(parts.recipe, task, parts.train)
    dev, errors = task.encode(dev_data, config.on_error)
    task.check_options(AnswerOptions.of(recipe))
    lines += _skipped(len(errors))
    lines += task.describe_examples(dev)
    refuse_changed(watched)
    return Prepared(
        recipe,
        task,
        parts.kept,
        dev_data,
        parts.train,
        dev,
        lines,
        files,
        partial=parts.partial,
        facts=facts_of(parts.kept, task.schema, task, warnings),
        warnings=tuple(warnings),
        pretrained=pretrained,
    )


def _skipped(count: int) -> list[str]:
    if not count:
        return []
    return [f"skipped {counted(count, 'faulty row')} among those scored"]


def _warnings(file: ShardFile, parts: ShardParts) -> list[DataWarning]:
    """Return what a person should look at: of the first rows, and of the labels of all rows."""
    if isinstance(file.head, Document):
        return warnings_of_text(file.head)
    config = file.recipe.data
    hints = column_hints(file.recipe)
    samples = file.recipe.report.samples
    first = warnings_of(file.head, file.schema, hints, config.missing, samples)
    alike = warnings_of_labels(Counter(parts.labels))
    return [*first, *(warning for warning in alike if warning not in first)]


def _open(
    requested: Recipe, path: Path, machine: Machine, pretrained: Pretrained | None
) -> ShardFile | None:
    """Look at the beginning of a source; None where it cannot be encoded in pieces."""
    config = requested.data
    if config.train_target is not None:
        return None
    watched = Watched(path)
    head = begin(read_rows(requested, path), shard_files.HEAD, shard_files.FIRST)
    schema = schema_of(head, requested)
    # n-grams read the text itself, which is not kept
    if requested.model.ngrams or not task_class(schema.task).reads_shards(schema):
        return None
    fraction = 0.0 if config.dev else config.holdout
    key: dict[str, Any] = {
        "sha256": identity(path),
        "share": fraction,
        "seed": requested.seed,
        "encoding": config.encoding,
        "on_error": config.on_error,
        "limit": config.limit,
        "max_row": config.max_row,
        "header": config.header,
        "sheet": config.sheet,
        "text": schema.text,
        "label": schema.answer,
        "group": config.group,
    }
    refuse_changed([watched])
    return ShardFile(
        requested, machine, path, head, schema, fraction, key, watched, pretrained
    )


def _read_dev(requested: Recipe, path: Path) -> tuple[Data, str, str]:
    """Return the scored part, the SHA-256 of its file, and which part of the file it is."""
    name = str(requested.data.dev)
    digest = identity(path)
    if is_large(requested, path):
        scored = shard_files.SCORED
        beginning = begin(read_rows(requested, path, None), sys.maxsize, scored)
        return beginning, digest, f"the first {scored:,} characters of "
    data, _ = load_data(requested, name)
    return data, digest, ""


def _unable() -> UsageError:
    return UsageError(
        "data.shards=always is for language models and labels of texts, without model.ngrams, and "
        "not for pairs of texts; leave it out"
    )
