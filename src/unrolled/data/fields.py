"""Fields: how a column becomes numbers and an answer becomes a word again.

Each field learns what it needs from the training rows (``fit``), encodes values, and is saved in
the run folder as plain JSON (vocabularies as ``tokenizer.json`` and ``words.json`` beside it).
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError, UserError, listed, nearest, shown
from unrolled.data.examples import Ragged, Spellings
from unrolled.data.lines import nfc
from unrolled.data.schema import label, number
from unrolled.data.tokenizers import RUN, Tokenizer

POINTS = 8  # characters kept for each token that is kept
SEPARATOR = "\x1f"
# ids of words: 0 is padding
UNKNOWN = 1
FIRST = 2
LONGEST_WORD = 64  # pieces


LARGEST = 1e30  # of a number that is read: scores square it, in float32 at times
FAR = 1e15  # deviations from the mean, of a number that is read


class InvalidCell(Exception):
    """A cell that cannot be encoded; whoever knows the file and the line turns it into an error."""


def _is_plain(cell: Any) -> bool:
    """Whether a cell is one value, or empty, and no list or object of several."""
    return cell is None or isinstance(cell, str | int | float)


def words_of(column: str, cell: Any, kind: str) -> list[str]:
    """Return the words of a cell: a list of them, or text with blanks between them.

    ``kind`` is what one is called. Raises InvalidCell: it holds a list, an object or nothing where
    one is expected.
    """
    several = isinstance(cell, list)
    words = cell if several else str(cell or "").split()
    odd = [word for word in words if word is None or not _is_plain(word)]
    if not several and (isinstance(cell, bool) or not _is_plain(cell)):
        odd = [cell]
    if odd:
        raise InvalidCell(
            f"column {column!r} holds {shown(odd[0])} where a {kind} is expected"
        )
    return [str(word) for word in words]


def scale_of(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and deviations (D,) of the columns of ``values`` (N, D), N at least 1.

    What never changes has deviation 1: it tells nothing, and its rounding must not be blown up.
    """
    means = values.mean(0)
    deviations = values.std(0)
    return means, np.where(deviations > 1e-9 * np.abs(means), deviations, 1.0)


def read_number(column: str, cell: Any) -> float:
    """Return the number in a cell. Raises InvalidCell: there is none, or one that is too large."""
    found = number(cell)
    if found is None:
        raise InvalidCell(
            f"column {column!r} holds {shown(cell)} where a number is expected"
        )
    if abs(found) > LARGEST:
        raise InvalidCell(
            f"column {column!r} holds {shown(cell)}, which is more than {LARGEST:g}; if it marks a "
            "missing value, leave the row out"
        )
    return found


