"""One of a fixed set of names."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from unrolled.core.errors import UserError, listed, nearest, shown
from unrolled.data.columns import label, spelling
from unrolled.data.numbers import NO_LABEL, number
from unrolled.fields.base import InvalidCell, MissingCell, is_plain


@dataclass(frozen=True, slots=True)
class Label:
    """One of a fixed set of names; a row without one is left out where they are ``optional``."""

    column: str
    names: tuple[str, ...]
    optional: bool = False

    @classmethod
    def fit(cls, column: str, values: Sequence[Any], optional: bool = False) -> Self:
        """Learn the names, numbers in their order and words in theirs; an empty cell is no name.

        Of several spellings of surely one label, such as 1 and 1.0, the commonest is its name.
        """
        # what is no label is named, with its line, when the rows are encoded
        counts = Counter(label(value) for value in values if is_plain(value))
        spellings: dict[str, str] = {}
        for name, _ in counts.most_common():
            if name.lower() not in (NO_LABEL if optional else ("",)):
                spellings.setdefault(spelling(name), name)
        names = spellings.values()
        if not names:
            raise UserError(f"column {column!r} holds no label")
        numbers = {name: number(name) for name in names}
        if all(n is not None for n in numbers.values()):
            ordered = sorted(names, key=lambda n: (numbers[n] or 0.0, n))
        else:
            ordered = sorted(names)
        return cls(column, tuple(ordered), optional)

    def check(self, cell: Any) -> int:
        """Return the index of a name. Raises InvalidCell: it is empty, unseen or an object."""
        if not is_plain(cell):
            raise InvalidCell(
                f"column {self.column!r} holds {shown(cell)} where a label is expected"
            )
        name = label(cell)
        index = _indices(self.names).get(name)
        if index is not None:
            return index
        if self.optional and name.lower() in NO_LABEL:
            raise MissingCell(f"column {self.column!r} holds no label")
        if not name:
            raise InvalidCell(f"column {self.column!r} holds no label")
        index = _spellings(self.names).get(spelling(name))
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
        return cls(
            values["column"], tuple(values["names"]), values.get("optional", False)
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        values: dict[str, Any] = {"column": self.column, "names": list(self.names)}
        # older runs had none, and what was saved of them is compared
        return values | ({"optional": True} if self.optional else {})


@functools.lru_cache(maxsize=64)
def _indices(names: tuple[str, ...]) -> dict[str, int]:
    """Return the index of each name."""
    return {name: index for index, name in enumerate(names)}


@functools.lru_cache(maxsize=64)
def _spellings(names: tuple[str, ...]) -> dict[str, int]:
    """Return the index of each spelling that is one name's alone."""
    counts = Counter(map(spelling, names))
    return {
        spelling(name): index
        for index, name in enumerate(names)
        if counts[spelling(name)] == 1
    }
