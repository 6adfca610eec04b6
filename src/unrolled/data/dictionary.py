"""Pronunciation dictionaries as CMUdict is written: a word, then its sounds, blanks between them.

A further pronunciation of a word stands under ``word(2)``; ``#`` starts a comment after an entry,
``;;;`` a line of comment. https://github.com/cmusphinx/cmudict
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from unrolled.core.errors import DataError, shown
from unrolled.data.lines import SKIP_HINT, Report

COLUMNS = ("word", "pronunciation")
NAME = re.compile(r"\.dict(\.gz)?$", re.IGNORECASE)
COMMENT = ";;;"
# upper-case sounds of which vowels carry a mark of stress: no other text is written so
_ENTRY = re.compile(r"\S+ {1,2}[A-Z]{1,3}[012]?(?: [A-Z]{1,3}[012]?)*\s*(?:#.*)?")
_STRESS = re.compile(r" [A-Z]{2}[012](?: |$)")
_FURTHER = re.compile(r"(?<=.)\(\d+\)$")


def looks_like_dictionary(lines: Sequence[str]) -> bool:
    """Return whether these first lines of a file are words with their sounds."""
    written = [line for line in lines if line.strip() and not line.startswith(COMMENT)][
        :200
    ]
    entries = [line for line in written if _ENTRY.fullmatch(line)]
    stressed = sum(_STRESS.search(line) is not None for line in entries)
    return len(entries) >= 0.95 * len(written) > 0 and 2 * stressed > len(entries)


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
            told = f"expected a word, a blank and its sounds, got {shown(text)}; mend the line"
            report(DataError(f"{told}, {SKIP_HINT}", path, line))
