"""A word and its tags a line, an empty line after each sentence, as CoNLL-2003 and its kin have it.

Between the columns stand blanks or tabs; lines that begin with -DOCSTART- separate documents. The
words come first, the tag that is learnt last; tags of entities are BIO, IOB1 or BIOES.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from unrolled.core.errors import DataError
from unrolled.core.words import counted
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.formats.conllu import looks_like_conllu
from unrolled.data.lines import SKIP_HINT, Report, lines_with_errors
from unrolled.data.sniff import is_number, names_columns, usual_width

_SNIFFED_LINES = 2000
_MOST_COLUMNS = 12
_DOCUMENT = "-DOCSTART-"
_ENTITY = re.compile(r"O|[BIESLUM][-_]\S+", re.IGNORECASE)
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
    names_columns = False  # they are named by how many there are

    def sniff(self, head: Head) -> Sniffed | None:
        if head.name.endswith(".conllu") or looks_like_conllu(head.lines):
            return None
        delimiter = "\t" if "\t" in head.text else " "
        sentences = _sentences_of(head.lines[:_SNIFFED_LINES], delimiter)
        all_words = list(itertools.chain.from_iterable(sentences))
        if len(sentences) < 2:
            return None
        width, evenness = usual_width(all_words)
        if not 2 <= width <= _MOST_COLUMNS or evenness < 0.9:
            return None
        words = [word for word in all_words if len(word) == width]
        if not _are_tagged(words, delimiter == "\t" or self.names(head.name)):
            return None
        format = replace(
            head.format,
            kind=self.kind,
            delimiter=delimiter,
            header=_is_header(words),
        )
        return Sniffed(format, _columns(width))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        # a line that does not decode is emptied, which must not end a sentence
        lines, lost = lines_with_errors(file.origin, file.format)
        blank = lambda pair: not pair[1].strip() and pair[0] not in lost  # noqa: E731
        names = file.format.header
        for between, group in itertools.groupby(lines, blank):
            if between:
                continue
            numbers: list[int] = []
            words: list[list[str]] = []
            for line, text in group:
                if _is_no_word(text):
                    continue
                if names:
                    names = False
                    continue
                numbers.append(line)
                words.append(_split(text, file.format.delimiter))
            error = _error_of(file, numbers, words, lost)
            if error is not None:
                report(error)
            elif words:
                columns = zip(*words, strict=True)
                yield numbers[0], tuple(map(list, columns))

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[list[str]]:
        return (line.split(),)


def _error_of(
    file: DataFile,
    numbers: Sequence[int],
    words: Sequence[Sequence[str]],
    lost: Mapping[int, DataError],
) -> DataError | None:
    """Return what is wrong with a sentence, whose words stand on the lines ``numbers``."""
    width = len(file.columns)
    for number, word in zip(numbers, words, strict=True):
        if number in lost:
            return lost[number]
        if len(word) != width:
            names = ", ".join(file.columns)
            message = (
                f"expected {counted(width, 'column')} ({names}), found {len(word)}; "
                f"mend the line, {SKIP_HINT}"
            )
            return DataError(message, file.name, number)
    return None


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


def _split(line: str, delimiter: str | None) -> list[str]:
    if delimiter == "\t":
        return line.rstrip("\t ").split("\t")
    return line.split()


def _sentences_of(lines: Sequence[str], delimiter: str) -> list[list[list[str]]]:
    """Return the cells of the words of each group of lines."""
    sentences: list[list[list[str]]] = []
    for filled, group in itertools.groupby(lines, lambda line: bool(line.strip())):
        if not filled:
            continue
        words = []
        for line in group:
            if not _is_no_word(line):
                words.append(_split(line, delimiter))
        if words:
            sentences.append(words)
    return sentences


def _is_header(words: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line names the columns: word, tag."""
    tags = [word[-1] for word in words]
    return names_columns(words) and tags.count(tags[0]) == 1


def _are_tagged(words: Sequence[Sequence[str]], is_likely: bool) -> bool:
    """Return whether lines are words with tags: those of entities, or a few that come again.

    The latter only where they are likely, by the tabs in the lines or by the name of the file.
    """
    tags = Counter(word[-1] for word in words)
    if len(tags) < 2:
        return False
    entities = 0
    for tag, count in tags.items():
        if _ENTITY.fullmatch(tag):
            entities += count
    if entities >= 0.95 * len(words):
        return True
    if not is_likely:
        return False
    # a word has no blanks in it, and its tags are of a closed set
    cells = itertools.chain.from_iterable(words)
    single = not any(" " in cell for cell in cells)
    closed = len(tags) <= _FEW and len(tags) * _REPEATS <= len(words)
    return single and closed and not any(map(is_number, tags))
