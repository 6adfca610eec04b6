"""CoNLL-U: sentences of words with their tags, ten columns a word, an empty line after each.

https://universaldependencies.org/format.html
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from unrolled.core.errors import DataError, UserError, shown
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.lines import SKIP_HINT, Report, lines_with_errors

# what becomes of the columns FORM, LEMMA, UPOS, XPOS, FEATS, HEAD, DEPREL
COLUMNS = ("words", "lemma", "upos", "xpos", "feats", "head", "deprel")
WIDTH = 10
_SNIFFED_WORDS = 200  # words that tell
_ID = re.compile(r"(\d{1,9})(?:([-.])(\d{1,9}))?", re.ASCII)
_HEAD = re.compile(r"\d+|_", re.ASCII)

Sentence = tuple[list[str], ...]


class ConlluFormat(FileFormat):
    kind = "conllu"
    title = "CoNLL-U"
    suffixes = ("conllu", "conll")
    tabular = True

    def sniff(self, head: Head) -> Sniffed | None:
        if not self.names(head.name) and not looks_like_conllu(head.lines):
            return None
        return Sniffed(replace(head.format, kind=self.kind), list(COLUMNS))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        # a line that does not decode is emptied, which must not end a sentence
        lines, lost = lines_with_errors(file.origin, file.format)
        yield from sentences(lines, file.name, report, lost)

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[list[str]]:
        return (line.split(),)


def looks_like_conllu(lines: Sequence[str]) -> bool:
    """Return whether these first lines of a file are words of sentences.

    The first is numbered 1 (or stands for an empty node or a range), and most have ten columns
    of which the first is a number and the seventh the number of a head.
    """
    written = [line for line in lines if line.strip() and not line.startswith("#")]
    words = [line.split("\t") for line in written[:_SNIFFED_WORDS]]
    if not words or not re.fullmatch(r"1|1-\d+|0\.\d+", words[0][0]):
        return False
    return sum(map(_is_word, words)) * 2 > len(words)


def _is_word(cells: Sequence[str]) -> bool:
    return (
        len(cells) == WIDTH
        and _ID.fullmatch(cells[0]) is not None
        and _HEAD.fullmatch(cells[6]) is not None
    )


def sentences(
    lines: Iterable[tuple[int, str]],
    path: str,
    report: Report,
    lost: Mapping[int, DataError],
) -> Iterator[tuple[int, Sentence]]:
    """Yield (line it starts on, one list a column of ``COLUMNS``) for every sentence.

    Ranges (``1-2``) and empty nodes (``8.1``) are no words. A sentence with an error is reported
    at the first line that has one and left out whole.

    Args:
        lines: the numbered lines of the file.
        path: the file, for its errors.
        report: takes the errors, one a sentence.
        lost: what is wrong with the lines that stand empty since they do not decode.
    """
    blank = lambda pair: not pair[1].strip() and pair[0] not in lost  # noqa: E731
    for between, group in itertools.groupby(lines, blank):
        words = (
            [] if between else [pair for pair in group if not pair[1].startswith("#")]
        )
        if not words:
            continue
        damage = next((lost[line] for line, _ in words if line in lost), None)
        if damage is not None:
            report(damage)
            continue
        cells: list[list[str]] = []
        for line, text in words:
            try:
                cells += _word(text, len(cells))
            except UserError as error:
                report(DataError(f"{error}, {SKIP_HINT}", path, line))
                break
        else:
            if cells:
                yield words[0][0], tuple(map(list, zip(*cells, strict=True)))


def _word(text: str, before: int) -> list[list[str]]:
    """Return the cells of a line in a list, none for a range or an empty node."""
    cells = text.split("\t")
    if len(cells) != WIDTH:
        raise UserError(
            f"a word of CoNLL-U has {WIDTH} columns separated by tabs, found {len(cells)}; mend "
            "the line"
        )
    number = _ID.fullmatch(cells[0])
    if number is None:
        raise UserError(
            f"{shown(cells[0])} is not the number of a word; write 1, 1-2 or 1.1"
        )
    first, mark, last = number.groups()
    expected = before if mark == "." else before + 1
    if int(first) != expected or (mark == "-" and int(last) < int(first)):
        ended = "; an empty line ends a sentence" if first == "1" else ""
        raise UserError(
            f"the word is numbered {cells[0]} where {expected} is expected{ended}; mend the line"
        )
    if mark:
        return []
    if not cells[1]:
        raise UserError("the word itself (FORM) is missing; write _ for an unknown one")
    return [cells[1 : 1 + len(COLUMNS)]]
