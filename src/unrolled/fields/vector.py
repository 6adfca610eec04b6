"""Several columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from unrolled.fields.base import read_number, scaled
from unrolled.fields.number import Number


@dataclass(frozen=True, slots=True)
class Vector:
    """Several columns of numbers, each scaled to mean 0 and deviation 1."""

    columns: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    @classmethod
    def fit(cls, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> Self:
        """Learn the scales from rows of cells."""
        fitted = [
            Number.fit(name, [row[i] for row in rows]) for i, name in enumerate(columns)
        ]
        return cls(
            columns, tuple(f.mean for f in fitted), tuple(f.deviation for f in fitted)
        )

    def check(self, cells: Sequence[Any]) -> tuple[float, ...]:
        """Return the scaled values of a row. Raises InvalidCell."""
        known = zip(self.columns, self.means, self.deviations, cells, strict=True)
        return tuple(
            scaled(name, read_number(name, cell), mean, deviation)
            for name, mean, deviation, cell in known
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return asdict(self)
