"""Lists of words, read as wholes and by their spelling."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from unrolled.core import digests
from unrolled.core.errors import DataError, shown
from unrolled.core.files import read_json_list
from unrolled.data.examples import Examples, Ints, Ragged, Spellings
from unrolled.data.lines import nfc
from unrolled.fields.base import TOKENIZER, WORDS, InvalidCell, is_plain
from unrolled.text.published import load_tokenizer
from unrolled.text.tokenizers import RUN, Tokenizer, text_of_word

# ids of words: 0 is padding
UNKNOWN = 1


FIRST = 2


LONGEST_WORD = 64  # pieces


def words_of(column: str, cell: Any, kind: str) -> list[str]:
    """Return the words of a cell: a list of them, or text with blanks between them.

    ``kind`` is what one is called. Raises InvalidCell: it holds a list, an object or nothing where
    one is expected.
    """
    several = isinstance(cell, list)
    words = cell if several else str(cell or "").split()
    odd = [word for word in words if word is None or not is_plain(word)]
    if not several and (isinstance(cell, bool) or not is_plain(cell)):
        odd = [cell]
    if odd:
        raise InvalidCell(
            f"column {column!r} holds {shown(odd[0])} where a {kind} is expected"
        )
    return [str(word) for word in words]


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words a row: the id of each in a vocabulary, and the pieces it is spelt with.

    ``known`` are the words of the vocabulary in the order of their ids, which start at ``FIRST``;
    without a ``tokenizer`` words are not spelt. ``max_words`` is the longest row.
    """

    kind: ClassVar[str] = "words"
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
        counted = Counter(itertools.chain.from_iterable(rows))
        often = [word for word, count in counted.items() if count >= min_count]
        often.sort(key=lambda word: (-counted[word], word))
        pieces = None
        if tokenizer is not None:
            pieces = Tokenizer.fit(tokenizer, counted.elements(), vocabulary, min_count)
        known = tuple(often[: vocabulary - FIRST])
        return cls(column, known, pieces, max_words)

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column that is read."""
        return (self.column,)

    def texts(self) -> list[str]:
        """Return what each id stands for, as ``Tokenizer.texts`` does."""
        texts = ["\0<pad>", "\0<unk>"]
        texts += map(text_of_word, self.known)
        return texts

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
        """Return the words of each row: indices into a list of spellings, or ids without one."""
        known = dict(zip(self.known, itertools.count(FIRST)))
        if self.tokenizer is None:
            ids_of_rows = [[known.get(word, UNKNOWN) for word in row] for row in rows]
            return Ragged.of(ids_of_rows), None
        distinct: dict[str, int] = {}
        indices = [
            [distinct.setdefault(word, len(distinct)) for word in row] for row in rows
        ]
        spelt = self._spelt(list(distinct))
        # the marks tell n-grams at the ends of a word from those within it
        begin = self.tokenizer.bos_id
        end = self.tokenizer.eos_id
        pieces = Ragged.of([[begin, *ids, end] for ids in spelt])
        known_ids = [known.get(word, UNKNOWN) for word in distinct]
        ids = np.array(known_ids, dtype=np.int64)
        return Ragged.of(indices), Spellings(ids, pieces)

    def _spelt(self, words: list[str]) -> list[list[int]]:
        """Return the pieces of each word; of an endless one those of its beginning and its end."""
        assert self.tokenizer is not None
        # pieces have this many characters at most, but for those of a vocabulary of whole words
        reach = RUN * LONGEST_WORD
        cut = [
            word if len(word) <= 2 * reach else word[:reach] + word[-reach:]
            for word in words
        ]
        half = LONGEST_WORD // 2
        return [
            ids if len(ids) <= LONGEST_WORD else ids[:half] + ids[-half:]
            for ids in self.tokenizer.encode_many(cut)
        ]

    def check_to_predict(self, cells: Sequence[Any]) -> list[str]:
        """Return what is read of a row that is to be answered. Raises InvalidCell."""
        return self.check(cells)

    def examples(self, rows: Sequence[list[str]], lines: Ints) -> Examples:
        """Return checked rows (N,), which stand on ``lines`` (N,), as a model reads them."""
        sequences, spellings = self.encode(rows)
        return Examples(lines, sequences, spellings=spellings)

    def save(self, folder: Path) -> None:
        """Write the words, and the vocabulary that they are spelt with, into a run folder."""
        digests.replace_json(folder, WORDS, list(self.known))
        if self.tokenizer is not None:
            digests.replace(folder, TOKENIZER, self.tokenizer.save)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the field back. Raises DataError: the words are not what was saved."""
        spelt = values["spelt"]
        tokenizer = load_tokenizer(folder / TOKENIZER) if spelt else None
        known = _saved_words(folder / WORDS)
        return cls(values["column"], known, tokenizer, values["max_words"])

    def to_json(self) -> dict[str, Any]:
        """Return what is read back; words and tokenizer are saved beside it."""
        spelt = self.tokenizer is not None
        return {"column": self.column, "max_words": self.max_words, "spelt": spelt}


def _saved_words(path: Path) -> tuple[str, ...]:
    try:
        words = read_json_list(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}; train anew", path) from None
    if not all(isinstance(word, str) for word in words):
        raise DataError(
            "this is no list of words that unrolled saved; train anew", path
        )
    return tuple(words)
