"""What the answers of a file look like, in a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from unrolled.core.words import counted
from unrolled.data.columns import counts
from unrolled.data.numbers import number

NAMED = 8  # labels that are named


def labels(values: Sequence[Any]) -> str:
    """Describe a label a row."""
    return _labels(counts(values))


def tags(values: Iterable[Any]) -> str:
    """Describe a label a step; what is no tag is named, with its line, when rows are encoded."""
    rows = (
        value if isinstance(value, list) else _text(value).split() for value in values
    )
    names = map(str, chain.from_iterable(rows))
    return _labels(dict(Counter(names).most_common()))


def texts(values: Sequence[Any]) -> str:
    """Describe a text a row."""
    cells = [_text(value) for value in values]
    words = sum(len(cell.split()) for cell in cells) / max(1, len(cells))
    return f"{len(set(cells)):,} different texts of {words:.1f} words"


def numbers(values: Sequence[Any]) -> str:
    """Describe a number a row."""
    known = np.array([n for n in map(number, values) if n is not None])
    if not len(known):
        return "no numbers"
    return f"{known.min():g} to {known.max():g}, mean {known.mean():g}"


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _labels(counts_of_labels: dict[str, int]) -> str:
    names = [name for name in counts_of_labels if name != "(empty)"]
    shown = [f"{name} {counts_of_labels[name]:,}" for name in names[:NAMED]]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    without = ""
    if "(empty)" in counts_of_labels:
        without = f" ({counted(counts_of_labels['(empty)'], 'row')} without one)"
    return f"{len(names)} labels: {', '.join(shown)}{more}{without}"
