"""A table with a word a row and a column that tells its sentence: Sentence #,Word,POS,Tag."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from unrolled.core.errors import DataError
from unrolled.data.formats.base import DataFile, Format, Head, Row, Sniffed
from unrolled.data.formats.table import TableFormat, ignore
from unrolled.data.lines import SKIP_HINT, Report
from unrolled.data.numbers import is_missing

_SENTENCE_NAMES = frozenset(
    (
        *("sentence #", "sentence#", "sentence", "sentence_id", "sentence id"),
        *("sentence_idx", "sentence_no", "sentence_number", "sent_id", "sent", "sid"),
    )
)
_LONGEST_MARK = 3  # words of what tells a sentence apart: Sentence: 1
_SNIFFED_ROWS = 200  # in which a sentence has two words
_WORD_NAMES = frozenset(("word", "words", "token", "tokens", "form"))


class WordTableFormat(TableFormat):
    """Rows of words become rows of sentences: a list of cells a column."""

    kind = "word_table"
    title = "table of words"

    def describe(self, format: Format) -> list[str]:
        return [*super().describe(format), "a word a row"]

    def sniff(self, head: Head) -> Sniffed | None:
        sniffed = super().sniff(head)
        if sniffed is None:
            return None
        sentence, words = _roles(sniffed.columns)
        if not (sentence and words):
            return None
        raw = DataFile(head.origin, sniffed.format, sniffed.columns)
        index = sniffed.columns.index(sentence)
        first = itertools.islice(super().rows(raw, ignore), _SNIFFED_ROWS)
        cells = [cells[index].strip() for _, cells in first]
        # a sentence has several words, so that its mark comes again or stands there once
        if not any(cell in ("", before) for before, cell in pairwise(cells)):
            return None
        if any(len(cell.split()) > _LONGEST_MARK for cell in cells):
            return None  # the sentence itself
        names = [name for name in sniffed.columns if name not in (sentence, words)]
        format = replace(sniffed.format, kind=self.kind)
        return Sniffed(format, [words, *names], sniffed.warnings)

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        head = Head(file.origin, file.format.encoding, header=True)
        table = TableFormat.sniff(self, head)
        assert table is not None
        raw = DataFile(file.origin, table.format, table.columns)
        sentence, _ = _roles(table.columns)
        assert sentence is not None
        index = table.columns.index(sentence)
        order = [table.columns.index(name) for name in file.columns]
        begun = 0
        name = ""
        words: list[tuple[Any, ...]] = []
        for line, cells in super().rows(raw, report):
            own = cells[index].strip()
            if is_missing(own):
                own = ""
            if words and own and own != name:
                yield begun, _sentence(words, order)
                words = []
            name = own or name
            if not name:
                message = f"column {sentence!r} is empty before the first sentence, {SKIP_HINT}"
                report(DataError(message, file.name, line))
                continue
            begun = begun if words else line
            words.append(cells)
        if words:
            yield begun, _sentence(words, order)

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[Any, ...]:
        return (line.split(),)


def _roles(columns: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the column that tells sentences apart and that of words, where there are both."""
    sentence: str | None = None
    words: str | None = None
    for name in columns:
        bare = name.strip().lower()
        if sentence is None and bare in _SENTENCE_NAMES:
            sentence = name
        if words is None and bare in _WORD_NAMES:
            words = name
    return sentence, words


def _sentence(words: Sequence[Sequence[Any]], order: Sequence[int]) -> tuple[Any, ...]:
    columns: list[list[Any]] = []
    for index in order:
        columns.append([word[index] for word in words])
    return tuple(columns)
