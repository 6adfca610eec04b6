"""A sequence of numbers as an input.

Legend: T steps of a sequence, D numbers a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError, shown
from unrolled.core.saving import LATER, as_saved
from unrolled.data.examples import Examples, Ints
from unrolled.data.numbers import number
from unrolled.fields.base import FAR, LARGEST, InvalidCell
from unrolled.fields.series import Floats, WindowSpec, spans
from unrolled.fields.steps import columns_of, features_at_steps, steps_in
from unrolled.fields.vector import Vector

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Frames:
    """A sequence of numbers, D at each step, each scaled to mean 0 and deviation 1.

    A column holds a number a step, or a list of ``sizes`` numbers. Of those that are missing,
    ``fills`` (D,) stand in; the ones at the indices ``flagged`` were missing in training, and have
    a flag behind the numbers. Behind these stand the features of ``others``: columns of categories
    and dates, without which D is at least 1.
    """

    kind: ClassVar[str] = "frames"
    columns: tuple[str, ...]
    sizes: tuple[int, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    reading: WindowSpec
    fills: tuple[float, ...] = field(default=(), metadata=LATER)
    flagged: tuple[int, ...] = field(default=(), metadata=LATER)
    others: Vector | None = field(default=None, metadata=LATER)

    @property
    def width(self) -> int:
        """Numbers of a step as a model reads them: D, the flags, and features of other columns."""
        width = len(self.means) + len(self.flagged)
        if self.others is None:
            return width
        return width + self.others.width

    @property
    def read(self) -> tuple[str, ...]:
        """All columns that are read, in the order of a row's cells."""
        if self.others is None:
            return self.columns
        return self.columns + self.others.columns

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The column that each number of a step, as a model reads it, is of."""
        indices = [*range(len(self.means)), *self.flagged]
        names = tuple(self._column_of(index) for index in indices)
        if self.others is None:
            return names
        return names + self.others.feature_columns

    @classmethod
    def fit(
        cls,
        columns: tuple[str, ...],
        rows: Iterable[Sequence[Any]],
        reading: WindowSpec,
    ) -> Self:
        """Learn sizes and scales from rows of cells; faulty rows are left to ``check``."""
        if not columns:
            return cls((), (), (), (), reading)
        sequences: list[list[Doubles]] = []
        sizes: tuple[int, ...] = ()
        for row in rows:
            pairs = zip(columns, row, strict=True)
            try:
                parts = [_matrix(name, cell, reading.fills) for name, cell in pairs]
            except InvalidCell:
                continue
            widths = tuple(part.shape[1] for part in parts)
            sizes = sizes or widths
            if widths == sizes:
                sequences.append(parts)
        if not sequences:
            raise UserError(f"column {columns[0]!r} holds no sequence of numbers")
        whole = [np.concatenate(parts, 1) for parts in sequences]
        means, deviations = _scales(columns, whole)
        field = cls(
            columns,
            sizes,
            means,
            deviations,
            reading,
        )
        return field._filled(whole) if reading.fills else field

    def _filled(self, whole: Sequence[Doubles]) -> Self:
        """Return the field with what stands in for missing numbers of training sequences."""
        steps = np.concatenate(whole)
        fills = self.means
        if self.reading.missing == "median":
            medians = np.nanmedian(steps, 0)
            fills = tuple(medians.tolist())
        missing = np.isnan(steps)
        flagged = np.flatnonzero(missing.any(0))
        indices = tuple(flagged.tolist())
        return replace(self, fills=fills, flagged=indices)

    def check(self, cells: Sequence[Any]) -> Floats:
        """Return the scaled steps of a row (T, D), and features of other columns behind them.

        Raises:
            InvalidCell: a cell is no sequence of finite numbers, or one of another width or length.
        """
        return self._encode(cells, training=True)

    def _encode(self, cells: Sequence[Any], training: bool) -> Floats:
        count = len(self.columns)
        numbers = self._scaled(cells[:count]) if count else None
        if self.others is None:
            assert numbers is not None
            return numbers
        steps = steps_in(cells) if numbers is None else len(numbers)
        if not steps:
            raise InvalidCell(f"column {self.read[0]!r} holds no list of steps")
        others = cells[count:]
        features = features_at_steps(self.others, others, steps, training)
        if numbers is None:
            return features
        return np.concatenate([numbers, features], 1)

    def _scaled(self, cells: Sequence[Any]) -> Floats:
        """Return the scaled numbers of a row (T, D), and their flags."""
        parts: list[Doubles] = []
        named = zip(self.columns, self.sizes, cells, strict=True)
        for name, size, cell in named:
            part = _matrix(name, cell, bool(self.fills))
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
        missing = np.isnan(whole)
        if missing.any():
            whole = np.where(missing, self.fills, whole)
        scaled = (whole - self.means) / self.deviations
        far = np.abs(scaled) > FAR
        if far.any():
            first = np.argwhere(far)[0]
            step = int(first[0])
            index = int(first[1])
            raise InvalidCell(
                f"column {self._column_of(index)!r} holds {whole[step, index]:g} at step "
                f"{step + 1}, out of all proportion to the numbers of training (about "
                f"{self.means[index]:g}, give or take {self.deviations[index]:g})"
            )
        flags = missing[:, list(self.flagged)]
        read = np.concatenate([scaled, flags], 1)
        return read.astype(np.float32)

    def _column_of(self, index: int) -> str:
        """Return the column that a number of a step (of D) is from."""
        ends = np.cumsum(self.sizes)
        column = np.searchsorted(ends, index, side="right")
        return self.columns[int(column)]

    def check_to_predict(self, cells: Sequence[Any]) -> Floats:
        """Return the steps that are read of a row that is to be answered: the last window.

        Raises:
            InvalidCell: a cell does not fit, or there are fewer steps than a window has.
        """
        size = self.reading.window
        lengths = {len(cell) for cell in cells if isinstance(cell, list)}
        if size is None or len(lengths) > 1:
            return self._encode(cells, training=False)
        last: list[Any] = []
        for cell in cells:
            is_list = isinstance(cell, list)
            last.append(cell[-size:] if is_list else cell)
        steps = self._encode(last, training=False)
        if len(steps) < size:
            raise InvalidCell(f"{len(steps)} steps are given; this model reads {size}")
        return steps

    def whole(self) -> Self:
        """Return the field that reads whole sequences, not windows of them."""
        return replace(self, reading=replace(self.reading, window=None))

    def cells(self, steps: Any, names: Sequence[str] = ()) -> tuple[Any, ...]:
        """Return the cells of a sequence given as a list of steps (T, D), or of T numbers.

        Where other columns than numbers are read, a step is a list with a cell for each column of
        ``names``, all that are read in the order in which they are given.

        Raises:
            UserError: a step has more or fewer numbers, or cells.
        """
        if self.others is not None:
            columns = columns_of(steps, names)
            return tuple(columns[name] for name in self.read)
        try:
            matrix = _matrix("the row", steps, bool(self.fills))
        except InvalidCell as error:
            raise UserError(str(error)) from None
        if matrix.shape[1] != len(self.means):
            raise UserError(
                f"a step has {matrix.shape[1]} numbers; expected {len(self.means)}: "
                f"{', '.join(self.columns)}"
            )
        ends = np.cumsum(self.sizes)[:-1]
        parts = np.split(matrix, ends, axis=1)
        return tuple(part.tolist() for part in parts)

    def examples(self, rows: Sequence[Floats], lines: Ints) -> Examples:
        """Return the last stretch of each checked row (N,), as a model reads it."""
        return Examples(lines, frames=spans(rows, self.reading, last=True))

    def last_values(self, column: str, examples: Examples) -> Doubles:
        """Return a column's value at the last step of each stretch, in the unit of the file."""
        assert examples.frames is not None
        ends = examples.frames.starts + examples.frames.lengths - 1
        last = examples.frames.flat[ends]
        index = sum(self.sizes[: self.columns.index(column)])
        scaled = last[:, index].astype(np.float64)
        return scaled * self.deviations[index] + self.means[index]

    def save(self, folder: Path) -> None:
        """Write nothing: numbers need no vocabulary."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        values = as_saved(replace(self, others=None))
        if self.others is not None:
            values["others"] = self.others.to_json()
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the field back."""
        reading = WindowSpec(**values["reading"])
        lists = ("columns", "sizes", "means", "deviations", "fills", "flagged")
        # older runs had nothing to stand in for a missing number
        kept: dict[str, Any] = {}
        for name in lists:
            kept[name] = tuple(values.get(name, ()))
        if "others" in values:
            kept["others"] = Vector.from_json(values["others"])
        return cls(reading=reading, **kept)


