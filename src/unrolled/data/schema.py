"""Which columns of a table are read and which one is the answer, told or inferred.

The rules look at names first and at values second, and say what they took, so that a wrong guess
is seen and overruled by ``data.text``, ``data.label`` and ``data.numbers``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.core.errors import DataError, UsageError, unknown
from unrolled.data.sources import Table

TEXT_NAMES = (
    "text",
    "document",
    "sentence",
    "review",
    "comment",
    "message",
    "content",
    "utterance",
    "body",
    "question",
    "q",
    "title",
    "words",
    "tokens",
)
LABEL_NAMES = (
    "label",
    "class",
    "category",
    "target",
    "sentiment",
    "intent",
    "tag",
    "tags",
    "y",
    "answer",
    "stars",
    "rating",
    "price",
    "score",
    "polarity",
    "species",
    "phase",
    "result",
    "output",
    "product",
    "upos",
)
# of these, the names that a text may stand under too: a translation, a reply
TEXT_ANSWERS = ("target", "answer", "output", "result")
NOTE = 8  # characters that all cells of a note begin with, such as a licence
PAIRS = ("translate", "rewrite")  # the tasks that answer a text with a text
ENOUGH = 20  # rows that tell single words from labels which hardly repeat yet
SHORT = 24  # characters of a text that is a word or a name
FEW = 50  # a column of at most this many distinct values can be a label
REPEATS = 4  # ... if each occurs this often on average


@dataclass(frozen=True, slots=True)
class ColumnHints:
    """What the user said about the columns, and about rows that are steps of sequences."""

    task: str | None = None
    text: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    label: str | None = None
    rows: str | None = None
    sequence: str | None = None
    window: int | None = None
    ahead: int = 1
    paired: bool = False  # the rows are pairs of texts, for certain


@dataclass(frozen=True, slots=True)
class Schema:
    """A task and its columns: inputs are ``text`` or else ``numbers``; ``answer`` is predicted.

    With ``frames`` the numbers are sequences; with ``steps`` a row of the file is one step of one,
    and ``sequence`` the column that tells them apart, where there are several.
    """

    task: str
    text: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    answer: str | None = None
    frames: bool = False
    steps: bool = False
    sequence: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that are read."""
        return self.text or self.numbers


DOCUMENT = Schema("language")  # a file of running text


@dataclass(frozen=True, slots=True)
class Column:
    """What the values of one column look like."""

    name: str
    filled: int
    numeric: bool
    whole: bool
    lists: bool
    distinct: int
    mean_length: float
    frames: bool = False  # lists of numbers, or of lists of numbers
    words: float = 0.0  # in a cell, on average
    note: bool = False  # all cells begin alike

    @property
    def text(self) -> bool:
        """Whether these are texts, hardly one of them twice."""
        plain = (
            not self.lists and not self.numeric and not self.note and not _stamps(self)
        )
        return plain and self.mean_length >= 2 and 2 * self.distinct > self.filled > 1

    @property
    def single(self) -> bool:
        """Whether a cell is a word or a name."""
        return self.words < 2 and self.mean_length <= SHORT

    @property
    def spelt(self) -> bool:
        """Whether a cell is single sounds with blanks between them."""
        return self.mean_length <= 3.5 * self.words

    @property
    def labels(self) -> bool:
        """Whether the values repeat like labels do."""
        return (
            not self.lists
            and 2 <= self.distinct <= FEW
            and self.filled >= REPEATS * self.distinct
        )


def number(value: Any) -> float | None:
    """Return a finite number for a cell, or None when it is not one."""
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        return None
    try:
        parsed = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


def is_numeric(value: Any) -> bool:
    """Whether a cell is written as a number, be it too large for one, or none: inf, nan."""
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        return False
    try:
        float(value)
    except OverflowError:
        return True
    except (TypeError, ValueError):
        return False
    return True


