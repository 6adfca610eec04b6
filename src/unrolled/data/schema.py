"""Which columns of a table are read and which one is the answer, told or inferred.

The rules look at names first and at values second, and say what they took, so that a wrong guess
is seen and overruled by ``data.text``, ``data.label`` and ``data.numbers``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from unrolled.core.errors import DataError, UsageError, unknown
from unrolled.data.chat_columns import CHAT, REWARD, choose_chat
from unrolled.data.column_names import (
    LABEL_NAMES,
    TEXT_ANSWERS,
    TEXT_NAMES,
)
from unrolled.data.columns import SHORT, Column, labelled_column, look, named_column
from unrolled.data.condition_columns import (
    WRITE,
    choose_conditions,
)
from unrolled.data.dates import is_day_first
from unrolled.data.image_columns import choose_clips, choose_images
from unrolled.data.label_lists import refuse_several_labels
from unrolled.data.numbers import decimal_mark
from unrolled.data.sources import Table
from unrolled.data.step_columns import (
    Kinds,
    are_sequences,
    is_constant,
    kinds_of_sequences,
    kinds_of_steps,
)
from unrolled.data.table_marks import usual_decimal
from unrolled.data.units import FACTORS, KNOWN

PAIRS = ("translate", "rewrite")  # the tasks that answer a text with a text
SENTENCE = 3  # words of a cell, on average, that is no name
ENOUGH = 20  # rows that tell single words from labels which hardly repeat yet


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
    categories: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    decimal: str | None = None
    time: str | None = None
    group: str | None = None
    without: tuple[str, ...] = ()  # kinds of columns of which none is read
    by: str | None = None
    images: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the user says are read."""
        kinds = (self.images, self.text, self.numbers, self.categories, self.dates)
        return tuple(itertools.chain.from_iterable(kinds))


