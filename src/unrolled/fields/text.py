"""Text as token ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from unrolled.core import digests
from unrolled.core.errors import shown
from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.data.lines import nfc
from unrolled.fields.base import TOKENIZER, InvalidCell
from unrolled.text.published import load_tokenizer
from unrolled.text.tokenizers import Tokenizer

POINTS = 8  # characters kept for each token that is kept


SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class Text:
    """One or more columns of text, as token ids with an end mark after each.

    ``max_tokens`` cuts a longer text at its end. ``characters`` tells whether a model reads the
    code points of the texts too.
    """

    kind: ClassVar[str] = "text"
    columns: tuple[str, ...]
    tokenizer: Tokenizer
    max_tokens: int | None
    characters: bool = False

    def check(self, cells: Sequence[Any]) -> tuple[str, ...]:
        """Return the texts of a row, in NFC as files are read; an empty one is a value.

        Raises:
            InvalidCell: a cell holds a list or an object.
        """
        texts = []
        for name, cell in zip(self.columns, cells, strict=True):
            if isinstance(cell, list | dict):
                raise InvalidCell(
                    f"column {name!r} holds {shown(cell)} where text is expected"
                )
            text = "" if cell is None else str(cell)
            texts.append(nfc(text))
        return tuple(texts)

    def encode(self, rows: Sequence[tuple[str, ...]]) -> list[list[int]]:
        """Return the ids of each row's texts, each text followed by the end mark."""
        width = len(self.columns)
        end = self.tokenizer.eos_id
        # with its end mark a text has no more than is read
        most = None if self.max_tokens is None else self.max_tokens - 1
        texts = list(itertools.chain.from_iterable(rows))
        ids_of_texts = self.tokenizer.encode_many(texts, most)
        ended = [[*ids, end] for ids in ids_of_texts]
        if width == 1:
            return ended
        ids_of_rows: list[list[int]] = []
        for first in range(0, len(ended), width):
            ids_of_row: list[int] = []
            for ids in ended[first : first + width]:
                ids_of_row += ids
            ids_of_rows.append(ids_of_row)
        return ids_of_rows

    def code_points(self, rows: Sequence[tuple[str, ...]]) -> Ragged:
        """Return the code points of each row's texts, the texts apart by a separator.

        As many are kept as ``max_tokens`` tokens of ``POINTS`` characters hold.
        """
        limit = None if self.max_tokens is None else POINTS * self.max_tokens
        points: list[list[int]] = []
        for texts in rows:
            joined = SEPARATOR.join(texts)
            kept = joined[:limit]
            points.append(list(map(ord, kept)))
        return Ragged.of(points)

    def check_to_predict(self, cells: Sequence[Any]) -> tuple[str, ...]:
        """Return what is read of a row that is to be answered. Raises InvalidCell."""
        return self.check(cells)

    def examples(self, rows: Sequence[tuple[str, ...]], lines: Ints) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        sequences = Ragged.of(self.encode(rows))
        characters = self.code_points(rows) if self.characters else None
        return Examples(lines, sequences, characters=characters)

    def save(self, folder: Path, name: str = TOKENIZER) -> None:
        """Write the vocabulary into a run folder."""
        digests.replace(folder, name, self.tokenizer.save)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the field back."""
        tokenizer = load_tokenizer(folder / TOKENIZER)
        columns = tuple(values["columns"])
        max_tokens = values["max_tokens"]
        characters = values["characters"]
        return cls(columns, tokenizer, max_tokens, characters)

    def to_json(self) -> dict[str, Any]:
        """Return what is read back; the tokenizer is saved beside it."""
        return {
            "columns": list(self.columns),
            "max_tokens": self.max_tokens,
            "characters": self.characters,
        }