def _scales(
    columns: Sequence[str], whole: Sequence[Doubles]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return means and deviations (D,) of the numbers in sequences (T, D) that are not missing.

    Raises:
        UserError: a column has none.
    """
    steps: Any = 0
    totals: Any = 0
    for frames in whole:
        steps = steps + (~np.isnan(frames)).sum(0)
        totals = totals + np.nansum(frames, 0)
    if np.any(steps == 0):
        raise UserError(f"one of the columns {', '.join(columns)} holds no number")
    means = totals / steps
    squares: Any = 0
    for frames in whole:
        distances = np.square(frames - means)
        squares = squares + np.nansum(distances, 0)
    deviations = np.sqrt(squares / steps)
    # as in fields.base.scale_of, without all steps side by side
    varies = deviations > 1e-9 * np.abs(means)
    deviations = np.where(varies, deviations, 1.0)
    return tuple(means.tolist()), tuple(deviations.tolist())


def _matrix(name: str, cell: Any, fills: bool = False) -> Doubles:
    """Return the steps of a cell (T, D), NaN for a missing number where something ``fills`` in.

    Raises:
        InvalidCell: a step is no number, or has more or fewer than others.
    """
    try:
        matrix = np.array(cell, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidCell(_why(name, cell)) from None
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or not matrix.size:
        raise InvalidCell(_why(name, cell))
    strange = np.isinf(matrix) if fills else ~np.isfinite(matrix)
    if strange.any():
        raise InvalidCell(_why(name, cell))
    large = np.abs(matrix) > LARGEST
    if large.any():
        first = np.argwhere(large)[0]
        step = int(first[0]) + 1
        raise InvalidCell(
            f"column {name!r} holds a number above {LARGEST:g} at step {step}; if it marks a "
            "missing value, leave the row out"
        )
    return matrix


def _why(name: str, cell: Any) -> str:
    """Say what is wrong with a cell that is no sequence of numbers."""
    if not isinstance(cell, list | np.ndarray) or not len(cell):
        return (
            f"column {name!r} holds {shown(cell)} where a list of numbers is expected"
        )
    width = len(cell[0]) if isinstance(cell[0], list) else None
    for count, step in enumerate(cell, 1):
        is_list = isinstance(step, list)
        values = step if is_list else [step]
        wrong = [value for value in values if number(value) is None]
        if wrong:
            return (
                f"column {name!r} holds {shown(wrong[0])} at step {count} where a number is "
                "expected"
            )
        own_width = len(step) if is_list else None
        if own_width != width:
            return (
                f"column {name!r} has other than {width or 1} numbers at step {count}"
            )
    return f"column {name!r} holds no list of steps"
