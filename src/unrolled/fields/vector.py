"""Several columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from unrolled.data.examples import Examples, Ints
from unrolled.fields.base import read_number, scaled
from unrolled.fields.number import Number


@dataclass(frozen=True, slots=True)
class Vector:
    """Several columns of numbers, each scaled to mean 0 and deviation 1."""

    kind: ClassVar[str] = "vector"
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

    def check_to_predict(self, cells: Sequence[Any]) -> tuple[float, ...]:
        """Return what is read of a row that is to be answered. Raises InvalidCell."""
        return self.check(cells)

    def examples(self, rows: Sequence[tuple[float, ...]], lines: Ints) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        return Examples(lines, vectors=np.array(rows, dtype=np.float32))

    def save(self, folder: Path) -> None:
        """Write nothing: numbers need no vocabulary."""

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the field back."""
        means = tuple(values["means"])
        return cls(tuple(values["columns"]), means, tuple(values["deviations"]))

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return asdict(self)
