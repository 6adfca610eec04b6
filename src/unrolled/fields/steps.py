"""Columns next to each step of a sequence, be the steps numbers or words: kinds, dates, numbers.

Legend: T steps of a sequence, W features of the columns at a step. A cell is the list of what a
column says at the T steps, or one value that holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError
from unrolled.core.words import counted
from unrolled.fields.base import InvalidCell
from unrolled.fields.columns import Features
from unrolled.fields.vector import Vector

Floats = NDArray[np.float32]
WORD = "word"  # what a step is called where words are read


def steps_in(cells: Iterable[Any]) -> int | None:
    """Return how many steps the first list among the cells of a row has; None without a list."""
    return next((len(cell) for cell in cells if isinstance(cell, list)), None)


def at_steps(name: str, cell: Any, steps: int, unit: str = "step") -> Sequence[Any]:
    """Return what a column says at each of so many steps.

    ``unit`` is what a step is called. Raises InvalidCell: it says more or fewer.
    """
    if not isinstance(cell, list):
        return [cell] * steps
    if len(cell) != steps:
        raise InvalidCell(
            f"column {name!r} has {counted(len(cell), 'value')} for {counted(steps, unit)}"
        )
    return cell


def rows_of_steps(
    names: Sequence[str], cells: Sequence[Any], steps: int, unit: str = "step"
) -> list[tuple[Any, ...]]:
    """Return the cells of the columns at each step, T rows. Raises InvalidCell as ``at_steps``."""
    pairs = zip(names, cells, strict=True)
    columns = [at_steps(name, cell, steps, unit) for name, cell in pairs]
    return list(zip(*columns, strict=True))


def columns_of(steps: Iterable[Any], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the cells of each column of a sequence that is given step by step.

    A step is a list with a cell for each of ``names``, or the cell itself where there is one name.

    Raises:
        UserError: a step has more or fewer cells, or there is none.
    """
    rows: list[Any] = []
    for count, step in enumerate(steps, 1):
        row = step if isinstance(step, list | tuple | np.ndarray) else [step]
        if len(row) != len(names):
            raise UserError(
                f"step {count} has {counted(len(row), 'cell')}; expected {len(names)}: "
                f"{', '.join(names)}"
            )
        rows.append(row)
    if not rows:
        raise UserError("the row holds no step")
    columns = zip(*rows, strict=True)
    lists = map(list, columns)
    return dict(zip(names, lists, strict=True))


def features_at_steps(
    vector: Vector,
    cells: Sequence[Any],
    steps: int,
    training: bool,
    unit: str = "step",
) -> Floats:
    """Return the features of the columns at each step, (T, W).

    Raises:
        InvalidCell: a column says more or less than T steps have, or what does not fit; a value
            that is neither a number nor missing, or no date, is for training alone.
    """
    encode = vector.check if training else vector.check_to_predict
    features: list[Features] = []
    rows = rows_of_steps(vector.columns, cells, steps, unit)
    for step, row in enumerate(rows, 1):
        try:
            features.append(encode(row))
        except InvalidCell as error:
            raise type(error)(f"{error} at {unit} {step}") from None
    matrix = np.array(features, dtype=np.float32)
    return matrix.reshape(steps, vector.width)


def beside_words(cells: Sequence[Any]) -> list[Any]:
    """Return the cells of other columns as those of the words are written, which stand first.

    Where these are a text with blanks between them, so is what another column says of each.
    """
    words, *others = cells
    if isinstance(words, list):
        return others
    read: list[Any] = []
    for cell in others:
        items = cell.split() if isinstance(cell, str) else []
        read.append(items if len(items) > 1 else cell)
    return read


def rows_of_words(
    columns: Sequence[str], cells: Sequence[Any], count: int
) -> list[tuple[Any, ...]]:
    """Return what other columns say of each of ``count`` words. Raises InvalidCell: not so many."""
    return rows_of_steps(columns, beside_words(cells), count, WORD)
