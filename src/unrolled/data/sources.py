"""Data files to records, each with the line it starts on, so that every error can name it."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.lines import (
    DAMAGE,
    SKIP_HINT,
    Report,
    blocks,
    check_encoding,
    check_file,
    encoding_of,
    is_gzip,
    newline_of,
    nfc,
    stop,
)
from unrolled.data.sniff import (
    Format,
    count_quotes,
    find_delimiter,
    find_header,
    is_number,
    is_quoted,
    looks_like_jsonl,
    usual_width,
)

__all__ = ["Document", "Format", "Rows", "Table", "nfc", "parse_row", "read", "rows_of"]

OnError = Literal["stop", "skip"]


@dataclass(frozen=True, slots=True)
class Table:
    """A file of records.

    Attributes:
        path, format: the file and how it is written.
        columns: one name a column; column1, column2, ... where the file has no header.
        rows: one tuple a record, as long as ``columns``: strings, or JSON values for JSON lines.
        lines: the line (from 1) that each row starts on.
        skipped: what was wrong with each row left out under ``on_error="skip"``.
    """

    path: str
    format: Format
    columns: list[str]
    rows: list[tuple[Any, ...]]
    lines: list[int]
    skipped: list[DataError] = field(default_factory=list)


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
) -> Table | Document:
    """Read a data file whole.

    Args:
        path: text, CSV, TSV (also with ; or |) or JSON lines, or one of these gzipped. The
            content, not the name, tells which.
        encoding: the file's encoding; None for UTF-8, or what its byte order mark says.
        on_error: stop at the first malformed row, or skip such rows and list them.
        limit: read only the first N rows (lines of running text).

    Raises:
        DataError: the file is missing, empty, binary or malformed; it names the line.
        UsageError: the encoding does not exist.
    """
    rows = rows_of(path, encoding=encoding, on_error=on_error, limit=limit)
    if rows.format.kind == "text":
        text = "".join(rows.text())
        if not text.strip():
            raise DataError("the file is empty; give a file with text or rows", path)
        return Document(str(path), rows.format, text)
    lines: list[int] = []
    values: list[tuple[Any, ...]] = []
    for line, row in rows:
        lines.append(line)
        values.append(row)
    if not values and limit != 0:
        raise DataError(_nothing_left(rows), path, rows.skipped[0].line if rows.skipped else 1)
    return Table(str(path), rows.format, rows.columns, values, lines, rows.skipped)


def _nothing_left(rows: Rows) -> str:
    if rows.skipped:
        return f"no row is left: all {len(rows.skipped):,} are malformed; first: {rows.skipped[0]}"
    return f"there is a header ({', '.join(rows.columns)}) and no row below it; add rows"


def rows_of(
    path: str | Path,
    *,
    encoding: str | None = None,
    on_error: OnError = "stop",
    limit: int | None = None,
) -> Rows:
    """Read a data file row by row, in constant memory. Arguments and errors are those of ``read``.

    Returns:
        An iterator over (line, row) that also knows ``format``, ``columns`` and ``skipped``. A
        file of running text gives one row of one field for each line, under the column "text".
    """
    if on_error not in ("stop", "skip"):
        raise UsageError(f"data.on_error={on_error!r}: say stop or skip")
    return Rows(Path(path), encoding, on_error, limit)


class Rows(Iterator[tuple[int, tuple[Any, ...]]]):
    """The rows of one file, one after the other; see ``rows_of``."""

    format: Format
    columns: list[str]
    skipped: list[DataError]

    def __init__(
        self, path: Path, encoding: str | None, on_error: OnError, limit: int | None
    ) -> None:
        self.path, self.skipped, self._stop, self._limit = path, [], on_error == "stop", limit
        check_file(path)
        self.format, self.columns = _examine(path, encoding)
        made = {"table": self._table, "jsonl": self._jsonl, "text": self._plain}
        self._rows = itertools.islice(made[self.format.kind](), limit)

    def __next__(self) -> tuple[int, tuple[Any, ...]]:
        return next(self._rows)

    def text(self) -> Iterator[str]:
        """Yield the whole file as text, in pieces that end with a line."""
        if self._limit is not None:
            for _, (line,) in self:
                yield line + "\n"
            return
        for _, block in blocks(self.path, self.format, stop):
            yield block

    def _report(self, error: DataError) -> None:
        if self._stop:
            raise error
        self.skipped.append(error)

    def _lines(self) -> Iterator[tuple[int, str]]:
        for line, block in blocks(self.path, self.format, self._report):
            lines = block.split("\n")
            if not lines[-1]:
                lines.pop()
            yield from enumerate(lines, line)

    def _plain(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for line, text in self._lines():
            yield line, (text,)

    def _table(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        records = _records(self._lines(), self.format, self.path, self._report)
        width = len(self.columns)
        if self.format.header:
            next(records, None)
        for line, cells in records:
            if len(cells) == width:
                yield line, tuple(cells)
            else:
                self._report(DataError(self._wrong_width(len(cells)), self.path, line))

    def _wrong_width(self, found: int) -> str:
        mark = {"\t": "a tab", None: "a line end"}.get(
            self.format.delimiter, repr(self.format.delimiter)
        )
        quote = (
            f"put text that contains {mark} in double quotes"
            if found > len(self.columns) and self.format.quoted
            else "mend the row"
        )
        return (
            f"expected {_fields(len(self.columns))} ({', '.join(self.columns[:8])}"
            f"{', ...' if len(self.columns) > 8 else ''}) separated by {mark}, found {found}; "
            f"{quote}, {SKIP_HINT}"
        )

    def _jsonl(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for line, text in self._lines():
            if not text.strip():
                continue
            try:
                yield line, _json_row(text, self.columns)
            except UserError as error:
                self._report(DataError(f"{error}, {SKIP_HINT}", self.path, line))


def _fields(count: int) -> str:
    return f"{count} field" if count == 1 else f"{count} fields"


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
    line = nfc(line)
    if format.kind == "text":
        return (line,)
    if format.kind == "jsonl":
        try:
            found = _json_object(line)
        except UserError as error:
            raise UsageError(f"row {line!r}: {error}") from None
        return tuple(found.get(column) for column in columns)
    try:
        cells = _split(line, format, lambda: None)
    except _BadQuoteError as error:
        raise UsageError(f"row {line!r}: {error}") from None
    if len(cells) > len(columns):
        raise UsageError(
            f"row {line!r} has {_fields(len(cells))}, but the data has {len(columns)} columns "
            f"({', '.join(columns)})"
        )
    return tuple(cells)


# ---------------------------------------------------------------------- telling the format


def _examine(path: Path, encoding: str | None) -> tuple[Format, list[str]]:
    """Return the format and the column names, from the first block of the file."""
    zipped = is_gzip(path)
    name = encoding_of(path, zipped) if encoding is None else check_encoding(encoding)
    format = Format("text", encoding=name, gzip=zipped)
    # damage is reported when the rows are read; here it only must not hide what the file is
    _, head = next(blocks(path, format, lambda error: None), (1, ""))
    format = replace(format, newline=newline_of(path, format))
    lines = head.split("\n")
    if not head.strip():
        raise DataError("the file is empty; give a file with text or rows", path)
    if looks_like_jsonl(lines):
        return replace(format, kind="jsonl"), _json_columns(lines)
    _refuse_json_array(path, head)
    return _examine_table(path, format, head)


def _refuse_json_array(path: Path, head: str) -> None:
    if re.match(r"\s*\[\s*\{\s*\"", head) or re.match(r"\s*\{\s*\n\s*\"", head):
        raise DataError("this is JSON, but not JSON lines; write one object a line", path, 1)


def _examine_table(path: Path, format: Format, head: str) -> tuple[Format, list[str]]:
    named_table = bool(re.search(r"\.(csv|tsv)(\.gz)?$", path.name, re.IGNORECASE))
    lines = head.split("\n")
    delimiter = find_delimiter(head, named_table=named_table)
    if delimiter is None and not named_table:
        return format, ["text"]
    quoted = _quoted(path, format, delimiter or ",")
    format = replace(format, kind="table", delimiter=delimiter, quoted=quoted)
    records = _records(enumerate(lines, 1), format, path, lambda error: None, strip=False)
    rows = [cells for _, cells in itertools.islice(records, 2000)]
    if not rows:  # every row is malformed, so let the first one be reported when it is read
        first = next(line for line in lines if line.strip())
        rows = [first.split(delimiter) if delimiter else [first]]
    width, _ = usual_width(rows)
    even = [row for row in rows if len(row) == width]
    if len(rows[0]) == width and find_header(even):
        return replace(format, header=True), _named(rows[0], path)
    return format, [f"column{number}" for number in range(1, width + 1)]


def _named(cells: Sequence[str], path: Path) -> list[str]:
    names = [cell.strip() or f"column{number}" for number, cell in enumerate(cells, 1)]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} columns are named {name!r}; rename all but one", path, 1)
    return names


def _quoted(path: Path, format: Format, delimiter: str) -> bool:
    """Return whether fields are quoted, from the first block in which one opens with a quote."""
    opening = re.compile(rf'(?:^|{re.escape(delimiter)}) *"', re.MULTILINE)
    for _, block in blocks(path, format, lambda error: None):
        if '"' in block and opening.search(block):
            return is_quoted(count_quotes(block, delimiter), delimiter)
    return delimiter == ","


# ---------------------------------------------------------------------- lines to fields


class _BadQuoteError(UserError):
    """A quoted field that does not end as one."""


def _records(
    lines: Iterable[tuple[int, str]],
    format: Format,
    path: Path,
    report: Report,
    strip: bool = True,
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) for every record; blank lines are passed over."""
    source = iter(lines)
    put_back: list[tuple[int, str]] = []
    while True:
        number, line = put_back.pop() if put_back else next(source, (0, ""))
        if number == 0:
            return
        if not line or line.isspace():
            continue
        taken: list[tuple[int, str]] = []
        more = functools.partial(_next_line, source, put_back, taken)
        try:
            yield number, _split(line, format, more, strip)
        except _BadQuoteError as error:
            report(DataError(f"{error}, {SKIP_HINT}", path, number))
            # only the line that opens the quote is lost, not all that it swallowed
            put_back += reversed(taken)


