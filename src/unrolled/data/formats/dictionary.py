"""Pronunciation dictionaries as CMUdict is written: a word, then its sounds, blanks between them.

A further pronunciation of a word stands under ``word(2)``; ``#`` starts a comment after an entry,
``;;;`` a line of comment. https://github.com/cmusphinx/cmudict
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from unrolled.core.errors import DataError, shown
from unrolled.data.formats.base import DataFile, FileFormat, Head, Row, Sniffed
from unrolled.data.lines import SKIP_HINT, Report, lines_with_errors

COLUMNS = ("word", "pronunciation")
COMMENT = ";;;"
_SNIFFED_LINES = 200  # lines that tell
# upper-case sounds of which vowels carry a mark of stress: no other text is written so
_ENTRY = re.compile(r"\S+ {1,2}[A-Z]{1,3}[012]?(?: [A-Z]{1,3}[012]?)*\s*(?:#.*)?")
_STRESS = re.compile(r" [A-Z]{2}[012](?: |$)")
_FURTHER = re.compile(r"(?<=.)\(\d+\)$")


class DictionaryFormat(FileFormat):
    kind = "dictionary"
    title = "pronunciation dictionary"
    suffixes = ("dict",)

    def sniff(self, head: Head) -> Sniffed | None:
        if not self.names(head.name) and not looks_like_dictionary(head.lines):
            return None
        return Sniffed(replace(head.format, kind=self.kind), list(COLUMNS))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        lines, lost = lines_with_errors(file.origin, file.format)
        yield from entries(lines, file.name, report, lost)


def looks_like_dictionary(lines: Sequence[str]) -> bool:
    """Return whether these first lines of a file are words with their sounds."""
    written = [line for line in lines if line.strip() and not line.startswith(COMMENT)]
    written = written[:_SNIFFED_LINES]
    fitting = [line for line in written if _ENTRY.fullmatch(line)]
    stressed = sum(_STRESS.search(line) is not None for line in fitting)
    return len(fitting) >= 0.95 * len(written) > 0 and 2 * stressed > len(fitting)


def entries(
    lines: Iterable[tuple[int, str]],
    path: str,
    report: Report,
    lost: Mapping[int, DataError],
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield (line, (word, its sounds)) for every entry; arguments as ``conllu.sentences`` takes."""
    for line, text in lines:
        if line in lost:
            report(lost[line])
            continue
        if not text.strip() or text.startswith(COMMENT):
            continue
        word, _, rest = text.strip().partition(" ")
        sounds = " ".join(rest.partition("#")[0].split())
        if sounds:
            yield line, (_FURTHER.sub("", word), sounds)
        else:
            message = f"expected a word, a blank and its sounds, got {shown(text)}"
            report(DataError(f"{message}; mend the line, {SKIP_HINT}", path, line))
