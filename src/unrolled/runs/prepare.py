"""From a recipe to a task and its encoded rows: read, infer, split, fit, encode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.aligned import read_aligned
from unrolled.data.schema import PAIRS, ColumnHints, Schema, counts, infer, number
from unrolled.fields.series import Series, WindowSpec, hold_out_end
from unrolled.data.shards import unchanged
from unrolled.data.sources import Document, Table, fingerprint, read
from unrolled.data.split import hold_out, hold_out_some, split_text
from unrolled.tasks import Task, kind_of, series
from unrolled.tasks.base import locate
from unrolled.tasks.defaults import fill
from unrolled.tasks.language import TokenStream
from unrolled.tasks.recipe import Recipe
from unrolled.runs.recipes import find_data
from unrolled.tasks.weights import weigh

Data = Table | Document
ALIGNED = ", or the file whose lines stand beside its lines with data.train_target=FILE"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that training starts from.

    ``found`` tells a person what was read, line by line; ``files`` are the SHA-256 of the data
    files by the name the recipe gives them; ``held_out`` is false where the training rows
    themselves are scored, as in learning by heart. ``partial`` is whether ``train_data`` is only
    the beginning of the training part, as of a large file.
    """

    recipe: Recipe
    task: Task
    train_data: Data
    dev_data: Data
    train: Any
    dev: Any
    found: list[str]
    files: dict[str, str]
    partial: bool = False

    @property
    def held_out(self) -> bool:
        """Whether the scored part is another than the training part."""
        data = self.recipe.data
        return data.dev is None or self.files[data.dev] != self.files[str(data.train)]


def wanted(recipe: Recipe) -> ColumnHints:
    """Return what a recipe says about columns."""
    text = recipe.data.text
    return ColumnHints(
        task=recipe.task,
        text=() if text is None else (text,) if isinstance(text, str) else tuple(text),
        numbers=tuple(recipe.data.numbers or ()),
        label=recipe.data.label,
        rows=recipe.data.rows,
        sequence=recipe.data.sequence,
        window=recipe.data.window,
        ahead=recipe.data.ahead,
        paired=recipe.data.train_target is not None,
    )


def load_data(
    recipe: Recipe, name: str, limit: int | None = None, target: str | None = None
) -> tuple[Data, dict[str, str]]:
    """Read a data file that a recipe names, with ``target`` two whose lines stand side by side.

    Errors carry the path that was found.

    Returns:
        What was read, and the hash of each file by its name.
    """
    path = find_data(recipe, name)
    config = recipe.data
    how: dict[str, Any] = {"encoding": config.encoding, "on_error": config.on_error}
    how |= {"limit": limit, "max_row": config.max_row}
    if target is None:
        with unchanged(path):
            data: Data = read(path, **how)
            return data, {name: fingerprint(path)}
    beside = find_data(recipe, target)
    with unchanged(path, beside):
        data = read_aligned(path, beside, **how)
        return data, {name: fingerprint(path), target: fingerprint(beside)}


def check_sides(recipe: Recipe) -> None:
    """Raise UsageError where a file lacks the one that is to stand beside it."""
    data = recipe.data
    for name, file, target in (
        ("train", data.train, data.train_target),
        ("dev", data.dev, data.dev_target),
    ):
        if target is not None and file is None:
            raise UsageError(
                f"data.{name}_target={target} needs the file beside it: data.{name}"
            )
    if data.train_target and data.dev and not data.dev_target:
        raise UsageError(
            f"data.dev={data.dev} needs the file of answers beside it: set data.dev_target=FILE"
        )
    if data.train_target and recipe.task not in (None, *PAIRS):
        raise UsageError(
            f"data.train_target is for task={' or '.join(PAIRS)}, not for {recipe.task}"
        )


