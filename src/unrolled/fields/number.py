"""A value, scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError
from unrolled.data.schema import number
from unrolled.fields.base import LARGEST, read_number, scale_of, scaled


@dataclass(frozen=True, slots=True)
class Number:
    """A value, scaled to mean 0 and deviation 1. ``whole``: all that were seen are integers."""

    column: str
    mean: float
    deviation: float
    whole: bool

    @classmethod
    def fit(cls, column: str, values: Sequence[Any]) -> Self:
        """Learn the scale; values that are not numbers are left to ``check``."""
        numbers = [
            n for n in map(number, values) if n is not None and abs(n) <= LARGEST
        ]
        if not numbers:
            raise UserError(f"column {column!r} holds no number")
        seen = np.array(numbers)
        whole = bool((seen == np.round(seen)).all())
        means, deviations = scale_of(seen[:, None])
        return cls(column, float(means[0]), float(deviations[0]), whole)

    def check(self, cell: Any) -> float:
        """Return the scaled value. Raises InvalidCell: it is no number, or too large."""
        return scaled(
            self.column, read_number(self.column, cell), self.mean, self.deviation
        )

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
        return asdict(self)
