"""Rows as programs and people give them: in any form, one way to the cells that a task reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from unrolled.core.errors import UsageError, UserError, listed, shown
from unrolled.core.words import counted, either
from unrolled.data.archives import too_long
from unrolled.data.clips import Clip
from unrolled.data.image_files import ImageFile
from unrolled.data.json_values import flattened, json_object, json_value
from unrolled.data.list_cells import cell_of
from unrolled.data.sources import nfc, parse_row
from unrolled.fields.frames import Frames
from unrolled.tasks.base import Task

# what an image or a clip may be given as: its bytes, its frames, or where it is
IMAGES = (bytes, str, os.PathLike, ImageFile, Clip, np.ndarray)


class InputCells(tuple[Any, ...]):
    """The cells of a row in the order of the columns that are read."""


def rows_of(rows: Any) -> Iterable[Any]:
    """Return the rows of what was given, those of a table of pandas or polars by name.

    Raises:
        UsageError: there are none to go through.
    """
    if isinstance(rows, str | Mapping):
        return [rows]
    if isinstance(rows, os.PathLike):
        return [rows]
    if isinstance(rows, bytes) or not _is_iterable(rows):
        raise UsageError(
            f"rows is {shown(rows)}; give a list of rows, such as run.predict(['...'])"
        )
    if not hasattr(rows, "columns"):
        return cast("Iterable[Any]", rows)
    columns = _by_name(rows)
    return [
        dict(zip(columns, cells, strict=True))
        for cells in zip(*columns.values(), strict=True)
    ]


def cells_of(row: Any, task: Task, most: int) -> tuple[Any, ...]:
    """Return the input cells of one row, in whichever form it was given.

    A cell of a column that holds lists in the training file is read as one, where it is text.

    Args:
        row: a text, a row as the data file writes it, the input cells, a mapping of columns, or,
            for a sequence of numbers, a list of its steps.
        task: what answers it.
        most: bytes that a row may have.

    Raises:
        UserError: it is no row, lacks a column, or is too long.
    """
    cells = _cells_as_given(row, task, most)
    lists = task.format.lists
    if not lists:
        return cells
    read: list[Any] = []
    for name, cell in zip(task.schema.inputs, cells, strict=True):
        is_written = name in lists and isinstance(cell, str) and "[" in cell
        read.append(cell_of(cell, name) if is_written else cell)
    return tuple(read)


def _cells_as_given(row: Any, task: Task, most: int) -> tuple[Any, ...]:
    """Return the input cells of one row as they were given."""
    names = task.schema.inputs
    in_order = isinstance(row, InputCells)
    row = row if in_order else _by_name(row)
    if _size(row) > most:
        raise UserError(too_long(most))
    if isinstance(row, Mapping):
        return _cells_by_name(row, row, names)
    if len(names) == 1 and task.schema.images and isinstance(row, IMAGES):
        return (row,)
    if isinstance(row, bytes) or not _is_iterable(row):
        raise UserError(
            f"{shown(row)} is no row: give a text, a list of cells, or a mapping of columns"
        )
    frames = task.frames
    if frames is not None and not isinstance(row, tuple):
        is_text = isinstance(row, str)
        typed = as_typed(task)
        return (
            _parse_frames(row, frames, typed) if is_text else frames.cells(row, typed)
        )
    if isinstance(row, str):
        return _parse_cells(row, task)
    cells = tuple(row)
    given = list(names) if in_order else as_typed(task)
    if len(cells) != len(given):
        raise UserError(
            f"{shown(row)} has {counted(len(cells), 'cell')}; expected {listed(given)}"
        )
    return tuple(cells[given.index(name)] for name in names)


def as_typed(task: Task) -> list[str]:
    """Return the columns that are read in the order in which a person gives their cells.

    That of the file, where they are of several kinds, which a schema keeps apart; else as they were
    named.
    """
    names = list(task.schema.inputs)
    if names in (list(task.schema.text), list(task.schema.numbers)):
        return names
    return [name for name in task.columns if name in names] or names


def _is_iterable(value: Any) -> bool:
    """Whether there is something to go through: an array of no dimensions only says so."""
    return isinstance(value, Iterable) and getattr(value, "shape", True) != ()


def _by_name(row: Any) -> Any:
    """Return what names its cells as a mapping of these names; anything else as it is."""
    if isinstance(row, Mapping):
        return row
    if hasattr(row, "_asdict"):  # a named tuple
        return row._asdict()
    if hasattr(row, "columns"):  # a table of pandas or polars: a list a column
        return {name: list(row[name]) for name in row.columns}
    if hasattr(row, "keys") and hasattr(row, "__getitem__"):  # a row of one
        return {name: row[name] for name in row.keys()}  # noqa: SIM118
    return row


def _size(row: Any) -> int:
    """Return about how many bytes a row has, of its texts and the numbers in lists."""
    if isinstance(row, str):
        return len(row) if row.isascii() else len(row.encode("utf-8", "surrogatepass"))
    if isinstance(row, list | tuple):
        return sum(map(_size, row))
    return sum(map(_size, row.values())) if isinstance(row, Mapping) else 8


def _parse_cells(row: str, task: Task) -> tuple[Any, ...]:
    """Read a row as the data file writes it: a text by itself, or cells in the file's columns.

    Raises:
        UserError: the cells are too few or too many.
    """
    schema = task.schema
    columns = task.columns
    names = schema.inputs
    is_object = row.lstrip().startswith("{")
    if is_object and len(names) > 1 and not task.format.objects:
        return _cells_by_name(row, json_object(nfc(row)), names)
    if len(names) == 1 and schema.text and not (is_object and task.format.objects):
        return (row,)
    if task.first_column_suffices and not is_object:
        return (row, *[None] * (len(names) - 1))
    if task.format.objects and not is_object and len(names) > 1:
        raise UserError(
            f"{shown(row)} is one text; expected {_object_of(names)} with all that is read"
        )
    cells = parse_row(row, task.format, columns)
    if task.format.objects:
        return _cells_by_name(row, json_object(nfc(row)), names)
    given = as_typed(task)
    for known_names in (
        given,
        columns,
        [name for name in columns if name != schema.answer],
    ):
        if len(cells) == len(known_names):
            return tuple(cells[list(known_names).index(name)] for name in names)
    raise UserError(
        f"{shown(row)} has {counted(len(cells), 'cell')}; expected {len(given)}: {listed(given)}, "
        f"or {_object_of(names)}"
    )


def _object_of(names: Sequence[str]) -> str:
    """Return how a row of these columns is written as an object."""
    cells = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: ..." for name in names)
    return f"an object, {{{cells}}}"


def _cells_by_name(
    row: Any, values: Mapping[str, Any], names: Sequence[str]
) -> tuple[Any, ...]:
    """Return the cells of a row that names them; those of an object in it behind a dot.

    Raises:
        UserError: one is missing.
    """
    if any(name not in values for name in names):
        values = flattened(values)
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(
            f"{shown(row)} has no {shown(missing[0])}; expected {listed(names)}"
        )
    return tuple(values[name] for name in names)


def _parse_frames(row: str, inputs: Frames, names: Sequence[str]) -> tuple[Any, ...]:
    """Read a sequence of numbers: a JSON list of its steps, or a JSON object of its columns.

    ``names`` are the columns in the order in which their cells are given at a step.

    Raises:
        UserError: it is neither.
    """
    try:
        value = json_value(row)
    except UserError:
        value = None
    if isinstance(value, dict):
        return _cells_by_name(row, value, inputs.read)
    if isinstance(value, list):
        return inputs.cells(value, names)
    raise UserError(
        f"{shown(row)} is no sequence of numbers: write a list of steps, each a list of "
        f"{', '.join(names[:6])}" + either(", or give a table with --file", "")
    )
