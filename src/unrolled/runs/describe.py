"""What a file holds, what was taken of it, and the keys that overrule it, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unrolled.core.errors import DataError, DataWarning
from unrolled.core.words import counted
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.data.units import described
from unrolled.data.warnings import lines_of
from unrolled.fields.base import LeftOut
from unrolled.fields.series import Series
from unrolled.fields.steps import steps_in
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
    if schema.units:
        units = [described(name, unit) for name, unit in schema.units]
        lines.append(f"units: {', '.join(units)}")
    others = left_out(data, schema)
    if others:
        lines.append(f"leaves out: {', '.join(others)}")
    lines.append(f"task: {schema.task} ({task.pattern}) (task=NAME)")
    return [*lines, _sequences(data, schema) if schema.frames else _odd(data, schema)]


def facts_of(
    data: Data, schema: Schema, task: Task, warnings: Sequence[DataWarning]
) -> dict[str, Any]:
    """Return for a program how a file is understood."""
    return {
        "file": data.path,
        "format": data.format.describe(),
        "rows": count_rows(data),
        "reads": _in_order(schema.inputs, data),
        "predicts": schema.answer,
        "task": schema.task,
        "labels": len(task.class_names) or None,
        "label_names": list(task.class_names) or None,
        "units": dict(schema.units),
        "leaves_out": left_out(data, schema),
        "warnings": [warning.to_json() for warning in warnings],
    }


def _in_order(names: Sequence[str], data: Data) -> list[str]:
    """Return columns in the order of the file."""
    if isinstance(data, Document):
        return list(names)
    return [name for name in data.columns if name in names]


def left_out(data: Data, schema: Schema) -> list[str]:
    """Return the columns that are neither read nor predicted."""
    if isinstance(data, Document):
        return []
    read = {*schema.inputs, schema.answer, schema.sequence, schema.time}
    return [name for name in data.columns if name not in read]


def count_rows(data: Data) -> int:
    """Return how many rows a file has; a running text is one."""
    if isinstance(data, Document):
        return 1
    return sum(map(len, data.steps)) if isinstance(data, Series) else len(data.rows)


def _rows(data: Table, task: Task) -> str:
    line = f"{data.path}: {data.format.describe()}, {counted(count_rows(data), 'row')}"
    if task.reads_pairs and data.format.kind == "text":
        line += ", a line beside each of a second file"
    return line


def _inputs(schema: Schema) -> str:
    kinds = {
        "image": schema.images,
        "text": schema.text,
        "numbers": schema.numbers,
        "categories": schema.categories,
        "dates": schema.dates,
    }
    parts = []
    for key, names in kinds.items():
        shown = list(names)
        if len(shown) > COLUMNS + 1:
            shown = [*shown[:COLUMNS], f"and {len(shown) - COLUMNS} more"]
        if shown:
            parts.append(f"{', '.join(shown)} (data.{key}=COLUMN)")
    return f"reads: {', '.join(parts)}"


def _sequences(data: Table, schema: Schema) -> str:
    indices = locate(data, schema.inputs, data.columns)
    # a cell without steps is an error of its row
    lengths = [steps_in(row[i] for i in indices) or 0 for row in data.rows]
    order = f" in the order of {schema.time}" if schema.time else ""
    return (
        f"sequences: {len(lengths):,} of {min(lengths):,} to {max(lengths):,} steps{order} "
        "(data.rows, data.sequence, data.time)"
    )


def _odd(data: Table, schema: Schema) -> str:
    """Return how many rows are empty, and how many are there twice."""
    names = dict.fromkeys((*schema.inputs, *schema.identifying))
    indices = locate(data, [*names], data.columns)
    texts = []
    for row in data.rows:
        texts.append(tuple("" if row[i] is None else str(row[i]) for i in indices))
    empty = sum(not any(row) for row in texts)
    repeated = len(texts) - len(set(texts))
    return f"empty: {counted(empty, 'row')}, repeated: {counted(repeated, 'row')}"


def warnings_of_left_out(errors: Sequence[DataError]) -> list[DataWarning]:
    """Return a warning about rows that were left out since they lack a value."""
    distinct = {(error.path, error.line): error for error in errors}
    lacking = [error for error in distinct.values() if isinstance(error, LeftOut)]
    if not lacking:
        return []
    numbers = sorted(error.line or 0 for error in lacking)
    message = (
        f"left out {counted(len(lacking), 'row')} ({lines_of(numbers)}): "
        f"{lacking[0].message}"
    )
    return [DataWarning(message, "data.missing=error refuses", numbers[0])]


def describe_errors(errors: Sequence[DataError], samples: bool) -> list[str]:
    """Return a line about rows that were left out; without ``samples`` nothing of what they hold.

    A reader skips before the rows are divided, so both parts report the same ones.
    """
    distinct = {(error.path, error.line): error for error in errors}
    faulty = [error for error in distinct.values() if not isinstance(error, LeftOut)]
    lines = [
        f"{warning.message} ({warning.key})" for warning in warnings_of_left_out(errors)
    ]
    if faulty:
        first = faulty[0]
        # what is wrong with a row is often told in its own words
        shown = str(first) if samples else f"{first.path}:{first.line}"
        lines.append(
            f"skipped {counted(len(faulty), 'faulty row')}; the first: {shown}"
        )
    return lines
