"""What a person should look at: readings that may be wrong, and cells that were set right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from unrolled.core.errors import DataWarning, listed, shown
from unrolled.core.words import counted
from unrolled.data.columns import label, look, spelling
from unrolled.data.dates import is_order_doubtful, read_date
from unrolled.data.numbers import decimal_mark, is_doubtful, is_missing, number
from unrolled.data.schema import ColumnHints, Schema
from unrolled.data.sources import Table

NAMED = 3  # lines, or labels, that a warning names
SURE = 0.97  # of the rows whose answer another column gives away
TELLING = 0.3  # ... or this much more of them than the commonest answer
ENOUGH = 20  # rows from which that is told


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
    if schema.answer is not None and schema.task != "parse":
        warnings += _given_away(table, schema)
        warnings += _labels(table, schema)
    for name in schema.numbers if not schema.frames or schema.steps else ():
        warnings += _no_numbers(table, name, hints.decimal, missing, samples)
    for name in schema.dates:
        warnings += _no_dates(table, name)
    if hints.decimal is None:
        names = (*schema.numbers, schema.answer) if schema.numbers else (schema.answer,)
        warnings += _decimals(table, [name for name in names if name])
    warnings += _left_out(table, schema, hints)
    return warnings


def lines_of(lines: Sequence[int]) -> str:
    """Return lines in words, the first of them by their numbers."""
    named = ", ".join(map(str, lines[:NAMED]))
    more = f" and {len(lines) - NAMED:,} more" if len(lines) > NAMED else ""
    return f"line {named}" if len(lines) == 1 else f"lines {named}{more}"


def cells_of(table: Table, name: str) -> list[Any]:
    """Return the cells of a column."""
    index = table.columns.index(name)
    return [row[index] for row in table.rows]


def _exceptions(
    table: Table, name: str, is_good: Callable[[Any], bool]
) -> Iterator[tuple[int, Any]]:
    """Yield line and content of each cell of a column that is not what the others are."""
    for line, cell in zip(table.lines, cells_of(table, name), strict=True):
        if not is_good(cell):
            yield table.position(line)[1], cell


def _no_numbers(
    table: Table, name: str, decimal: str | None, missing: str, samples: bool
) -> Iterator[DataWarning]:
    mark = decimal or decimal_mark(cells_of(table, name))
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
    cells = cells_of(table, name)
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


def _decimals(table: Table, names: Iterable[str]) -> Iterator[DataWarning]:
    """Warn of columns in which 1,234 may be a thousand or a bit more than one."""
    for name in names:
        cells = cells_of(table, name)
        doubtful = [cell for cell in cells if is_doubtful(cell)]
        commas = [cell for cell in doubtful if "," in cell]
        if not commas or decimal_mark(cells, "") or not look(name, cells).numeric:
            continue
        value = number(commas[0], "," if table.format.delimiter == ";" else ".")
        yield DataWarning(
            f"{name} writes numbers as {commas[0].strip()}, read as {value:g}",
            "data.decimal",
        )


def _labels(table: Table, schema: Schema) -> Iterator[DataWarning]:
    """Warn of labels that differ by hardly anything, and say which were taken as one."""
    assert schema.answer is not None
    cells = cells_of(table, schema.answer)
    column = look(schema.answer, cells)
    if schema.task != "classify" or column.lists:
        return
    counts = Counter(label(cell) for cell in cells)
    blanks = Counter(
        cell for cell in cells if isinstance(cell, str) and cell != label(cell)
    )
    merged = _groups(counts, spelling)
    if merged or blanks:
        names = (
            merged[0]
            if merged
            else [shown(next(iter(blanks))), label(next(iter(blanks)))]
        )
        yield DataWarning(
            f"labels that differ by blanks or spelling alone are one label: {listed(names)}"
        )
    folded = _groups(Counter({spelling(name): 1 for name in counts}), str.casefold)
    if folded:
        yield DataWarning(
            f"labels that differ by case alone are {len(folded[0])} labels: {listed(folded[0])}",
            "mend the file where they are one",
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
    answers = [label(cell) for cell in cells_of(table, schema.answer)]
    counts = Counter(answers)
    total = len(answers)
    alike = schema.task == "classify" and 2 <= len(counts) <= total // 4
    if total < ENOUGH or schema.frames or not alike:
        return
    commonest = max(counts.values()) / total
    for name in table.columns:
        cells = cells_of(table, name)
        lists = any(isinstance(cell, list | dict) for cell in cells)
        if lists or name in (schema.answer, *schema.text, *schema.numbers):
            continue
        right = _right_by(cells, answers)
        telling = right is not None and right - commonest >= TELLING
        if right is None or not (telling or (right >= SURE and right > commonest)):
            continue
        is_read = name in schema.inputs
        what = "it is read" if is_read else "it is left out"
        yield DataWarning(
            f"{name} alone gives the answer of {right:.0%} of the rows, where the commonest answer "
            f"has {commonest:.0%}: {what}; leave it out unless it is known before the answer is",
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
    for name in table.columns:
        if name in schema.inputs or name in (schema.answer, schema.sequence):
            continue
        column = look(name, cells_of(table, name))
        if schema.steps and column.text and column.words >= 2:
            yield DataWarning(
                f"{name} holds texts, and the steps of a sequence are numbers: it is left out",
                "leave out data.sequence and data.rows to read it",
            )
        elif (
            column.identity
            and not column.counts_rows
            and 2 * column.distinct <= column.filled
        ):
            key = f"data.categories=[..., {name}] reads it"
            yield DataWarning(
                f"{name} looks like whom or what a row is of: it is left out, and rows of one "
                f"{name} may stand in both parts",
                f"data.group={name} keeps them together; {key}",
            )