def schema_of(data: Data, recipe: Recipe) -> Schema:
    """Return the task and columns of a file."""
    if isinstance(data, Document):
        if recipe.task not in (None, "language"):
            raise DataError(
                f"task={recipe.task} needs a table, and this is one plain text; give a csv, tsv or "
                "jsonl file" + (ALIGNED if recipe.task in PAIRS else ""),
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
    from unrolled.runs import large

    check_sides(recipe)
    path = find_data(recipe, recipe.data.train)
    named = recipe.data
    encoded = (
        large.prepare(recipe, path, task) if large.is_large(recipe, path) else None
    )
    if encoded is not None:
        return encoded
    whole, files = load_data(recipe, recipe.data.train, named.limit, named.train_target)
    schema = schema_of(whole, recipe)
    seen = series.reading(recipe, schema)
    skip = recipe.data.on_error == "skip"
    if isinstance(whole, Table):
        whole = series.sequences(whole, schema, seen, whole.columns, skip)
    if recipe.data.dev is not None:
        dev_data, dev_files = load_data(
            recipe, recipe.data.dev, target=named.dev_target
        )
        train_data = whole
        files = files | dev_files
        same = files[recipe.data.dev] == files[recipe.data.train]
        how = f"scored on {'the training data itself' if same else recipe.data.dev}"
    else:
        train_data, dev_data, how = divide(whole, schema, recipe)
    rows = series.count(train_data, seen) if isinstance(train_data, Table) else 1
    recipe = fill(recipe, schema, rows, characters(train_data, schema))
    if task is None:
        labels = whole if recipe.data.dev is None else None
        task = kind_of(schema.task, schema.frames).fit(
            recipe, schema, train_data, labels
        )
        task.format = whole.format
        task.columns = [] if isinstance(whole, Document) else whole.columns
    if isinstance(dev_data, Table):
        output = getattr(task, "output", None)
        dev_data = series.sequences(dev_data, schema, seen, task.columns, skip, output)
    train, skipped = task.encode(train_data, recipe.data.on_error)
    dev, skipped_dev = task.encode(dev_data, recipe.data.on_error)
    recipe = weigh(recipe, task, train)
    task.answer_by(recipe)
    found = [
        *describe(whole, schema, task),
        how,
        *series.long_runs(recipe, schema, whole),
    ]
    # a reader skips before the rows are divided, so both parts report the same faulty rows
    faults = {(fault.path, fault.line): fault for fault in [*skipped, *skipped_dev]}
    if faults:
        first = next(iter(faults.values()))
        # what is wrong with a row is often told in its own words
        told = str(first) if recipe.report.samples else f"{first.path}:{first.line}"
        found.append(f"skipped {len(faults)} faulty rows; the first: {told}")
    if isinstance(dev, TokenStream) and dev.unknown:
        found.append(f"{dev.unknown:,} scored tokens are unknown to the vocabulary")
    return Prepared(recipe, task, train_data, dev_data, train, dev, found, files)


def divide(data: Data, schema: Schema, recipe: Recipe) -> tuple[Data, Data, str]:
    """Hold out part of the data: the end of one text, or rows by the hash of their inputs."""
    share = recipe.data.holdout
    if isinstance(data, Document):
        first, last = split_text(data.text, share)
        how = f"held out the last {share:.0%} of the text, {len(last):,} characters (data.dev=FILE)"
        return replace(data, text=first), replace(data, text=last), how
    if isinstance(data, Series):
        return divide_series(data, series.reading(recipe, schema), recipe)
    places = locate(data, schema.inputs, data.columns)
    keys = [key_of(row, places) for row in data.rows]
    try:
        kept, held = hold_out(keys, recipe.seed, share)
    except UserError as error:
        raise DataError(str(error), data.path) from None
    part = f"held out {len(held):,} of {len(keys):,} rows"
    how = f"{part} by the hash of their inputs (data.dev=FILE)"
    return pick(data, kept), pick(data, held), how


def divide_series(
    data: Series, told: WindowSpec, recipe: Recipe
) -> tuple[Data, Data, str]:
    """Hold out whole sequences, or the last part of each where windows or one sequence are read.

    Steps are never drawn by chance: those of one recording tell too much of each other.
    """
    share = recipe.data.holdout
    if told.window or len(set(data.names)) == 1:
        first, last = hold_out_end(data, share, told.reach)
        ahead = "; no answer of it is seen in training" if told.window else ""
        return (
            first,
            last,
            f"held out the last {share:.0%} of the steps{ahead} (data.dev=FILE)",
        )
    kept, held = hold_out_some(data.names, recipe.seed, share)
    what = f"{len(held):,} of {len(data.names):,} sequences by the hash of their names"
    return pick(data, kept), pick(data, held), f"held out {what} (data.dev=FILE)"


def key_of(row: Sequence[Any], places: Sequence[int]) -> str:
    """Return the text by whose hash a row is held out."""
    return "\x1f".join(_text(row[i]) for i in places)


def pick(table: Table, rows: list[int]) -> Table:
    """Return some rows of a table."""
    if isinstance(table, Series):
        return table.cut((i, 0, len(table.steps[i])) for i in rows)
    return replace(
        table, rows=[table.rows[i] for i in rows], lines=[table.lines[i] for i in rows]
    )


def characters(data: Data, schema: Schema) -> int:
    """Return the length of the text that is read."""
    if isinstance(data, Document):
        return len(data.text)
    places = locate(data, schema.text, data.columns)
    return sum(
        len(row[i])
        for row in data.rows
        for i in places
        if isinstance(row[i], str | list)
    )


def describe(data: Data, schema: Schema, task: Task) -> list[str]:
    """Say what a file holds, what was taken, and the keys that overrule it."""
    if isinstance(data, Document):
        return [
            f"{data.path}: {data.format.describe()}, {len(data.text):,} characters",
            f"task: language ({task.pattern})",
        ]
    count = sum(map(len, data.steps)) if isinstance(data, Series) else len(data.rows)
    lines = [f"{data.path}: {data.format.describe()}, {count:,} rows"]
    if schema.task in PAIRS and data.format.kind == "text":
        lines[0] += ", a line beside each of a second file"
    inputs, columns = (
        ("text", schema.text) if schema.text else ("numbers", schema.numbers)
    )
    shown = (
        [*columns[:6], f"and {len(columns) - 6} more"] if len(columns) > 7 else columns
    )
    lines.append(f"reads: {', '.join(shown)} (data.{inputs}=COLUMN)")
    used = {*schema.inputs, schema.answer}
    if schema.answer is not None:
        (place,) = locate(data, [schema.answer], data.columns)
        values = [row[place] for row in data.rows]
        if schema.frames and schema.task != "tag":
            values = [
                v
                for cell in values
                for v in (cell if isinstance(cell, list) else [cell])
            ]
        lines.append(
            f"predicts: {schema.answer} (data.label=COLUMN); {_spread(schema, values)}"
        )
    others = [name for name in data.columns if name not in used]
    if others:
        lines.append(f"leaves out: {', '.join(others)}")
    lines.append(f"task: {schema.task} ({task.pattern}) (task=NAME)")
    if schema.frames:
        lengths = [len(row[data.columns.index(schema.numbers[0])]) for row in data.rows]
        lines.append(
            f"sequences: {len(lengths):,} of {min(lengths):,} to {max(lengths):,} steps "
            "(data.rows, data.sequence)"
        )
        return lines
    places = locate(data, schema.inputs, data.columns)
    texts = [tuple(_text(row[i]) for i in places) for row in data.rows]
    empty = sum(all(cell == "" for cell in row) for row in texts)
    repeated = len(texts) - len(set(texts))
    lines.append(f"empty: {empty:,} rows, repeated: {repeated:,} rows")
    return lines


def _spread(schema: Schema, values: list[Any]) -> str:
    if schema.task in PAIRS:
        texts = [_text(value) for value in values]
        words = sum(len(text.split()) for text in texts) / max(1, len(texts))
        return f"{len(set(texts)):,} different texts of {words:.1f} words"
    if schema.task == "tag":
        # what is no tag is named, with its line, when the rows are encoded
        rows = (
            value if isinstance(value, list) else _text(value).split()
            for value in values
        )
        return _shares(dict(Counter(map(str, chain.from_iterable(rows))).most_common()))
    if schema.task == "classify":
        return _shares(counts(values))
    numbers = np.array([n for n in map(number, values) if n is not None])
    if not len(numbers):
        return "no numbers"
    return f"{numbers.min():g} to {numbers.max():g}, mean {numbers.mean():g}"


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _shares(found: dict[str, int]) -> str:
    names = [name for name in found if name != "(empty)"]
    shown = [f"{name} {found[name]:,}" for name in names[:8]]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    without = f" ({found['(empty)']:,} rows without one)" if "(empty)" in found else ""
    return f"{len(names)} labels: {', '.join(shown)}{more}{without}"
