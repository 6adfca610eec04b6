"""Tables of fields between commas, tabs, semicolons or bars, with a header or without one.

Told last of what has rows, from how even its lines are (``data.sniff``); ``data.records`` takes
the fields apart.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from unrolled.core.errors import (
    DataError,
    DataWarning,
    UsageError,
    UserError,
    shown,
)
from unrolled.data.archives import Origin
from unrolled.data.formats.base import (
    DataFile,
    FileFormat,
    Format,
    Head,
    Row,
    Sniffed,
)
from unrolled.data.formats.jsonl import refuse_object
from unrolled.data.header_rows import find_groups, find_units, joined_names
from unrolled.data.lines import (
    SKIP_HINT,
    Report,
    blocks,
    lines_with_errors,
)
from unrolled.data.list_cells import cell_of, list_columns
from unrolled.data.records import BadQuoteError, records, split
from unrolled.data.sniff import (
    Rows,
    count_quotes,
    fields,
    find_delimiter,
    find_header,
    is_doubtful_header,
    is_quoted,
    usual_width,
)

SNIFFED = 1 << 20  # characters in which delimiters are looked for
_SNIFFED_ROWS = 2000  # rows in which a header is looked for
_TITLES = 20  # rows in which the header is looked for
_BODY = 200  # rows that tell what stands over them
_SEPARATOR = re.compile(r'\s*"?sep=([\t;|,])"?\s*\n', re.IGNORECASE)
_NAMED = 8  # columns that an error names
_NAMES = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma"}
_AGAIN = "of files that were put together keep one header"
ignore: Report = lambda error: None  # noqa: E731


class TableFormat(FileFormat):
    kind = "table"
    title = "table"
    suffixes = ("csv", "tsv")
    tabular = True
    names_columns = False
    keeps_damaged = True  # its quotes

    def describe(self, format: Format) -> list[str]:
        words = ["one column"]
        if format.delimiter:
            words = [f"{_NAMES[format.delimiter]}-separated"]
        words.append("header" if format.header else "no header")
        if format.lists:
            words.append(f"lists in {', '.join(format.lists[:_NAMED])}")
        # with commas quoting is what everyone expects
        if format.quoted and format.delimiter != ",":
            words.append("quoted")
        return words

    def sniff(self, head: Head) -> Sniffed | None:
        refuse_object(head)
        named = self.names(head.name)
        text = _whole_lines(head.text, named)
        if text is None:
            return None
        declared = _SEPARATOR.match(text)
        if declared:
            # Excel's own line, which says what stands between the fields
            delimiter: str | None = declared.group(1)
        else:
            delimiter = find_delimiter(text, named_table=named)
        if delimiter is None and not (named or _is_known(head, text)):
            return None
        lines = text.split("\n")
        comments = 1 if declared else _comments(lines, delimiter)
        format = replace(
            head.format, kind=self.kind, delimiter=delimiter, comments=comments
        )
        blank = [""] * comments
        quoted = _quoted(head.origin, format, delimiter or ",")
        format = replace(format, quoted=quoted)
        sniffed = _with_header(head, format, blank + lines[comments:])
        if delimiter is None:
            return sniffed._replace(warnings=(*sniffed.warnings, *_uneven(lines)))
        return sniffed

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        origin = file.origin
        format = file.format
        lines, lost = lines_with_errors(origin, format)
        body = ((number, text) for number, text in lines if number > format.comments)
        rows = records(body, format, origin.name, report, lost, max_row=origin.max_row)
        width = len(file.columns)
        lists = [file.columns.index(name) for name in format.lists]
        names = [cells for _, cells in itertools.islice(rows, format.rows_of_names)]
        for line, cells in rows:
            if names and cells == names[0] and width > 1:
                message = (
                    f"the names of the columns stand here again; {_AGAIN}, {SKIP_HINT}"
                )
                report(DataError(message, origin.name, line))
                continue
            if format.ends and len(cells) == width + format.ends:
                beyond = "".join(cells[width:])
                if not beyond.strip():
                    cells = cells[:width]
            if len(cells) != width:
                message = _wrong_width(format, file.columns, len(cells))
                error = DataError(message, origin.name, line)
                report(error)
            elif not lists:
                yield line, tuple(cells)
            else:
                try:
                    yield line, _with_lists(cells, file.columns, lists)
                except UserError as invalid:
                    report(DataError(f"{invalid}, {SKIP_HINT}", origin.name, line))

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[Any, ...]:
        try:
            cells = split(line, format, lambda: None)
        except BadQuoteError as error:
            raise UsageError(f"row {shown(line)}: {error}") from None
        if len(cells) > len(columns):
            raise UsageError(
                f"row {shown(line)} has {fields(len(cells))}, but the data has {len(columns)} "
                f"columns ({', '.join(columns)})"
            )
        # which of them are lists is known once their names are
        return tuple(cells)


def _uneven(lines: Sequence[str]) -> Iterator[DataWarning]:
    """Warn where most lines of one column hold what stands between columns elsewhere."""
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    filled = filled[:_BODY]
    for delimiter, name in _NAMES.items():
        counts = [line.count(delimiter) for _, line in filled]
        if sum(map(bool, counts)) * 2 <= len(filled):
            continue
        odd = next(
            (number for number, line in filled if line.count(delimiter) != counts[0]),
            None,
        )
        first = f" (line {odd} is the first)" if odd else ""
        yield DataWarning(
            f"most lines hold a {name}, but not equally many{first}: they are read as one column",
            "make it one table, its cells in double quotes where they hold one",
            odd,
        )
        return


def _with_lists(
    cells: Sequence[str], columns: Sequence[str], lists: Sequence[int]
) -> tuple[Any, ...]:
    """Return cells, those at some indices as lists. Raises UserError: one holds none."""
    row: list[Any] = list(cells)
    for index in lists:
        row[index] = cell_of(cells[index], columns[index])
    return tuple(row)


def _whole_lines(text: str, named_table: bool) -> str | None:
    """Return the first lines of a block, in bounds; None where a line is too long for a row."""
    if len(text) <= SNIFFED:
        return text
    end = text.rfind("\n", 0, SNIFFED) + 1
    if end:
        return text[:end]
    return text if named_table else None


def _is_known(head: Head, text: str) -> bool:
    """Return whether the first line is a name that a header was said to hold: of one column."""
    line, _, _ = text.partition("\n")
    first = line.strip().strip('"')
    known = head.header if isinstance(head.header, Sequence) else ()
    return first.casefold() in (name.casefold() for name in known)


def _with_header(head: Head, format: Format, lines: Sequence[str]) -> Sniffed:
    """Return the format of a table with its columns, named by its first row or numbered."""
    numbered = enumerate(lines, 1)
    records_of_head = records(numbered, format, head.name, ignore, {}, strip=False)
    first = list(itertools.islice(records_of_head, _SNIFFED_ROWS))
    if not first:
        # every row is malformed, so let the first one be reported when it is read
        text = next(line for line in lines if line.strip())
        cells = text.split(format.delimiter) if format.delimiter else [text]
        first = [(1, cells)]
    sniffed = heading(head, format, first)
    columns = sniffed.columns
    rows = [cells for _, cells in first if len(cells) == len(columns)]
    lists = tuple(list_columns(columns, rows[sniffed.format.rows_of_names :]))
    return sniffed._replace(format=replace(sniffed.format, lists=lists))


def heading(
    head: Head, format: Format, first: Sequence[tuple[int, list[str]]]
) -> Sniffed:
    """Return the format of a table with its columns, told from its first rows.

    Args:
        head: the beginning of the file, which says what is known of the columns.
        format: how the file is written.
        first: line and cells of its first rows, one at least.
    """
    rows, ends = _without_end([cells for _, cells in first])
    width, _ = usual_width(rows)
    units = find_units(rows[:_BODY], width)
    body = [row for index, row in enumerate(rows) if index != units]
    groups, title = _names_at(body, width)
    if units is not None and units != title + 1:
        units = None
        body = rows
        groups, title = _names_at(body, width)
    line = first[title][0]
    before = line - 1 if title else format.comments
    format = replace(format, comments=before, ends=ends)
    even = [row for row in body[title:] if len(row) == width]
    if len(body[title]) != width or not is_header(head, even):
        numbers = range(1, width + 1)
        return Sniffed(format, [f"column{number}" for number in numbers])
    names = body[title]
    warnings: tuple[DataWarning, ...] = ()
    if groups is not None and not _knows(head, _named(names)):
        names = joined_names(body[groups], names)
        warnings += (_joined(names, line),)
    columns = _named(names)
    warnings += _warnings(head, [names, *even[1:]], columns, line)
    if units is not None:
        warnings += (_units_left_out(rows[units], first[units][0]),)
    format = replace(format, header=True, unit_row=units is not None)
    return Sniffed(format, columns, warnings)


def _names_at(rows: Rows, width: int) -> tuple[int | None, int]:
    """Return which row holds groups of columns, if one does, and which one their names."""
    groups = find_groups(rows[:_BODY], width)
    return groups, _title_rows(rows, width) if groups is None else groups + 1


def _knows(head: Head, columns: Sequence[str]) -> bool:
    """Return whether a trained run knows all of these names."""
    known = head.header if isinstance(head.header, Collection) else ()
    return bool(known) and set(columns) <= set(known)


def _joined(names: Sequence[str], line: int) -> DataWarning:
    several = [name for name in names if " " in name]
    message = (
        f"lines {line - 1} and {line} both name the columns: they are read as one name each, such "
        f"as {several[0]}"
    )
    return DataWarning(message, "write one row of names", line)


def _units_left_out(cells: Sequence[str], line: int) -> DataWarning:
    units = [cell.strip() for cell in cells if cell.strip()]
    message = f"line {line} holds units ({', '.join(units[:_NAMED])}) and no values: it is left out"
    return DataWarning(message, "mend the file if they are values", line)


def is_header(head: Head, rows: Rows) -> bool:
    """Return whether the first row names the columns: as the user says, or a trained run knows."""
    if isinstance(head.header, bool):
        return head.header
    known = {name.casefold() for name in head.header or ()}
    for cell in rows[0]:
        name = cell.strip().strip('"')
        if name.casefold() in known:
            return True
    return find_header(rows)


def _without_end(rows: list[list[str]]) -> tuple[list[list[str]], int]:
    """Return rows without the empty fields that end each of them, and how many these are."""
    width, _ = usual_width(rows)
    even = [row for row in rows if len(row) == width]
    filled = 1  # fields of the longest of these rows
    for row in even:
        count = width
        while count > filled and not row[count - 1].strip():
            count -= 1
        filled = count
    ends = width - filled
    if not ends:
        return rows, 0
    shortened: list[list[str]] = []
    for row in rows:
        is_even = len(row) == width
        shortened.append(row[:filled] if is_even else row)
    return shortened, ends


def _title_rows(rows: Rows, width: int) -> int:
    """Return how many rows stand before the names of the columns, with a word or two on the whole.

    They have fewer fields than the header that follows, or empty ones.
    """
    filled = [_filled(row) for row in rows[:_TITLES]]
    several = (count for count, cells in enumerate(filled) if cells > 1)
    first = next(several, 0)
    full = first
    if width in filled:
        full = filled.index(width)
    for count in (full, first):
        body = [row for row in rows[count:] if len(row) == width]
        if len(rows[count]) == width and find_header(body):
            return count
    return 0


def _filled(row: Sequence[str]) -> int:
    return sum(bool(cell.strip()) for cell in row)


def _named(cells: Sequence[str]) -> list[str]:
    """Return distinct names: of an empty one its number, of a repeated one a number behind it."""
    names: dict[str, None] = {}
    counts: Counter[str] = Counter()
    for number, cell in enumerate(cells, 1):
        # a header may be quoted where the numbers below it are not
        name = cell.strip().strip('"').strip() or f"column{number}"
        unique = name
        while unique in names:
            # counted on from where the last one of this name stands
            counts[name] += 1
            unique = f"{name}_{counts[name] + 1}"
        names[unique] = None
    return list(names)


def _warnings(
    head: Head, rows: Rows, columns: Sequence[str], line: int
) -> tuple[DataWarning, ...]:
    """Return what is doubtful about a header that stands on a line."""
    warnings = []
    for cell, name in zip(rows[0], columns, strict=True):
        bare = cell.strip().strip('"')
        given = bare.strip()
        if given and given != name:
            message = f"two columns are named {given}; the later one is read as {name}"
            warnings.append(DataWarning(message, "rename one", line))
    if head.header is None and is_doubtful_header(rows):
        names = ", ".join(columns[:_NAMED])
        message = f"the first row ({names}) is taken for the names of the columns"
        warnings.append(DataWarning(message, "data.header=false", line))
    return tuple(warnings)


def _comments(lines: Sequence[str], delimiter: str | None) -> int:
    """Return how many first lines start with # and have not the fields of a row."""
    if delimiter is None:
        return 0
    rows = [line.split(delimiter) for line in lines]
    width, _ = usual_width([row for row in rows if any(row)])
    marked = sum(1 for _ in itertools.takewhile(lambda line: line[:1] == "#", lines))
    even = [row for row in rows[marked:] if len(row) == width]
    if marked and even and lines[0].startswith("# ") and find_header(even):
        # a comment may have the delimiter in it, too
        return marked
    for count in range(marked, 0, -1):
        # a first row of columns may begin with # as well
        if len(rows[count - 1]) != width:
            return count
    return 0


def _quoted(origin: Origin, format: Format, delimiter: str) -> bool:
    """Return whether fields are quoted, from the first block in which one opens with a quote."""
    opening = re.compile(rf'(?:^|{re.escape(delimiter)}) *"', re.MULTILINE)
    for _, block in blocks(origin, format, ignore):
        if '"' in block and opening.search(block):
            return is_quoted(count_quotes(block, delimiter), delimiter)
    return delimiter == ","


def _wrong_width(format: Format, columns: Sequence[str], width: int) -> str:
    marks = {"\t": "a tab", None: "a line end"}
    mark = marks.get(format.delimiter, repr(format.delimiter))
    advice = "mend the row"
    if width > len(columns) and format.quoted:
        advice = f"put text that contains {mark} in double quotes"
    names = ", ".join(columns[:_NAMED])
    more = ", ..." if len(columns) > _NAMED else ""
    return (
        f"expected {fields(len(columns))} ({names}{more}) separated by {mark}, found {width}; "
        f"{advice}, {SKIP_HINT}"
    )
