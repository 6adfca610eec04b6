"""Held-out rows as the report shows them: looked into, right ones, what columns and steps say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from unrolled.core.errors import shown
from unrolled.data.examples import Examples
from unrolled.data.numbers import number
from unrolled.data.sources import Document, Table
from unrolled.fields.frames import Frames
from unrolled.fields.steps import steps_in
from unrolled.insight.inside import RowToInspect, inspect_rows
from unrolled.insight.mistakes import text_of_row
from unrolled.runs.predictor import Predictor
from unrolled.tasks.base import Task, locate

LEFT_OUT = "inside.html is left out: held-out rows could not be looked into"
ROWS = 3  # that are looked into
STEPS = 400  # of a row that is looked into
CHARACTERS = 160  # of running text that is looked into
PARAMETERS = 100_000_000  # of the largest model that is looked into
SHUFFLED = 2000  # rows in which a column is shuffled
COLUMNS = 40  # that are shuffled


@dataclass(frozen=True, slots=True)
class Importance:
    """How much worse the score is where a column's cells stand in other rows."""

    column: str
    change: float


def inside_of_held_out(
    predictor: Predictor,
    data: Table | Document,
    result: dict[str, Any],
    title: str,
    say: Callable[[str], None],
) -> str | None:
    """Return the page of a look into ``ROWS`` held-out rows; None where there is none to show.

    A training does not fail for want of it: what went wrong is said.
    """
    if result["parameters"] > PARAMETERS:
        return None
    rows: list[RowToInspect] = []
    try:
        for row in _rows(predictor.task, data):
            rows.append(row)
            if len(rows) == ROWS:
                break
        if not rows:
            return None
        return inspect_rows(predictor, rows, result, title).to_html()
    except Exception as error:
        # the training is done, and its result is worth more than this picture of it
        say(f"{LEFT_OUT} ({shown(str(error), 200)})")
        return None


def _rows(task: Task, data: Table | Document) -> Iterator[RowToInspect]:
    """Yield rows of a file, evenly spaced, that can be answered and are short."""
    if isinstance(data, Document):
        size = min(CHARACTERS, -(-len(data.text) // ROWS))
        starts = np.linspace(0, len(data.text) - size, ROWS)
        for start in np.unique(starts.astype(int)).tolist():
            text = data.text[start : start + size]
            yield RowToInspect(text, (text,))
        return
    columns = locate(data, task.schema.inputs, task.columns)
    count = len(data.rows)
    # more than are asked for, since some may be too long or faulty
    for index in np.unique(np.linspace(0, count - 1, 8 * ROWS).astype(int)).tolist():
        row = data.rows[index]
        cells = tuple(row[column] for column in columns)
        truth = None
        if task.frames is not None:
            cells, truth = _window(task, task.frames, data, row, cells)
        steps = sum(len(cell) if isinstance(cell, str | list) else 1 for cell in cells)
        if not 0 < steps <= STEPS * max(1, len(cells)):
            continue
        if task.answers_rows and task.why_not_answerable(cells):
            continue
        path, line = data.position(data.lines[index])
        text = text_of_row(task, data, row)
        if task.frames is not None:
            text = f"{text} ({path}:{line})"
        yield RowToInspect(text, cells, truth)


def _window(
    task: Task,
    frames: Frames,
    data: Table,
    row: tuple[Any, ...],
    cells: tuple[Any, ...],
) -> tuple[tuple[Any, ...], float | None]:
    """Return the first window of a sequence that has an answer, and the true one if a value."""
    spec = frames.reading
    if spec.window is None:
        return cells, None
    ends = spec.ends(steps_in(cells) or 0)
    if not len(ends):
        return cells, None
    end = int(ends[len(ends) // 2])
    first = end + 1 - spec.window
    window = tuple(
        cell[first : end + 1] if isinstance(cell, list) else cell for cell in cells
    )
    if not task.answers_values:
        return window, None
    (answer,) = locate(data, [task.schema.answer or ""], task.columns)
    return window, number(row[answer][end + spec.ahead], spec.decimal)


def importances(
    predictor: Predictor, examples: Any, columns: tuple[str, ...]
) -> list[Importance]:
    """Return how much each column of a table matters to the score, the most first.

    The cells of a column are shuffled among the rows (Breiman 2001, section 10).

    Args:
        predictor: of the run.
        examples: encoded rows with their answers.
        columns: the column that each feature (D,) is of.
    """
    if not isinstance(examples, Examples) or examples.vectors is None:
        return []
    task = predictor.task
    names = list(dict.fromkeys(columns))[:COLUMNS]
    if len(names) < 2:
        return []
    rows = np.arange(min(len(examples), SHUFFLED))
    shown = examples.pick(rows)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(rows))
    plain = _score(predictor, predictor.model, shown)
    is_better_up = task.measures[task.metric]
    changes: list[Importance] = []
    for name in names:
        assert shown.vectors is not None
        vectors = shown.vectors.copy()
        features = [index for index, column in enumerate(columns) if column == name]
        vectors[:, features] = vectors[order][:, features]
        shuffled = replace(shown, vectors=vectors)
        score = _score(predictor, predictor.model, shuffled)
        worse = plain - score if is_better_up else score - plain
        changes.append(Importance(name, worse))
    changes.sort(key=lambda importance: -importance.change)
    return changes


@torch.no_grad()
def _score(predictor: Predictor, model: nn.Module, examples: Examples) -> float:
    task = predictor.task
    device = predictor.compute_device
    evaluation = task.evaluate(model, examples, device, predictor.options)
    return evaluation.scores[task.metric]
