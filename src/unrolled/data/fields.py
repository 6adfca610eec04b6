"""Fields: how a column becomes numbers and an answer becomes a word again.

Each field learns what it needs from the training rows (``fit``), encodes values, and is saved in
the run folder as plain JSON (vocabularies as ``tokenizer.json`` and ``words.json`` beside it).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError, UserError, nearest
from unrolled.data.examples import Ragged, Spellings
from unrolled.data.lines import nfc
from unrolled.data.schema import label, number
from unrolled.data.tokenizers import Tokenizer

POINTS = 8  # characters kept for each token that is kept
SEPARATOR = "\x1f"
UNKNOWN, FIRST = 1, 2  # ids of words: 0 is padding
LONGEST_WORD = 64  # pieces


class Bad(Exception):
    """A cell that cannot be encoded; whoever knows the file and the line turns it into an error."""


@dataclass(frozen=True, slots=True)
class Text:
    """One or more columns of text, as token ids with an end mark after each.

    ``max_tokens`` cuts a longer text at its end. ``characters`` tells whether a model reads the
    code points of the texts too.
    """

    columns: tuple[str, ...]
    tokenizer: Tokenizer
    max_tokens: int | None
    characters: bool = False

    def check(self, cells: Sequence[Any]) -> tuple[str, ...]:
        """Return the texts of a row, in NFC as files are read; an empty one is a value.

        Raises:
            Bad: a cell holds a list or an object.
        """
        texts = []
        for name, cell in zip(self.columns, cells, strict=True):
            if isinstance(cell, list | dict):
                raise Bad(f"column {name!r} holds {cell!r} where text is expected")
            texts.append("" if cell is None else nfc(str(cell)))
        return tuple(texts)

    def encode(self, rows: Sequence[tuple[str, ...]]) -> list[list[int]]:
        """Return the ids of each row's texts, each text followed by the end mark."""
        width, end = len(self.columns), self.tokenizer.eos_id
        flat = self.tokenizer.encode_many([text for row in rows for text in row])
        limit = self.max_tokens
        ended = [[*(ids if limit is None else ids[: limit - 1]), end] for ids in flat]
        if width == 1:
            return ended
        rows_of_texts = (ended[i : i + width] for i in range(0, len(ended), width))
        return [list(itertools.chain.from_iterable(texts)) for texts in rows_of_texts]

    def code_points(self, rows: Sequence[tuple[str, ...]]) -> Ragged:
        """Return the code points of each row's texts, the texts apart by a separator.

        As many are kept as ``max_tokens`` tokens of ``POINTS`` characters hold.
        """
        limit = None if self.max_tokens is None else POINTS * self.max_tokens
        return Ragged.of([list(map(ord, SEPARATOR.join(texts)[:limit])) for texts in rows])

    def to_json(self) -> dict[str, Any]:
        """Return what is read back; the tokenizer is saved beside it."""
        return {
            "columns": list(self.columns),
            "max_tokens": self.max_tokens,
            "characters": self.characters,
        }


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words a row: the id of each in a vocabulary, and the pieces it is spelt with.

    ``known`` are the words of the vocabulary in the order of their ids, which start at ``FIRST``;
    without a ``tokenizer`` words are not spelt. ``max_words`` is the longest row.
    """

    column: str
    known: tuple[str, ...]
    tokenizer: Tokenizer | None
    max_words: int | None

    @classmethod
    def fit(
        cls,
        column: str,
        rows: Sequence[Sequence[str]],
        vocabulary: int,
        min_count: int,
        tokenizer: str | None,
        max_words: int | None,
    ) -> Self:
        """Learn the most frequent words, and the pieces that words are made of.

        Args:
            column: the column of words.
            rows: the words of each training row.
            vocabulary: words, and pieces, at most.
            min_count: words and pieces seen less often are unknown.
            tokenizer: the kind of pieces, chars or another; None for none.
            max_words: the longest row that will be read.
        """
        counted = Counter(word for row in rows for word in row)
        often = [word for word, count in counted.items() if count >= min_count]
        often.sort(key=lambda word: (-counted[word], word))
        pieces = None
        if tokenizer is not None:
            pieces = Tokenizer.fit(tokenizer, counted.elements(), vocabulary, min_count)
        return cls(column, tuple(often[: vocabulary - FIRST]), pieces, max_words)

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column that is read."""
        return (self.column,)

    @property
    def size(self) -> int:
        """Ids of words, those of padding and of unknown words included."""
        return FIRST + len(self.known)

    def check(self, cells: Sequence[Any]) -> list[str]:
        """Return the words of a row: a list, or text with blanks between the words.

        They come in NFC, as files are read.

        Raises:
            Bad: there is no word, or there are more than ``max_words``.
        """
        cell = cells[0]
        words = cell if isinstance(cell, list) else str(cell or "").split()
        if not words:
            raise Bad(f"column {self.column!r} holds no word")
        if self.max_words is not None and len(words) > self.max_words:
            raise Bad(
                f"{len(words)} words and data.max_tokens is {self.max_words}; split the row or "
                "raise it"
            )
        return [nfc(str(word)) for word in words]

    def encode(self, rows: Sequence[list[str]]) -> tuple[Ragged, Spellings | None]:
        """Return the words of each row: places in a list of spellings, or ids without one."""
        known = dict(zip(self.known, itertools.count(FIRST)))
        if self.tokenizer is None:
            return Ragged.of([[known.get(word, UNKNOWN) for word in row] for row in rows]), None
        distinct: dict[str, int] = {}
        places = [[distinct.setdefault(word, len(distinct)) for word in row] for row in rows]
        half = LONGEST_WORD // 2  # of an endless word, its beginning and its ending
        spelt = [
            ids if len(ids) <= LONGEST_WORD else ids[:half] + ids[-half:]
            for ids in self.tokenizer.encode_many(list(distinct))
        ]
        # the marks tell n-grams at the ends of a word from those within it
        begin, end = self.tokenizer.bos_id, self.tokenizer.eos_id
        pieces = Ragged.of([[begin, *ids, end] for ids in spelt])
        ids = np.array([known.get(word, UNKNOWN) for word in distinct], dtype=np.int64)
        return Ragged.of(places), Spellings(ids, pieces)

    def to_json(self) -> dict[str, Any]:
        """Return what is read back; words and tokenizer are saved beside it."""
        spelt = self.tokenizer is not None
        return {"column": self.column, "max_words": self.max_words, "spelt": spelt}