def _next_line(
    source: Iterator[tuple[int, str]],
    put_back: list[tuple[int, str]],
    taken: list[tuple[int, str]],
) -> str | None:
    following = put_back.pop() if put_back else next(source, None)
    if following is None:
        return None
    taken.append(following)
    return following[1]


def _split(
    line: str, format: Format, more: Callable[[], str | None], strip: bool = True
) -> list[str]:
    """Return the fields of a record that starts with ``line``; ``more()`` gives its next line."""
    delimiter = format.delimiter
    if format.quoted and '"' in line:
        return _split_quoted(line, delimiter or "\n", more, strip)
    cells = line.split(delimiter) if delimiter else [line]
    return [_bare(cell) for cell in cells] if strip and " " in line else cells


def _bare(cell: str) -> str:
    """Return a cell without the blanks around it when it is a number."""
    return cell.strip() if (cell[:1] == " " or cell[-1:] == " ") and is_number(cell) else cell


def _split_quoted(
    line: str, delimiter: str, more: Callable[[], str | None], strip: bool
) -> list[str]:
    cells: list[str] = []
    position = 0
    while True:
        start = position
        while line[start : start + 1] == " ":
            start += 1
        if line[start : start + 1] == '"':
            cell, line, position = _quoted_cell(line, start + 1, delimiter, more)
        else:
            end = line.find(delimiter, position)
            end = len(line) if end < 0 else end
            cell, position = line[position:end], end
            cell = _bare(cell) if strip else cell
        cells.append(cell)
        if position >= len(line):
            return cells
        position += 1


