"""One data file to records: what its content says it is, and its rows with their lines."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from unrolled.core.errors import DataError
from unrolled.data import conllu, dictionary, parquet, trees
from unrolled.data.archives import Origin, refuse_binary
from unrolled.data.charsets import encoding_of
from unrolled.data.formats import FORMATS, TextFormat
from unrolled.data.formats.base import Row
from unrolled.data.jsonl import json_columns, json_rows
from unrolled.data.lines import SKIP_HINT, Report, blocks, newline_of, stop
from unrolled.data.records import records
from unrolled.data.sniff import (
    Format,
    count_quotes,
    fields,
    find_delimiter,
    find_header,
    is_quoted,
    looks_like_jsonl,
    usual_width,
)

SNIFFED = 1 << 20  # characters in which delimiters are looked for
EMPTY = "the file is empty; give a file with text or rows"
ignore: Report = lambda error: None  # noqa: E731


@dataclass(frozen=True, slots=True)
class Reader:
    """How the rows of one source are read; whoever calls ``rows`` says what a fault does.

    Attributes:
        name: what errors call the source.
        format, columns: how it is written, and the names of its columns.
        rows: yields (line from 1, cells), and reports faulty rows.
        text: yields the whole of a running text.
    """

    name: str
    format: Format
    columns: list[str]
    rows: Callable[[Report], Iterator[Row]]
    text: Callable[[], Iterator[str]] | None = None


def reader_of(
    origin: Origin, encoding: str | None, needed: Collection[str] | None = None
) -> Reader:
    """Return how a file is read, from its content; its name only tips doubtful cases.

    Args:
        origin: the file.
        encoding: the name of its encoding, None to tell it.
        needed: the columns without which a row of JSON lines is malformed; None: all of them.

    Raises:
        DataError: the file is empty, binary, or JSON of another form.
    """
    head = origin.head()
    if head.startswith(parquet.MAGIC):
        columns, without = parquet.columns_of(origin)
        format = Format(
            "parquet",
            gzip=origin.gzip,
            zip=origin.archive is not None,
            without=tuple(without),
        )
        rows = functools.partial(parquet.rows_of, origin, columns)
        return Reader(origin.name, format, columns, rows)
    refuse_binary(origin, head)
    known = _known(origin, head, encoding)
    if known is not None:
        format = replace(_unread(origin, encoding), kind=known.kind)
        columns = known.columns(origin, format)
        rows = functools.partial(known.rows, origin, format, columns, needed)
        return Reader(origin.name, format, columns, rows)
    format, columns = _examine(origin, encoding)
    rows = (
        functools.partial(_jsonl, origin, format, columns, needed)
        if format.kind == "jsonl"
        else functools.partial(_ROWS[format.kind], origin, format, columns)
    )
    text = functools.partial(_text, origin, format) if format.kind == "text" else None
    return Reader(origin.name, format, columns, rows, text)


# ---------------------------------------------------------------------- rows of each kind


def _text(origin: Origin, format: Format) -> Iterator[str]:
    for _, block in blocks(origin, format, stop):
        yield block


def _lines(origin: Origin, format: Format, report: Report) -> Iterator[tuple[int, str]]:
    for line, block in blocks(origin, format, report):
        lines = block.split("\n")
        if not lines[-1]:
            lines.pop()
        yield from enumerate(lines, line)


def _plain(
    origin: Origin, format: Format, columns: list[str], report: Report
) -> Iterator[Row]:
    for line, text in _lines(origin, format, report):
        yield line, (text,)


def _table(
    origin: Origin, format: Format, columns: list[str], report: Report
) -> Iterator[Row]:
    lost: dict[int, DataError] = {}
    lines = _lines(origin, format, _losing(lost))
    body = ((n, text) for n, text in lines if n > format.comments)
    found = records(body, format, origin.name, report, lost, max_row=origin.max_row)
    width = len(columns)
    if format.header:
        next(found, None)
    for line, cells in found:
        if len(cells) == width:
            yield line, tuple(cells)
        else:
            report(
                DataError(_wrong_width(format, columns, len(cells)), origin.name, line)
            )


def _wrong_width(format: Format, columns: list[str], found: int) -> str:
    mark = {"\t": "a tab", None: "a line end"}.get(
        format.delimiter, repr(format.delimiter)
    )
    quote = (
        f"put text that contains {mark} in double quotes"
        if found > len(columns) and format.quoted
        else "mend the row"
    )
    return (
        f"expected {fields(len(columns))} ({', '.join(columns[:8])}"
        f"{', ...' if len(columns) > 8 else ''}) separated by {mark}, found {found}; "
        f"{quote}, {SKIP_HINT}"
    )


def _jsonl(
    origin: Origin,
    format: Format,
    columns: list[str],
    needed: Collection[str] | None,
    report: Report,
) -> Iterator[Row]:
    lines = (
        (line, text) for line, text in _lines(origin, format, report) if text.strip()
    )
    yield from json_rows(lines, origin, columns, needed, report)


def _conllu(
    origin: Origin, format: Format, columns: list[str], report: Report
) -> Iterator[Row]:
    # a line that does not decode is emptied, which must not end a sentence
    lost: dict[int, DataError] = {}
    yield from conllu.sentences(
        _lines(origin, format, _losing(lost)), origin.name, report, lost
    )


def _trees(
    origin: Origin, format: Format, columns: list[str], report: Report
) -> Iterator[Row]:
    lost: dict[int, DataError] = {}
    yield from trees.trees(
        _lines(origin, format, _losing(lost)), origin.name, report, lost
    )


def _entries(
    origin: Origin, format: Format, columns: list[str], report: Report
) -> Iterator[Row]:
    lost: dict[int, DataError] = {}
    lines = _lines(origin, format, _losing(lost))
    yield from dictionary.entries(lines, origin.name, report, lost)


def _losing(lost: dict[int, DataError]) -> Report:
    """Return the report that keeps what is wrong with a line until its record is read."""

    def lose(error: DataError) -> None:
        lost[error.line or 0] = error

    return lose


_ROWS: dict[str, Callable[[Origin, Format, list[str], Report], Iterator[Row]]] = {
    "text": _plain,
    "table": _table,
    "conllu": _conllu,
    "trees": _trees,
    "dictionary": _entries,
}


# ---------------------------------------------------------------------- telling the format


def _unread(origin: Origin, encoding: str | None) -> Format:
    """Return how a file is encoded and packed; what it is, is still to be told."""
    encoding = encoding_of(origin) if encoding is None else encoding
    return Format(
        "text", encoding=encoding, gzip=origin.gzip, zip=origin.archive is not None
    )


def _known(origin: Origin, head: bytes, encoding: str | None) -> TextFormat | None:
    """Return the row of the table of formats that a file with these first bytes is; None of none.

    Only the first bytes are looked at: to tell an encoding may take a look at the whole file.
    """
    marked = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = head.decode(encoding or marked, "replace").removeprefix("\ufeff")
    return next(
        (known for known in FORMATS if known.looks_like(origin.name, text)), None
    )


def _examine(origin: Origin, encoding: str | None) -> tuple[Format, list[str]]:
    """Return the format and the column names, from the first block of the file."""
    format = _unread(origin, encoding)
    # damage is reported when the rows are read; here it only must not hide what the file is
    faults: list[DataError] = []
    _, head = next(blocks(origin, format, faults.append), (1, ""))
    format = replace(format, newline=newline_of(origin, format))
    lines = head.split("\n")
    if not head.strip():
        raise faults[0] if faults else DataError(EMPTY, origin.name)
    if looks_like_jsonl(lines):
        return replace(format, kind="jsonl"), json_columns(lines)
    if conllu.NAME.search(origin.name) or conllu.looks_like_conllu(lines):
        return replace(format, kind="conllu"), list(conllu.COLUMNS)
    if trees.NAME.search(origin.name) or trees.looks_like_trees(lines):
        return replace(format, kind="trees"), list(trees.COLUMNS)
    if dictionary.NAME.search(origin.name) or dictionary.looks_like_dictionary(lines):
        return replace(format, kind="dictionary"), list(dictionary.COLUMNS)
    if re.match(r"\s*\{\s*\n\s*\"", head):
        told = (
            "this is JSON, but neither JSON lines nor an array; write one object a line"
        )
        raise DataError(told, origin.name, 1)
    return _examine_table(origin, format, head)


def _examine_table(
    origin: Origin, format: Format, head: str
) -> tuple[Format, list[str]]:
    named_table = bool(re.search(r"\.(csv|tsv)(\.gz)?$", origin.name, re.IGNORECASE))
    whole = head.rfind("\n", 0, SNIFFED) + 1
    if len(head) > SNIFFED and not whole and not named_table:
        return format, ["text"]  # rows of a table are shorter
    head = head[:whole] if len(head) > SNIFFED and whole else head
    lines = head.split("\n")
    delimiter = find_delimiter(head, named_table=named_table)
    if delimiter is None and not named_table:
        return format, ["text"]
    format = replace(
        format, kind="table", delimiter=delimiter, comments=_comments(lines, delimiter)
    )
    lines = [""] * format.comments + lines[format.comments :]
    format = replace(format, quoted=_quoted(origin, format, delimiter or ","))
    found = records(enumerate(lines, 1), format, origin.name, ignore, {}, strip=False)
    rows = [cells for _, cells in itertools.islice(found, 2000)]
    if (
        not rows
    ):  # every row is malformed, so let the first one be reported when it is read
        first = next(line for line in lines if line.strip())
        rows = [first.split(delimiter) if delimiter else [first]]
    width, _ = usual_width(rows)
    even = [row for row in rows if len(row) == width]
    if len(rows[0]) == width and find_header(even):
        return replace(format, header=True), _named(rows[0], origin)
    return format, [f"column{number}" for number in range(1, width + 1)]


def _comments(lines: list[str], delimiter: str | None) -> int:
    """Return how many first lines start with # and have not the fields of a row."""
    width, _ = usual_width([line.split(delimiter) for line in lines if line.strip()])
    first = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return (
        sum(len(line.split(delimiter)) != width for line in first) if delimiter else 0
    )


def _named(cells: Sequence[str], origin: Origin) -> list[str]:
    names = [cell.strip() or f"column{number}" for number, cell in enumerate(cells, 1)]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        told = f"{count} columns are named {name!r}; rename all but one"
        raise DataError(told, origin.name, 1)
    return names


def _quoted(origin: Origin, format: Format, delimiter: str) -> bool:
    """Return whether fields are quoted, from the first block in which one opens with a quote."""
    opening = re.compile(rf'(?:^|{re.escape(delimiter)}) *"', re.MULTILINE)
    for _, block in blocks(origin, format, ignore):
        if '"' in block and opening.search(block):
            return is_quoted(count_quotes(block, delimiter), delimiter)
    return delimiter == ","
