"""A column of lists that is no label for each word of a text."""

from __future__ import annotations

from unrolled.core.errors import DataError
from unrolled.data.sources import Table


def refuse_several_labels(table: Table, texts: tuple[str, ...], answer: str) -> None:
    """Raise DataError where a list of answers is no answer for each word of a text."""
    if len(texts) != 1:
        return
    text_index = table.columns.index(texts[0])
    answer_index = table.columns.index(answer)
    wrong: list[int] = []
    for line, row in zip(table.lines, table.rows, strict=True):
        text = row[text_index]
        words = text if isinstance(text, list) else str(text or "").split()
        if len(words) != len(row[answer_index] or ()):
            wrong.append(line)
    if 2 * len(wrong) > len(table.rows):
        raise DataError(
            f"column {answer!r} holds several labels a row, and not one for each word of "
            f"{texts[0]!r}; one label a row is learnt: write the one to learn, or all of them "
            "as one text",
            *table.position(wrong[0]),
        )
