"""Several columns of numbers, categories and dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from unrolled.data.examples import Examples, Ints
from unrolled.data.schema import Schema
from unrolled.fields.columns import (
    KINDS,
    CategoryColumn,
    DateColumn,
    FeatureColumn,
    Features,
    Missing,
    NumberColumn,
    old_columns,
    old_values,
)


@dataclass(frozen=True, slots=True)
class Vector:
    """Columns as features, one after another."""

    kind: ClassVar[str] = "vector"
    features: tuple[FeatureColumn, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(column.name for column in self.features)

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The column that each feature is of."""
        names: list[str] = []
        for column in self.features:
            names += [column.name] * column.width
        return tuple(names)

    @property
    def schema(self) -> Schema:
        """Which columns are numbers, categories and dates, without a task."""
        names: dict[str, list[str]] = {kind: [] for kind in KINDS}
        units: list[tuple[str, str]] = []
        for column in self.features:
            names[column.kind].append(column.name)
            if isinstance(column, NumberColumn) and column.scale.unit:
                units.append((column.name, column.scale.unit))
        return Schema(
            "",
            numbers=tuple(names[NumberColumn.kind]),
            categories=tuple(names[CategoryColumn.kind]),
            dates=tuple(names[DateColumn.kind]),
            units=tuple(units),
        )

    @property
    def width(self) -> int:
        """How many features a row has."""
        return sum(column.width for column in self.features)

    @classmethod
    def fit(
        cls,
        schema: Schema,
        rows: Sequence[Sequence[Any]],
        missing: Missing = "median",
        decimal: str | None = None,
        day_first: bool | None = None,
    ) -> Self:
        """Learn the features.

        Args:
            schema: which columns are numbers, categories and dates; the usual mark before decimals;
                whether rows are steps in time, of whose dates those parts are read that come round.
            rows: the cells of these columns, in this order.
            missing: what becomes of a number that is missing.
            decimal: the mark before decimals; None to tell it.
            day_first: whether the day stands before the month; None to tell it.

        Raises:
            UserError: a column holds no number, no date, or no category twice.
        """
        columns = list(zip(*rows, strict=True)) if rows else []
        fitted: list[FeatureColumn] = []
        names = (*schema.numbers, *schema.categories, *schema.dates)
        for name, cells in zip(names, columns, strict=True):
            if name in schema.categories:
                fitted.append(CategoryColumn.fit(name, cells))
            elif name in schema.dates:
                fitted.append(DateColumn.fit(name, cells, day_first, schema.frames))
            else:
                usual = schema.decimal
                unit = schema.unit_of(name)
                fitted.append(
                    NumberColumn.fit(name, cells, decimal, missing, usual, unit)
                )
        return cls(tuple(fitted))

    def check(self, cells: Sequence[Any]) -> Features:
        """Return the features of a row. Raises InvalidCell."""
        return self._encode(cells, training=True)

    def check_to_predict(self, cells: Sequence[Any]) -> Features:
        """Return what is read of a row that is to be answered. Raises InvalidCell."""
        return self._encode(cells, training=False)

    def _encode(self, cells: Sequence[Any], training: bool) -> Features:
        features: list[float] = []
        for column, cell in zip(self.features, cells, strict=True):
            features += column.encode(cell, training)
        return tuple(features)

    def examples(self, rows: Sequence[Features], lines: Ints) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        return Examples(lines, vectors=np.array(rows, dtype=np.float32))

    def save(self, folder: Path) -> None:
        """Write nothing: what was learnt stands in the fields."""

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path | None = None) -> Self:
        """Read the field back."""
        if "features" not in values:
            return cls(tuple(old_columns(values)))
        features = [
            KINDS[column["kind"]].from_json(column["column"])
            for column in values["features"]
        ]
        return cls(tuple(features))

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes, of an older run what it was read from."""
        old = old_values(self.features)
        if old is not None:
            return old
        return {
            "features": [
                {"kind": column.kind, "column": column.to_json()}
                for column in self.features
            ]
        }
