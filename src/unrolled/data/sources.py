"""Data files to records, each with the line it starts on, so that every error can name it."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unrolled.core.errors import DataError, DataWarning, UsageError, shown
from unrolled.data import folders, hub
from unrolled.data.archives import MAX_ROW, find
from unrolled.data.charsets import check_encoding
from unrolled.data.folders import Parts
from unrolled.data.formats import Format
from unrolled.data.formats.arrays import is_arrays
from unrolled.data.formats.base import HeaderHint
from unrolled.data.formats.workbook import is_workbook
from unrolled.data.labelled_clips import with_clips
from unrolled.data.lines import EMPTY, check_file, nfc
from unrolled.data.pictures import (
    labelled_images,
    table_beside_images,
    with_images,
)
from unrolled.data.reader import Reader, first_rows, reader_of

__all__ = [
    "Document",
    "Format",
    "Rows",
    "Table",
    "fingerprint",
    "nfc",
    "parse_row",
    "read",
    "rows_of",
    "size",
]

OnError = Literal["stop", "skip"]
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # what archives begin with


@dataclass(frozen=True, slots=True)
class Table:
    """A file of records, or several files of equal columns.

    Attributes:
        path, format: the file (or folder, archive, name of the hub) and how it is written.
        columns: one name a column; column1, column2, ... where the file has no header.
        rows: one tuple a record, as long as ``columns``: strings, JSON values for JSON lines and
            Parquet, lists with an item a word for CoNLL-U and for the words of trees.
        lines: the line (from 1) that each row starts on, counted on from file to file.
        skipped: what was wrong with each row left out under ``on_error="skip"``.
        parts: of several files the lines before each and its name.
        warnings: what is doubtful about how the file is read.
    """

    path: str
    format: Format
    columns: list[str]
    rows: list[tuple[Any, ...]]
    lines: list[int]
    skipped: list[DataError] = field(default_factory=list)
    parts: Parts = field(default_factory=list, kw_only=True)
    warnings: tuple[DataWarning, ...] = field(default=(), kw_only=True)

    def cells(self, name: str) -> list[Any]:
        """Return the cells of a column."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def position(self, line: int) -> tuple[str, int]:
        """Return the file that a line of ``lines`` is in, and the line there."""
        return _position(self.path, self.parts, line)


def _position(path: str, parts: Parts, line: int) -> tuple[str, int]:
    """Return (file, line in it) for a line counted over the files of ``parts``."""
    index = bisect.bisect_left(parts, line, key=lambda part: part[0]) - 1
    if index < 0:
        return path, line
    before, name = parts[index]
    return name, line - before


@dataclass(frozen=True, slots=True)
class Document:
    """A file of running text: NFC, lines ended by a line feed."""

    path: str
    format: Format
    text: str


def read(
    path: str | Path,
    *,
    encoding: str | None = None,
    on_error: OnError = "stop",
    limit: int | None = None,
    needed: Collection[str] | None = None,
    max_row: int = MAX_ROW,
    header: HeaderHint = None,
    sheet: str | None = None,
) -> Table | Document:
    """Read a data file whole.

    Args:
        path: a file of any of ``FORMATS``, also gzipped or in a zip; a folder; or hub:owner/name.
        encoding: the file's encoding; None for what its byte order mark or its bytes say.
        on_error: stop at the first malformed row, or skip such rows and list them.
        limit: read only the first N rows (lines of running text).
        needed: the columns that a JSON object must have, others being None; None for all.
        max_row: the most bytes of a row; running text has none.
        header: whether a table's first row names columns, or names a header holds; None to tell.
        sheet: of a workbook, by its name; None for the first.

    Raises:
        DataError: the file is missing, empty, binary or malformed; it names the line.
        UsageError: there is no such encoding or sheet.
    """
    rows = rows_of(
        path,
        encoding=encoding,
        on_error=on_error,
        limit=limit,
        needed=needed,
        max_row=max_row,
        header=header,
        sheet=sheet,
    )
    if rows.format.row_format.running:
        text = "".join(rows.text())
        if not text.strip():
            raise DataError(EMPTY, path)
        return Document(str(path), rows.format, text)
    lines: list[int] = []
    values: list[tuple[Any, ...]] = []
    for line, row in rows:
        lines.append(line)
        values.append(row)
    if not values and limit != 0:
        first = rows.skipped[0].line if rows.skipped else 1
        raise DataError(_nothing_left(rows), path, first)
    return Table(
        str(path),
        rows.format,
        rows.columns,
        values,
        lines,
        rows.skipped,
        parts=list(rows.parts),
        warnings=rows.warnings,
    )


def _nothing_left(rows: Rows) -> str:
    if rows.skipped:
        return f"no row is left: all {len(rows.skipped):,} are malformed; first: {rows.skipped[0]}"
    what = "a header" if rows.format.header else "columns"
    return f"there is {what} ({', '.join(rows.columns)}) and no row below it; add rows"


