"""What a format of data files is: how a file of it is told, and how its rows are read.

``Format`` is how one file is written; it is saved with a run. A ``RowFormat`` knows all files of a
kind, and a ``FileFormat`` finds out whether a file is one of them. ``formats`` lists them.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from unrolled.core.errors import DataError, DataWarning, UserError, shown
from unrolled.core.saving import LATER
from unrolled.data.archives import Origin, refuse_binary
from unrolled.data.charsets import encoding_of
from unrolled.data.lines import EMPTY, Report, blocks, newline_of

Row = tuple[int, tuple[Any, ...]]
# whether the first row of a table names the columns, or names of which a header holds one
HeaderHint = bool | Collection[str] | None


@dataclass(frozen=True, slots=True)
class Format:
    """How a data file is written.

    Attributes:
        kind: rows of fields, JSON objects one a line, running text, and so on: the ``kind`` of a
            ``RowFormat``.
        delimiter: what stands between the fields of a table; None otherwise.
        header: the first row of a table holds the names of the columns.
        quoted: fields may stand in double quotes, with "" for a quote inside.
        encoding: the name of the text encoding, such as "utf-8".
        newline: the line end as found: a line feed, a carriage return, both, or "mixed".
        comments: lines that stand before a table, with # or as its title, and are passed over.
        ends: how many empty fields end each row of a table.
        gzip, zip: the file is compressed, or stands in a zip archive.
        without: columns that cannot be read, and files such as README.md that hold no data.
        optional: keys that some objects lack.
        sheet: the name of the sheet of a workbook.
        unit_row: a row of units, such as kg, stands below the header and is passed over.
        lists: columns of a table whose cells are lists, written as text.
    """

    kind: str
    delimiter: str | None = None
    header: bool = False
    quoted: bool = False
    encoding: str = "utf-8"
    newline: str = "\n"
    gzip: bool = False
    zip: bool = False
    comments: int = 0
    without: tuple[str, ...] = ()
    ends: int = field(default=0, metadata=LATER)
    optional: tuple[str, ...] = field(default=(), metadata=LATER)
    sheet: str | None = field(default=None, metadata=LATER)
    unit_row: bool = field(default=False, metadata=LATER)
    lists: tuple[str, ...] = field(default=(), metadata=LATER)

    @property
    def rows_of_names(self) -> int:
        """How many rows stand before the first one with values, after ``comments``."""
        return self.header + self.unit_row

    @property
    def row_format(self) -> RowFormat:
        """What is the same for all files of this kind. Raises UserError: there is no such kind."""
        return format_of(self.kind)

    @property
    def named(self) -> bool:
        """Whether every file of this kind names its columns."""
        return self.header or self.row_format.names_columns

    @property
    def objects(self) -> bool:
        """Whether a row by itself is written as a JSON object."""
        return self.row_format.objects

    def describe(self) -> str:
        """Return one line for people: "tab-separated, header, UTF-8"."""
        words = self.row_format.describe(self)
        if self.row_format.encoded:
            words.append(self.encoding.upper())
            if self.newline == "mixed":
                words.append("mixed line ends")
        words += [name for name in ("gzip", "zip") if getattr(self, name)]
        if self.without:
            more = f" and {len(self.without) - 3} more" if len(self.without) > 3 else ""
            words.append(f"without {', '.join(self.without[:3])}{more}")
        return ", ".join(words)


class RowFormat:
    """How rows of one kind are written, wherever they come from.

    Attributes:
        kind: its name in ``Format.kind``.
        title: what people call it.
        objects: whether a row by itself is written as a JSON object.
        names_columns: whether every source of this kind names its columns.
        encoded: whether it is text, whose encoding is worth a word.
        running: whether it is one text, which may be read as a whole.
        bounded: whether a line is a row, of no more bytes than one may have.
        keeps_damaged: whether a line with bytes that do not decode loses these alone, since what is
            left of it tells where a row ends.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    objects: ClassVar[bool] = False
    names_columns: ClassVar[bool] = True
    encoded: ClassVar[bool] = True
    running: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    keeps_damaged: ClassVar[bool] = False

    def describe(self, format: Format) -> list[str]:
        """Return what people call the format of a file, in words that commas join."""
        return [self.title]

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[Any, ...]:
        """Read one row as it is written for prediction; see ``sources.parse_row``."""
        return (line,)


