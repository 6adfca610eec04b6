"""How a trained run reads another file: its keys under ``data``, and its columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unrolled.core.errors import UsageError
from unrolled.data.formats.base import HeaderHint
from unrolled.data.schema import Schema
from unrolled.runs.keys import flat
from unrolled.runs.prepared import column_hints
from unrolled.runs.recipes import merge
from unrolled.tasks.base import Task
from unrolled.tasks.recipe import DataConfig, Recipe


@dataclass(frozen=True, slots=True)
class FileReading:
    """Settings and columns by which a file is read."""

    recipe: Recipe
    schema: Schema

    @property
    def data(self) -> DataConfig:
        """The settings under ``data``."""
        return self.recipe.data

    def header(self, task: Task) -> HeaderHint:
        """Return whether the first row is a header, or by which names of the run it is known."""
        if self.data.header is None and task.format.header:
            return task.columns
        return self.data.header


def read_as(recipe: Recipe, task: Task, changes: Mapping[str, Any]) -> FileReading:
    """Return how a run reads another file.

    Args:
        recipe, task: of the run.
        changes: keys under ``data`` for this file.

    Raises:
        UsageError: a key that is not under ``data``, or one that says what is read of a sequence:
            a run is what it was trained as.
    """
    given = flat(changes)
    other = next((key for key in given if not key.startswith("data.")), None)
    if other is not None:
        raise UsageError(
            f"{other} cannot change in a trained run; only keys under data can"
        )
    changed = Recipe.read(merge(recipe.model_dump(), given)) if given else recipe
    trained = task.schema
    _refuse_other_steps(recipe.data, changed.data, trained.steps)
    hints = column_hints(changed)
    schema = replace(
        trained,
        text=hints.text or trained.text,
        numbers=hints.numbers or trained.numbers,
        categories=hints.categories or trained.categories,
        dates=hints.dates or trained.dates,
        answer=hints.label or trained.answer,
        sequence=changed.data.sequence,
    )
    return FileReading(changed, schema)


def _refuse_other_steps(before: DataConfig, now: DataConfig, steps: bool) -> None:
    """Raise UsageError for keys by which a run would read other sequences than it was trained on.

    ``steps`` is whether the rows it was trained on are steps.
    """
    other = [
        key
        for key in ("window", "ahead", "difference")
        if getattr(now, key) != getattr(before, key)
    ]
    if now.rows not in (before.rows, "steps" if steps else "examples"):
        other.append("rows")
    if now.sequence != before.sequence and not steps:
        other.append("sequence")
    if other:
        raise UsageError(
            f"data.{other[0]} cannot change in a trained run, where it is "
            f"{json.dumps(getattr(before, other[0]))}; train another run with it"
        )
