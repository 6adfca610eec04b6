"""Excel workbooks: sheets, headers, types, dates, and what is refused."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataError, UsageError
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import parse_row, read

openpyxl = pytest.importorskip("openpyxl")
DAYS = [datetime.date(2021, 1, 1) + datetime.timedelta(n) for n in range(30)]


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    """Write a workbook of sheets, each a list of rows, and return its path."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def sales() -> list[list[Any]]:
    rows = [[day, "AB"[n % 2], 10.5 + n, n % 3 == 0] for n, day in enumerate(DAYS)]
    return [["day", "city", "amount", "sold"], *rows]


def test_cells_keep_their_types_and_dates_are_texts(tmp_path: Path) -> None:
    dataset = table(workbook(tmp_path / "s.xlsx", sales=sales()))
    assert dataset.columns == ["day", "city", "amount", "sold"]
    assert dataset.rows[0] == ("2021-01-01", "A", 10.5, True)
    assert dataset.lines[0] == 2
    assert dataset.format.describe() == "Excel workbook, sheet sales, header"
    schema = infer(dataset, ColumnHints(label="sold"))
    assert schema.numbers == ("amount",)
    assert schema.categories == ("city",)
    assert schema.dates == ("day",)


def test_a_title_and_empty_rows_stand_before_the_header(tmp_path: Path) -> None:
    rows = [["Sales of January"], [], *sales()]
    dataset = table(workbook(tmp_path / "s.xlsx", sheet=rows))
    assert dataset.columns == ["day", "city", "amount", "sold"]
    assert dataset.lines == list(range(4, 34))


def test_an_empty_cell_is_empty_and_a_time_is_written_out(tmp_path: Path) -> None:
    moment = datetime.datetime(2021, 3, 4, 5, 30)
    rows = [["when", "x", "y"], [moment, None, 2], [moment, 3, None]]
    dataset = table(workbook(tmp_path / "s.xlsx", sheet=rows))
    assert dataset.rows == [
        ("2021-03-04 05:30:00", "", 2),
        ("2021-03-04 05:30:00", 3, ""),
    ]


def test_the_first_of_several_sheets_is_read_unless_one_is_named(
    tmp_path: Path,
) -> None:
    path = workbook(
        tmp_path / "s.xlsx", sales=sales(), other=[["a", "b"], [1, 2], [3, 4]]
    )
    (warning,) = table(path).warnings
    assert "2 sheets (sales, other): sales is read" in warning.message
    assert warning.key == "data.sheet=NAME"
    assert table(path, sheet="other").rows == [(1, 2), (3, 4)]
    assert not table(path, sheet="other").warnings
    with pytest.raises(UsageError, match="no sheet 'othr'; did you mean 'other'"):
        read(path, sheet="othr")


def test_a_typed_row_is_read_like_one_of_a_table(tmp_path: Path) -> None:
    dataset = table(workbook(tmp_path / "s.xlsx", sales=sales()))
    row = parse_row('2021-02-03,"A",5', dataset.format, dataset.columns)
    assert row == ("2021-02-03", "A", "5")


def test_a_cell_beyond_the_columns_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [*sales(), [DAYS[0], "A", 1, True, None, "note"]]
    path = workbook(tmp_path / "s.xlsx", sales=rows)
    with pytest.raises(DataError, match=r"s\.xlsx:32: a cell beyond the 4 columns"):
        read(path)
    assert len(table(path, on_error="skip").rows) == 30


def test_what_is_no_sheet_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the sheet empty is empty"):
        read(workbook(tmp_path / "e.xlsx", empty=[]))
    damaged = tmp_path / "d.xlsx"
    with zipfile.ZipFile(damaged, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(DataError, match="cannot be read"):
        read(damaged)
    bomb = tmp_path / "b.xlsx"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        archive.writestr("xl/worksheets/sheet1.xml", b"\0" * (1 << 27))
    with pytest.raises(DataError, match="bomb"):
        read(bomb)


def test_without_its_library_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workbook(tmp_path / "s.xlsx", sales=sales())
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"unrolled\[excel\].*save the sheet as CSV"):
        read(path)