class Sniffed(NamedTuple):
    """How a file is written, the names of its columns, and what is doubtful about them."""

    format: Format
    columns: list[str]
    warnings: tuple[DataWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of a known format.

    ``needed`` are the columns without which a row of objects is malformed; None: all of them.
    """

    origin: Origin
    format: Format
    columns: list[str]
    needed: Collection[str] | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.origin.name


class FileFormat(RowFormat, abc.ABC):
    """A format of data files.

    Attributes:
        suffixes: ends of the names of its files, without the dot and without gzip's own.
        tabular: whether a file of such a name, in a folder of many, is a table and no text.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    tabular: ClassVar[bool] = False

    @classmethod
    def names(cls, name: str) -> bool:
        """Return whether a file has the name of one of these."""
        ends = "|".join(cls.suffixes)
        pattern = rf"\.({ends})(\.gz)?$"
        return bool(ends) and re.search(pattern, name, re.IGNORECASE) is not None

    @abc.abstractmethod
    def sniff(self, head: Head) -> Sniffed | None:
        """Return how a file is written; None where it is of another format.

        Raises:
            DataError: it is of this format, and damaged or without columns that can be read.
        """

    @abc.abstractmethod
    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        """Yield (line from 1, cells) of every row; what is wrong with others goes to ``report``.

        Rows are read one by one, in memory that the longest of them bounds.
        """


class Head:
    """The beginning of a file, read only as far as the formats ask to tell what it is.

    To tell an encoding may take a look at the whole file, so that formats which the first bytes
    give away come before those that look at lines.
    """

    def __init__(
        self,
        origin: Origin,
        encoding: str | None,
        needed: Collection[str] | None = None,
        header: HeaderHint = None,
        sheet: str | None = None,
    ) -> None:
        self.origin = origin
        self.sheet = sheet
        self.needed = needed
        self.header = header
        self._encoding = encoding

    @property
    def name(self) -> str:
        """What errors call the file."""
        return self.origin.name

    @cached_property
    def bytes(self) -> bytes:
        """The first unpacked bytes."""
        return self.origin.head()

    @cached_property
    def start(self) -> str:
        """The first bytes as text, near enough. Raises DataError: another program's file."""
        refuse_binary(self.origin, self.bytes)
        marked = self.bytes[:2] in (b"\xff\xfe", b"\xfe\xff")
        encoding = self._encoding or ("utf-16" if marked else "utf-8-sig")
        return self.bytes.decode(encoding, "replace").removeprefix("\ufeff")

    @cached_property
    def packed(self) -> Format:
        """How the file is encoded and packed; what it is, is still to be told."""
        encoding = self._encoding
        if encoding is None:
            encoding = encoding_of(self.origin)
        origin = self.origin
        zipped = origin.archive is not None
        return Format("text", encoding=encoding, gzip=origin.gzip, zip=zipped)

    @cached_property
    def format(self) -> Format:
        """``packed`` and the line end. Raises DataError: there is no text."""
        return self._checked[0]

    @cached_property
    def text(self) -> str:
        """The first block of lines. Raises DataError: there is no text."""
        return self._checked[1]

    @cached_property
    def lines(self) -> list[str]:
        """The lines of ``text``."""
        return self.text.split("\n")

    @cached_property
    def _checked(self) -> tuple[Format, str]:
        # damage is reported when the rows are read; here it only must not hide what the file is
        errors: list[DataError] = []
        _, text = next(blocks(self.origin, self.packed, errors.append), (1, ""))
        format = replace(self.packed, newline=newline_of(self.origin, self.packed))
        if not text.strip():
            raise errors[0] if errors else DataError(EMPTY, self.name)
        return format, text


# filled by ``formats``, which is imported whole before any part of it
_BY_KIND: dict[str, RowFormat] = {}


def register(*formats: RowFormat) -> None:
    """Make formats known by their kinds."""
    _BY_KIND.update((format.kind, format) for format in formats)


def format_of(kind: str) -> RowFormat:
    """Return the format of a kind. Raises UserError: there is none."""
    if kind not in _BY_KIND:
        raise UserError(f"{shown(kind)} is no format of data files")
    return _BY_KIND[kind]
