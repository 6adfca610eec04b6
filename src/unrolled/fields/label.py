"""One of a fixed set of names."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from unrolled.core.errors import UserError, listed, nearest, shown
from unrolled.data.schema import label, number
from unrolled.fields.base import InvalidCell, is_plain


@dataclass(frozen=True, slots=True)
class Label:
    """One of a fixed set of names."""

    column: str
    names: tuple[str, ...]

    @classmethod
    def fit(cls, column: str, values: Sequence[Any]) -> Self:
        """Learn the names, numbers in their order and words in theirs; an empty cell is no name."""
        # what is no label is named, with its line, when the rows are encoded
        names = {label(value) for value in values if is_plain(value)} - {""}
        if not names:
            raise UserError(f"column {column!r} holds no label")
        numbers = {name: number(name) for name in names}
        if all(n is not None for n in numbers.values()):
            return cls(
                column, tuple(sorted(names, key=lambda n: (numbers[n] or 0.0, n)))
            )
        return cls(column, tuple(sorted(names)))

    def check(self, cell: Any) -> int:
        """Return the index of a name. Raises InvalidCell: it is empty, unseen or an object."""
        if not is_plain(cell):
            raise InvalidCell(
                f"column {self.column!r} holds {shown(cell)} where a label is expected"
            )
        name = label(cell)
        if not name:
            raise InvalidCell(f"column {self.column!r} holds no label")
        index = _indices(self.names).get(name)
        if index is not None:
            return index
        guess = nearest(name, self.names)
        hint = f"; did you mean {shown(guess)}?" if guess else ""
        raise InvalidCell(
            f"label {shown(name)} was not seen in training (known: {listed(self.names)}){hint}"
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read the field back."""
        return cls(values["column"], tuple(values["names"]))

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return {"column": self.column, "names": list(self.names)}


@functools.lru_cache(maxsize=64)
def _indices(names: tuple[str, ...]) -> dict[str, int]:
    """Return the index of each name."""
    return {name: index for index, name in enumerate(names)}
