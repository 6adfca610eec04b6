"""Sequences of numbers as the input of a task: from a recipe and a table to encoded stretches."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from unrolled.core.errors import DataError, UsageError, shown, unknown
from unrolled.data.columns import label
from unrolled.data.examples import Examples
from unrolled.data.numbers import number
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.fields.base import InvalidCell, LeftOut, MissingCell
from unrolled.fields.columns import DateColumn
from unrolled.fields.frames import Frames
from unrolled.fields.label import Label
from unrolled.fields.number import Number
from unrolled.fields.rows import valid_rows
from unrolled.fields.series import (
    Floats,
    Series,
    StepColumns,
    WindowSpec,
    all_plain,
    gather,
    spans,
)
from unrolled.fields.steps import rows_of_steps, steps_in
from unrolled.fields.vector import Vector
from unrolled.nn import Layer, build_layer
from unrolled.tasks.base import DefaultSettings, locate
from unrolled.tasks.recipe import Recipe

NONE_LONG_ENOUGH = (
    "no sequence has the steps that data.window and data.ahead ask for, or none has an answer; "
    "lower them or add rows"
)


STEPS = DefaultSettings(
    values={
        "model": {"hidden": 64, "head_dropout": 0.1},
        "training": {"learning_rate": 2e-3, "patience": 8},
    },
    budget=250_000,
)
# what comes next hangs on where the series stands now
WINDOWS = replace(
    STEPS,
    values=STEPS.values
    | {"model": {"hidden": 32, "head_dropout": 0.0, "pooling": "last"}},
)
# see `long_runs`
LONG_RUN = 10


LONGER = 5


Goals = Callable[[Any, int], list[Any]]


def default_settings(recipe: Recipe) -> DefaultSettings:
    """Return the settings for keys that nobody set."""
    return WINDOWS if recipe.data.window else STEPS


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
    return WindowSpec(
        schema.steps,
        data.sequence,
        window,
        data.ahead,
        data.difference,
        schema.time,
        data.missing,
        data.decimal or schema.decimal,
        schema.day_first,
        schema.units,
    )


def sequences(
    table: Table,
    schema: Schema,
    spec: WindowSpec,
    trained: Sequence[str],
    skip: bool,
    output: Label | Number | None = None,
    strict: bool = False,
    others: Vector | None = None,
) -> Table:
    """Return a table of sequences: rows that are steps are gathered, others are sequences already.

    Without an answer in ``schema`` none is needed; ``output`` is the field of one that is known by
    now, and ``others`` that of the columns beside the numbers; with ``strict`` nothing stands in
    for what is neither a number nor missing, or no date.

    Raises:
        DataError: a column is missing, that of ``data.sequence`` for one, or a row is faulty.
    """
    if not spec.steps or isinstance(table, Series):
        return table
    numbers = locate(table, schema.numbers, trained, schema.answer)
    answer = None
    if schema.answer is not None:
        (answer,) = locate(table, [schema.answer], trained)
    if output is None:
        name = schema.answer or ""
        if schema.task == "regress":
            optional = spec.missing != "error"
            output = Number(name, 0.0, 1.0, False, spec.decimal, optional)
    check = functools.partial(_filled, spec) if output is None else output.check
    sequence = _sequence_index(table, spec, schema, trained)
    time = None
    if spec.time in table.columns or (spec.time and not table.format.named):
        (time,) = locate(table, [spec.time], trained, schema.answer)
    beside = locate(table, schema.inputs[len(numbers) :], trained, schema.answer)
    indices = StepColumns(numbers, answer, sequence, time, beside)
    check_others: Callable[[Sequence[Any]], Any] = all_plain
    if others is not None:
        check_others = others.check_to_predict if strict else others.check
    return gather(table, indices, check, skip, spec, strict, check_others)


def gathered(
    inputs: Frames,
    output: Label | Number | None,
    data: Table | Document,
    schema: Schema,
    trained: Sequence[str],
    on_error: str,
) -> Table | Document:
    """Return a file of steps as sequences, as a trained task reads it.

    Args:
        inputs: the field of what is read.
        output: that of the answers; None where none is needed.
        data: the file.
        schema: its columns.
        trained: the columns of the training file.
        on_error: ``skip`` leaves faulty rows out.
    """
    if isinstance(data, Document):
        return data
    spec = replace(inputs.reading, sequence=schema.sequence)
    if output is None:
        schema = replace(schema, answer=None)
    skip = on_error == "skip"
    strict = output is None
    return sequences(data, schema, spec, trained, skip, output, strict, inputs.others)


def _sequence_index(
    table: Table, spec: WindowSpec, schema: Schema, trained: Sequence[str]
) -> int | None:
    """Return the index of the column that names sequences; None where a file is one."""
    if spec.sequence is None:
        return None
    try:
        return locate(table, [spec.sequence], trained, schema.answer)[0]
    except DataError as error:
        # read as one sequence, the rows of many would give wrong answers without a word
        raise DataError(
            "name the column that tells the sequences of this file apart with "
            "data.sequence=COLUMN, or say data.sequence=null where a file is one sequence: "
            + unknown("column", spec.sequence, table.columns),
            table.path,
            error.line,
        ) from None


def _filled(spec: WindowSpec, cell: Any) -> None:
    """Raise InvalidCell where there is no label; MissingCell where its row is to be left out."""
    if not label(cell):
        raise (InvalidCell if spec.missing == "error" else MissingCell)(
            "there is no label"
        )


def count(table: Table | Document, spec: WindowSpec) -> int:
    """Return how many examples a file holds: its rows, or the windows of its sequences."""
    if isinstance(table, Document):
        return 1
    if spec.window is None or not isinstance(table, Series):
        return len(table.rows)
    return sum(len(spec.ends(len(lines))) for lines in table.steps)


def long_runs(recipe: Recipe, schema: Schema, data: Table | Document) -> list[str]:
    """Return a warning where rows of numbers look like steps in time, and are read one by one.

    Equal answers then stand in runs of ``LONG_RUN`` rows or more on average, ``LONGER`` times as
    long as in a shuffled file. A file that is sorted by its answers has one run of each.
    """
    settled = schema.frames or recipe.data.rows or recipe.data.dev
    if settled or not schema.numbers or not isinstance(data, Table):
        return []
    (answer_index,) = locate(data, [schema.answer or ""], data.columns)
    answers = [label(row[answer_index]) for row in data.rows]
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
    indices = locate(table, schema.inputs, table.columns)
    count = len(schema.numbers)
    cells = ([row[i] for i in indices[:count]] for row in table.rows)
    inputs = Frames.fit(schema.numbers, cells, reading(recipe, schema))
    if not schema.inputs[count:]:
        return inputs
    beside = replace(schema, numbers=())
    steps = _cells_at_steps(table, beside, schema)
    if not steps:
        raise DataError("no row has a value of each column at each step", table.path)
    others = Vector.fit(beside, steps, recipe.data.missing, recipe.data.decimal)
    for column in others.features:
        if isinstance(column, DateColumn) and not column.parts:
            raise DataError(
                f"no part of {column.name!r} comes round twice in training, neither the season nor "
                "the day of the week nor the hour, and so it says nothing of later steps; leave "
                "it out of data.dates",
                table.path,
            )
    return replace(inputs, others=others)


def _cells_at_steps(
    table: Table, read: Schema, schema: Schema
) -> list[tuple[Any, ...]]:
    """Return the cells of the columns of ``read`` at all steps; faulty rows are left out."""
    names = read.inputs
    all_indices = locate(table, schema.inputs, table.columns)
    indices = locate(table, names, table.columns)
    steps: list[tuple[Any, ...]] = []
    for row in table.rows:
        length = steps_in(row[i] for i in all_indices) or 0
        with contextlib.suppress(InvalidCell):
            steps += rows_of_steps(names, [row[i] for i in indices], length)
    return steps


def lasting(recipe: Recipe, schema: Schema, data: Table | Document) -> Schema:
    """Return what is read without dates of steps that say nothing of later steps.

    Those are left out that nobody named and of which no part comes round in training, ``data``.
    """
    if not schema.frames or recipe.data.dates or isinstance(data, Document):
        return schema
    kept: list[str] = []
    for name in schema.dates:
        read = Schema("", dates=(name,), frames=True)
        steps = _cells_at_steps(data, read, schema)
        (column,) = Vector.fit(read, steps).features
        kept += [name] if column.width > 1 else []
    lasting_schema = replace(schema, dates=tuple(kept))
    if not lasting_schema.inputs:
        raise DataError(
            f"no part of {schema.dates[0]!r} comes round twice in training, and there is nothing "
            "else to read at each step; name columns with data.numbers or data.categories",
            data.path,
        )
    return lasting_schema


def schema_of(inputs: Frames, task: str, answer: str) -> Schema:
    """Return the columns that a task on sequences was trained on."""
    spec = inputs.reading
    others = Schema("") if inputs.others is None else inputs.others.schema
    return replace(
        others,
        task=task,
        numbers=inputs.columns,
        answer=answer,
        frames=True,
        steps=spec.steps,
        sequence=spec.sequence,
        time=spec.time,
        decimal=spec.decimal,
        day_first=spec.day_first,
        units=spec.units,
    )


def one_answer(spec: WindowSpec) -> Goals:
    """Return what gives the answer of each stretch of a sequence: of its cell and its steps.

    A whole sequence has one answer, in a cell of its own or at every step alike.
    """

    def goals(cell: Any, steps: int) -> list[Any]:
        if spec.window is None:
            return _common_answer(cell)
        if not isinstance(cell, list) or len(cell) != steps:
            count = len(cell) if isinstance(cell, list) else "no list of"
            raise InvalidCell(f"{steps} steps but {count} answers")
        ends = spec.ends(steps).tolist()
        if not spec.difference:
            return [cell[end + spec.ahead] for end in ends]
        values = [number(value, spec.decimal) for value in cell]
        if None in values and not spec.fills:
            raise InvalidCell(
                f"an answer is {shown(cell[values.index(None)])} where a number is expected"
            )
        array = np.array(values, dtype=np.float64)
        later = spec.ahead + np.array(ends, dtype=np.int64)
        # a missing one is no number, and makes none of what is worked out with it
        return (array[later] - array[ends]).tolist()

    return goals


def _common_answer(cell: Any) -> list[Any]:
    """Return the one answer of a whole sequence. Raises InvalidCell: it has none, or several."""
    if not isinstance(cell, list):
        return [cell]
    # a step may be without an answer, which is another one
    others = [answer for answer in cell if label(answer) != label(cell[0])]
    if others:
        raise InvalidCell(
            f"a sequence has several answers ({shown(cell[0])}, {shown(others[0])}); set "
            "data.window=N to answer for every N steps, or task=tag to label each step"
        )
    if not cell:
        raise InvalidCell("there is no answer")
    return cell[:1]


def answers_in(table: Table, schema: Schema, goals: Goals) -> list[Any]:
    """Return the answers of all stretches of a table; faulty rows are left to ``encode``."""
    assert schema.answer is not None
    *inputs, answer = locate(table, [*schema.inputs, schema.answer], table.columns)
    answers: list[Any] = []
    for row in table.rows:
        steps = steps_in(row[i] for i in inputs)
        # a row without any list is faulty, which ``encode`` says
        with contextlib.suppress(InvalidCell):
            answers += goals(row[answer], steps) if steps is not None else []
    if not answers:
        raise DataError(NONE_LONG_ENOUGH, table.path)
    return answers


def encode(
    inputs: Frames,
    output: Label | Number,
    table: Table,
    schema: Schema,
    trained: Sequence[str],
    on_error: str,
    goals: Goals,
) -> tuple[Examples, list[Any], list[DataError]]:
    """Encode sequences and their stretches.

    Args:
        inputs, output: the fields.
        table: sequences, or rows of steps.
        schema: its columns.
        trained: the columns of the training file.
        on_error: ``skip`` leaves faulty sequences out.
        goals: the answers of a sequence; see ``one_answer``.

    Returns:
        Examples without targets, their encoded answers, and what was skipped.

    Raises:
        DataError: a row is faulty, or no sequence is long enough.
    """
    spec = replace(inputs.reading, sequence=schema.sequence)
    skip = on_error == "skip"
    table = sequences(table, schema, spec, trained, skip, output, others=inputs.others)
    check = _checker(inputs, output, table, schema, trained, goals)
    errors = list(table.skipped)
    # with its index a row finds the lines of its own steps
    rows = zip(table.lines, enumerate(table.rows), strict=True)
    sequences_read: list[Floats] = []
    answers: list[Any] = []
    lines: list[int] = []
    step_lines: list[int] = []
    valid = valid_rows(rows, table, check, on_error, errors)
    for line, (index, steps, encoded) in valid:
        count = len(steps)
        own = table.steps[index] if isinstance(table, Series) else [line] * count
        lines += _lines_of_answers(spec, line, own)
        step_lines += own
        sequences_read.append(steps)
        answers += encoded
    if not lines:
        too_short = spec.window is not None and sequences_read
        reason = NONE_LONG_ENOUGH if too_short else "no row is left to read"
        raise DataError(reason, table.path)
    frames = replace(spans(sequences_read, spec), lines=np.array(step_lines))
    examples = Examples(np.array(lines), frames=frames)
    if None in answers:
        errors += _without_answers(table, output, lines, answers)
        examples, answers = _answered(examples, answers, table)
    return examples, answers, errors


def _checker(
    inputs: Frames,
    output: Label | Number,
    table: Table,
    schema: Schema,
    trained: Sequence[str],
    goals: Goals,
) -> Callable[[Sequence[Any]], tuple[int, Floats, list[Any]]]:
    """Return what makes of a numbered row its number, its steps and its encoded answers."""
    assert schema.answer is not None
    *indices, answer_index = locate(table, [*schema.inputs, schema.answer], trained)

    def check(numbered: Sequence[Any]) -> tuple[int, Floats, list[Any]]:
        index, row = numbered
        steps = inputs.check([row[i] for i in indices])
        row_goals = goals(row[answer_index], len(steps))
        encoded = [_encode_goal(output, goal, inputs.reading) for goal in row_goals]
        return index, steps, encoded

    return check


def _answered(
    examples: Examples, answers: Sequence[Any], table: Table
) -> tuple[Examples, list[Any]]:
    """Return the examples that have an answer, and these answers.

    Raises:
        DataError: none has.
    """
    known = [index for index, answer in enumerate(answers) if answer is not None]
    if not known:
        raise DataError(NONE_LONG_ENOUGH, table.path)
    kept = examples.pick(np.array(known))
    return kept, [answers[index] for index in known]


def _encode_goal(output: Label | Number, goal: Any, spec: WindowSpec) -> Any:
    """Return an encoded answer; None for a window that lacks one and is left out for it."""
    try:
        return output.check(goal)
    except MissingCell:
        if spec.window is None:
            raise
        return None


def _without_answers(
    table: Table, output: Label | Number, lines: Sequence[int], answers: Sequence[Any]
) -> list[DataError]:
    """Return the errors of windows without an answer, one for each line that lacks it."""
    lacking = {
        line for line, answer in zip(lines, answers, strict=True) if answer is None
    }
    message = f"column {output.column!r} holds no answer"
    return [LeftOut(message, *table.position(line)) for line in sorted(lacking)]


def _lines_of_answers(spec: WindowSpec, line: int, step_lines: list[int]) -> list[int]:
    """Return where the answer of each stretch stands: on the line of a step, or of the row."""
    ends = spec.ends(len(step_lines)).tolist()
    if not spec.window:
        return [line] * len(ends)
    return [step_lines[end + spec.ahead] for end in ends]


def why_not_answerable(inputs: Frames, cells: Sequence[Any]) -> str:
    """Return why a sequence cannot be answered: a cell does not fit, or it is too short."""
    try:
        inputs.check_to_predict(cells)
    except InvalidCell as error:
        return str(error)
    return ""


def build_reader(recipe: Recipe, inputs: Frames) -> Layer:
    """Return the layer that reads the steps.

    Raises:
        UsageError: a setting for text, or a layer that cannot read so many steps.
    """
    window = inputs.reading.window
    for key, value in (
        ("training.pretrain_epochs", recipe.training.pretrain_epochs),
        ("model.ngrams", recipe.model.ngrams),
    ):
        if value:
            raise UsageError(f"{key}={value} is for text, and this reads numbers")
    layer = build_layer(recipe.layer, recipe.model, inputs.width)
    if layer.context is not None and (window is None or window > layer.context):
        raise UsageError(
            f"layer={recipe.layer} reads {layer.context} steps (model.context) and a sequence may "
            f"have {window or 'any number'}: raise model.context or set it to null"
        )
    return layer
