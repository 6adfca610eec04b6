"""What a person should look at: readings that may be wrong, and cells that were set right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

from unrolled.core.errors import DataWarning, listed, shown
from unrolled.core.words import counted
from unrolled.data.columns import REPEATS, Column, label, look, spelling
from unrolled.data.date_styles import (
    CLOCK,
    DATE,
    SHOWN,
    may_be_durations,
    read_order,
    read_styled,
    style_of,
)
from unrolled.data.dates import (
    is_day_first,
    is_order_doubtful,
    is_year_doubtful,
    read_date,
)
from unrolled.data.numbers import decimal_mark, evenly, is_doubtful, is_missing, number
from unrolled.data.schema import ColumnHints, Schema
from unrolled.data.sources import Document, Table
from unrolled.data.units import amount, bare_cells, marks_in, units_in

NAMED = 3  # lines, or labels, that a warning names
SURE = 0.97  # of the rows whose answer another column gives away
TELLING = 0.3  # ... or this much more of them than the commonest answer
ENOUGH = 20  # rows from which that is told
BEGINNING = 100_000  # characters that tell what a text is
MOSTLY = 0.9  # of its words that are numbers
WINDOW = 24  # steps that are proposed to forecast from
TRUE = ("true", "1", "yes", "y", "t")
FALSE = ("false", "0", "no", "n", "f")
TOTALS = (
    "total",
    "grand total",
    "sum",
    "totals",
    "summe",
    "gesamt",
    "합계",
    "총계",
    "계",
)
TRIED = 12  # columns that are tried together, to tell sequences apart
HOURS = ("hour", "hours", "hr", "stunde", "시", "시간")
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
    written = _of_one_value(table, schema)
    if schema.answer is not None:
        answers = look(schema.answer, table.cells(schema.answer))
        if answers.are_kinds:
            warnings += _given_away(table, schema)
            warnings += _labels(table, schema.answer)
        warnings += _rare_labels(answers, schema)
        if answers.numeric and not schema.frames:
            warnings += _may_be_series(table, schema)
    for name in written.numbers:
        warnings += _no_numbers(table, name, schema, missing, samples)
    for name in written.dates:
        warnings += _no_dates(table, name)
    # what is forecast may be read, too
    known = [name for name in dict.fromkeys((*written.numbers, schema.answer)) if name]
    if hints.decimal is None:
        warnings += _decimals(table, known, schema, samples)
    if schema.time is not None:
        warnings += _order(table, schema, hints.sequence)
    for name in table.columns:
        if name not in schema.numbers and not schema.unit_of(name):
            warnings += _several_units(table, name)
    for name in known:
        warnings += _several_marks(table, name)
    warnings += _total(table)
    warnings += _left_out(table, schema, hints)
    return warnings


def _of_one_value(table: Table, schema: Schema) -> Schema:
    """Return what is read without columns whose cells are lists, with a value for each step."""
    kept: dict[str, Any] = {}
    for kind in ("numbers", "dates"):
        names: list[str] = []
        for name in getattr(schema, kind):
            lists = any(isinstance(cell, list) for cell in table.cells(name))
            names += [] if lists else [name]
        kept[kind] = tuple(names)
    return replace(schema, **kept)


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
    table: Table, name: str, schema: Schema, missing: str, samples: bool
) -> Iterator[DataWarning]:
    unit = schema.unit_of(name)
    mark = decimal_mark(bare_cells(table.cells(name), unit), schema.decimal)

    def is_number(cell: Any) -> bool:
        return amount(cell, mark, unit) is not None

    odd = list(_exceptions(table, name, is_number))
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


def _several_units(table: Table, name: str) -> Iterator[DataWarning]:
    """Warn of a column of amounts that are in several units, so that it is none of numbers."""
    units = units_in(table.cells(name))
    if units:
        yield DataWarning(
            f"{name} holds amounts in several units ({listed(units)}): it is not read as numbers",
            "write all of them in one unit",
        )


def _several_marks(table: Table, name: str) -> Iterator[DataWarning]:
    """Warn of numbers in several currencies, or with and without a percent sign."""
    marks = marks_in(table.cells(name))
    if marks:
        yield DataWarning(
            f"{name} holds numbers with several marks ({listed(marks)}), which are read as if "
            "they were one",
            "write all of them in one unit",
        )


def _total(table: Table) -> Iterator[DataWarning]:
    """Warn of a last row that sums up the others."""
    cells = (
        [cell for cell in table.rows[-1] if isinstance(cell, str)] if table.rows else []
    )
    if not cells or cells[0].strip().lower().rstrip(":") not in TOTALS:
        return
    line = table.position(table.lines[-1])[1]
    yield DataWarning(
        f"line {line} begins with {shown(cells[0])}: it is read as a row like the others",
        "remove it where it sums them up",
        line,
    )


def _no_dates(table: Table, name: str) -> Iterator[DataWarning]:
    cells = table.cells(name)
    if is_order_doubtful(cells):
        yield DataWarning(
            f"no date of {name} tells whether the day or the month stands first; read as "
            "day/month/year",
            "write dates as 2021-01-31",
        )
    if is_year_doubtful(cells):
        yield DataWarning(
            f"{name} has months such as Jan-10, which may be of a year or have a day: read as "
            "month and year",
            "write dates as 2010-01-31",
        )
    style = style_of(cells) or DATE
    if style == CLOCK and may_be_durations(cells):
        yield DataWarning(
            f"{name} is read as the time of a day, with the hour as an angle",
            "write durations as numbers of minutes or seconds",
        )
    if style in SHOWN:
        yield DataWarning(
            f"{name} holds numbers that are read as dates: {SHOWN[style]}",
            f"data.numbers=[..., {name}] reads them as numbers",
        )
    odd = list(
        _exceptions(table, name, lambda cell: read_styled(cell, style) is not None)
    )
    if style == DATE:
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
    table: Table, names: Iterable[str], schema: Schema, samples: bool
) -> Iterator[DataWarning]:
    """Warn of columns in which 1,234 may be a thousand or a bit more than one."""
    decimal = schema.decimal
    for name in names:
        cells = bare_cells(evenly(table.cells(name)), schema.unit_of(name))
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
    cells = table.cells(answer)
    counts = Counter(label(cell) for cell in cells)
    padded = [cell for cell in cells if isinstance(cell, str) and cell != label(cell)]
    yield from warnings_of_labels(counts, padded)


def warnings_of_labels(
    counts: Counter[str], padded: Sequence[str] = ()
) -> Iterator[DataWarning]:
    """Warn of labels that differ by hardly anything, and say which were taken as one.

    Args:
        counts: how often each label occurs.
        padded: labels with blanks around them.
    """
    same = _groups(counts, spelling)
    same += [[shown(cell), label(cell)] for cell in padded[:1]]
    if same:
        yield DataWarning(
            "labels that differ by blanks or spelling alone are one label: "
            + listed(same[0])
        )
    mixed = _truth_values(counts)
    if mixed:
        yield DataWarning(
            f"labels that may mean one are {len(mixed)} labels: {listed(mixed)}",
            "write them alike where they are one",
        )
    folded = _groups(Counter({spelling(name): 1 for name in counts}), str.casefold)
    if folded:
        yield DataWarning(
            f"labels that differ by case alone are {len(folded[0])} labels: {listed(folded[0])}",
            "mend the file where they are one",
        )


def _truth_values(counts: Counter[str]) -> list[str]:
    """Return labels that say true in several ways, or false, where all labels say either."""
    names = {spelling(name).lower(): name for name in counts if name}
    if not names or not all(name in (*TRUE, *FALSE) for name in names):
        return []
    for words in (TRUE, FALSE):
        several = [name for word, name in names.items() if word in words]
        if len(several) > 1:
            return several
    return []


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
                f"{name} holds texts, which steps of a sequence do not have: it is left out",
                "leave out data.sequence and data.rows to read it",
            )
        elif column.identity and 2 * column.distinct <= column.filled:
            yield _identity(name, schema.steps)
        elif not (column.stamp or column.lists or column.note) and column.distinct > 1:
            others.append(name)
    if others and not schema.frames:
        yield DataWarning(
            f"left out: {listed(others)}, which are neither numbers, dates and kinds, nor texts "
            "that would be read beside the others",
            "data.text, data.numbers, data.categories or data.dates reads them",
        )


def _identity(name: str, are_steps: bool) -> DataWarning:
    """Say of a column that names whom or what a row is of what may be done with it."""
    reads = f"data.categories=[..., {name}] reads it"
    message = f"{name} looks like whom or what a row is of: it is left out"
    if are_steps:
        return DataWarning(
            message, f"data.sequence={name} tells sequences apart; {reads}"
        )
    message += f", and rows of one {name} may stand in both parts"
    return DataWarning(message, f"data.group={name} keeps them together; {reads}")


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
    style = style_of(cells)
    return [read_order(cell, style, day_first) for cell in cells]


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
    seen = f"{time} stands there more than once in {counted(len(repeated), 'row')} (line {line} is "
    values: dict[str, list[str]] = {}
    for name in table.columns:
        cells = table.cells(name)
        if name != time and not any(isinstance(cell, list | dict) for cell in cells):
            values[name] = list(map(label, cells))
    clocks = [name for name in values if _is_hour(name, values[name])]
    alone = _telling_apart(times, values, 1)
    if alone and alone[0] in clocks:
        return DataWarning(
            f"{seen}the first), and {alone[0]} says when on that day: its rows are read without it",
            f"write {time} and {alone[0]} as one column",
            line,
        )
    message = f"{seen}the first): rows of several sequences are read as one"
    both = [] if alone else _telling_apart(times, values, 2)
    if both:
        names = " and ".join(both)
        return DataWarning(
            f"{message}; {names} tell them apart together",
            f"write {names} as one column, and name it with data.sequence",
            line,
        )
    return DataWarning(message, f"data.sequence={(alone or ['COLUMN'])[0]}", line)


def _telling_apart(
    times: Sequence[Any], values: Mapping[str, Sequence[str]], count: int
) -> list[str]:
    """Return the ``count`` columns of fewest values with which no moment stands there twice."""
    sizes = {name: len(set(cells)) for name, cells in values.items()}
    few = [name for name in sizes if sizes[name] > 1 and 4 * sizes[name] <= len(times)]
    few = sorted(few, key=sizes.__getitem__)[:TRIED]
    proposed: list[tuple[int, list[str]]] = []
    for names in combinations(few, count):
        columns = [values[name] for name in names]
        sequences = len(set(zip(*columns, strict=True)))
        if 4 * sequences > len(times):
            continue
        rows = len(set(zip(times, *columns, strict=True)))
        if rows == len(times):
            proposed.append((sequences, list(names)))
    return min(proposed)[1] if proposed else []


def _is_hour(name: str, cells: Sequence[str]) -> bool:
    """Return whether a column says when on a day its rows are."""
    return name.strip().lower() in HOURS or style_of(cells, named=False) == CLOCK


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
