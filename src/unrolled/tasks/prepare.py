"""From a recipe to a task and its encoded rows: read, infer, split, fit, encode."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.core.errors import DataError, UserError
from unrolled.core.files import sha256
from unrolled.data.schema import Schema, Wanted, counts, infer
from unrolled.data.sources import Document, Table, read
from unrolled.data.split import hold_out, split_text
from unrolled.tasks import TASKS, Task
from unrolled.tasks.base import locate
from unrolled.tasks.defaults import fill
from unrolled.tasks.language import Stream
from unrolled.tasks.recipe import Recipe, find_data

Data = Table | Document


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that training starts from.

    ``found`` tells a person what was read, line by line; ``files`` are the SHA-256 of the data
    files by the name the recipe gives them; ``held_out`` is false where the training rows
    themselves are scored, as in learning by heart.
    """

    recipe: Recipe
    task: Task
    train_data: Data
    dev_data: Data
    train: Any
    dev: Any
    found: list[str]
    files: dict[str, str]

    @property
    def held_out(self) -> bool:
        """Whether the scored part is another than the training part."""
        data = self.recipe.data
        return data.dev is None or self.files[data.dev] != self.files[str(data.train)]


def wanted(recipe: Recipe) -> Wanted:
    """Return what a recipe says about columns."""
    text = recipe.data.text
    return Wanted(
        task=recipe.task,
        text=() if text is None else (text,) if isinstance(text, str) else tuple(text),
        numbers=tuple(recipe.data.numbers or ()),
        label=recipe.data.label,
    )


def load_data(recipe: Recipe, name: str, limit: int | None = None) -> tuple[Data, Path]:
    """Read a data file that a recipe names; its errors carry the path that was found."""
    path = find_data(recipe, name)
    config = recipe.data
    return read(path, encoding=config.encoding, on_error=config.on_error, limit=limit), path


def schema_of(data: Data, recipe: Recipe) -> Schema:
    """Return the task and columns of a file."""
    if isinstance(data, Document):
        if recipe.task not in (None, "language"):
            raise DataError(
                f"task={recipe.task} needs a table, and this is one plain text; give a csv, tsv or "
                "jsonl file",
                data.path,
            )
        return Schema("language")
    return infer(data, wanted(recipe))


def prepare(recipe: Recipe, task: Task | None = None) -> Prepared:
    """Read and encode the data of a recipe.

    Args:
        recipe: what to read.
        task: fields that were learnt before, when a run is resumed.

    Raises:
        DataError, UserError: a file cannot be read or a row is faulty.
    """
    if recipe.data.train is None:
        raise DataError("no data file is named; set data.train=FILE", recipe.name)
    whole, path = load_data(recipe, recipe.data.train, recipe.data.limit)
    schema = schema_of(whole, recipe)
    files = {recipe.data.train: sha256(path)}
    if recipe.data.dev is not None:
        train_data, (dev_data, dev_path) = whole, load_data(recipe, recipe.data.dev)
        files[recipe.data.dev] = sha256(dev_path)
        same = sha256(dev_path) == sha256(path)
        how = f"scored on {'the training data itself' if same else recipe.data.dev}"
    else:
        train_data, dev_data, how = divide(whole, schema, recipe)
    rows = len(train_data.rows) if isinstance(train_data, Table) else 1
    recipe = fill(recipe, schema, rows, characters(train_data, schema))
    if task is None:
        labels = whole if recipe.data.dev is None else None
        task = TASKS[schema.task].fit(recipe, schema, train_data, labels)
        task.format = whole.format
        task.columns = [] if isinstance(whole, Document) else whole.columns
    train, skipped = task.encode(train_data, recipe.data.on_error)
    dev, skipped_dev = task.encode(dev_data, recipe.data.on_error)
    found = [*describe(whole, schema, task), how]
    # a reader skips before the rows are divided, so both parts report the same faulty rows
    faults = {(fault.path, fault.line): fault for fault in [*skipped, *skipped_dev]}
    if faults:
        found.append(f"skipped {len(faults)} faulty rows; the first: {next(iter(faults.values()))}")
    if isinstance(dev, Stream) and dev.unknown:
        found.append(f"{dev.unknown:,} scored tokens are unknown to the vocabulary")
    return Prepared(recipe, task, train_data, dev_data, train, dev, found, files)


