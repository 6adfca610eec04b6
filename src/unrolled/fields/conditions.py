"""What a text is written for: labels and numbers of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from unrolled.data.examples import Examples, Ints
from unrolled.data.schema import Schema
from unrolled.fields.columns import Features, Missing
from unrolled.fields.label import Label
from unrolled.fields.vector import Vector


@dataclass(frozen=True, slots=True)
class Conditions:
    """Numbers, scaled, and labels, of which each has an index: 1 is that of the first name.

    No label has the index 0: what is left out of a row says nothing.
    """

    kind: ClassVar[str] = "conditions"
    numbers: Vector
    labels: tuple[Label, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, numbers first."""
        return (*self.numbers.columns, *self.label_columns)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of labels."""
        return tuple(label.column for label in self.labels)

    @property
    def parts(self) -> tuple[str, ...]:
        """What has a vector of its own: all numbers together, and each column of labels."""
        numbers = ", ".join(self.numbers.columns)
        labels = self.label_columns
        return (numbers, *labels) if numbers else labels

    @property
    def schema(self) -> Schema:
        """Which columns are numbers and categories, without a task."""
        return replace(
            self.numbers.schema,
            categories=self.label_columns,
        )

    @classmethod
    def fit(
        cls,
        schema: Schema,
        rows: Sequence[Sequence[Any]],
        named: Sequence[Sequence[Any]],
        missing: Missing = "median",
        decimal: str | None = None,
    ) -> Self:
        """Learn scales and labels.

        Args:
            schema: which columns are numbers and categories; the usual mark before decimals.
            rows: the cells of these columns, in this order.
            named: rows whose labels are known; those held out may hold a rare one.
            missing: what becomes of a number that is missing.
            decimal: the mark before decimals; None to tell it.

        Raises:
            UserError: a column holds no number, or no label.
        """
        count = len(schema.numbers)
        vector = Vector.fit(
            replace(schema, categories=()),
            [row[:count] for row in rows],
            missing,
            decimal,
        )
        labels: list[Label] = []
        for index, name in enumerate(schema.categories, count):
            cells = [row[index] for row in named]
            labels.append(Label.fit(name, cells))
        return cls(
            vector,
            tuple(labels),
        )

    def check(self, cells: Sequence[Any]) -> Features:
        """Return numbers and indices of a row. Raises InvalidCell: a label is not known."""
        count = len(self.numbers.columns)
        numbers = self.numbers.check(cells[:count])
        return numbers + self._indices(cells[count:])

    def check_to_predict(self, cells: Sequence[Any]) -> Features:
        """Return what is read of a row that is to be answered. Raises InvalidCell."""
        count = len(self.numbers.columns)
        numbers = self.numbers.check_to_predict(cells[:count])
        return numbers + self._indices(cells[count:])

    def _indices(self, cells: Sequence[Any]) -> Features:
        indices: list[float] = []
        for label, cell in zip(
            self.labels,
            cells,
            strict=True,
        ):
            index = label.check(cell)
            indices.append(float(index + 1))
        return tuple(indices)

    def examples(self, rows: Sequence[Features], lines: Ints) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        return Examples(lines, vectors=np.array(rows, dtype=np.float32))

    def describe(self, cells: Sequence[Any]) -> str:
        """Return the cells of a row as a person is shown them."""
        return ", ".join("" if cell is None else str(cell) for cell in cells)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read the field back."""
        labels = tuple(map(Label.from_json, values["labels"]))
        return cls(Vector.from_json(values["numbers"]), labels)

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return {
            "numbers": self.numbers.to_json(),
            "labels": [label.to_json() for label in self.labels],
        }
