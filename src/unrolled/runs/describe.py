"""What a file holds, what was taken of it, and the keys that overrule it, line by line."""

from __future__ import annotations

from collections.abc import Sequence

from unrolled.core.errors import DataError
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.fields.series import Series
from unrolled.tasks.base import Data, Task, locate

COLUMNS = 6  # that are named, where there are many


def describe(data: Data, schema: Schema, task: Task) -> list[str]:
    """Return the lines about a file that was read whole."""
    if isinstance(data, Document):
        return [
            f"{data.path}: {data.format.describe()}, {len(data.text):,} characters",
            f"task: {schema.task} ({task.pattern})",
        ]
    lines = [_rows(data, task), _inputs(schema)]
    if schema.answer is not None:
        (index,) = locate(data, [schema.answer], data.columns)
        answers = task.describe_answers([row[index] for row in data.rows])
        lines.append(f"predicts: {schema.answer} (data.label=COLUMN); {answers}")
    read = {*schema.inputs, schema.answer}
    others = [name for name in data.columns if name not in read]
    if others:
        lines.append(f"leaves out: {', '.join(others)}")
    lines.append(f"task: {schema.task} ({task.pattern}) (task=NAME)")
    return [*lines, _sequences(data, schema) if schema.frames else _odd(data, schema)]


def _rows(data: Table, task: Task) -> str:
    count = len(data.rows)
    if isinstance(data, Series):
        count = sum(map(len, data.steps))
    line = f"{data.path}: {data.format.describe()}, {count:,} rows"
    if task.reads_pairs and data.format.kind == "text":
        line += ", a line beside each of a second file"
    return line


def _inputs(schema: Schema) -> str:
    key = "text" if schema.text else "numbers"
    names = list(schema.inputs)
    if len(names) > COLUMNS + 1:
        names = [*names[:COLUMNS], f"and {len(names) - COLUMNS} more"]
    return f"reads: {', '.join(names)} (data.{key}=COLUMN)"


def _sequences(data: Table, schema: Schema) -> str:
    first = data.columns.index(schema.numbers[0])
    lengths = [len(row[first]) for row in data.rows]
    return (
        f"sequences: {len(lengths):,} of {min(lengths):,} to {max(lengths):,} steps "
        "(data.rows, data.sequence)"
    )


def _odd(data: Table, schema: Schema) -> str:
    """Return how many rows are empty, and how many are there twice."""
    indices = locate(data, schema.inputs, data.columns)
    texts = []
    for row in data.rows:
        texts.append(tuple("" if row[i] is None else str(row[i]) for i in indices))
    empty = sum(not any(row) for row in texts)
    repeated = len(texts) - len(set(texts))
    return f"empty: {empty:,} rows, repeated: {repeated:,} rows"


def describe_errors(errors: Sequence[DataError], samples: bool) -> list[str]:
    """Return a line about rows that were left out; without ``samples`` nothing of what they hold.

    A reader skips before the rows are divided, so both parts report the same ones.
    """
    distinct = {(error.path, error.line): error for error in errors}
    if not distinct:
        return []
    first = next(iter(distinct.values()))
    # what is wrong with a row is often told in its own words
    shown = str(first) if samples else f"{first.path}:{first.line}"
    return [f"skipped {len(distinct)} faulty rows; the first: {shown}"]
