"""Which rows are held out: by the hash of their inputs, or the end of a text or of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.data.split import hold_out, hold_out_some, split_text
from unrolled.fields.series import Series, WindowSpec, hold_out_end
from unrolled.tasks import series
from unrolled.tasks.base import Data, locate
from unrolled.tasks.recipe import Recipe


def divide(data: Data, schema: Schema, recipe: Recipe) -> tuple[Data, Data, str]:
    """Hold out part of the data: the end of one text, or rows by the hash of their inputs.

    Returns:
        The training part, the scored part, and a line that says how they were divided.
    """
    fraction = recipe.data.holdout
    if isinstance(data, Document):
        first, last = split_text(data.text, fraction)
        how = (
            f"held out the last {fraction:.0%} of the text, {len(last):,} characters "
            "(data.dev=FILE)"
        )
        return replace(data, text=first), replace(data, text=last), how
    if isinstance(data, Series):
        if recipe.data.group is not None:
            raise UsageError(
                f"data.group={recipe.data.group} is for rows by themselves; steps stand in one "
                "part by their sequence: say data.sequence=COLUMN"
            )
        return divide_series(data, series.reading(recipe, schema), recipe)
    indices = locate(data, schema.inputs, data.columns)
    by = "the hash of their inputs"
    group = recipe.data.group
    if group is not None:
        indices = locate(data, [group], data.columns)
        by = f"the hash of {group}"
    keys = [key_of(row, indices) for row in data.rows]
    try:
        kept, held = hold_out(keys, recipe.seed, fraction)
    except UserError as error:
        raise DataError(str(error), data.path) from None
    part = f"held out {len(held):,} of {len(keys):,} rows"
    how = f"{part} by {by} (data.dev=FILE)"
    return pick(data, kept), pick(data, held), how


def divide_series(
    data: Series, spec: WindowSpec, recipe: Recipe
) -> tuple[Data, Data, str]:
    """Hold out whole sequences, or the last part of each where windows or one sequence are read.

    Steps are never drawn by chance: those of one recording tell too much of each other.
    """
    fraction = recipe.data.holdout
    if spec.window or len(set(data.names)) == 1:
        first, last = hold_out_end(data, fraction, spec.reach)
        ahead = "; no answer of it is seen in training" if spec.window else ""
        return (
            first,
            last,
            f"held out the last {fraction:.0%} of the steps{ahead} (data.dev=FILE)",
        )
    kept, held = hold_out_some(data.names, recipe.seed, fraction)
    what = f"{len(held):,} of {len(data.names):,} sequences by the hash of their names"
    return pick(data, kept), pick(data, held), f"held out {what} (data.dev=FILE)"


def key_of(row: Sequence[Any], indices: Sequence[int]) -> str:
    """Return the text by whose hash a row is held out."""
    return "\x1f".join("" if row[i] is None else str(row[i]) for i in indices)


def pick(table: Table, rows: list[int]) -> Table:
    """Return some rows of a table."""
    if isinstance(table, Series):
        return table.cut((i, 0, len(table.steps[i])) for i in rows)
    return replace(
        table, rows=[table.rows[i] for i in rows], lines=[table.lines[i] for i in rows]
    )
