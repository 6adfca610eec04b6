"""The scores of the rows of each value of a column: ``data.by``."""

from __future__ import annotations

import itertools
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
            f"data.by={column} is for labels, tags and values of rows, "
            f"not for {task.name}"
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
    columns = [column]
    (index,) = locate(data, columns, task.columns)
    cell_of: dict[int, Any] = {}
    for line, row in zip(data.lines, data.rows, strict=True):
        cell_of[line] = row[index]
    lines = examples.lines.tolist()
    return [cell_of[line] for line in lines]


def _groups(column: str, cells: Sequence[Any], decimal: str) -> dict[str, Ints]:
    """Return which examples, by their index, have which value, in the order of the values."""
    keys = ["" if is_missing(cell) else str(cell) for cell in cells]
    names = _names(column, set(keys), decimal)
    members: dict[str, list[int]] = {name: [] for name in names.values()}
    for row, key in enumerate(keys):
        name = names[key]
        members[name].append(row)
    return {name: np.array(rows) for name, rows in members.items()}


def _names(column: str, keys: set[str], decimal: str) -> dict[str, str]:
    """Return the name of the group of each distinct cell, in the order of the groups."""
    numbers: dict[str, float] = {}
    texts: list[str] = []
    for key in sorted(keys - {""}):
        value = number(key, decimal)
        if value is None:
            texts.append(key)
        else:
            numbers[key] = value
    order = sorted(numbers, key=numbers.__getitem__)
    if texts:
        order += texts
        order.sort()
        if len(order) > MOST_VALUES:
            count = len(order)
            raise UsageError(
                f"data.by={column}: the column holds {count:,} values, {len(texts):,} of them no "
                f"numbers; name one with at most {MOST_VALUES}"
            )
    is_binned = not texts and len(order) > MOST_NUMBERS
    names = _binned(order, numbers) if is_binned else {key: key for key in order}
    if "" in keys:
        names[""] = EMPTY
    return names


def _binned(order: list[str], numbers: dict[str, float]) -> dict[str, str]:
    """Return the bin of each number, named by the least and the largest number in it."""
    least = numbers[order[0]]
    largest = numbers[order[-1]]
    if least == largest:
        # one number, written in many ways
        return dict.fromkeys(order, order[0])
    width = _round_width((largest - least) / BINS)
    names: dict[str, str] = {}
    for _, members in itertools.groupby(order, lambda key: numbers[key] // width):
        keys = list(members)
        name = keys[0]
        if len(keys) > 1:
            name += f" to {keys[-1]}"
        names |= dict.fromkeys(keys, name)
    return names


def _round_width(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below ``least``."""
    power = math.floor(math.log10(least))
    size = 10.0**power
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= least)
