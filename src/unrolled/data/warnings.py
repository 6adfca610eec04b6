"""What a person should look at: readings that may be wrong, and cells that were set right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from unrolled.core.errors import DataWarning, listed, shown
from unrolled.core.words import counted
from unrolled.data.columns import REPEATS, Column, label, look, spelling
from unrolled.data.dates import (
    is_day_first,
    is_order_doubtful,
    read_date,
    read_moment,
)
from unrolled.data.numbers import decimal_mark, evenly, is_doubtful, is_missing, number
from unrolled.data.schema import ColumnHints, Schema
from unrolled.data.sources import Document, Table

NAMED = 3  # lines, or labels, that a warning names
SURE = 0.97  # of the rows whose answer another column gives away
TELLING = 0.3  # ... or this much more of them than the commonest answer
ENOUGH = 20  # rows from which that is told
BEGINNING = 100_000  # characters that tell what a text is
MOSTLY = 0.9  # of its words that are numbers
WINDOW = 24  # steps that are proposed to forecast from
GAP = 1.5  # usual steps of time from which some are missing: of years some are a day longer


def warnings_of(
    table: Table, schema: Schema, hints: ColumnHints, missing: str, samples: bool = True
) -> list[DataWarning]:
    """Return what a person should look at, the most important first.

    Args:
        table: rows of a file, as it has them.
        schema: what is read and predicted.
        hints: what the user said of it.
        missing: what becomes of cells without a number; see ``data.missing``.
        samples: whether a warning may show what a cell holds.
    """
    warnings = list(table.warnings)
    if schema.answer is not None:
        answers = look(schema.answer, table.cells(schema.answer))
        if answers.are_kinds:
            warnings += _given_away(table, schema)
            warnings += _labels(table, schema.answer)
        warnings += _rare_labels(answers, schema)
        if answers.numeric and not schema.frames:
            warnings += _may_be_series(table, schema)
    for name in schema.numbers if not schema.frames or schema.steps else ():
        warnings += _no_numbers(table, name, schema.decimal, missing, samples)
    for name in schema.dates:
        warnings += _no_dates(table, name)
    if hints.decimal is None:
        names = (*schema.numbers, schema.answer) if schema.numbers else (schema.answer,)
        known = [name for name in names if name]
        warnings += _decimals(table, known, schema.decimal, samples)
    if schema.time is not None:
        warnings += _order(table, schema, hints.sequence)
    warnings += _left_out(table, schema, hints)
    return warnings


def warnings_of_text(document: Document) -> list[DataWarning]:
    """Return a warning where running text is hardly anything but numbers."""
    words = document.text[:BEGINNING].split()
    numbers = sum(number(word) is not None for word in words)
    if len(words) < ENOUGH or numbers < MOSTLY * len(words):
        return []
    message = (
        "this is read as running text, and nearly all of it are numbers: of a table the columns "
        "stand between commas, tabs, semicolons or bars"
    )
    return [DataWarning(message, "write it as .csv", 1)]


def lines_of(lines: Sequence[int]) -> str:
    """Return lines in words, the first of them by their numbers."""
    named = ", ".join(map(str, lines[:NAMED]))
    more = f" and {len(lines) - NAMED:,} more" if len(lines) > NAMED else ""
    return f"line {named}" if len(lines) == 1 else f"lines {named}{more}"


def _exceptions(
    table: Table, name: str, is_good: Callable[[Any], bool]
) -> Iterator[tuple[int, Any]]:
    """Yield line and content of each cell of a column that is not what the others are."""
    for line, cell in zip(table.lines, table.cells(name), strict=True):
        if not is_good(cell):
            yield table.position(line)[1], cell


def _no_numbers(
    table: Table, name: str, decimal: str, missing: str, samples: bool
) -> Iterator[DataWarning]:
    mark = decimal_mark(table.cells(name), decimal)
    odd = list(_exceptions(table, name, lambda cell: number(cell, mark) is not None))
    if not odd or missing == "error":
        return
    lines = [line for line, _ in odd]
    strange = [cell for _, cell in odd if not is_missing(cell)]
    what = f", such as {shown(strange[0])}" if strange and samples else ""
    done = {
        "drop": "their rows are left out",
        "mean": "the mean of training stands in, and a flag beside it",
    }.get(missing, "the median of training stands in, and a flag beside it")
    yield DataWarning(
        f"{name} holds no number in {counted(len(odd), 'row')} ({lines_of(lines)}){what}: {done}",
        "data.missing",
        lines[0],
    )


def _no_dates(table: Table, name: str) -> Iterator[DataWarning]:
    cells = table.cells(name)
    if is_order_doubtful(cells):
        yield DataWarning(
            f"no date of {name} tells whether the day or the month stands first; read as "
            "day/month/year",
            "write dates as 2021-01-31",
        )
    odd = list(_exceptions(table, name, lambda cell: read_date(cell) is not None))
    odd = [(line, cell) for line, cell in odd if read_date(cell, False) is None]
    if odd:
        lines = [line for line, _ in odd]
        yield DataWarning(
            f"{name} holds no date in {counted(len(odd), 'row')} ({lines_of(lines)}): a flag "
            "stands for it",
            "mend the file",
            lines[0],
        )


def _decimals(
    table: Table, names: Iterable[str], decimal: str, samples: bool
) -> Iterator[DataWarning]:
    """Warn of columns in which 1,234 may be a thousand or a bit more than one."""
    for name in names:
        cells = evenly(table.cells(name))
        doubtful = [cell for cell in cells if is_doubtful(cell)]
        # with a point before decimals those with a point are as usual
        strange = [cell for cell in doubtful if decimal == "," or "," in cell]
        if not strange or decimal_mark(cells, "") or not look(name, cells).numeric:
            continue
        value = number(strange[0], decimal)
        example = f" as {strange[0].strip()}, read as {value:g}" if samples else ""
        yield DataWarning(
            f"{name} writes numbers{example} with one mark before three digits, which may be that "
            f"of thousands or of decimals: it is read with {decimal!r} before decimals",
            "data.decimal",
        )


def _labels(table: Table, answer: str) -> Iterator[DataWarning]:
    """Warn of labels that differ by hardly anything, and say which were taken as one."""
    cells = table.cells(answer)
    counts = Counter(label(cell) for cell in cells)
    padded = [cell for cell in cells if isinstance(cell, str) and cell != label(cell)]
    same = _groups(counts, spelling)
    same += [[shown(cell), label(cell)] for cell in padded[:1]]
    if same:
        yield DataWarning(
            "labels that differ by blanks or spelling alone are one label: "
            + listed(same[0])
        )
    folded = _groups(Counter({spelling(name): 1 for name in counts}), str.casefold)
    if folded:
        yield DataWarning(
            f"labels that differ by case alone are {len(folded[0])} labels: {listed(folded[0])}",
            "mend the file where they are one",
        )


def _rare_labels(answers: Column, schema: Schema) -> Iterator[DataWarning]:
    """Warn of labels that hardly one row shares with another, as of amounts with a unit."""
    values = answers.numeric or answers.lists or schema.writes_texts
    few = REPEATS * answers.distinct > answers.filled
    if values or not few or answers.filled < ENOUGH:
        return
    yield DataWarning(
        f"{answers.name} has {answers.distinct:,} values in {counted(answers.filled, 'row')}: as "
        "labels they can hardly be learnt; if they are amounts, write them as numbers alone",
        "data.label=COLUMN names another",
    )


def _groups(counts: Counter[str], same: Callable[[str], str]) -> list[list[str]]:
    """Return the names of which several have one spelling."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in counts:
        if name:
            groups[same(name)].append(name)
    return [names for names in groups.values() if len(names) > 1]