def divide(data: Data, schema: Schema, recipe: Recipe) -> tuple[Data, Data, str]:
    """Hold out part of the data: the end of one text, or rows by the hash of their inputs."""
    share = recipe.data.holdout
    if isinstance(data, Document):
        first, last = split_text(data.text, share)
        how = f"held out the last {share:.0%} of the text, {len(last):,} characters (data.dev=FILE)"
        return replace(data, text=first), replace(data, text=last), how
    places = locate(data, schema.inputs, data.columns)
    keys = ["\x1f".join(_text(row[i]) for i in places) for row in data.rows]
    try:
        kept, held = hold_out(keys, recipe.seed, share)
    except UserError as error:
        raise DataError(str(error), data.path) from None
    how = (
        f"held out {len(held):,} of {len(keys):,} rows by the hash of their inputs (data.dev=FILE)"
    )
    return pick(data, kept), pick(data, held), how


def pick(table: Table, rows: list[int]) -> Table:
    """Return some rows of a table."""
    return replace(table, rows=[table.rows[i] for i in rows], lines=[table.lines[i] for i in rows])


def characters(data: Data, schema: Schema) -> int:
    """Return the length of the text that is read."""
    if isinstance(data, Document):
        return len(data.text)
    places = locate(data, schema.text, data.columns)
    return sum(len(row[i]) for row in data.rows for i in places if isinstance(row[i], str | list))


def describe(data: Data, schema: Schema, task: Task) -> list[str]:
    """Say what a file holds, what was taken, and the keys that overrule it."""
    if isinstance(data, Document):
        return [
            f"{data.path}: {data.format.describe()}, {len(data.text):,} characters",
            f"task: language ({task.pattern})",
        ]
    lines = [f"{data.path}: {data.format.describe()}, {len(data.rows):,} rows"]
    inputs, columns = ("text", schema.text) if schema.text else ("numbers", schema.numbers)
    shown = [*columns[:6], f"and {len(columns) - 6} more"] if len(columns) > 7 else columns
    lines.append(f"reads: {', '.join(shown)} (data.{inputs}=COLUMN)")
    used = {*schema.inputs, schema.answer}
    if schema.answer is not None:
        (place,) = locate(data, [schema.answer], data.columns)
        values = [row[place] for row in data.rows]
        lines.append(f"predicts: {schema.answer} (data.label=COLUMN); {_spread(schema, values)}")
    others = [name for name in data.columns if name not in used]
    if others:
        lines.append(f"leaves out: {', '.join(others)}")
    lines.append(f"task: {schema.task} ({task.pattern}) (task=NAME)")
    places = locate(data, schema.inputs, data.columns)
    texts = [tuple(_text(row[i]) for i in places) for row in data.rows]
    empty = sum(all(cell == "" for cell in row) for row in texts)
    repeated = len(texts) - len(set(texts))
    lines.append(f"empty: {empty:,} rows, repeated: {repeated:,} rows")
    return lines


def _spread(schema: Schema, values: list[Any]) -> str:
    if schema.task == "tag":
        tags = Counter(t for v in values for t in (v if isinstance(v, list) else str(v).split()))
        return _shares({str(k): n for k, n in tags.most_common()})
    if schema.task == "classify":
        return _shares(counts(values))
    numbers = np.array([float(v) for v in values if v not in (None, "") and _is_number(v)])
    if not len(numbers):
        return "no numbers"
    return f"{numbers.min():g} to {numbers.max():g}, mean {numbers.mean():g}"


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _shares(found: dict[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in list(found.items())[:8]]
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"{len(found)} labels: {', '.join(shown)}{more}"
