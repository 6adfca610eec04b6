"""A word and its tags a line, an empty line after each sentence, as CoNLL-2003 and its kin have it.

Between the columns stand blanks or tabs; lines that begin with -DOCSTART- separate documents. The
words come first, the tag that is learnt last; tags of entities are BIO, IOB1 or BIOES.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from unrolled.core.errors import DataError
from unrolled.core.words import counted
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.formats.conllu import looks_like_conllu
from unrolled.data.lines import SKIP_HINT, Report, lines_with_errors

_SNIFFED_LINES = 2000
_MOST_COLUMNS = 12
_DOCUMENT = "-DOCSTART-"
_ENTITY = re.compile(r"O|[BIESLUM][-_]\S+")
# columns between the word and the last one, where they are those of CoNLL-2003
_NAMES = {2: ("words", "tags"), 3: ("words", "pos", "tags")}
_NAMES_2003 = ("words", "pos", "chunk", "ner")
_FEW = 100  # distinct tags at most, where they are none of entities
_REPEATS = 5  # ... each of which occurs this often on average


class ConllFormat(FileFormat):
    kind = "conll"
    title = "CoNLL, a word a line"
    suffixes = ("conll", "iob", "iob2", "bio")
    tabular = True

    def sniff(self, head: Head) -> Sniffed | None:
        if head.name.endswith(".conllu") or looks_like_conllu(head.lines):
            return None
        tab = "\t" in head.text
        sentences = _sentences_of(head.lines[:_SNIFFED_LINES], tab)
        widths = Counter(len(word) for sentence in sentences for word in sentence)
        if len(sentences) < 2 or not widths:
            return None
        width, count = widths.most_common(1)[0]
        total = sum(widths.values())
        if not 2 <= width <= _MOST_COLUMNS or count < 0.9 * total:
            return None
        words = [
            word for sentence in sentences for word in sentence if len(word) == width
        ]
        if not _are_tagged(words, tab):
            return None
        delimiter = "\t" if tab else " "
        format = replace(head.format, kind=self.kind, delimiter=delimiter)
        return Sniffed(format, _columns(width))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        # a line that does not decode is emptied, which must not end a sentence
        lines, lost = lines_with_errors(file.origin, file.format)
        width = len(file.columns)
        tab = file.format.delimiter == "\t"
        blank = lambda pair: not pair[1].strip() and pair[0] not in lost  # noqa: E731
        for between, group in itertools.groupby(lines, blank):
            words = [] if between else [p for p in group if not _is_no_word(p[1])]
            damage = next((lost[line] for line, _ in words if line in lost), None)
            if damage is not None:
                report(damage)
                continue
            cells = [(line, _split(text, tab)) for line, text in words]
            odd = next((pair for pair in cells if len(pair[1]) != width), None)
            if odd is not None:
                message = (
                    f"expected {counted(width, 'column')} ({', '.join(file.columns)}), found "
                    f"{len(odd[1])}; mend the line, {SKIP_HINT}"
                )
                report(DataError(message, file.name, odd[0]))
            elif cells:
                columns = zip(*(word for _, word in cells), strict=True)
                yield cells[0][0], tuple(map(list, columns))

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[list[str]]:
        return (line.split(),)


def _columns(width: int) -> list[str]:
    if width in _NAMES:
        return list(_NAMES[width])
    if width == len(_NAMES_2003):
        return list(_NAMES_2003)
    between = [f"column{number}" for number in range(2, width)]
    return ["words", *between, "tags"]


def _is_no_word(line: str) -> bool:
    """Return whether a line separates documents, or is a comment of several words."""
    if line.startswith(_DOCUMENT):
        return True
    return line.startswith("# ") and len(line.split()) > 3


def _split(line: str, tab: bool) -> list[str]:
    return line.rstrip("\t ").split("\t") if tab else line.split()


def _sentences_of(lines: Sequence[str], tab: bool) -> list[list[list[str]]]:
    """Return the cells of the words of each group of lines."""
    sentences: list[list[list[str]]] = []
    for filled, group in itertools.groupby(lines, lambda line: bool(line.strip())):
        words = [_split(line, tab) for line in group if not _is_no_word(line)]
        if filled and words:
            sentences.append(words)
    return sentences


def _are_tagged(words: Sequence[Sequence[str]], tab: bool) -> bool:
    """Return whether lines are words with tags: those of entities, or a few that come again."""
    tags = Counter(word[-1] for word in words)
    total = sum(tags.values())
    entities = sum(
        count for tag, count in tags.items() if _ENTITY.fullmatch(tag) is not None
    )
    if entities >= 0.95 * total and len(tags) > 1:
        return True
    # between tabs a word has no blanks in it, and its tags are of a closed set
    single = all(" " not in cell for word in words for cell in word)
    closed = 2 <= len(tags) <= _FEW and len(tags) * _REPEATS <= total
    named = not any(word[-1].replace(".", "").isdigit() for word in words)
    return tab and single and closed and named