def _quoted_cell(
    line: str, position: int, delimiter: str, more: Callable[[], str | None]
) -> tuple[str, str, int]:
    """Return (content, the line it ends on, the position of the delimiter after it)."""
    parts: list[str] = []
    while True:
        end = line.find('"', position)
        if end < 0:
            parts += (line[position:], "\n")
            following = more()
            if following is None:
                raise _BadQuoteError("a double quote opens here and is never closed; close it")
            line, position = following, 0
        elif line[end + 1 : end + 2] == '"':
            parts.append(line[position : end + 1])
            position = end + 2
        else:
            parts.append(line[position:end])
            after = end + 1
            while line[after : after + 1] == " ":
                after += 1
            if after < len(line) and line[after] != delimiter:
                raise _BadQuoteError(
                    f"a quoted field opens here and {line[end + 1 : end + 13]!r} follows its "
                    'closing quote; write "" for a quote inside a field'
                )
            return "".join(parts), line, after


# ---------------------------------------------------------------------- JSON lines


def _json_columns(lines: Sequence[str]) -> list[str]:
    columns: dict[str, None] = {}
    for line in lines:
        try:
            columns.update(dict.fromkeys(_json_object(line)))
        except UserError:
            continue  # reported with its line when the rows are read
    return list(columns)


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except RecursionError:
        raise UserError("JSON nested too deeply; flatten the object") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg}, column {error.colno}"
        raise UserError(f"not valid JSON ({where}); write one object a line") from None
    except ValueError as error:
        raise UserError(f"not valid JSON ({error}); write one object a line") from None
    if not isinstance(value, dict):
        raise UserError(f"a JSON {type(value).__name__} where an object {{...}} is expected")
    return {nfc(key): _composed(item) for key, item in value.items()} if "\\u" in line else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _composed(value: Any) -> Any:
    """Return a JSON value with its strings, which escapes may have left decomposed, in NFC."""
    if isinstance(value, str):
        if DAMAGE.search(value):
            raise UserError("an escape that is no character (a NUL or half of a pair); remove it")
        return nfc(value)
    if isinstance(value, list):
        return [_composed(item) for item in value]
    if isinstance(value, dict):
        return {key: _composed(item) for key, item in value.items()}
    return value


def _json_row(line: str, columns: Sequence[str]) -> tuple[Any, ...]:
    found = _json_object(line)
    for column in columns:
        if column not in found:
            raise UserError(f"the key {column!r}, which other rows have, is missing; add it")
    if len(found) > len(columns):
        extra = next(key for key in found if key not in columns)
        raise UserError(f"the key {extra!r} is not in the rows before; remove it")
    return tuple(found[column] for column in columns)
