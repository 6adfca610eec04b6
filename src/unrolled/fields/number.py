"""A value, scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError
from unrolled.core.saving import LATER, as_saved
from unrolled.data.numbers import decimal_mark, is_missing
from unrolled.data.units import amount, bare_cells
from unrolled.fields.base import (
    LARGEST,
    MissingCell,
    read_number,
    scale_of,
    scaled,
)


@dataclass(frozen=True, slots=True)
class Number:
    """A value, scaled to mean 0 and deviation 1.

    Attributes:
        column: its name.
        mean, deviation: in the unit of the file.
        whole: all that were seen are integers.
        decimal: the mark before decimals.
        optional: a row without a value is left out, and not refused.
        unit: what stands behind the numbers; see ``data.units``.
    """

    column: str
    mean: float
    deviation: float
    whole: bool
    decimal: str = field(default=".", metadata=LATER)
    optional: bool = field(default=False, metadata=LATER)
    unit: str = field(default="", metadata=LATER)

    @classmethod
    def fit(
        cls,
        column: str,
        values: Sequence[Any],
        decimal: str | None = None,
        optional: bool = False,
        usual: str = ".",
        unit: str = "",
    ) -> Self:
        """Learn the scale; values that are not numbers are left to ``check``.

        Args:
            column: its name.
            values: cells of training rows.
            decimal: the mark before decimals; None to tell it from the cells.
            optional: whether a row without a value is left out.
            usual: the mark where no cell tells it.
            unit: what stands behind the numbers.
        """
        mark = decimal or decimal_mark(bare_cells(values, unit), usual)
        numbers = []
        for value in values:
            parsed = amount(value, mark, unit)
            if parsed is not None and abs(parsed) <= LARGEST:
                numbers.append(parsed)
        if not numbers:
            raise UserError(f"column {column!r} holds no number")
        seen = np.array(numbers)
        whole = bool((seen == np.round(seen)).all())
        means, deviations = scale_of(seen[:, None])
        mean = float(means[0])
        return cls(column, mean, float(deviations[0]), whole, mark, optional, unit)

    def read(self, cell: Any) -> float | None:
        """Return the number in a cell, in the unit of the file; None where there is none."""
        return amount(cell, self.decimal, self.unit)

    def check(self, cell: Any) -> float:
        """Return the scaled value. Raises InvalidCell: it is no number, or too large."""
        if self.optional and is_missing(cell):
            raise MissingCell(f"column {self.column!r} holds no number")
        value = read_number(self.column, cell, self.decimal, self.unit)
        return scaled(self.column, value, self.mean, self.deviation)

    def decode(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values in the unit of the file."""
        return scaled * self.deviation + self.mean

    def show(self, value: float) -> str:
        """Return a value as an answer: rounded where all that training saw were integers."""
        return str(round(value)) if self.whole else f"{value:.6g}"

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read the field back."""
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return as_saved(self)
