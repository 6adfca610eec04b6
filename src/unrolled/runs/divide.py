"""Which rows are held out: by the hash of their inputs, or the end of a text or of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unrolled.core.errors import DataError, UsageError, UserError, shown
from unrolled.data.pictures import listed_parts, names_in, rows_named
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.data.split import hold_out, hold_out_some, split_text
from unrolled.fields.series import Series, WindowSpec, hold_out_end
from unrolled.runs.recipes import find_data
from unrolled.tasks import series
from unrolled.tasks.base import Data, locate
from unrolled.tasks.recipe import Recipe

SPLIT = "split"  # the column that names the part of each row of images
TRAINED = ("train", "restval")
HELD_OUT = ("val", "dev", "valid", "validation")


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
    if schema.images:
        listed = lists_of(data, recipe)
        if listed is not None:
            return divide_by_lists(data, schema, *listed)
        parts = divide_by_column(data)
        if parts is not None:
            return parts
        data = without_test(data)
    identifying = schema.images or schema.identifying
    indices = locate(data, identifying, data.columns)
    of_inputs = identifying == schema.inputs and not schema.images
    by = f"the hash of {'their inputs' if of_inputs else identifying[0]}"
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


def lists_of(table: Table, recipe: Recipe) -> tuple[Path, Path] | None:
    """Return the lists of images to train on and to score on, named or found beside the images.

    Raises:
        UsageError: one of them is named, and not the other.
    """
    named = (recipe.data.train_list, recipe.data.dev_list)
    if all(named):
        train, dev = (find_data(recipe, str(name)) for name in named)
        return train, dev
    if any(named):
        raise UsageError(
            "data.train_list and data.dev_list name the two parts of one file: set both of them"
        )
    folder = Path(table.path)
    return listed_parts(folder) if folder.is_dir() else None


def divide_by_column(table: Table) -> tuple[Table, Table, str] | None:
    """Divide rows by a column ``split`` that names their part; None where there is none.

    Those of a test part are left out.
    """
    if SPLIT not in table.columns:
        return None
    names = [str(cell).strip().lower() for cell in table.cells(SPLIT)]
    train = [row for row, name in enumerate(names) if name in TRAINED]
    dev = [row for row, name in enumerate(names) if name in HELD_OUT]
    if not train or not dev:
        return None
    how = f"held out the {len(dev):,} rows whose {SPLIT} is val or dev (data.dev=FILE)"
    left = len(names) - len(train) - len(dev)
    others = f"; {left:,} rows of other parts are left out" if left else ""
    return pick(table, train), pick(table, dev), how + others


def without_test(table: Table) -> Table:
    """Return the rows that a column ``split`` says are trained on; all where it says none are."""
    if SPLIT not in table.columns:
        return table
    names = [str(cell).strip().lower() for cell in table.cells(SPLIT)]
    train = [row for row, name in enumerate(names) if name in TRAINED]
    return pick(table, train) if train else table


def divide_by_lists(
    table: Table, schema: Schema, train_list: Path, dev_list: Path
) -> tuple[Table, Table, str]:
    """Divide rows by the images that two lists name; others are left out.

    Raises:
        DataError: an image stands in both lists, or none of the file's in one.
    """
    train_names = names_in(train_list)
    dev_names = names_in(dev_list)
    cells = table.cells(schema.images[0])
    train = rows_named(cells, train_names)
    dev = rows_named(cells, dev_names)
    both = train_names & dev_names
    # by its path in one list and by its name alone in the other
    both |= {str(cells[row]) for row in set(train) & set(dev)}
    if both:
        raise DataError(
            f"{shown(min(both))} stands in {train_list.name} too: what is scored must not be "
            "learnt; leave it out of one list",
            dev_list,
        )
    for rows, path in ((train, train_list), (dev, dev_list)):
        if not rows:
            raise DataError(
                f"no image of {table.path} stands in this list; name them as column "
                f"{schema.images[0]!r} does, one a line",
                path,
            )
    how = f"held out the {len(dev):,} rows of the images in {dev_list.name} (data.dev_list=FILE)"
    left = len(cells) - len(train) - len(dev)
    others = f"; {left:,} rows of other images are left out" if left else ""
    return pick(table, train), pick(table, dev), how + others


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
