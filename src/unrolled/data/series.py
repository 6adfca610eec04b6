"""Sequences of numbers: rows that are steps become sequences, and sequences become windows.

Legend: T steps of a sequence, D numbers a step.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError, UserError, shown
from unrolled.data.examples import Ints
from unrolled.data.fields import FAR, LARGEST, InvalidCell, invalid_row, read_number
from unrolled.data.schema import label, number
from unrolled.data.sources import Table

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
    """

    steps: bool = False
    sequence: str | None = None
    window: int | None = None
    ahead: int = 1
    difference: bool = False

    @property
    def reach(self) -> int:
        """Steps before an answer's own that a window spans."""
        return 0 if self.window is None else self.window + self.ahead - 1

    def ends(self, steps: int) -> Ints:
        """Return the last step of each stretch of a sequence of ``steps``, (N,)."""
        if self.window is None:
            return np.array([steps - 1])
        return np.arange(self.window - 1, steps - self.ahead)

    def length(self, steps: int) -> int:
        """Return how many steps a stretch of a sequence of ``steps`` has."""
        return steps if self.window is None else self.window


@dataclass(frozen=True, slots=True)
class Series(Table):
    """A table of sequences that were rows of steps: a cell is the list of its steps' cells.

    ``steps`` holds the line of every step of each sequence, which begins at ``lines``, and
    ``names`` what tells the sequences apart: a file, or a value; pieces of one share it.
    """

    steps: list[list[int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def cut(self, spans: Iterable[tuple[int, int, int]]) -> Self:
        """Return stretches of sequences, each told by (sequence, first step, end)."""
        told = [(i, slice(first, end)) for i, first, end in spans]
        steps = [self.steps[i][part] for i, part in told]
        rows = [tuple(cell[part] for cell in self.rows[i]) for i, part in told]
        lines = [each[0] for each in steps]
        names = [self.names[i] for i, _ in told]
        return replace(self, rows=rows, lines=lines, steps=steps, names=names)


def gather(
    table: Table,
    numbers: Sequence[int],
    answer: int | None,
    sequence: int | None,
    check: Callable[[Any], Any],
    skip: bool,
) -> Series:
    """Lay the rows of a table of steps into sequences, in the order of the file.

    A row without a number where one is expected, or without an answer, is an error; skipped, it
    ends its sequence and the next row begins another, so that no stretch spans a gap.

    Args:
        table: one row a step.
        numbers: the places of the columns of numbers that are read.
        answer: the place of the answer, None where none is needed.
        sequence: the place of the column whose equal values make one sequence; without one a file
            is one.
        check: raises InvalidCell for an answer that is none.
        skip: leave faulty rows out.

    Raises:
        DataError: a row is faulty, by its line, or no row is left.
    """
    faults = list(table.skipped)
    before_file = {name: before for before, name in table.parts}
    breaks = sorted(
        before_file.get(fault.path, 0) + (fault.line or 0) for fault in faults
    )
    groups: dict[str, list[list[int]]] = {}
    stood: dict[str, int] = {}
    for place, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        name = table.place(line)[0] if sequence is None else label(row[sequence])
        pieces = groups.setdefault(name, [[]])
        # a row that the reader left out is a gap in whichever sequence it was
        before = bisect.bisect(breaks, line)
        if stood.setdefault(name, before) != before:
            pieces.append([])
            stood[name] = before
        try:
            _check(table, row, numbers, answer, check)
        except InvalidCell as fault:
            error = invalid_row(fault, *table.place(line))
            if not skip:
                raise error from None
            faults.append(error)
            pieces.append([])
        else:
            pieces[-1].append(place)
    kept = [
        (name, piece) for name, pieces in groups.items() for piece in pieces if piece
    ]
    if not kept:
        raise DataError("no row is left to read", table.path)
    return _laid(table, kept, numbers, faults)


def _laid(
    table: Table,
    kept: Sequence[tuple[str, list[int]]],
    numbers: Sequence[int],
    faults: list[DataError],
) -> Series:
    """Return the sequences of which each is a name and the places of its rows."""
    columns: list[Sequence[Any]] = list(zip(*table.rows, strict=True))
    for i in numbers:
        columns[i] = [number(cell) for cell in columns[i]]
    rows = [
        tuple([column[i] for i in piece] for column in columns) for _, piece in kept
    ]
    steps = [[table.lines[i] for i in piece] for _, piece in kept]
    lines = [each[0] for each in steps]
    names = [name for name, _ in kept]
    return Series(
        table.path,
        table.format,
        table.columns,
        rows,
        lines,
        faults,
        steps,
        names,
        parts=table.parts,
    )


def _check(
    table: Table,
    row: Sequence[Any],
    numbers: Sequence[int],
    answer: int | None,
    check: Callable[[Any], Any],
) -> None:
    for i in numbers:
        read_number(table.columns[i], row[i])
    if answer is not None:
        check(row[answer])


def hold_out_end(series: Series, share: float, reach: int) -> tuple[Series, Series]:
    """Return all sequences without their last part, and the last part of each.

    The last part begins ``reach`` steps early, so that its first window ends where the answers
    that are held out begin; no such answer is seen in training.

    Args:
        series: the sequences.
        share: part of the steps that is held out.
        reach: steps that stand before an answer's own in its window.

    Raises:
        DataError: there are too few steps.
    """
    sizes = Counter[str]()
    for name, lines in zip(series.names, series.steps, strict=True):
        sizes[name] += len(lines)
    left = {name: size - max(1, round(size * share)) for name, size in sizes.items()}
    first = []
    last = []
    for i, (name, lines) in enumerate(zip(series.names, series.steps, strict=True)):
        cut = min(left[name], len(lines))
        left[name] -= cut
        first += [(i, 0, cut)] if cut else []
        last += [(i, max(0, cut - reach), len(lines))] if cut < len(lines) else []
    if not first:
        raise DataError(
            f"{sum(sizes.values())} steps cannot be split; add rows", series.path
        )
    return series.cut(first), series.cut(last)


@dataclass(frozen=True, slots=True)
class Frames:
    """A sequence of numbers, D at each step, each scaled to mean 0 and deviation 1.

    A column holds a number a step, or a list of ``sizes`` numbers.
    """

    columns: tuple[str, ...]
    sizes: tuple[int, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    reading: WindowSpec

    @property
    def width(self) -> int:
        """Numbers of a step, D."""
        return len(self.means)

    @classmethod
    def fit(
        cls,
        columns: tuple[str, ...],
        rows: Iterable[Sequence[Any]],
        reading: WindowSpec,
    ) -> Self:
        """Learn sizes and scales from rows of cells; faulty rows are left to ``check``."""
        found: list[list[NDArray[np.float64]]] = []
        for row in rows:
            try:
                parts = [
                    _matrix(name, cell) for name, cell in zip(columns, row, strict=True)
                ]
            except InvalidCell:
                continue
            if not found or [p.shape[1] for p in parts] == [
                p.shape[1] for p in found[0]
            ]:
                found.append(parts)
        if not found:
            raise UserError(f"column {columns[0]!r} holds no sequence of numbers")
        steps = sum(len(parts[0]) for parts in found)
        whole = [np.concatenate(parts, 1) for parts in found]
        means = sum(frames.sum(0) for frames in whole) / steps
        spread = np.sqrt(
            sum(np.square(frames - means).sum(0) for frames in whole) / steps
        )
        # as in fields.scale_of, without all steps side by side
        spread = np.where(spread > 1e-9 * np.abs(means), spread, 1.0)
        sizes = tuple(part.shape[1] for part in found[0])
        return cls(
            columns, sizes, tuple(means.tolist()), tuple(spread.tolist()), reading
        )

    def check(self, cells: Sequence[Any]) -> Floats:
        """Return the scaled steps of a row (T, D).

        Raises:
            InvalidCell: a cell is no sequence of finite numbers, or one of another width or length.
        """
        parts: list[NDArray[np.float64]] = []
        for name, size, cell in zip(self.columns, self.sizes, cells, strict=True):
            part = _matrix(name, cell)
            if part.shape[1] != size:
                raise InvalidCell(
                    f"column {name!r} holds {part.shape[1]} numbers a step; expected {size}"
                )
            if parts and len(part) != len(parts[0]):
                raise InvalidCell(
                    f"column {name!r} has {len(part)} steps and {self.columns[0]!r} {len(parts[0])}"
                )
            parts.append(part)
        whole = np.concatenate(parts, 1)
        scaled = (whole - self.means) / self.deviations
        far = np.abs(scaled) > FAR
        if far.any():
            step, place = (int(i) for i in np.argwhere(far)[0])
            names = [
                name
                for name, n in zip(self.columns, self.sizes, strict=True)
                for _ in range(n)
            ]
            raise InvalidCell(
                f"column {names[place]!r} holds {whole[step, place]:g} at step {step + 1}, out of "
                f"all proportion to the numbers of training (about {self.means[place]:g}, give or "
                f"take {self.deviations[place]:g})"
            )
        return scaled.astype(np.float32)

    def cells(self, steps: Any) -> tuple[Any, ...]:
        """Return the cells of a sequence given as a list of steps (T, D), or of T numbers.

        Raises:
            UserError: a step has more or fewer numbers.
        """
        try:
            found = _matrix("the row", steps)
        except InvalidCell as error:
            raise UserError(str(error)) from None
        if found.shape[1] != self.width:
            raise UserError(
                f"a step has {found.shape[1]} numbers; expected {self.width}: "
                f"{', '.join(self.columns)}"
            )
        ends = np.cumsum(self.sizes)[:-1]
        return tuple(part.tolist() for part in np.split(found, ends, axis=1))

    def last(self, column: str, steps: Floats) -> NDArray[np.float64]:
        """Return a column's value at steps (N, D), in the unit of the file."""
        place = sum(self.sizes[: self.columns.index(column)])
        return (
            steps[:, place].astype(np.float64) * self.deviations[place]
            + self.means[place]
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Self:
        """Read the field back."""
        sizes, means, spread = (
            tuple(told[key]) for key in ("sizes", "means", "deviations")
        )
        return cls(
            tuple(told["columns"]), sizes, means, spread, WindowSpec(**told["reading"])
        )


def _matrix(name: str, cell: Any) -> NDArray[np.float64]:
    """Return the steps of a cell (T, D). Raises InvalidCell."""
    try:
        found = np.array(cell, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidCell(_why(name, cell)) from None
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise InvalidCell(_why(name, cell))
    if (np.abs(found) > LARGEST).any():
        step = int(np.argwhere(np.abs(found) > LARGEST)[0][0]) + 1
        raise InvalidCell(
            f"column {name!r} holds a number above {LARGEST:g} at step {step}; if it marks a "
            "missing value, leave the row out"
        )
    return found


def _why(name: str, cell: Any) -> str:
    """Say what is wrong with a cell that is no sequence of numbers."""
    if not isinstance(cell, list | np.ndarray) or not len(cell):
        return (
            f"column {name!r} holds {shown(cell)} where a list of numbers is expected"
        )
    width = len(cell[0]) if isinstance(cell[0], list) else None
    for place, step in enumerate(cell, 1):
        values = step if isinstance(step, list) else [step]
        wrong = [value for value in values if number(value) is None]
        if wrong:
            return (
                f"column {name!r} holds {shown(wrong[0])} at step {place} where a number is "
                "expected"
            )
        if (len(step) if isinstance(step, list) else None) != width:
            return (
                f"column {name!r} has other than {width or 1} numbers at step {place}"
            )
    return f"column {name!r} holds no list of steps"
