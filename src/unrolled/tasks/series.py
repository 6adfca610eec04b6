"""Sequences of numbers as the input of a task: from a recipe and a table to encoded stretches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unrolled.core.errors import DataError, UsageError, UserError, shown, unknown
from unrolled.data.examples import Examples, Spans
from unrolled.data.schema import Schema, label, number
from unrolled.data.sources import Document, Table
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.frames import Frames
from unrolled.fields.label import Label
from unrolled.fields.number import Number
from unrolled.fields.series import Floats, Series, WindowSpec, gather
from unrolled.nn import Layer, build_layer
from unrolled.tasks.base import Prediction, Task, locate
from unrolled.tasks.recipe import Recipe
from unrolled.training.precision import ComputeDevice

NONE_LONG_ENOUGH = (
    "no sequence has the steps that data.window and data.ahead ask for, or none has an answer; "
    "lower them or add rows"
)
# see `long_runs`
LONG_RUN = 10
LONGER = 5
Goals = Callable[[Any, int], list[Any]]


def reading(recipe: Recipe, schema: Schema) -> WindowSpec:
    """Return how the recipe's files hold sequences.

    Raises:
        UsageError: ``data.difference`` without the last value of what is forecast.
    """
    data = recipe.data
    if data.difference and not (
        schema.task == "regress"
        and data.window
        and data.ahead
        and schema.answer in schema.numbers
    ):
        raise UsageError(
            "data.difference=true adds the forecast to the last value: it needs task=regress, "
            "data.window, data.ahead of at least 1 and the answer's column among data.numbers"
        )
    # labels of all steps need no windows; pieces are cut for training alone
    window = None if schema.task == "tag" else data.window
    return WindowSpec(schema.steps, data.sequence, window, data.ahead, data.difference)


def sequences(
    table: Table,
    schema: Schema,
    told: WindowSpec,
    trained: Sequence[str],
    skip: bool,
    output: Label | Number | None = None,
) -> Table:
    """Return a table of sequences: rows that are steps are gathered, others are sequences already.

    Without an answer in ``schema`` none is needed; ``output`` is the field of one that is known by
    now.

    Raises:
        DataError: a column is missing, that of ``data.sequence`` for one, or a row is faulty.
    """
    if not told.steps or isinstance(table, Series):
        return table
    numbers = locate(table, schema.numbers, trained, schema.answer)
    answer = None
    if schema.answer is not None:
        (answer,) = locate(table, [schema.answer], trained)
    if output is None:
        name = schema.answer or ""
        output = Number(name, 0.0, 1.0, False) if schema.task == "regress" else None
    check = _filled if output is None else output.check
    return gather(
        table, numbers, answer, _name_place(table, told, schema, trained), check, skip
    )


def _name_place(
    table: Table, told: WindowSpec, schema: Schema, trained: Sequence[str]
) -> int | None:
    """Return the place of the column that names sequences; None where a file is one."""
    if told.sequence is None:
        return None
    try:
        return locate(table, [told.sequence], trained, schema.answer)[0]
    except DataError as error:
        # read as one sequence, the rows of many would give wrong answers without a word
        raise DataError(
            "name the column that tells the sequences of this file apart with "
            "data.sequence=COLUMN, or say data.sequence=null where a file is one sequence: "
            + unknown("column", told.sequence, table.columns),
            table.path,
            error.line,
        ) from None


def _filled(cell: Any) -> None:
    if not label(cell):
        raise InvalidCell("there is no label")


def count(table: Table, told: WindowSpec) -> int:
    """Return how many examples a table holds: its rows, or the windows of its sequences."""
    if told.window is None or not isinstance(table, Series):
        return len(table.rows)
    return sum(len(told.ends(len(lines))) for lines in table.steps)


def long_runs(recipe: Recipe, schema: Schema, data: Table | Document) -> list[str]:
    """Return a warning where rows of numbers look like steps in time, and are read one by one.

    Equal answers then stand in runs of ``LONG_RUN`` rows or more on average, ``LONGER`` times as
    long as in a shuffled file. A file that is sorted by its answers has one run of each.
    """
    told = recipe.data
    if (
        schema.frames
        or not schema.numbers
        or told.rows
        or told.dev
        or not isinstance(data, Table)
    ):
        return []
    (place,) = locate(data, [schema.answer or ""], data.columns)
    answers = [label(row[place]) for row in data.rows]
    counts = Counter(answers)
    total = len(answers)
    runs = 1 + sum(a != b for a, b in pairwise(answers))
    shuffled = 1 + total - sum(count * count for count in counts.values()) / total
    if total < LONG_RUN * runs or runs < 2 * len(counts) or shuffled < LONGER * runs:
        return []
    return [
        f"warning: the values of {schema.answer} come in long runs, of {total / runs:.0f} rows on "
        "average: if rows are steps in time, say data.rows=steps (neighbours now stand in both "
        "parts)"
    ]


def fit_frames(recipe: Recipe, schema: Schema, table: Table) -> Frames:
    """Learn the input field from the sequences of training rows."""
    places = locate(table, schema.numbers, table.columns)
    cells = ([row[i] for i in places] for row in table.rows)
    return Frames.fit(schema.numbers, cells, reading(recipe, schema))


def one_answer(told: WindowSpec) -> Goals:
    """Return what gives the answer of each stretch of a sequence: of its cell and its steps.

    A whole sequence has one answer, in a cell of its own or at every step alike.
    """

    def goals(cell: Any, steps: int) -> list[Any]:
        if told.window is None:
            if not isinstance(cell, list):
                return [cell]
            # a step may be without an answer, which is another one
            others = [c for c in cell if label(c) != label(cell[0])]
            if others:
                raise InvalidCell(
                    f"a sequence has several answers ({shown(cell[0])}, {shown(others[0])}); set "
                    "data.window=N to answer for every N steps, or task=tag to label each step"
                )
            if not cell:
                raise InvalidCell("there is no answer")
            return cell[:1]
        if not isinstance(cell, list) or len(cell) != steps:
            count = len(cell) if isinstance(cell, list) else "no list of"
            raise InvalidCell(f"{steps} steps but {count} answers")
        ends = told.ends(steps).tolist()
        if not told.difference:
            return [cell[end + told.ahead] for end in ends]
        values = [number(value) for value in cell]
        if None in values:
            raise InvalidCell(
                f"an answer is {shown(cell[values.index(None)])} where a number is expected"
            )
        array = np.array(values, dtype=np.float64)
        return (
            array[told.ahead + np.array(ends, dtype=np.int64)] - array[ends]
        ).tolist()

    return goals


def answers_in(table: Table, schema: Schema, goals: Goals) -> list[Any]:
    """Return the answers of all stretches of a table; faulty rows are left to ``encode``."""
    assert schema.answer is not None
    first, answer = locate(table, [schema.numbers[0], schema.answer], table.columns)
    found: list[Any] = []
    for row in table.rows:
        try:
            found += goals(row[answer], len(row[first]))
        except (InvalidCell, TypeError):
            continue
    if not found:
        raise DataError(NONE_LONG_ENOUGH, table.path)
    return found


def encode(
    inputs: Frames,
    output: Label | Number,
    table: Table,
    schema: Schema,
    trained: Sequence[str],
    skip: bool,
    goals: Goals,
) -> tuple[Examples, list[Any], list[DataError]]:
    """Encode sequences and their stretches.

    Args:
        inputs, output: the fields.
        table: sequences, or rows of steps.
        schema: its columns.
        trained: the columns of the training file.
        skip: leave faulty sequences out.
        goals: the answers of a sequence; see ``one_answer``.

    Returns:
        Examples without targets, their encoded answers, and what was skipped.

    Raises:
        DataError: a row is faulty, or no sequence is long enough.
    """
    told = inputs.reading
    table = sequences(table, schema, told, trained, skip, output)
    assert schema.answer is not None
    *places, answer = locate(table, [*schema.numbers, schema.answer], trained)
    parts = []
    answers = []
    lines = []
    each = []
    skipped = list(table.skipped)
    for place, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        try:
            steps = inputs.check([row[i] for i in places])
            found = [output.check(goal) for goal in goals(row[answer], len(steps))]
        except InvalidCell as error:
            if not skip:
                raise invalid_row(error, *table.position(line)) from None
            skipped.append(invalid_row(error, *table.position(line)))
            continue
        ends = told.ends(len(steps)).tolist()
        at = table.steps[place] if isinstance(table, Series) else [line] * len(steps)
        lines += [at[e + told.ahead] if told.window else line for e in ends]
        each += at
        parts.append(steps)
        answers += found
    if not lines:
        raise DataError(
            "no row is left to read"
            if told.window is None or not parts
            else NONE_LONG_ENOUGH,
            table.path,
        )
    frames = replace(spans(parts, told), lines=np.array(each))
    return Examples(np.array(lines), frames=frames), answers, skipped


def spans(parts: Sequence[Floats], told: WindowSpec, last: bool = False) -> Spans:
    """Return the stretches of some sequences, of each its last one alone with ``last``."""
    starts = []
    lengths = []
    offset = 0
    for steps in parts:
        size = told.length(len(steps))
        ends = np.array([len(steps) - 1]) if last else told.ends(len(steps))
        starts.append(offset + ends + 1 - size)
        lengths.append(np.full(len(ends), size))
        offset += len(steps)
    return Spans(np.concatenate(parts), np.concatenate(starts), np.concatenate(lengths))


def asked(inputs: Frames, cells: Sequence[Any]) -> Floats:
    """Return the steps that are read of a row that is asked about: the last window.

    Raises:
        UserError: a cell does not fit, or there are fewer steps than a window has.
    """
    size = inputs.reading.window
    cut = [cell[-size:] if size and isinstance(cell, list) else cell for cell in cells]
    try:
        steps = inputs.check(cut)
    except InvalidCell as error:
        raise UserError(str(error)) from None
    if size is not None and len(steps) < size:
        raise UserError(f"{len(steps)} steps are given; this model reads {size}")
    return steps


def answer_steps(
    task: Task,
    model: nn.Module,
    table: Table,
    schema: Schema,
    told: WindowSpec,
    skip: bool,
    place: ComputeDevice,
) -> tuple[dict[int, Prediction], list[DataError]]:
    """Answer every row of a table of steps: answers by line, and the rows that were left out.

    ``told`` is how the table holds sequences.

    Raises:
        DataError: a row is faulty and ``skip`` is false.
    """
    asked_for = replace(schema, answer=None)
    table = sequences(table, asked_for, told, task.columns, skip)
    assert isinstance(table, Series)
    places = locate(table, schema.numbers, task.columns)
    answers: dict[int, Prediction] = {}
    for row, lines in zip(table.rows, table.steps, strict=True):
        found = task.each_step(model, [row[i] for i in places], place)
        answers |= zip(lines, found, strict=True)
    return answers, table.skipped


def last_values(inputs: Frames, column: str, examples: Examples) -> NDArray[np.float64]:
    """Return the value of a column at the last step of each stretch, in the unit of the file."""
    assert examples.frames is not None
    ends = examples.frames.starts + examples.frames.lengths - 1
    return inputs.last(column, examples.frames.flat[ends])


def build_reader(recipe: Recipe, inputs: Frames) -> Layer:
    """Return the layer that reads the steps.

    Raises:
        UsageError: a setting for text, or a layer that cannot read so many steps.
    """
    told = recipe.model
    window = inputs.reading.window
    for key, value in (
        ("training.pretrain_epochs", recipe.training.pretrain_epochs),
        ("model.ngrams", told.ngrams),
    ):
        if value:
            raise UsageError(f"{key}={value} is for text, and this reads numbers")
    layer = build_layer(recipe.layer, told, inputs.width)
    if layer.context is not None and (window is None or window > layer.context):
        raise UsageError(
            f"layer={recipe.layer} reads {layer.context} steps (model.context) and a sequence may "
            f"have {window or 'any number'}: raise model.context or set it to null"
        )
    return layer
