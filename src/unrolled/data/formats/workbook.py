"""Excel workbooks (.xlsx): the rows of one sheet, with the values that formulas had when saved."""

from __future__ import annotations

import itertools
import warnings as python_warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import Any

from unrolled.core.errors import DataError, DataWarning, UsageError, cut, unknown
from unrolled.data.archives import BROKEN, Origin, refuse_bomb, unread_workbook
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.formats.table import TableFormat, heading
from unrolled.data.lines import Report

MAGIC = b"PK\x03\x04"
_SNIFFED_ROWS = 2000
_NAMED = 8  # sheets that a message names


class WorkbookFormat(FileFormat):
    """Cells keep their types; dates are written as 2021-01-31, and a line is a row of the sheet."""

    kind = "workbook"
    title = "Excel workbook"
    suffixes = ("xlsx", "xlsm")
    tabular = True
    names_columns = False
    encoded = False

    def describe(self, format: Format) -> list[str]:
        header = "header" if format.header else "no header"
        return [self.title, f"sheet {format.sheet}", header]

    def sniff(self, head: Head) -> Sniffed | None:
        if not head.bytes.startswith(MAGIC) or not is_workbook(head.origin):
            return None
        with _opened(head.origin) as book:
            names = _sheets(book)
            sheet = _chosen(head, names)
            rows = _filled_rows(book[sheet], head.origin)
            first = list(itertools.islice(rows, _SNIFFED_ROWS))
        if not first:
            raise DataError(f"the sheet {sheet} is empty", head.name)
        format = Format(self.kind, ",", quoted=True, sheet=sheet)
        texts = [(line, list(map(_text, cells))) for line, cells in first]
        sniffed = heading(head, format, texts)
        if len(names) == 1 or head.sheet is not None:
            return sniffed
        several = ", ".join(names[:_NAMED])
        message = f"the workbook has {len(names)} sheets ({several}): {sheet} is read"
        warning = DataWarning(message, "data.sheet=NAME")
        return sniffed._replace(warnings=(warning, *sniffed.warnings))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        format = file.format
        width = len(file.columns)
        with _opened(file.origin) as book:
            before = format.rows_of_names
            sheet = book[str(format.sheet)]
            for line, cells in _filled_rows(sheet, file.origin):
                if line <= format.comments:
                    continue
                if before:
                    before -= 1
                    continue
                row = [*cells[:width], *[None] * (width - len(cells))]
                beyond = [cell for cell in cells[width:] if cell is not None]
                if beyond:
                    message = f"a cell beyond the {width} columns holds {beyond[0]!r}; clear it"
                    report(DataError(message, file.name, line))
                    continue
                yield line, tuple("" if cell is None else cell for cell in row)

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[Any, ...]:
        return TableFormat().parse_row(line, format, columns)


def is_workbook(origin: Origin) -> bool:
    """Return whether a file is a zip archive with the parts of a workbook."""
    if origin.gzip or origin.archive is not None:
        return False
    try:
        with zipfile.ZipFile(origin.path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except BROKEN:
        return False


@contextmanager
def _opened(origin: Origin) -> Iterator[Any]:
    """Yield a workbook that is read row by row.

    Raises:
        DataError: it is damaged or a bomb, or the library that reads it is not installed.
    """
    try:
        import openpyxl
    except ImportError:
        raise unread_workbook(
            origin, "pip install 'unrolled[excel]' reads it"
        ) from None
    refuse_bomb(origin)
    with python_warnings.catch_warnings():
        # of styles and pictures, which are not read
        python_warnings.simplefilter("ignore")
        try:
            book = openpyxl.load_workbook(origin.path, read_only=True, data_only=True)
        except Exception as error:  # whatever a parser of damaged XML raises
            raise _damaged(origin, error) from None
        try:
            yield book
        finally:
            book.close()


def _damaged(origin: Origin, error: Exception) -> DataError:
    return unread_workbook(origin, f"it cannot be read ({cut(str(error), 100)})")


def _sheets(book: Any) -> list[str]:
    """Return the names of the sheets that hold cells, and no charts."""
    return [sheet.title for sheet in book.worksheets]


def _chosen(head: Head, names: Sequence[str]) -> str:
    if head.sheet is None:
        return names[0]
    if head.sheet not in names:
        raise UsageError(f"{head.name}: {unknown('sheet', head.sheet, names)}")
    return head.sheet


def _filled_rows(sheet: Any, origin: Origin) -> Iterator[tuple[int, list[Any]]]:
    """Yield number and cells of each row that is not empty, without empty cells at its end."""
    rows = enumerate(sheet.iter_rows(values_only=True), 1)
    while True:
        try:
            line, values = next(rows)
        except StopIteration:
            return
        except Exception as error:  # as above, of a part that is read later
            raise _damaged(origin, error) from None
        cells = [_plain(value) for value in values]
        while cells and cells[-1] is None:
            cells.pop()
        if cells:
            yield line, cells


def _plain(value: Any) -> Any:
    """Return a cell as other formats have it."""
    if isinstance(value, datetime):
        whole_day = value.time() == time()
        return value.date().isoformat() if whole_day else value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, str):
        return value.strip() or None
    return value if isinstance(value, bool | int | float) else None


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)