def label(cell: Any) -> str:
    """Return a label as text; JSON's true and 1.0 read like a table's ``true`` and ``1``."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell).strip()


def look(name: str, values: Sequence[Any]) -> Column:
    """Describe the values of a column."""
    filled = [value for value in values if value is not None and value != ""]
    count = max(1, len(filled))
    if filled and all(isinstance(value, list) for value in filled):
        return Column(
            name=name,
            filled=len(filled),
            numeric=False,
            whole=False,
            lists=True,
            distinct=0,
            mean_length=sum(map(len, filled)) / count,
            frames=all(map(_frames, filled)),
        )
    numbers = [number(value) for value in filled]
    # a cell that is no finite number is named with its line when the rows are read
    numeric = any(n is not None for n in numbers) and all(map(is_numeric, filled))
    texts = list(map(str, filled))
    beginnings = {text[:NOTE] for text in texts}
    return Column(
        name=name,
        filled=len(filled),
        numeric=numeric,
        whole=numeric and all(n is None or n.is_integer() for n in numbers),
        lists=False,
        distinct=len(set(texts)),
        mean_length=sum(map(len, texts)) / count,
        words=sum(len(text.split()) for text in texts) / count,
        note=len(beginnings) == 1 and len(filled) > 1,
    )


def _frames(cell: list[Any]) -> bool:
    first = cell[0] if cell else None
    values = first if isinstance(first, list) else cell
    return bool(values) and all(type(value) in (int, float) for value in values)


def infer(table: Table, hints: ColumnHints) -> Schema:
    """Choose the task and the columns of a table.

    Raises:
        UsageError: a column that the user named is not there.
        DataError: no column can be the answer or the input.
    """
    for name in (*hints.text, *hints.numbers, hints.label, hints.sequence):
        if name is not None and name not in table.columns:
            raise UsageError(f"{table.path}: {unknown('column', name, table.columns)}")
    columns = {
        name: look(name, [row[index] for row in table.rows])
        for index, name in enumerate(table.columns)
    }
    sequences = any(c.frames for c in columns.values() if c.name != hints.label)
    windows = hints.window and not sequences
    if hints.rows == "steps" or hints.sequence or windows:
        return _steps(table, hints, columns)
    if table.format.kind == "trees" and hints.task in (None, "parse"):
        return Schema("parse", hints.text or ("words",), (), hints.label or "tree")
    if hints.task == "language" or (len(columns) == 1 and not hints.label):
        return _language(table, hints, columns)
    pair = _pair(table, hints, columns)
    if pair is not None:
        return pair
    return _labelled(table, hints, columns)


def _labelled(table: Table, hints: ColumnHints, columns: dict[str, Column]) -> Schema:
    """Choose an answer and what is read for it: a text, else sequences, else numbers."""
    answer = hints.label or _answer(table, hints, columns)
    frames = tuple(c.name for c in columns.values() if c.frames and c.name != answer)
    text = hints.text
    if not text and not hints.numbers and not frames:
        text = _text(columns, answer)
    if text and answer is None:
        return _language(table, hints, columns)
    if answer is None:
        raise DataError(
            "no column looks like an answer; name it with data.label=COLUMN "
            f"(columns: {', '.join(table.columns)})",
            table.path,
        )
    task = hints.task or _task(columns[answer])
    if frames and not text and set(hints.numbers) <= set(frames):
        return Schema(task, (), hints.numbers or frames, answer, frames=True)
    if hints.window:
        raise UsageError(
            "data.window is for sequences of numbers; leave it out for text"
        )
    if text:
        return Schema(task, text, (), answer)
    numbers = hints.numbers or _numbers(columns, answer)
    if not numbers:
        raise DataError(
            f"no column is left to read beside the answer {answer!r}; name the text with "
            "data.text=COLUMN or the numbers with data.numbers=[COLUMN, ...]",
            table.path,
        )
    return Schema(task, (), numbers, answer)


def _numbers(columns: dict[str, Column], answer: str) -> tuple[str, ...]:
    """Return the columns of numbers, without those that number rows unless there are no others."""
    numeric = [c for c in columns.values() if c.numeric and c.name != answer]
    # the number of a row tells nothing of the next file's rows
    numbers = [c for c in numeric if not _stamps(c)] or numeric
    return tuple(c.name for c in numbers)


def _pair(
    table: Table, hints: ColumnHints, columns: dict[str, Column]
) -> Schema | None:
    """Choose the column that is read and the column of texts that answers it.

    Untold, a table is one of pairs where exactly two columns hold texts that hardly repeat and no
    column looks like a label; of the two the first is read, unless its name says answer.

    Returns:
        The schema; None for a table of another kind.

    Raises:
        UsageError: several columns are to be read.
        DataError: the task is one of ``PAIRS`` and there are no two columns.
    """
    certain = hints.task in PAIRS or hints.paired
    texts = [c for c in columns.values() if c.text]
    if not certain:
        if hints.task or hints.numbers:
            return None
        if not _paired(hints, columns, texts):
            return None
    if len(hints.text) > 1:
        raise UsageError(
            "pairs of texts have one column to read; name one with data.text"
        )
    if certain:
        texts += [
            c for c in columns.values() if c.filled and not c.lists and c not in texts
        ]
    given = {*hints.text, hints.label}
    left = [c for c in texts if c.name not in given]
    named = _named(TEXT_ANSWERS, left)
    answer = hints.label or ""
    if not answer and named is not None:
        answer = named.name
    free = iter([c.name for c in left if c.name != answer])
    source = hints.text[0] if hints.text else next(free, "")
    answer = answer or next(free, "")
    if not source or not answer:
        raise DataError(
            "pairs of texts need two columns; name them with data.text=COLUMN and "
            f"data.label=COLUMN (columns: {', '.join(table.columns)})",
            table.path,
        )
    output = columns[answer]
    words = columns[source].single and (output.single or output.spelt)
    task = hints.task or ("rewrite" if words else "translate")
    return Schema(task, (source,), (), answer)


def _paired(
    hints: ColumnHints, columns: dict[str, Column], texts: Sequence[Column]
) -> bool:
    """Whether a table that nobody named a task for is one of pairs of texts."""
    names = [c.name for c in texts if c.words >= 2 or c.filled >= ENOUGH]
    if hints.label is not None and hints.text:
        return {hints.label, *hints.text} <= set(names)
    label = _named(LABEL_NAMES, list(columns.values()))
    plain = label is None or label.name.strip().lower() in TEXT_ANSWERS
    others = any(c.labels or c.frames for c in columns.values() if c.name not in names)
    given = {name for name in (hints.label, *hints.text) if name is not None}
    return len(names) == 2 and plain and not others and given <= set(names)


def _steps(table: Table, hints: ColumnHints, columns: dict[str, Column]) -> Schema:
    """Choose task and columns of a table whose rows are steps."""
    if hints.text or hints.task == "language":
        raise UsageError(
            "the steps of a sequence are numbers; leave out data.rows and data.text"
        )
    columns = {name: c for name, c in columns.items() if name != hints.sequence}
    # a label of steps is a word; y is a coordinate here
    words = {name: c for name, c in columns.items() if not c.numeric and c.labels}
    forecast = hints.window is not None and hints.task != "tag"
    answer = hints.label or _answer(table, hints, (not forecast and words) or columns)
    if answer is None:
        raise DataError(
            "no column looks like an answer; name it with data.label", table.path
        )
    task = hints.task or _task(columns[answer])
    if (
        hints.task is None
        and hints.window is None
        and not _constant(table, hints, answer)
    ):
        if task == "regress":
            raise UsageError(
                f"{answer} has a value at every step: set data.window=N to predict it from the N "
                "steps before, or name labels with data.label"
            )
        task = "tag"
    # what is forecast is known up to the last step
    known = task == "regress" and hints.window is not None and hints.ahead > 0
    if answer in hints.numbers and not known:
        raise UsageError(f"data.numbers holds the answer {answer!r}; leave it out")
    numbers = hints.numbers or tuple(
        c.name
        for c in columns.values()
        if c.numeric and not _stamps(c) and (known or c.name != answer)
    )
    if not numbers:
        raise DataError(
            "no column of numbers is left; name them with data.numbers", table.path
        )
    return Schema(task, (), numbers, answer, frames=True, steps=True)


def _constant(table: Table, hints: ColumnHints, answer: str) -> bool:
    """Whether all steps of each named sequence have one answer."""
    if hints.sequence is None:
        return False
    name_index = table.columns.index(hints.sequence)
    answer_index = table.columns.index(answer)
    pairs = {(label(row[name_index]), label(row[answer_index])) for row in table.rows}
    return len(pairs) == len({name for name, _ in pairs})


def _language(table: Table, hints: ColumnHints, columns: dict[str, Column]) -> Schema:
    text = hints.text or _text(columns, None)
    if not text:
        raise DataError(
            "no column holds text; name it with data.text=COLUMN", table.path
        )
    return Schema("language", text)


def _named(names: Sequence[str], columns: Sequence[Column]) -> Column | None:
    by_name = {c.name.strip().lower(): c for c in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _text(columns: dict[str, Column], answer: str | None) -> tuple[str, ...]:
    """Return the column that holds text: by its name, else the longest values."""
    able = [
        c for c in columns.values() if c.name != answer and not c.numeric and c.filled
    ]
    lists = [c for c in able if c.lists]
    named = _named(TEXT_NAMES, able)
    if named is not None:
        return (named.name,)
    # time stamps and codes are not text: they neither repeat nor hold words
    able = lists or [c for c in able if c.mean_length >= 2 and not _stamps(c)]
    numeric = sum(c.numeric for c in columns.values() if c.name != answer)
    if able and numeric > 2 and all(c.labels for c in able):
        return ()
    return (max(able, key=lambda c: c.mean_length).name,) if able else ()


def _stamps(column: Column) -> bool:
    name = column.name.strip().lower()
    return name in ("date", "time", "timestamp", "datetime", "id", "index", "uuid")


def _answer(table: Table, hints: ColumnHints, columns: dict[str, Column]) -> str | None:
    """Return the column to predict: by its name, else one whose values repeat, else the last."""
    able = [
        c
        for c in columns.values()
        if c.name not in hints.text + hints.numbers and c.filled
    ]
    named = _named(LABEL_NAMES, able)
    if named is not None:
        return named.name
    if all(c.numeric for c in columns.values()):
        return able[-1].name if able else None
    labels = [c for c in able if c.labels]
    if labels:
        # words before numbers, then the few values before the many, then the last column
        return max(
            labels,
            key=lambda c: (not c.numeric, -c.distinct, table.columns.index(c.name)),
        ).name
    numeric = [c for c in able if c.numeric and not _stamps(c)]
    return numeric[-1].name if numeric else None


def _task(answer: Column) -> str:
    if answer.lists:
        return "tag"
    if not answer.numeric:
        return "classify"
    few = (
        answer.whole and answer.distinct <= 20 and answer.filled >= 8 * answer.distinct
    )
    return "classify" if few else "regress"


def counts(values: Sequence[Any]) -> dict[str, int]:
    """Return how often each label occurs, the most frequent first; cells without one as (empty)."""
    return dict(Counter(label(value) or "(empty)" for value in values).most_common())
