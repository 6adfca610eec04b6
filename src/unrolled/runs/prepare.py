"""From a recipe to a task and its encoded rows: read, infer, split, resolve, fit, encode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unrolled.core.errors import DataError, DataWarning
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.data.warnings import warnings_of, warnings_of_text
from unrolled.fields.series import WindowSpec
from unrolled.runs import large
from unrolled.runs.describe import (
    describe,
    describe_errors,
    facts_of,
    warnings_of_left_out,
)
from unrolled.runs.divide import divide
from unrolled.runs.prepared import (
    Prepared,
    check_sides,
    column_hints,
    load_data,
    schema_of,
)
from unrolled.runs.pretrained import Pretrained
from unrolled.runs.recipes import find_data
from unrolled.runs.resolve import DataFacts, Machine, resolve
from unrolled.tasks import series
from unrolled.tasks.base import AnswerOptions, Data, Task, locate
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class
from unrolled.tasks.weights import weigh


def prepare(
    requested: Recipe, task: Task | None = None, machine: Machine | None = None
) -> Prepared:
    """Read and encode the data of a recipe.

    Args:
        requested: what to read.
        task: with fields that were learnt before, when a run is resumed.
        machine: that trains; this one by default.

    Raises:
        DataError, UserError: a file cannot be read or a row is faulty.
    """
    machine = machine or Machine.of(requested)
    path = _training_file(requested)
    pretrained = Pretrained.of(requested) if task is None else None
    if large.is_large(requested, path):
        encoded = large.prepare(requested, path, task, machine, pretrained)
        if encoded is not None:
            return encoded
    parts = _read_parts(requested, task)
    schema = parts.schema
    rows = series.count(parts.train, _reading(requested, schema, task))
    facts = DataFacts(schema, rows, characters(parts.train, schema))
    recipe = resolve(requested, facts, machine, pretrained)
    if task is None:
        task = _fit(requested, recipe, parts, pretrained)
    on_error = recipe.data.on_error
    dev_data = task.gather(parts.dev, task.schema, on_error)
    train, train_errors = task.encode(parts.train, on_error)
    dev, dev_errors = task.encode(dev_data, on_error)
    recipe = weigh(recipe, task, train)
    task.check_options(AnswerOptions.of(recipe))
    errors = [*train_errors, *dev_errors]
    warnings = [*parts.warnings, *warnings_of_left_out(errors)]
    lines = [
        *describe(parts.whole, schema, task),
        *map(str, parts.warnings),
        parts.held_out,
        *series.long_runs(recipe, schema, parts.whole),
        *describe_errors(errors, recipe.report.samples),
        *task.describe_examples(dev),
    ]
    return Prepared(
        recipe,
        task,
        parts.train,
        dev_data,
        train,
        dev,
        lines,
        parts.files,
        facts=facts_of(parts.whole, schema, task, warnings),
        warnings=tuple(warnings),
        pretrained=pretrained,
    )


def _training_file(requested: Recipe) -> Path:
    """Return where the training file stands. Raises DataError: none is named."""
    if requested.data.train is None:
        raise DataError("no data file is named; set data.train=FILE", requested.name)
    check_sides(requested)
    return find_data(requested, requested.data.train)


def _fit(
    requested: Recipe, recipe: Recipe, parts: _Parts, pretrained: Pretrained | None
) -> Task:
    """Return the task with its fields, whose pieces may be those of what a training begins with."""
    schema = parts.schema
    kind = task_class(schema.task, schema.kind)
    known = None
    if pretrained is not None:
        known = pretrained.vocabulary(requested, schema)
    return kind.fit(recipe, schema, parts.train, parts.labels, known)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What was read: ``labels`` names the labels where they come from more than ``train``."""

    whole: Data
    train: Data
    dev: Data
    labels: Data | None
    schema: Schema
    held_out: str
    files: dict[str, str]
    warnings: list[DataWarning]


def _reading(recipe: Recipe, schema: Schema, task: Task | None) -> WindowSpec:
    """Return how files hold sequences: as the task was fitted to them, where there is one."""
    if task is not None and task.frames is not None:
        return task.frames.reading
    return series.reading(recipe, schema)


def _read_parts(recipe: Recipe, task: Task | None) -> _Parts:
    """Read the training part and the scored part, from two files or divided from one."""
    data = recipe.data
    assert data.train is not None
    header = None if task is None else task.format.header
    whole, files = load_data(recipe, data.train, data.limit, data.train_target, header)
    # what is resumed goes on with the columns that it was begun with
    begun = task is not None and isinstance(whole, Table)
    schema = task.schema if task is not None and begun else schema_of(whole, recipe)
    warnings: list[DataWarning] = []
    if isinstance(whole, Document):
        warnings = warnings_of_text(whole)
    else:
        hints = column_hints(recipe)
        warnings = warnings_of(
            whole, schema, hints, data.missing, recipe.report.samples
        )
        spec = _reading(recipe, schema, task)
        skip = data.on_error == "skip"
        whole = series.sequences(whole, schema, spec, whole.columns, skip)
    if data.dev is None:
        train, dev, held_out = divide(whole, schema, recipe)
        schema = series.lasting(recipe, schema, train)
        return _Parts(whole, train, dev, whole, schema, held_out, files, warnings)
    schema = series.lasting(recipe, schema, whole)
    dev, dev_files = load_data(recipe, data.dev, target=data.dev_target)
    files |= dev_files
    same = files[data.dev] == files[data.train]
    scored = "the training data itself" if same else data.dev
    held_out = f"scored on {scored}"
    return _Parts(whole, whole, dev, None, schema, held_out, files, warnings)


def facts_again(prepared: Prepared) -> DataFacts:
    """Return the facts by which the recipe of prepared data was resolved."""
    task = prepared.task
    data = prepared.train_data
    rows = series.count(data, _reading(prepared.recipe, task.schema, task))
    return DataFacts(task.schema, rows, characters(data, task.schema))


def held_out(requested: Recipe) -> Data:
    """Return the rows that a run of a recipe is scored on, as they were read.

    Raises:
        DataError, UserError: a file cannot be read or a row is faulty.
    """
    return _read_parts(requested, None).dev


def characters(data: Data, schema: Schema) -> int:
    """Return the length of the text that is read."""
    if isinstance(data, Document):
        return len(data.text)
    indices = locate(data, schema.text, data.columns)
    total = 0
    for row in data.rows:
        for index in indices:
            cell = row[index]
            if isinstance(cell, str | list):
                total += len(cell)
    return total
