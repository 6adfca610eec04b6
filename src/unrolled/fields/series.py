"""Sequences of numbers: rows that are steps become sequences, and sequences become windows.

Legend: T steps of a sequence, D numbers a step.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError, shown
from unrolled.core.saving import LATER
from unrolled.data.columns import label
from unrolled.data.dates import read_moment
from unrolled.data.examples import Ints, Spans
from unrolled.data.numbers import is_missing, number
from unrolled.data.sources import Table
from unrolled.data.units import amount
from unrolled.fields.base import InvalidCell, MissingCell, invalid_row, read_number

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """How a file holds sequences of numbers, and which stretches of them are read.

    Attributes:
        steps: a row of the file is one step, and not a whole sequence.
        sequence: the column whose equal values make one sequence; None: a file is one sequence.
        window: read stretches of this many steps, each begun a step later; None: whole sequences.
        ahead: the answer of a window stands this many steps after its last one.
        difference: the answer is the change from the last step, to which it is added again.
        time: the column that puts the steps in order; None: they stand in the order of the file.
        missing: what becomes of a step without a number; see ``data.missing``.
        decimal: the mark before decimals.
        day_first: whether the day stands before the month in ``time``.
        units: columns whose numbers have a unit behind them, each with its unit.
    """

    steps: bool = False
    sequence: str | None = None
    window: int | None = None
    ahead: int = 1
    difference: bool = False
    time: str | None = field(default=None, metadata=LATER)
    missing: str = field(default="error", metadata=LATER)
    decimal: str = field(default=".", metadata=LATER)
    day_first: bool = field(default=True, metadata=LATER)
    units: tuple[tuple[str, str], ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        """Make pairs of what was read back as lists."""
        pairs = tuple((name, unit) for name, unit in self.units)
        object.__setattr__(self, "units", pairs)

    @property
    def fills(self) -> bool:
        """Whether something stands in for a number that is missing."""
        return self.missing in ("median", "mean")

    @property
    def reach(self) -> int:
        """Steps before an answer's own that a window spans."""
        if self.window is None:
            return 0
        return self.window + self.ahead - 1

    def ends(self, steps: int) -> Ints:
        """Return the last step of each stretch of a sequence of ``steps``, (N,)."""
        if self.window is None:
            return np.array([steps - 1])
        first = self.window - 1
        end = steps - self.ahead
        return np.arange(first, end)

    def length(self, steps: int) -> int:
        """Return how many steps a stretch of a sequence of ``steps`` has."""
        return steps if self.window is None else self.window


@dataclass(frozen=True, slots=True)
class StepColumns:
    """Where the columns of a table of steps stand.

    Attributes:
        numbers: those that are read.
        others: those of categories and dates that are read.
        answer: None where none is needed.
        sequence: the one whose equal values make one sequence; without one a file is one.
        time: the one that puts rows in order.
    """

    numbers: Sequence[int]
    answer: int | None = None
    sequence: int | None = None
    time: int | None = None
    others: Sequence[int] = ()


def all_plain(cells: Sequence[Any]) -> None:
    """Raise InvalidCell where the cells of a step hold a list or an object."""
    for cell in cells:
        if isinstance(cell, list | dict):
            raise InvalidCell(
                f"{shown(cell)} stands where one value of a step is expected"
            )


