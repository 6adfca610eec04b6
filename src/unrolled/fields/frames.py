"""A sequence of numbers as an input.

Legend: T steps of a sequence, D numbers a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError, shown
from unrolled.data.schema import number
from unrolled.fields.base import FAR, LARGEST, InvalidCell
from unrolled.fields.series import Floats, WindowSpec


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