@dataclass(frozen=True, slots=True)
class Schema:
    """A task and its columns: inputs of several kinds, of which ``answer`` is predicted.

    With ``frames`` the numbers are sequences; with ``steps`` a row of the file is one step of one,
    ``sequence`` the column that tells them apart, where there are several, and ``time`` the one
    that puts steps in order. ``decimal`` is the mark before decimals, for numbers that do not tell;
    with ``clips`` the images are clips of frames; ``units`` names columns whose numbers have a unit
    behind them, each with its unit.
    """

    task: str
    text: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    answer: str | None = None
    frames: bool = False
    steps: bool = False
    sequence: str | None = None
    categories: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    time: str | None = None
    decimal: str = "."
    day_first: bool = True
    units: tuple[tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()
    clips: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that are read: images, texts, numbers, categories, dates."""
        kinds = (self.images, self.text, self.numbers, self.categories, self.dates)
        return tuple(itertools.chain.from_iterable(kinds))

    @property
    def kind(self) -> str:
        """What is read, where a task differs by it: ``frames``, ``image``; else nothing."""
        if self.images and not self.text:
            return "image"
        return "frames" if self.frames else ""

    def unit_of(self, name: str | None) -> str:
        """Return the unit of a column of numbers, "" without one."""
        return next((unit for column, unit in self.units if column == name), "")

    @property
    def writes_texts(self) -> bool:
        """Whether the answer is a text, or a tree, and no label or value."""
        return self.task in (*PAIRS, "parse", "caption", WRITE, CHAT, REWARD)

    @property
    def identifying(self) -> tuple[str, ...]:
        """The columns by which two rows are one, so that they may not be on two sides.

        That is what is read; of texts that are written for labels the texts, since labels come
        again and again.
        """
        if self.task == WRITE and self.answer is not None:
            return (self.answer,)
        return self.inputs

    @property
    def is_text_alone(self) -> bool:
        """Whether nothing but texts is read."""
        return bool(self.text) and self.inputs == self.text


DOCUMENT = Schema("language")  # a file of running text


def infer(table: Table, hints: ColumnHints) -> Schema:
    """Choose the task and the columns of a table.

    Raises:
        UsageError: a column that the user named is not there.
        DataError: no column can be the answer or the input.
    """
    others = (hints.label, hints.sequence, hints.time, hints.group, hints.by)
    for name in (*hints.inputs, *others):
        if name is not None and name not in table.columns:
            raise UsageError(f"{table.path}: {unknown('column', name, table.columns)}")
    decimal = hints.decimal or usual_decimal(table)
    columns = _look(table, hints, decimal)
    schema = _choose(table, hints, columns)
    if schema.numbers or schema.answer is not None:
        answer = schema.answer if schema.task == "regress" else None
        named = [columns[name] for name in (*schema.numbers, answer) if name]
        units = {column.name: column.unit for column in named if column.unit}
        schema = replace(schema, decimal=decimal, units=tuple(units.items()))
    if hints.task is not None and schema.task != hints.task:
        raise UsageError(
            f"task={hints.task} does not fit these columns, which are for task={schema.task}; "
            "name what is read and what is predicted with data.text and data.label"
        )
    return schema


def _choose(table: Table, hints: ColumnHints, columns: dict[str, Column]) -> Schema:
    sequences = any(c.frames for c in columns.values() if c.name != hints.label)
    windows = hints.window and not sequences
    if hints.rows == "steps" or hints.sequence or windows:
        return _steps(table, hints, columns)
    if any(c.clips for c in columns.values()):
        chosen = choose_clips(table, list(columns.values()), hints.images, hints.label)
        return Schema(**chosen, clips=True)
    if hints.images or any(c.images for c in columns.values()):
        chosen = choose_images(
            table,
            list(columns.values()),
            hints.images,
            hints.text,
            hints.label,
        )
        return Schema(**{**chosen, "task": hints.task or chosen["task"]})
    if table.format.kind == "trees" and hints.task in (None, "parse"):
        return Schema(
            "parse",
            hints.text or ("words",),
            (),
            hints.label or "tree",
        )
    talks = choose_chat(table, hints.text, hints.label, hints.task)
    if talks is not None:
        return Schema(**talks)
    alone = len(columns) == 1 and not hints.label and hints.task is None
    if hints.task == "language" or alone:
        return _language(table, hints, columns)
    if hints.task == WRITE:
        reads = asdict(_asnamed_column(hints))
        chosen = choose_conditions(
            table, list(columns.values()), reads, hints.label, hints.without
        )
        return Schema(**chosen)
    pair = _pair(table, hints, columns)
    if pair is not None:
        return pair
    return _labelled(table, hints, columns)


def _look(table: Table, hints: ColumnHints, decimal: str) -> dict[str, Column]:
    """Describe each column of a table, whose numbers have mostly this mark before decimals."""
    columns = {}
    for index, name in enumerate(table.columns):
        values = [row[index] for row in table.rows]
        mark = hints.decimal or decimal_mark(values, decimal)
        unnamed = table.format.header and name == f"column{index + 1}"
        columns[name] = replace(look(name, values, mark), unnamed=unnamed)
    return columns


def _labelled(table: Table, hints: ColumnHints, columns: dict[str, Column]) -> Schema:
    """Choose an answer and what is read for it: sequences, or all columns that tell something."""
    answer = hints.label or _answer(table, hints, columns)
    others = [
        c
        for c in columns.values()
        if c.name != answer and c.filled and not _is_of_one(c.name, answer)
    ]
    frames = tuple(c.name for c in others if c.frames)
    reads = _asnamed_column(hints) if hints.inputs else _reads(others)
    if frames and not hints.inputs:
        reads = _of(kinds_of_sequences(table, others))
    reads = _of(dict.fromkeys(hints.without, ()), reads)
    if reads.text and answer is None and hints.task is None:
        return _language(table, hints, columns)
    if answer is None:
        raise DataError(
            "no column looks like an answer; name it with data.label=COLUMN "
            f"(columns: {', '.join(table.columns)})",
            table.path,
        )
    task = hints.task or _task(columns[answer])
    if hints.task is None and task == "tag":
        refuse_several_labels(table, reads.text, answer)
    if columns[answer].lists and hints.inputs and not hints.text:
        reads = replace(reads, text=_words_beside(others, reads))
    beside = (*reads.categories, *reads.dates)
    kinds = [columns[name] for name in beside]
    numbers = [columns[name] for name in reads.numbers]
    if not reads.text and are_sequences(numbers, kinds):
        return replace(
            reads,
            task=task,
            answer=answer,
            frames=True,
        )
    if hints.window:
        raise UsageError(
            "data.window is for sequences of numbers; leave it out for text"
        )
    if columns[answer].lists and not hints.inputs:
        # what is labelled are the words of a text
        reads = Schema("", reads.text)
    schema = replace(reads, task=task, answer=answer)
    if not schema.inputs:
        raise DataError(
            f"no column is left to read beside the answer {answer!r}; name the text with "
            "data.text=COLUMN or the numbers with data.numbers=[COLUMN, ...]",
            table.path,
        )
    return schema


def _asnamed_column(hints: ColumnHints) -> Schema:
    """Return the inputs that the user named, and no others."""
    return Schema(
        "", hints.text, hints.numbers, categories=hints.categories, dates=hints.dates
    )


def _reads(columns: Sequence[Column]) -> Schema:
    """Choose what is read: texts, numbers, categories and dates, all that are there.

    Marks of a row, names of people and columns whose values hardly repeat and are no texts tell
    nothing of other rows; they are read where there is nothing else.
    """
    texts = _texts(columns)
    numbers = [c for c in columns if c.numeric and not c.stamp]
    categories = [c for c in columns if c.category and c not in texts]
    dates = [c for c in columns if c.dates]
    if len(columns) == 1 and categories:
        # a word by itself is read letter by letter, so that one like it is understood
        texts = categories
        categories = []
    if not (texts or numbers or categories or dates):
        texts = _longest(columns)
        numbers = [] if texts else [c for c in columns if c.numeric]
    return Schema(
        "",
        _names(texts),
        _names(numbers),
        categories=_names(categories),
        dates=_names(dates),
    )


def _words_beside(columns: Sequence[Column], reads: Schema) -> tuple[str, ...]:
    """Return the column of words that named columns stand next to, where there is one.

    Beside sequences of numbers it has to have the name of a text.
    """
    free = [c for c in columns if c.name not in reads.inputs]
    able = [c for c in free if c.lists and not c.frames]
    named = named_column(TEXT_NAMES, able)
    if named is None and not any(c.frames for c in columns):
        named = next(iter(able), None)
    return () if named is None else (named.name,)


def _names(columns: Sequence[Column]) -> tuple[str, ...]:
    return tuple(c.name for c in columns)


def _texts(columns: Sequence[Column]) -> list[Column]:
    """Return the columns of texts: by their names, and those of several words."""
    able = [c for c in columns if not (c.numeric or c.dates or c.stamp)]
    lists = [c for c in able if c.lists and c.mean_length]
    named = named_column(TEXT_NAMES, lists or able)
    if lists:
        # a list of words a row, and a label for each
        return [named or max(lists, key=lambda c: c.mean_length)]
    several = [c for c in able if c.words >= SENTENCE and not (c.labels or c.note)]
    if named is not None and named not in several and not (several and named.single):
        several.append(named)
    if not several:
        return [c for c in able if c.text and c.mean_length > SHORT]
    return [c for c in columns if c in several]


def _longest(columns: Sequence[Column]) -> list[Column]:
    """Return the column whose values are the longest, where none looks like a text."""
    able = [c for c in columns if not (c.numeric or c.stamp) and c.mean_length >= 2]
    return [max(able, key=lambda c: c.mean_length)] if able else []


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
        if hints.task or hints.numbers or hints.categories or hints.dates:
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
    named = named_column(TEXT_ANSWERS, left)
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
    return Schema(
        task,
        (source,),
        (),
        answer,
    )


def _paired(
    hints: ColumnHints, columns: dict[str, Column], texts: Sequence[Column]
) -> bool:
    """Whether a table that nobody named a task for is one of pairs of texts."""
    names = [c.name for c in texts if c.words >= 2 or c.filled >= ENOUGH]
    if hints.label is not None and hints.text:
        return {hints.label, *hints.text} <= set(names)
    label = named_column(LABEL_NAMES, list(columns.values()))
    plain = label is None or label.name.strip().lower() in TEXT_ANSWERS
    others = any(c.labels or c.frames for c in columns.values() if c.name not in names)
    # a text under the name of an answer is one, whatever kinds stand beside it
    others = others and not (label is not None and label.text and label.words >= 2)
    given = {name for name in (hints.label, *hints.text) if name is not None}
    return len(names) == 2 and plain and not others and given <= set(names)


def _steps(table: Table, hints: ColumnHints, columns: dict[str, Column]) -> Schema:
    """Choose task and columns of a table whose rows are steps."""
    if hints.text or hints.task == "language":
        raise UsageError(
            "the steps of a sequence are numbers; leave out data.rows and data.text"
        )
    dates = {name for name, c in columns.items() if c.dates}
    apart = (hints.sequence, hints.time)
    columns = {name: c for name, c in columns.items() if name not in apart}
    answer, task = _answer_of_steps(table, hints, columns)
    # what is forecast is known up to the last step
    known = hints.window is not None and hints.ahead > 0 and task != "tag"
    if answer in hints.inputs and not known:
        key = "numbers" if answer in hints.numbers else "categories"
        raise UsageError(f"data.{key} holds the answer {answer!r}; leave it out")
    known = known and task == "regress"
    others = [c for c in columns.values() if c.name != answer or known]
    times = [c.name for c in others if c.moments and c.name != answer]
    first = next(iter(times), None)
    time = hints.time or first
    reads = _asnamed_column(hints)
    if not hints.inputs:
        dated = time if time in dates else None
        reads = _of(
            kinds_of_steps(
                others,
                answer,
                dated,
            )
        )
    reads = _of(dict.fromkeys(hints.without, ()), reads)
    if not reads.inputs:
        raise DataError(
            "no column is left to read at each step; name them with data.numbers, data.categories "
            "or data.dates",
            table.path,
        )
    day_first = True
    if time is not None:
        day_first = is_day_first(table.cells(time))
    return replace(
        reads,
        task=task,
        answer=answer,
        frames=True,
        steps=True,
        sequence=hints.sequence,
        time=time,
        day_first=day_first,
    )


def _answer_of_steps(
    table: Table, hints: ColumnHints, columns: dict[str, Column]
) -> tuple[str, str]:
    """Choose the column that answers where rows are steps, and the task."""
    # a label of steps is a word; y is a coordinate here
    words = {name: c for name, c in columns.items() if not c.numeric and c.labels}
    forecast = hints.window is not None and hints.task != "tag"
    answer = hints.label or _answer(
        table,
        hints,
        (not forecast and words) or columns,
    )
    if answer is None:
        raise DataError(
            "no column looks like an answer; name it with data.label", table.path
        )
    if hints.task is not None:
        return answer, hints.task
    task = _task(columns[answer])
    is_named = answer.strip().lower() in LABEL_NAMES
    if forecast and columns[answer].numeric and not is_named:
        # what is forecast is a value, be it one of a few
        task = "regress"
    if hints.window is None and not is_constant(
        table,
        hints.sequence,
        answer,
    ):
        if task == "regress":
            raise UsageError(
                f"{answer} has a value at every step: set data.window=N to predict it from the N "
                "steps before, or name labels with data.label"
            )
        task = "tag"
    return answer, task


def _of(kinds: Kinds, reads: Schema = Schema("")) -> Schema:
    """Return what is read with the columns of some kinds in the place of those before."""
    values: dict[str, Any] = dict(kinds)
    return replace(reads, **values)


def _language(
    table: Table,
    hints: ColumnHints,
    columns: dict[str, Column],
) -> Schema:
    text = hints.text
    if not text:
        texts = _texts(list(columns.values())) or _longest(list(columns.values()))
        named = named_column(TEXT_NAMES, texts)
        text = tuple(c.name for c in ([named] if named else texts[:1]))
    if not text:
        raise DataError(
            "no column holds text; name it with data.text=COLUMN", table.path
        )
    return Schema("language", text)


def _is_of_one(name: str, answer: str | None) -> bool:
    """Return whether two columns were one object, which says the answer in several ways."""
    outer, dot, _ = (answer or "").rpartition(".")
    return bool(dot) and name.startswith(f"{outer}.")


def _answer(
    table: Table,
    hints: ColumnHints,
    columns: dict[str, Column],
) -> str | None:
    """Return the column to predict: by its name, else the last, unless others are labels alone."""
    able = [c for c in columns.values() if c.name not in hints.inputs and c.filled]
    named = named_column(LABEL_NAMES, able) or labelled_column(able)
    if named is not None:
        return named.name
    if all(c.numeric for c in columns.values()):
        return able[-1].name if able else None
    able = [c for c in able if not (c.stamp or c.dates)]
    last = next(iter(able[-1:]), None)
    is_last = last is not None and last.name == table.columns[-1]
    if last is not None and is_last and (last.labels or last.numeric):
        return last.name
    labels = [c for c in able if c.labels]
    if labels:
        # words before numbers, then the few values before the many, then the last column
        return max(
            labels,
            key=lambda c: (not c.numeric, -c.distinct, table.columns.index(c.name)),
        ).name
    numeric = [c for c in able if c.numeric]
    if numeric:
        return numeric[-1].name
    # words, and a tag for each
    lists = [c for c in able if c.lists and not c.frames]
    return lists[-1].name if len(lists) > 1 else None


def _task(answer: Column) -> str:
    if answer.lists:
        return "tag"
    if not answer.numeric:
        return "classify"
    if answer.labels and answer.unit not in ("", FACTORS, *KNOWN):
        return "classify"  # 5 stars
    few = (
        answer.whole and answer.distinct <= 20 and answer.filled >= 8 * answer.distinct
    )
    return "classify" if few else "regress"