def _given_away(table: Table, schema: Schema) -> Iterator[DataWarning]:
    """Warn of a column that alone tells the answer far better than the commonest answer does."""
    assert schema.answer is not None
    answers = [label(cell) for cell in table.cells(schema.answer)]
    counts = Counter(answers)
    total = len(answers)
    if total < ENOUGH or schema.frames or not 2 <= len(counts) <= total // 4:
        return
    commonest = max(counts.values()) / total
    for name in table.columns:
        cells = table.cells(name)
        lists = any(isinstance(cell, list | dict) for cell in cells)
        if lists or name in (schema.answer, *schema.text, *schema.numbers):
            continue
        right = _right_by(cells, answers)
        telling = right is not None and right - commonest >= TELLING
        if right is None or not (telling or (right >= SURE and right > commonest)):
            continue
        done = "it is left out"
        if name in schema.inputs:
            done = "leave it out unless it is known before the answer is"
        yield DataWarning(
            f"{name} alone gives the answer of {right:.0%} of the rows, where the commonest answer "
            f"has {commonest:.0%}: {done}",
            "data.categories",
        )


def _right_by(cells: Sequence[Any], answers: Sequence[str]) -> float | None:
    """Return how many answers the commonest of each value gives; None where few repeat."""
    groups: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for cell, answer in zip(cells, answers, strict=True):
        groups[label(cell)][answer] += 1
    if len(groups) * 4 > len(answers):
        return None
    return sum(max(group.values()) for group in groups.values()) / len(answers)


