"""Words of a row, and what other columns say of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from unrolled.data.examples import Examples, Ints, Spans
from unrolled.fields.steps import WORD, Floats, beside_words, features_at_steps
from unrolled.fields.vector import Vector
from unrolled.fields.words import Words
from unrolled.text.tokenizers import Tokenizer

Checked = tuple[list[str], Floats]


@dataclass(frozen=True, slots=True)
class WordsAndColumns:
    """A list of words a row, and columns of numbers, categories and dates next to each word."""

    kind: ClassVar[str] = "words_and_columns"
    words: Words
    vector: Vector

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, words first."""
        return (*self.words.columns, *self.vector.columns)

    @property
    def column(self) -> str:
        """The column of the words."""
        return self.words.column

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What cuts words into pieces."""
        return self.words.tokenizer

    def check(self, cells: Sequence[Any]) -> Checked:
        """Return the T words of a row, and the features of each, (T, W). Raises InvalidCell."""
        return self._encode(cells, training=True)

    def check_to_predict(self, cells: Sequence[Any]) -> Checked:
        """Return what is read of a row that is to be answered. Raises InvalidCell."""
        return self._encode(cells, training=False)

    def _encode(self, cells: Sequence[Any], training: bool) -> Checked:
        words = self.words.check(cells[:1])
        others = beside_words(cells)
        count = len(words)
        features = features_at_steps(self.vector, others, count, training, WORD)
        return words, features

    def examples(self, rows: Sequence[Checked], lines: Ints) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        examples = self.words.examples([row[0] for row in rows], lines)
        lengths = examples.lengths
        flat = np.concatenate([row[1] for row in rows])
        starts = np.cumsum(lengths) - lengths
        return replace(examples, frames=Spans(flat, starts, lengths))

    def save(self, folder: Path) -> None:
        """Write the words, and the vocabulary that they are spelt with, into a run folder."""
        self.words.save(folder)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the field back."""
        words = Words.from_json(values["words"], folder)
        return cls(words, Vector.from_json(values["vector"]))

    def to_json(self) -> dict[str, Any]:
        """Return what is read back; words and tokenizer are saved beside it."""
        return {"words": self.words.to_json(), "vector": self.vector.to_json()}