@dataclass(frozen=True, slots=True)
class Series(Table):
    """A table of sequences that were rows of steps: a cell is the list of its steps' cells.

    ``steps`` holds the line of every step of each sequence, which begins at ``lines``, and
    ``names`` what tells the sequences apart: a file, or a value; pieces of one share it.
    """

    steps: list[list[int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def cut(self, spans: Iterable[tuple[int, int, int]]) -> Self:
        """Return stretches of sequences, each given as (sequence, first step, end)."""
        rows: list[tuple[Any, ...]] = []
        steps: list[list[int]] = []
        names: list[str] = []
        for index, first, end in spans:
            rows.append(tuple(cell[first:end] for cell in self.rows[index]))
            steps.append(self.steps[index][first:end])
            names.append(self.names[index])
        lines = [step_lines[0] for step_lines in steps]
        return replace(self, rows=rows, lines=lines, steps=steps, names=names)


def gather(
    table: Table,
    indices: StepColumns,
    check: Callable[[Any], Any],
    skip: bool,
    spec: WindowSpec = WindowSpec(),
    strict: bool = False,
    check_others: Callable[[Sequence[Any]], Any] = all_plain,
) -> Series:
    """Lay the rows of a table of steps into sequences, in the order of time or else of the file.

    A row without a number where one is expected, or without an answer, is an error; skipped, it
    ends its sequence and the next row begins another, so that no stretch spans a gap.

    Args:
        table: one row a step.
        indices: where its columns stand.
        check: raises InvalidCell for an answer that is none.
        skip: leave faulty rows out.
        spec: says what becomes of missing numbers, and whether a step may lack an answer.
        strict: nothing stands in for what is neither a number nor missing.
        check_others: raises InvalidCell for cells of the other columns that do not fit.

    Raises:
        DataError: a row is faulty, by its line, or no row is left.
    """
    table = _without_units(table, spec)
    table, breaks = _in_order(table, indices, spec.day_first)
    errors = list(table.skipped)
    rows = zip(table.rows, table.lines, strict=True)
    sequence = indices.sequence
    groups: dict[str, list[list[int]]] = {}
    # breaks that stood before the last row of each sequence
    breaks_before: dict[str, int] = {}
    for index, (row, line) in enumerate(rows):
        name = table.position(line)[0] if sequence is None else label(row[sequence])
        pieces = groups.setdefault(name, [[]])
        # a row that the reader left out is a gap in whichever sequence it was
        before = bisect.bisect(breaks, line)
        if breaks_before.setdefault(name, before) != before:
            pieces.append([])
            breaks_before[name] = before
        try:
            _check(table, row, indices, check, spec, strict)
            check_others([row[i] for i in indices.others])
        except InvalidCell as invalid:
            error = invalid_row(invalid, *table.position(line))
            if not skip and not isinstance(invalid, MissingCell):
                raise error from None
            errors.append(error)
            pieces.append([])
        else:
            pieces[-1].append(index)
    kept: list[tuple[str, list[int]]] = []
    for name, pieces in groups.items():
        kept += [(name, piece) for piece in pieces if piece]
    if not kept:
        raise DataError("no row is left to read", table.path)
    return _laid(table, kept, indices.numbers, errors, spec.decimal)


def _without_units(table: Table, spec: WindowSpec) -> Table:
    """Return a table whose amounts, such as 70 kg, are numbers."""
    units: dict[int, str] = {}
    for name, unit in spec.units:
        if name in table.columns:
            units[table.columns.index(name)] = unit
    if not units:
        return table
    rows: list[tuple[Any, ...]] = []
    for row in table.rows:
        cells = list(row)
        for index, unit in units.items():
            value = amount(cells[index], spec.decimal, unit)
            cells[index] = cells[index] if value is None else value
        rows.append(tuple(cells))
    return replace(table, rows=rows)


def _in_order(
    table: Table, indices: StepColumns, day_first: bool
) -> tuple[Table, list[int]]:
    """Return a table in the order of time, and the lines before which its sequences are broken."""
    if indices.time is None:
        return table, _breaks(table)
    order = order_in_time(table, indices.sequence, indices.time, day_first)
    if order is None:
        return table, _breaks(table)
    rows = [table.rows[i] for i in order]
    lines = [table.lines[i] for i in order]
    # the lines before a row say nothing any more of the time before it
    return replace(table, rows=rows, lines=lines), []


def order_in_time(
    table: Table, sequence: int | None, time: int, day_first: bool = True
) -> list[int] | None:
    """Return the rows of a table in the order of time; None where they stand in it.

    Rows of equal time stay in the order of the file, and one without a time where it stands.
    """
    times = times_of(table, time, day_first)
    last: dict[str, float] = {}
    in_order = True
    for row, line, moment in zip(table.rows, table.lines, times, strict=True):
        name = table.position(line)[0] if sequence is None else label(row[sequence])
        in_order &= last.get(name, moment) <= moment
        last[name] = moment
    if in_order:
        return None
    return sorted(range(len(times)), key=times.__getitem__)


def times_of(table: Table, column: int, day_first: bool) -> list[float]:
    """Return the moment of each row, in seconds where they are dates.

    A row that has none has that of the row before it.
    """
    times: list[float] = []
    last = -math.inf
    for row in table.rows:
        moment = read_moment(row[column], day_first)
        last = last if moment is None else moment
        times.append(last)
    return times


def _breaks(table: Table) -> list[int]:
    """Return the lines of rows that the reader left out, counted through all files, in order."""
    lines_before = {name: before for before, name in table.parts}
    lines: list[int] = []
    for error in table.skipped:
        before = lines_before.get(error.path, 0)
        lines.append(before + (error.line or 0))
    return sorted(lines)


def _laid(
    table: Table,
    kept: Sequence[tuple[str, list[int]]],
    numbers: Sequence[int],
    errors: list[DataError],
    decimal: str,
) -> Series:
    """Return the sequences of which each is a name and the indices of its rows."""
    columns: list[Sequence[Any]] = list(zip(*table.rows, strict=True))
    for index in numbers:
        columns[index] = [number(cell, decimal) for cell in columns[index]]
    rows: list[tuple[Any, ...]] = []
    steps: list[list[int]] = []
    names: list[str] = []
    for name, piece in kept:
        cells = tuple([column[i] for i in piece] for column in columns)
        rows.append(cells)
        steps.append([table.lines[i] for i in piece])
        names.append(name)
    lines = [step_lines[0] for step_lines in steps]
    return Series(
        table.path,
        table.format,
        table.columns,
        rows,
        lines,
        errors,
        steps,
        names,
        parts=table.parts,
    )


def _check(
    table: Table,
    row: Sequence[Any],
    indices: StepColumns,
    check: Callable[[Any], Any],
    spec: WindowSpec,
    strict: bool,
) -> None:
    """Raise InvalidCell where a step does not hold what is needed of it."""
    if (
        indices.time is not None
        and read_moment(row[indices.time], spec.day_first) is None
    ):
        raise InvalidCell(
            f"column {table.columns[indices.time]!r} holds {shown(row[indices.time])} where a date "
            "is expected that puts the steps in order"
        )
    for i in indices.numbers:
        value = number(row[i], spec.decimal)
        if value is None and spec.fills and (not strict or is_missing(row[i])):
            continue
        if spec.missing == "drop" and is_missing(row[i]):
            raise MissingCell(f"column {table.columns[i]!r} holds no number")
        read_number(table.columns[i], row[i], spec.decimal)
    if indices.answer is None:
        return
    try:
        check(row[indices.answer])
    except MissingCell:
        # of windows those alone are left out that would be answered with it
        if spec.window is None:
            raise


def hold_out_end(series: Series, fraction: float, reach: int) -> tuple[Series, Series]:
    """Return all sequences without their last part, and the last part of each.

    The last part begins ``reach`` steps early, so that its first window ends where the answers
    that are held out begin; no such answer is seen in training.

    Args:
        series: the sequences.
        fraction: part of the steps that is held out.
        reach: steps that stand before an answer's own in its window.

    Raises:
        DataError: there are too few steps.
    """
    sizes = Counter[str]()
    for name, lines in zip(series.names, series.steps, strict=True):
        sizes[name] += len(lines)
    # steps of each sequence that training may still have, of pieces the first ones
    left: dict[str, int] = {}
    for name, size in sizes.items():
        held_out = max(1, round(size * fraction))
        left[name] = size - held_out
    first: list[tuple[int, int, int]] = []
    last: list[tuple[int, int, int]] = []
    for index, name in enumerate(series.names):
        count = len(series.steps[index])
        cut = min(left[name], count)
        left[name] -= cut
        if cut:
            first.append((index, 0, cut))
        if cut < count:
            begin = max(0, cut - reach)
            last.append((index, begin, count))
    if not first:
        raise DataError(
            f"{sum(sizes.values())} steps cannot be split; add rows", series.path
        )
    return series.cut(first), series.cut(last)


def spans(parts: Sequence[Floats], spec: WindowSpec, last: bool = False) -> Spans:
    """Return the stretches of some sequences (T, D), of each its last one alone with ``last``."""
    starts = []
    lengths = []
    offset = 0
    for steps in parts:
        count = len(steps)
        size = spec.length(count)
        ends = np.array([count - 1]) if last else spec.ends(count)
        starts.append(offset + ends + 1 - size)
        lengths.append(np.full(len(ends), size))
        offset += count
    return Spans(
        np.concatenate(parts),
        np.concatenate(starts),
        np.concatenate(lengths),
    )
