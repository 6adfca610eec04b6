"""The scores of a run on another file, and by other options than its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unrolled.core.errors import UsageError, UserError, shown
from unrolled.core.files import path_of
from unrolled.data.aligned import read_aligned
from unrolled.data.sources import read
from unrolled.decoding.settings import Search
from unrolled.runs import arguments
from unrolled.runs.breakdown import breakdown, has_column
from unrolled.runs.describe import describe_errors
from unrolled.runs.file_reading import FileReading, read_as
from unrolled.runs.keys import deep, flat
from unrolled.runs.predictor import Predictor
from unrolled.runs.recipes import find_data
from unrolled.tasks.base import (
    AnswerOptions,
    Data,
    Evaluation,
    OutputConstraints,
)
from unrolled.tasks.recipe import Recipe
from unrolled.training.precision import torch_defaults


def changed_search(recipe: Recipe, changes: Mapping[str, Any]) -> Search:
    """Return the search of a recipe with keys under ``decoding`` changed."""
    values = flat(recipe.decoding.model_dump()) | flat(changes)
    return Search.read(deep(values), "decoding")


def adjusted(
    predictor: Predictor,
    recipe: Recipe,
    begin: str,
    banned: Sequence[str],
    required: Sequence[str],
    alignment: bool,
    decoding: Mapping[str, Any],
) -> AnswerOptions:
    """Return options by which answers are searched for otherwise; see ``Run.adjust``.

    Raises:
        UsageError: the task does not search, a key is unknown or a value does not fit.
    """
    task = predictor.task
    if not task.is_generative:
        raise UsageError(
            f"a run that was trained to {task.name} searches for no answers"
        )
    search = changed_search(recipe, decoding)
    if not isinstance(begin, str):
        raise UsageError(f"begin is {shown(begin)}; give a text")
    constraints = OutputConstraints(
        alignment,
        begin,
        tuple(arguments.texts("banned", banned)),
        tuple(arguments.texts("required", required)),
    )
    options = AnswerOptions.of(recipe.changed(decoding=search), constraints)
    task.check_options(options, predictor.model)
    return options


def compare(
    predictor: Predictor,
    first: Evaluation,
    second: Evaluation,
    names: tuple[str, str],
) -> list[str]:
    """Tell in lines whether two runs differ on the same file by more than chance.

    Language models are set beside each other by what does not depend on how text is cut: one text
    has no rows to draw a test from.

    Args:
        predictor: of the first run.
        first, second: their scores on the file.
        names: what the runs are called.

    Raises:
        UsageError: the task has no such test.
    """
    lines = []
    beside = predictor.task.untested_score
    if beside is not None and beside in second.scores:
        pairs = zip(names, (first, second), strict=True)
        return [
            f"{name}: {beside} {scored.scores[beside]:.4f}" for name, scored in pairs
        ]
    comparisons = predictor.task.compare(first, second, predictor.options)
    for comparison in comparisons.values():
        lines.append(f"{names[0]}: {comparison.first}")
        lines.append(f"{names[1]}: {comparison.second}")
        alike = comparison.first.value == comparison.second.value
        chance = f"p = {comparison.p:.4f} by paired bootstrap"
        lines.append("no difference" if alike else chance)
    return lines


@torch_defaults()
def evaluate(
    predictor: Predictor,
    recipe: Recipe,
    path: str | Path,
    changes: Mapping[str, Any],
    notice: Callable[[str], None],
    target: str | Path | None = None,
) -> Evaluation:
    """Score a run on a file.

    Args:
        predictor: task and model.
        recipe: of the run.
        path: the file.
        changes: keys under ``data`` for this file, and under ``decoding`` for this evaluation.
        notice: called with a sentence when rows were skipped.
        target: of pairs of texts the file whose lines are the answers.

    Raises:
        DataError: a column is missing or a row is faulty.
    """
    task = predictor.task
    given = flat(changes)
    search = {k: value for k, value in given.items() if k.startswith("decoding.")}
    data_changes = {k: value for k, value in given.items() if k not in search}
    reading = read_as(recipe, task, data_changes)
    if search and not task.is_generative:
        raise UsageError(f"{next(iter(search))} is for runs that write texts")
    # how much was trained on says nothing of how much is scored
    limit = reading.data.limit if "data.limit" in given else None
    data = _read(predictor, reading, path, target, limit)
    examples, errors = task.encode(data, reading.data.on_error, reading.schema)
    if errors:
        for line in describe_errors(errors, samples=True):
            notice(line)
    options = _options(predictor, recipe, reading, search)
    task.check_options(options)
    with torch.no_grad():
        evaluation = task.evaluate(
            predictor.model, examples, predictor.compute_device, options
        )
        by = reading.data.by
        # one that the recipe of the run names may be missing here
        if by is not None and ("data.by" in given or has_column(data, by)):
            parts = breakdown(predictor, data, examples, reading.data, options)
            evaluation = replace(evaluation, by={f"by_{by}": parts})
    if not all(map(math.isfinite, evaluation.scores.values())):
        raise UserError(
            f"{path}: the scores are no numbers: a row, or a weight, is out of bounds"
        )
    return evaluation


def _options(
    predictor: Predictor,
    recipe: Recipe,
    reading: FileReading,
    search: Mapping[str, Any],
) -> AnswerOptions:
    """Return how answers are searched for and scored in this evaluation."""
    keys = {key.partition(".")[2]: value for key, value in search.items()}
    return replace(
        predictor.options,
        search=changed_search(recipe, keys),
        copy_unknown=reading.data.copy_unknown,
        score_tokenizer=reading.data.score_tokenizer,
        documents=reading.data.documents,
    )


def _read(
    predictor: Predictor,
    reading: FileReading,
    path: str | Path,
    target: str | Path | None,
    limit: int | None,
) -> Data:
    """Read what is scored: a file, or two whose lines stand beside each other."""
    task = predictor.task
    data = reading.data
    source = find_data(reading.recipe, str(path_of(path, "data")))
    options: dict[str, Any] = {
        "encoding": data.encoding,
        "on_error": data.on_error,
        "limit": limit,
        "max_row": data.max_row,
    }
    if target is not None:
        columns = task.pair_columns(reading.schema)
        beside = find_data(reading.recipe, str(path_of(target, "target")))
        return read_aligned(source, beside, columns=columns, **options)
    scored = read(source, **options, header=reading.header(task), sheet=data.sheet)
    task.check_data(scored)
    return scored
