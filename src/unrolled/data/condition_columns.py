"""Which columns hold texts to write, and the labels and numbers that they are written for."""

from __future__ import annotations

from collections.abc import Sequence

from unrolled.core.errors import DataError, UsageError
from unrolled.data.column_names import TEXT_ANSWERS, TEXT_NAMES
from unrolled.data.columns import Column, named_column
from unrolled.data.image_columns import Chosen
from unrolled.data.sources import Table
from unrolled.data.step_columns import Kinds

WRITE = "write"  # the task


def choose_conditions(
    table: Table,
    columns: Sequence[Column],
    named: Kinds,
    label: str | None,
    without: tuple[str, ...] = (),
) -> Chosen:
    """Choose the texts to write, and what they are written for: all labels and numbers.

    Args:
        table: the rows.
        columns: what they look like.
        named: the columns of each kind that the user named.
        label: the column of texts that the user named.
        without: kinds of columns of which none is read.

    Raises:
        UsageError: a column is named that is read in another way.
        DataError: there is no text, or nothing that it could be written for.
    """
    for kind in ("text", "dates"):
        if named[kind]:
            raise UsageError(
                f"task={WRITE} writes a text for labels (data.categories) and numbers "
                f"(data.numbers), and reads no data.{kind}; a text for a text is task=rewrite"
            )
    inputs = (*named["numbers"], *named["categories"])
    able = [c for c in columns if c.filled and c.name not in inputs]
    answer = label or _texts(able)
    if answer is None:
        raise DataError(
            "no column holds texts to write; name one with data.label=COLUMN "
            f"(columns: {', '.join(table.columns)})",
            table.path,
        )
    numbers = named["numbers"]
    categories = named["categories"]
    if not inputs:
        others = [c for c in able if c.name != answer]
        numbers = tuple(c.name for c in others if c.numeric and not c.stamp)
        categories = tuple(c.name for c in others if _are_labels(c))
    chosen = {"numbers": numbers, "categories": categories}
    chosen |= dict.fromkeys(without, ())
    inputs = (*chosen["numbers"], *chosen["categories"])
    if not inputs or answer in inputs:
        raise DataError(
            f"the text {answer!r} needs labels or numbers that it is written for: name others "
            "with data.categories=[COLUMN] or data.numbers=[COLUMN] "
            f"(columns: {', '.join(table.columns)})",
            table.path,
        )
    return {"task": WRITE, "answer": answer, **chosen}


def _are_labels(column: Column) -> bool:
    return column.category or (column.labels and not column.numeric)


def _texts(columns: Sequence[Column]) -> str | None:
    """Return the column of texts: by its name, else the last."""
    texts = [c for c in columns if c.text]
    texts = texts or [c for c in columns if not c.numeric]
    named = named_column((*TEXT_NAMES, *TEXT_ANSWERS), texts)
    if named is None and texts:
        named = texts[-1]
    return None if named is None else named.name