def _left_out(
    table: Table, schema: Schema, hints: ColumnHints
) -> Iterator[DataWarning]:
    """Say which columns that tell something are not read, and why."""
    if hints.inputs and not schema.steps:
        return
    read = {*schema.inputs, schema.answer, schema.sequence, schema.time}
    read |= {hints.group, hints.by}
    others: list[str] = []
    for name in table.columns:
        if name in read:
            continue
        column = look(name, table.cells(name))
        if schema.steps and column.text and column.words >= 2:
            yield DataWarning(
                f"{name} holds texts, and the steps of a sequence are numbers: it is left out",
                "leave out data.sequence and data.rows to read it",
            )
        elif column.identity and 2 * column.distinct <= column.filled:
            yield DataWarning(
                f"{name} looks like whom or what a row is of: it is left out, and rows of one "
                f"{name} may stand in both parts",
                f"data.group={name} keeps them together; data.categories=[..., {name}] reads it",
            )
        elif not (column.stamp or column.lists or column.note) and column.distinct > 1:
            others.append(name)
    if others and not schema.frames:
        yield DataWarning(
            f"left out: {listed(others)}, which are neither numbers, dates and kinds, nor texts "
            "that would be read beside the others",
            "data.text, data.numbers, data.categories or data.dates reads them",
        )


def _order(table: Table, schema: Schema, sequence: str | None) -> Iterator[DataWarning]:
    """Say of steps whether they ran backwards, lack some, or stand there more than once."""
    assert schema.time is not None
    times = _times(table, schema.time)
    # without a column that tells them apart each file is a sequence
    names = [table.position(line)[0] for line in table.lines]
    if sequence is not None:
        names = [label(cell) for cell in table.cells(sequence)]
    rows = [row for row, moment in enumerate(times) if moment is not None]
    backwards = _backwards(times, names, rows)
    if backwards:
        line = table.position(table.lines[backwards[0]])[1]
        yield DataWarning(
            f"{schema.time} runs backwards in {counted(len(backwards), 'row')} (line {line} is the "
            "first): the steps are put in order, oldest first",
            "data.time",
            line,
        )
    rows.sort(key=lambda row: (names[row], times[row]))
    steps = [
        (later, times[later] - times[earlier])
        for earlier, later in pairwise(rows)
        if names[earlier] == names[later]
    ]
    repeated = [row for row, step in steps if step == 0]
    if repeated:
        yield _repeated(table, schema.time, times, repeated)
    lengths = Counter(step for _, step in steps if step > 0)
    if not lengths:
        return
    usual, count = lengths.most_common(1)[0]
    gaps = [row for row, step in steps if step > GAP * usual]
    if gaps and 2 * count > len(steps):
        line = table.position(table.lines[gaps[0]])[1]
        yield DataWarning(
            f"{schema.time} goes on by {_span_of(usual)} a step, and by more in "
            f"{counted(len(gaps), 'place')} (line {line} is the first): steps are missing there, "
            "and those around them are read as neighbours",
            "add the steps, or tell the parts apart with data.sequence=COLUMN",
            line,
        )


def _times(table: Table, name: str) -> list[Any]:
    cells = table.cells(name)
    day_first = is_day_first(cells)
    return [read_moment(cell, day_first) for cell in cells]


def _backwards(
    times: Sequence[Any], names: Sequence[str], rows: Sequence[int]
) -> list[int]:
    last: dict[str, float] = {}
    backwards = []
    for row in rows:
        if times[row] < last.get(names[row], times[row]):
            backwards.append(row)
        last[names[row]] = times[row]
    return backwards


def _repeated(
    table: Table, time: str, times: Sequence[Any], repeated: Sequence[int]
) -> DataWarning:
    """Ask for the column that tells sequences apart, and propose one with which none repeats."""
    line = table.position(table.lines[repeated[0]])[1]
    proposed: list[tuple[int, str]] = []
    for name in table.columns:
        values = table.cells(name)
        plain = not any(isinstance(value, list | dict) for value in values)
        if name == time or not plain:
            continue
        pairs = {
            (moment, label(value)) for moment, value in zip(times, values, strict=True)
        }
        distinct = len(set(map(label, values)))
        if len(pairs) == len(times) and 4 * distinct <= len(times):
            proposed.append((distinct, name))
    column = min(proposed)[1] if proposed else "COLUMN"
    return DataWarning(
        f"{time} stands there more than once in {counted(len(repeated), 'row')} (line {line} is "
        "the first): rows of several sequences are read as one",
        f"data.sequence={column}",
        line,
    )


def _may_be_series(table: Table, schema: Schema) -> Iterator[DataWarning]:
    """Propose windows where a table has one value for each of many dates in order."""
    for name in schema.dates:
        known = [moment for moment in _times(table, name) if moment is not None]
        if (
            len(known) < ENOUGH
            or len(known) < len(table.rows)
            or len(set(known)) < len(known)
        ):
            continue
        steps = Counter(
            round(after - before) for before, after in pairwise(sorted(known))
        )
        if 2 * max(steps.values()) < len(known):
            continue
        yield DataWarning(
            f"{name} has one row for each step of time: to forecast {schema.answer} from the steps "
            "before, read it as a series",
            f"data.window={WINDOW}",
        )
        return


def _span_of(seconds: float) -> str:
    """Return a stretch of time in words."""
    for unit, length in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length and seconds % length == 0:
            return counted(int(seconds / length), unit)
    return f"{seconds:g}"