def rows_of(
    path: str | Path,
    *,
    encoding: str | None = None,
    on_error: OnError = "stop",
    limit: int | None = None,
    needed: Collection[str] | None = None,
    max_row: int = MAX_ROW,
    header: HeaderHint = None,
    sheet: str | None = None,
) -> Rows:
    """Read a data file row by row, in constant memory. Arguments and errors are those of ``read``.

    Returns:
        An iterator over (line, row) that also knows ``format``, ``columns`` and ``skipped``. A
        file of running text gives one row of one field for each line, under the column "text".
    """
    if on_error not in ("stop", "skip"):
        raise UsageError(f"data.on_error={shown(on_error)}: say stop or skip")
    parts: Parts = []
    checked = None if encoding is None else check_encoding(encoding)
    reader = _reader(path, checked, needed, parts, max_row, header, sheet)
    return Rows(path, reader, on_error, limit, parts)


def _reader(
    path: str | Path,
    encoding: str | None,
    needed: Collection[str] | None,
    parts: Parts,
    max_row: int,
    header: HeaderHint,
    sheet: str | None,
) -> Reader:
    if hub.is_hub(path):
        return hub.reader_of_hub(str(path))
    path = Path(path)
    if path.is_dir():
        beside = table_beside_images(path)
        if beside is not None:
            # errors name the table, and its lines
            parts.append((0, str(beside)))
            origin = find(beside, max_row)
            return _located(reader_of(origin, encoding, needed, header, sheet), path)
        labelled = labelled_images(path, parts)
        if labelled is not None:
            return labelled
        files = folders.in_folder(path, max_row)
        return folders.together(path, files, encoding, needed, parts, header)
    check_file(path)
    origin = find(path, max_row)
    zipped = not origin.gzip and origin.head(4) in _ZIP
    if zipped and not is_workbook(origin) and not is_arrays(path):
        files = folders.in_zip(path, max_row)
        return folders.together(path, files, encoding, needed, parts, header)
    reader = reader_of(origin, encoding, needed, header, sheet)
    return _located(reader, path.parent)


def _located(reader: Reader, folder: Path) -> Reader:
    """Return a reader whose cells that name images or clips hold them."""
    if reader.text is not None:
        return reader
    first = first_rows(reader)
    return with_clips(with_images(reader, folder, first), folder, first)


class Rows(Iterator[tuple[int, tuple[Any, ...]]]):
    """The rows of one source, one after the other; see ``rows_of``."""

    def __init__(
        self,
        path: str | Path,
        reader: Reader,
        on_error: OnError,
        limit: int | None,
        parts: Parts,
    ) -> None:
        self.path = path
        self.format = reader.format
        self.columns = reader.columns
        self.warnings = reader.warnings
        self.parts = parts
        self.skipped = list[DataError]()
        self._stop = on_error == "stop"
        self._limit = limit
        self._text = reader.text
        self._rows = itertools.islice(reader.rows(self._report), limit)

    def __next__(self) -> tuple[int, tuple[Any, ...]]:
        return next(self._rows)

    def text(self) -> Iterator[str]:
        """Yield the whole file as text, in pieces that end with a line."""
        if self._limit is None and self._text is not None:
            yield from self._text()
            return
        for _, (line,) in self:
            yield line + "\n"

    def position(self, line: int) -> tuple[str, int]:
        """Return the file that a line is in, and the line there."""
        return _position(str(self.path), self.parts, line)

    def _report(self, error: DataError) -> None:
        if self._stop:
            raise error
        self.skipped.append(error)


def parse_row(line: str, format: Format, columns: Sequence[str]) -> tuple[Any, ...]:
    """Read one row as the data file writes it ("7, 6"), for prediction.

    Args:
        line: the row, without a line end.
        format: how the training data was written.
        columns: the names of its columns.

    Returns:
        The fields, at most as many as there are columns: the last ones (the answer) may be
        missing. A JSON object gives one value a column, None where it has none.

    Raises:
        UsageError: more fields than columns, an unclosed quote, or not a JSON object.
    """
    return format.row_format.parse_row(nfc(line), format, columns)


def size(path: str | Path) -> int:
    """Return about how many bytes a source holds; a packed file counts four times its own size.

    Raises:
        DataError: a folder holds no data file.
        UserError: a data set of the hub cannot be had.
    """
    if hub.is_hub(path):
        return hub.size_of_hub(str(path))
    return folders.size(Path(path))


def fingerprint(path: str | Path) -> str:
    """Return what tells this version of a source from others: a SHA-256 of its bytes, mostly."""
    if hub.is_hub(path):
        return hub.fingerprint_of_hub(str(path))
    return folders.fingerprint(Path(path))
