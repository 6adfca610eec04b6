"""Which columns are read at each step of a sequence, be the steps rows or items of lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from unrolled.data.columns import Column, label, look
from unrolled.data.numbers import NEARLY_ALL
from unrolled.data.sources import Table

Kinds = dict[str, tuple[str, ...]]  # the columns of numbers, categories and dates


def kinds_of_steps(columns: Sequence[Column], answer: str, time: str | None) -> Kinds:
    """Choose what is read of rows that are steps: numbers, categories, and what orders them.

    Args:
        columns: those that may be read; the answer is one where it is known up to the last step.
        answer: that column.
        time: the column of dates that puts steps in order, if there is one.
    """
    numbers = [c for c in columns if c.numeric and not c.stamp]
    categories = [c for c in columns if c.category and c.name != answer]
    return {
        "numbers": _names(numbers),
        "categories": _names(categories),
        "dates": () if time is None else (time,),
    }


def kinds_of_sequences(table: Table, columns: Sequence[Column]) -> Kinds:
    """Choose what is read of rows that hold sequences of numbers.

    Beside these it is what kinds and dates there are, one for each step, and kinds of a row.
    """
    frames = [c for c in columns if c.frames]
    lengths = [len(cell or ()) for cell in table.cells(frames[0].name)]
    categories: list[Column] = []
    dates: list[Column] = []
    for column in columns:
        if column.frames:
            continue
        if not column.lists:
            categories += [column] if column.category else []
            continue
        cells = [cell or () for cell in table.cells(column.name)]
        pairs = zip(map(len, cells), lengths, strict=True)
        if sum(a == b for a, b in pairs) < NEARLY_ALL * len(cells):
            continue
        items = look(column.name, list(itertools.chain.from_iterable(cells)))
        categories += [column] if items.category else []
        dates += [column] if items.dates else []
    return {
        "numbers": _names(frames),
        "categories": _names(categories),
        "dates": _names(dates),
    }


def are_sequences(numbers: Iterable[Column], others: Iterable[Column]) -> bool:
    """Return whether columns of numbers, and of kinds and dates, hold a sequence in each cell."""
    frames = [column.frames for column in numbers]
    lists = [column.lists for column in others]
    return all(frames) and any((*frames, *lists))


def is_constant(table: Table, sequence: str | None, answer: str) -> bool:
    """Whether all steps of each named sequence have one answer."""
    if sequence is None:
        return False
    names = map(label, table.cells(sequence))
    answers = map(label, table.cells(answer))
    pairs = set(zip(names, answers, strict=True))
    return len(pairs) == len({name for name, _ in pairs})


def _names(columns: Iterable[Column]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)
