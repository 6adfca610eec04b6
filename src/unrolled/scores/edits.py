"""Scores of strings that may be right in part: edits from the nearest right answer.

An answer is a text, or a list of symbols such as phonemes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

Symbols = Sequence[Hashable]


def distance(first: Symbols, second: Symbols) -> int:
    """Return the fewest insertions, deletions and substitutions between two sequences.

    A column of Levenshtein's table is two integers of a bit a row, so that a symbol costs a few
    operations on whole columns (Myers 1999; Hyyrö 2003, figure 8).
    """
    if len(first) < len(second):
        first, second = second, first
    if not second:
        return len(first)
    # of each symbol a bit for every row where it stands
    rows: dict[Hashable, int] = {}
    for row, symbol in enumerate(first):
        rows[symbol] = rows.get(symbol, 0) | 1 << row
    last = 1 << (len(first) - 1)
    mask = (1 << len(first)) - 1
    edits = len(first)
    # the rows where the table grows by one from the row above, or falls
    up = mask
    down = 0
    for symbol in second:
        same = rows.get(symbol, 0)
        flat = (((same & up) + up) ^ up) | same | down
        grow = down | ~(flat | up) & mask
        fall = up & flat
        edits += bool(grow & last) - bool(fall & last)
        grow = grow << 1 | 1
        fall = fall << 1
        up = (fall | ~(flat | grow)) & mask
        down = grow & flat
    return edits


def nearest(answer: Symbols, right: Sequence[Symbols]) -> tuple[int, int]:
    """Return the edits to the nearest of the right answers, and its length.

    Of equally near ones the longest counts, of whose symbols the smallest share is wrong.

    Raises:
        ValueError: there is no right answer.
    """
    if not right:
        raise ValueError(
            "expected at least one right answer, got none; leave the row out"
        )
    edits, negative_length = min(
        (distance(answer, reference), -len(reference)) for reference in right
    )
    return edits, -negative_length


def word_error_rate(
    answers: Sequence[Symbols], references: Sequence[Sequence[Symbols]]
) -> float:
    """Return the share of answers that equal none of their right ones (0 without answers)."""
    wrong = 0
    for answer, right in zip(answers, references, strict=True):
        symbols = list(answer)
        wrong += all(symbols != list(reference) for reference in right)
    return wrong / max(1, len(answers))


def symbol_error_rate(
    answers: Sequence[Symbols], references: Sequence[Sequence[Symbols]]
) -> float:
    """Return the edits to the nearest right answers, as a share of the symbols in these.

    That is the character error rate of texts and the phoneme error rate of lists of phonemes; it
    passes 1 where answers are much too long.
    """
    total_edits = 0
    total_length = 0
    for answer, right in zip(answers, references, strict=True):
        edits, length = nearest(answer, right)
        total_edits += edits
        total_length += length
    return total_edits / max(1, total_length)
