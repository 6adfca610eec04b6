"""Texts of a row, and what its other columns say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from unrolled.data.examples import Examples, Ints
from unrolled.fields.columns import Features
from unrolled.fields.text import Text
from unrolled.fields.vector import Vector
from unrolled.text.tokenizers import Tokenizer

Checked = tuple[tuple[str, ...], Features]


@dataclass(frozen=True, slots=True)
class TextAndColumns:
    """Texts, which a layer reads, and other columns, which are put next to what it read."""

    kind: ClassVar[str] = "text_and_columns"
    text: Text
    vector: Vector

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, texts first."""
        return (*self.text.columns, *self.vector.columns)

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts the texts into pieces."""
        return self.text.tokenizer

    def check(self, cells: Sequence[Any]) -> Checked:
        """Return the texts and the features of a row. Raises InvalidCell."""
        count = len(self.text.columns)
        return self.text.check(cells[:count]), self.vector.check(cells[count:])

    def check_to_predict(self, cells: Sequence[Any]) -> Checked:
        """Return what is read of a row that is to be answered. Raises InvalidCell."""
        count = len(self.text.columns)
        features = self.vector.check_to_predict(cells[count:])
        return self.text.check_to_predict(cells[:count]), features

    def examples(self, rows: Sequence[Checked], lines: Ints) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        texts = self.text.examples([row[0] for row in rows], lines)
        vectors = self.vector.examples([row[1] for row in rows], lines).vectors
        return replace(texts, vectors=vectors)

    def save(self, folder: Path) -> None:
        """Write the vocabulary into a run folder."""
        self.text.save(folder)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the field back."""
        text = Text.from_json(values["text"], folder)
        return cls(text, Vector.from_json(values["vector"]))

    def to_json(self) -> dict[str, Any]:
        """Return what is read back; the tokenizer is saved beside it."""
        return {"text": self.text.to_json(), "vector": self.vector.to_json()}