@dataclass(frozen=True, slots=True)
class Label:
    """One of a fixed set of names."""

    column: str
    names: tuple[str, ...]

    @classmethod
    def fit(cls, column: str, values: Sequence[Any]) -> Self:
        """Learn the names, numbers in their order and words in theirs; an empty cell is no name."""
        names = {label(value) for value in values} - {""}
        if not names:
            raise UserError(f"column {column!r} holds no label")
        numbers = {name: number(name) for name in names}
        if all(n is not None for n in numbers.values()):
            return cls(column, tuple(sorted(names, key=lambda n: (numbers[n] or 0.0, n))))
        return cls(column, tuple(sorted(names)))

    def check(self, cell: Any) -> int:
        """Return the index of a name. Raises Bad for an empty or an unseen one."""
        name = label(cell)
        if not name:
            raise Bad(f"column {self.column!r} holds no label")
        try:
            return self.names.index(name)
        except ValueError:
            guess = nearest(name, self.names)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise Bad(
                f"label {name!r} was not seen in training "
                f"(known: {', '.join(self.names[:20])}){hint}"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return {"column": self.column, "names": list(self.names)}


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
        seen = np.array([n for n in map(number, values) if n is not None])
        if not len(seen):
            raise UserError(f"column {column!r} holds no number")
        whole = bool((seen == np.round(seen)).all())
        return cls(column, float(seen.mean()), float(seen.std()) or 1.0, whole)

    def check(self, cell: Any) -> float:
        """Return the scaled value. Raises Bad for what is not a finite number."""
        found = number(cell)
        if found is None:
            raise Bad(f"column {self.column!r} holds {cell!r} where a number is expected")
        return (found - self.mean) / self.deviation

    def decode(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values in the unit of the file."""
        return scaled * self.deviation + self.mean

    def show(self, value: float) -> str:
        """Return a value as an answer: rounded where all that training saw were integers."""
        return str(round(value)) if self.whole else f"{value:.6g}"

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Vector:
    """Several columns of numbers, each scaled to mean 0 and deviation 1."""

    columns: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    @classmethod
    def fit(cls, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> Self:
        """Learn the scales from rows of cells."""
        fitted = [Number.fit(name, [row[i] for row in rows]) for i, name in enumerate(columns)]
        return cls(columns, tuple(f.mean for f in fitted), tuple(f.deviation for f in fitted))

    def check(self, cells: Sequence[Any]) -> tuple[float, ...]:
        """Return the scaled values of a row. Raises Bad."""
        found = []
        for name, mean, deviation, cell in zip(
            self.columns, self.means, self.deviations, cells, strict=True
        ):
            value = number(cell)
            if value is None:
                raise Bad(f"column {name!r} holds {cell!r} where a number is expected")
            found.append((value - mean) / deviation)
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return asdict(self)


def bad_row(error: Bad, path: str, line: int) -> DataError:
    """Return the error for a row, with where it stands and what to do."""
    return DataError(f"{error}; mend the row, or set data.on_error=skip", path, line)