def scaled(column: str, value: float, mean: float, deviation: float) -> float:
    """Return a number in deviations from the mean. Raises InvalidCell: it is out of proportion."""
    found = (value - mean) / deviation
    if abs(found) > FAR:
        raise InvalidCell(
            f"column {column!r} holds {value:g}, out of all proportion to the numbers of training "
            f"(about {mean:g}, give or take {deviation:g})"
        )
    return found


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
            InvalidCell: a cell holds a list or an object.
        """
        texts = []
        for name, cell in zip(self.columns, cells, strict=True):
            if isinstance(cell, list | dict):
                raise InvalidCell(
                    f"column {name!r} holds {shown(cell)} where text is expected"
                )
            texts.append("" if cell is None else nfc(str(cell)))
        return tuple(texts)

    def encode(self, rows: Sequence[tuple[str, ...]]) -> list[list[int]]:
        """Return the ids of each row's texts, each text followed by the end mark."""
        width = len(self.columns)
        end = self.tokenizer.eos_id
        most = None if self.max_tokens is None else self.max_tokens - 1
        flat = self.tokenizer.encode_many([text for row in rows for text in row], most)
        ended = [[*ids, end] for ids in flat]
        if width == 1:
            return ended
        rows_of_texts = (ended[i : i + width] for i in range(0, len(ended), width))
        return [list(itertools.chain.from_iterable(texts)) for texts in rows_of_texts]

    def code_points(self, rows: Sequence[tuple[str, ...]]) -> Ragged:
        """Return the code points of each row's texts, the texts apart by a separator.

        As many are kept as ``max_tokens`` tokens of ``POINTS`` characters hold.
        """
        limit = None if self.max_tokens is None else POINTS * self.max_tokens
        return Ragged.of(
            [list(map(ord, SEPARATOR.join(texts)[:limit])) for texts in rows]
        )

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
            InvalidCell: there is no word, or there are more than ``max_words``.
        """
        words = words_of(self.column, cells[0], "word")
        if not words:
            raise InvalidCell(f"column {self.column!r} holds no word")
        if self.max_words is not None and len(words) > self.max_words:
            raise InvalidCell(
                f"{len(words)} words and data.max_tokens is {self.max_words}; split the row or "
                "raise it"
            )
        return [nfc(word) for word in words]

    def encode(self, rows: Sequence[list[str]]) -> tuple[Ragged, Spellings | None]:
        """Return the words of each row: places in a list of spellings, or ids without one."""
        known = dict(zip(self.known, itertools.count(FIRST)))
        if self.tokenizer is None:
            return Ragged.of(
                [[known.get(word, UNKNOWN) for word in row] for row in rows]
            ), None
        distinct: dict[str, int] = {}
        places = [
            [distinct.setdefault(word, len(distinct)) for word in row] for row in rows
        ]
        spelt = self._spelt(list(distinct))
        # the marks tell n-grams at the ends of a word from those within it
        begin = self.tokenizer.bos_id
        end = self.tokenizer.eos_id
        pieces = Ragged.of([[begin, *ids, end] for ids in spelt])
        ids = np.array([known.get(word, UNKNOWN) for word in distinct], dtype=np.int64)
        return Ragged.of(places), Spellings(ids, pieces)

    def _spelt(self, words: list[str]) -> list[list[int]]:
        """Return the pieces of each word; of an endless one those of its beginning and its end."""
        assert self.tokenizer is not None
        # pieces have this many characters at most, but for those of a vocabulary of whole words
        reach = RUN * LONGEST_WORD
        cut = [w if len(w) <= 2 * reach else w[:reach] + w[-reach:] for w in words]
        half = LONGEST_WORD // 2
        return [
            ids if len(ids) <= LONGEST_WORD else ids[:half] + ids[-half:]
            for ids in self.tokenizer.encode_many(cut)
        ]

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
        # what is no label is named, with its line, when the rows are encoded
        names = {label(value) for value in values if _is_plain(value)} - {""}
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
        if not _is_plain(cell):
            raise InvalidCell(
                f"column {self.column!r} holds {shown(cell)} where a label is expected"
            )
        name = label(cell)
        if not name:
            raise InvalidCell(f"column {self.column!r} holds no label")
        place = self._places.get(name)
        if place is not None:
            return place
        guess = nearest(name, self.names)
        hint = f"; did you mean {shown(guess)}?" if guess else ""
        raise InvalidCell(
            f"label {shown(name)} was not seen in training (known: {listed(self.names)}){hint}"
        )

    @property
    def _places(self) -> dict[str, int]:
        return _places_of(self.names)

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
        numbers = [
            n for n in map(number, values) if n is not None and abs(n) <= LARGEST
        ]
        if not numbers:
            raise UserError(f"column {column!r} holds no number")
        seen = np.array(numbers)
        whole = bool((seen == np.round(seen)).all())
        means, deviations = scale_of(seen[:, None])
        return cls(column, float(means[0]), float(deviations[0]), whole)

    def check(self, cell: Any) -> float:
        """Return the scaled value. Raises InvalidCell: it is no number, or too large."""
        return scaled(
            self.column, read_number(self.column, cell), self.mean, self.deviation
        )

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


@functools.lru_cache(maxsize=64)
def _places_of(names: tuple[str, ...]) -> dict[str, int]:
    """Return the index of each name."""
    return {name: place for place, name in enumerate(names)}


def invalid_row(error: InvalidCell, path: str, line: int) -> DataError:
    """Return the error for a row, with where it stands and what to do."""
    return DataError(f"{error}; mend the row, or set data.on_error=skip", path, line)
