"""Tables as spreadsheets, pandas and instruments write them are read as what was written.

The writers format by themselves and with csv and json of the standard library alone.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import table
from unrolled.data.columns import label
from unrolled.data.dates import is_day_first, read_date
from unrolled.data.numbers import decimal_mark, is_missing, number
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.table_marks import usual_decimal

WORDS = ["film", "was", "fine,", "warm;", 'a "song"', "café", "좋다", "it's", "the"]
HARD = "\u00a0"


@dataclass
class Sample:
    """A table: cells by the names of its columns, of which the last is the answer."""

    kinds: dict[str, str]
    cells: dict[str, list[Any]]

    @property
    def names(self) -> list[str]:
        return list(self.cells)

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return list(zip(*self.cells.values(), strict=True))


def cell_of(kind: str, row: int, draw: random.Random) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "text": lambda: " ".join([*draw.choices(WORDS, k=6), str(row)]),
        "number": lambda: round(draw.uniform(-99999, 99999), 2) + 0.0,
        "count": lambda: draw.randrange(100, 100_000),
        "category": lambda: draw.choice(["Busan", "Seoul", "Jeju"]),
        "date": lambda: date(2020, 1, 1) + timedelta(days=draw.randrange(3000)),
        "label": lambda: draw.choice(["pos", "neg"]),
    }
    return makers[kind]()


KINDS = {
    "notes": "text",
    "area": "number",
    "stock": "count",
    "city": "category",
    "when": "date",
}


@st.composite
def tables(draw: Any, inputs: Sequence[str] = tuple(KINDS)) -> Sample:
    names = draw(st.lists(st.sampled_from(inputs), min_size=1, max_size=4, unique=True))
    kinds = {name: KINDS[name] for name in names}
    answers = {"label": "label", "price": "number"}
    answer = draw(st.sampled_from(sorted(answers)))
    kinds[answer] = answers[answer]
    source = random.Random(draw(st.integers(0, 999)))
    count = draw(st.integers(60, 90))
    cells = {
        name: [cell_of(kind, row, source) for row in range(count)]
        for name, kind in kinds.items()
    }
    for name in cells:
        if name in ("area", "stock") and draw(st.booleans()):
            # a first cell without a number hides no header, either
            for row in draw(st.lists(st.integers(0, count - 1), max_size=3)):
                cells[name][row] = None
    return Sample(kinds, cells)


def understand(content: str | bytes, sample: Sample, folder: Any, name: str) -> None:
    """Check that a file is the table that was written to it."""
    path = Path(folder.getbasetemp()) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = table(path)
    columns = list(zip(*dataset.rows, strict=True))
    cells = dict(zip(dataset.columns, columns, strict=True))
    answer = sample.names[-1]
    schema = infer(dataset, ColumnHints())
    assert set(sample.names) <= set(cells), dataset.columns
    assert set(schema.inputs) == set(sample.names[:-1])
    expected = "classify" if sample.kinds[answer] == "label" else "regress"
    assert (schema.answer, schema.task) == (answer, expected)
    usual = usual_decimal(dataset)
    for column, kind in sample.kinds.items():
        assert values_of(kind, cells[column], usual) == values_in(sample, column)


def values_in(sample: Sample, name: str) -> list[Any]:
    cells = sample.cells[name]
    if sample.kinds[name] != "date":
        return cells
    return [datetime(*day.timetuple()[:3], tzinfo=UTC).timestamp() for day in cells]


def values_of(kind: str, cells: Sequence[Any], usual: str) -> list[Any]:
    """Return what the package understands of cells."""
    if kind == "date":
        day_first = is_day_first(cells)
        return [read_date(cell, day_first) for cell in cells]
    if kind not in ("number", "count"):
        return [label(cell) for cell in cells]
    mark = decimal_mark(cells, usual)
    numbers = [number(cell, mark) for cell in cells]
    missing = [is_missing(cell) for cell in cells]
    assert missing == [value is None for value in numbers]
    return numbers


def grouped(value: float, digits: int, group: str, decimal: str) -> str:
    """Return a number with groups of three digits, made by hand."""
    whole, _, rest = f"{abs(value):.{digits}f}".partition(".")
    groups = []
    while whole:
        groups.append(whole[-3:])
        whole = whole[:-3]
    sign = "-" if value < 0 else ""
    return sign + group.join(reversed(groups)) + (decimal + rest if rest else "")


def write_csv(rows: Sequence[Sequence[str]], delimiter: str, end: str) -> str:
    handle = io.StringIO()
    csv.writer(handle, delimiter=delimiter, lineterminator=end).writerows(rows)
    return handle.getvalue()


COUNTRIES = {
    "comma": (";", ",", ["", ".", " ", HARD, "\u202f"], ["%d.%m.%Y", "%d.%m.%y"]),
    "comma, tabs": ("\t", ",", ["", HARD], ["%d.%m.%Y"]),
    "Switzerland": (";", ".", ["", "'", "\u2019"], ["%d.%m.%Y"]),
    "point": (",", ".", ["", ","], ["%Y-%m-%d", "%m/%d/%Y", "%d/%m/%Y"]),
    "point, tabs": ("\t", ".", ["", ","], ["%d %b %Y", "%Y-%m-%d %H:%M:%S"]),
}


@settings(max_examples=150)
@given(
    sample=tables(),
    country=st.sampled_from(sorted(COUNTRIES)),
    data=st.data(),
)
def test_what_a_spreadsheet_writes(
    tmp_path_factory: Any, sample: Sample, country: str, data: st.DataObject
) -> None:
    delimiter, decimal, groups, dates = COUNTRIES[country]

    def choose(*options: Any) -> Any:
        return data.draw(st.sampled_from(options))

    group = choose(*groups)
    day = choose(*dates)
    money = choose("{}", "{} €", "$ {}", "{} kr.")
    missing = choose("", "NA", "n/a", "-", "#N/A", ".")

    def text_of(name: str, cell: Any) -> str:
        if cell is None:
            return missing
        kind = sample.kinds[name]
        if kind == "number":
            shown = grouped(cell, 2, group, decimal)
            return money.format(shown) if name == "price" else shown
        if kind == "count":
            return grouped(cell, 0, group, decimal)
        return cell.strftime(day) if kind == "date" else cell

    names = sample.names
    rows = [list(map(text_of, names, row)) for row in sample.rows]
    end = choose("\n", "\r\n")
    trailing = choose("", delimiter)
    lines = write_csv([names, *rows], delimiter, f"{trailing}{end}")
    title = choose(
        "", f"Report of the year{end}", f"Report{delimiter * (len(rows[0]) - 1)}{end}"
    )
    separator = choose("", f"sep={delimiter}{end}")
    text = separator + title + lines
    content = choose(text.encode(), text.encode("utf-8-sig"), text.encode("utf-16"))
    understand(content, sample, tmp_path_factory, "sheet.csv")


def plain(cell: Any) -> Any:
    return cell.isoformat() if isinstance(cell, date) else cell


@settings(max_examples=60)
@given(
    sample=tables(),
    index=st.sampled_from(["", "Unnamed: 0", "index", None]),
    delimiter=st.sampled_from(",;\t"),
    shuffled=st.booleans(),
)
def test_what_pandas_writes_as_csv(
    tmp_path_factory: Any,
    sample: Sample,
    index: str | None,
    delimiter: str,
    shuffled: bool,
) -> None:
    numbers = list(range(len(sample.rows)))
    if shuffled and index not in (None, ""):
        random.Random(3).shuffle(numbers)
    rows = []
    for row, cells in zip(numbers, sample.rows, strict=True):
        texts = ["" if cell is None else str(plain(cell)) for cell in cells]
        rows.append(texts if index is None else [str(row), *texts])
    names = sample.names if index is None else [index, *sample.names]
    text = write_csv([names, *rows], delimiter, "\n")
    understand(text, sample, tmp_path_factory, "frame.csv")


def oriented(sample: Sample) -> Mapping[str, str]:
    """Return a table as DataFrame.to_json writes it, by the name of the orient."""
    names = sample.names
    rows = [list(map(plain, row)) for row in sample.rows]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    numbers = list(map(str, range(len(rows))))
    columns = {name: list(map(plain, sample.cells[name])) for name in names}
    by_number = {
        name: dict(zip(numbers, cells, strict=True)) for name, cells in columns.items()
    }
    labelled = [{"index": row, **record} for row, record in enumerate(records)]
    values = {
        "records": records,
        "index": dict(zip(numbers, records, strict=True)),
        "columns": by_number,
        "split": {"columns": names, "index": numbers, "data": rows},
        "table": {"schema": {"fields": [{"name": "index"}]}, "data": labelled},
        "dict": columns,
        "wrapped": {"data": records},
        "lists": [names, *rows],
    }
    texts = {name: json.dumps(value) for name, value in values.items()}
    indented = {
        f"{name}, indented": json.dumps(value, indent=2)
        for name, value in values.items()
    }
    for end in ("\n", ",\n"):
        texts[f"lines{end}"] = "".join(json.dumps(row) + end for row in records)
    return texts | indented


ORIENTS = sorted(oriented(Sample({"a": "count"}, {"a": [1, 2]})))


@settings(max_examples=150)
@given(sample=tables(), orient=st.sampled_from(ORIENTS))
def test_what_pandas_writes_as_json(
    tmp_path_factory: Any, sample: Sample, orient: str
) -> None:
    understand(oriented(sample)[orient], sample, tmp_path_factory, "frame.json")


COMMENTS = [
    [],
    ["# logger 5"],
    ["# logger 5, room 3", "# begun on monday,\tat noon"],
    ["#", "# units: m², °C"],
]


@settings(max_examples=80)
@given(
    sample=tables(("area", "stock", "when", "city")),
    comments=st.sampled_from(COMMENTS),
    number_format=st.sampled_from(
        ["{:.2f}", "{:12.2f}", "{:.8e}", "{:+.2f}", "{:<14.2f}"]
    ),
    missing=st.sampled_from(["NaN", "nan", "-", "---", "", "N/A"]),
    clock=st.sampled_from(["%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d %H:%M", "%Y-%m-%d"]),
    delimiter=st.sampled_from("\t;"),
)
def test_what_an_instrument_writes(
    tmp_path_factory: Any,
    sample: Sample,
    comments: list[str],
    number_format: str,
    missing: str,
    clock: str,
    delimiter: str,
) -> None:
    def text_of(cell: Any) -> str:
        if cell is None:
            return missing
        if isinstance(cell, date):
            return cell.strftime(clock)
        return cell if isinstance(cell, str) else number_format.format(cell)

    rows = [delimiter.join(map(text_of, row)) for row in sample.rows]
    text = "\n".join([*comments, delimiter.join(sample.names), *rows, ""])
    understand(text, sample, tmp_path_factory, "log.txt")
