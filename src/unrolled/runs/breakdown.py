"""The scores of the rows of each value of a column: ``data.by``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unrolled.core.errors import UsageError
from unrolled.data.examples import Examples, Ints
from unrolled.data.numbers import is_missing, number
from unrolled.data.sources import Table
from unrolled.runs.predictor import Predictor
from unrolled.tasks.base import AnswerOptions, Data, Scores, Task, locate
from unrolled.tasks.recipe import DataConfig

MOST_VALUES = 50  # of texts
MOST_NUMBERS = 20  # that stand by themselves; more are put into bins
BINS = 10  # at most, or one more
EMPTY = "(empty)"


def has_column(data: Data, name: str) -> bool:
    """Say whether a file has such a column."""
    return isinstance(data, Table) and name in data.columns


def breakdown(
    predictor: Predictor,
    data: Data,
    examples: Any,
    config: DataConfig,
    options: AnswerOptions,
) -> dict[str, Scores]:
    """Return the scores of the rows of each value of ``data.by``, and how many rows they are.

    Raises:
        UsageError: the task has no rows of their own that are scored, or the column holds too
            many values that are no numbers.
        DataError: there is no such column.
    """
    task = predictor.task
    column = config.by
    assert column is not None
    if not isinstance(data, Table) or not isinstance(examples, Examples):
        raise UsageError(
            f"data.by={column} is for labels, tags and values of rows, not for {task.name}"
        )
    cells = _cells(column, data, examples, task)
    scores: dict[str, Scores] = {}
    for value, rows in _groups(column, cells, config.decimal or ".").items():
        part = examples.pick(rows)
        evaluation = task.evaluate(
            predictor.model, part, predictor.compute_device, options
        )
        scores[value] = {"rows": len(rows), **evaluation.scores}
    return scores


def _cells(column: str, data: Table, examples: Examples, task: Task) -> list[Any]:
    """Return the cell of each example; of rows that are steps that of the line it is known by."""
    (index,) = locate(data, [column], task.columns)
    lines = zip(data.lines, data.rows, strict=True)
    cell_of = {line: row[index] for line, row in lines}
    return [cell_of[line] for line in examples.lines.tolist()]


def _groups(column: str, cells: Sequence[Any], decimal: str) -> dict[str, Ints]:
    """Return which examples, by their index, have which value, in the order of the values."""
    names = _names(column, cells, decimal)
    rows: dict[str, list[int]] = {name: [] for name in names.values()}
    for row, cell in enumerate(cells):
        rows[names[_key(cell)]].append(row)
    return {name: np.array(members) for name, members in rows.items()}


def _key(cell: Any) -> str:
    return "" if is_missing(cell) else str(cell)


def _names(column: str, cells: Sequence[Any], decimal: str) -> dict[str, str]:
    """Return the name of the group of each distinct cell, in the order of the groups."""
    distinct = {_key(cell): cell for cell in cells}
    missing = {"": EMPTY} if "" in distinct else {}
    distinct.pop("", None)
    values = {key: number(cell, decimal) for key, cell in distinct.items()}
    numbers = {key: value for key, value in values.items() if value is not None}
    if len(numbers) < len(values):
        if len(values) > MOST_VALUES:
            raise UsageError(
                f"data.by={column}: the column holds {len(values):,} values that are no numbers; "
                f"name one with at most {MOST_VALUES}"
            )
        return {key: key for key in sorted(values)} | missing
    order = sorted(numbers, key=numbers.__getitem__)
    if len(order) <= MOST_NUMBERS:
        return {key: key for key in order} | missing
    return _binned(order, numbers) | missing


def _binned(order: list[str], numbers: dict[str, float]) -> dict[str, str]:
    """Return the bin of each number, named by the least and the largest number in it."""
    width = _round_width((numbers[order[-1]] - numbers[order[0]]) / BINS)
    bins: dict[int, list[str]] = {}
    for key in order:
        bins.setdefault(math.floor(numbers[key] / width), []).append(key)
    names: dict[str, str] = {}
    for keys in bins.values():
        name = keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"
        names |= dict.fromkeys(keys, name)
    return names


def _round_width(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below ``least``."""
    size = 10.0 ** math.floor(math.log10(least))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= least)
