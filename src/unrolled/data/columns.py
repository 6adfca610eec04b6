"""What the values of a column look like: numbers, dates, categories, texts, lists."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from unrolled.data.clips import Clip
from unrolled.data.column_names import LABEL_WORDS, VALUES
from unrolled.data.date_styles import CLOCK, names_dates, style_of
from unrolled.data.image_files import ImageFile
from unrolled.data.numbers import NEARLY_ALL, decimal_mark, is_missing, number
from unrolled.data.units import amount, bare_cells, unit_of

NOTE = 8  # characters that all cells of a note begin with, such as a licence
SHORT = 24  # characters of a text that is a word or a name
FEW = 50  # a column of at most this many distinct values can be a label
REPEATS = 4  # ... if each occurs this often on average
CATEGORIES = 200  # distinct values of a category at most
NUMBERED = 20  # rows that tell a column which counts them from one which happens to
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"  # what takes no room

# who or what a row is of: it tells nothing of others, or tells the answer of its own
_IDENTITIES = """
account agent annotator assignee author client customer email employee guid id idx index ip key link
no nr operator order owner phone pid rater row row_id rowid rownames session sid sn ticket uid url
user username uuid worker
고객 번호 사용자 상담사 순번
"""
IDENTITIES = frozenset(_IDENTITIES.split())
_STAMPS = frozenset(("date", "time", "timestamp", "datetime"))
_ROW_NUMBERS = frozenset(
    ("", "#", "index", "row", "row_id", "rowid", "rownames", "순번")
)
_CODE = re.compile(r"0[0-9]{3,}")
_AUTOMATIC = re.compile(r"column\d+|\.\.\.\d+|x\.?1")
_PANDAS = re.compile(r"unnamed(: ?|_)\d+(_level_\d+)?|level_\d+")
_MARK = re.compile(r"(?<=[a-z])(I[Dd]|No|Nr)$")  # PassengerId, OrderNo


@dataclass(frozen=True, slots=True)
class Column:
    """What the values of one column look like.

    Attributes:
        name: as the file has it.
        filled: cells that are not empty.
        numeric, whole: nearly all of them are numbers; all those are integers.
        decimal: the mark before decimals.
        unit: what stands behind its numbers; see ``data.units``.
        date_style: how nearly all of them say when; see ``data.date_styles``.
        lists, frames: all are lists; lists of numbers, or of lists of numbers.
        distinct: how many different ones there are.
        mean_length, words: characters and words of a cell, or items of a list, on average.
        note: all cells begin alike.
        counts_rows: they are 0, 1, 2, ... or 1, 2, 3, ... from row to row.
        unnamed: the header is empty there.
        images, clips: all cells name images, or hold frames of video.
    """

    name: str
    filled: int
    numeric: bool
    whole: bool
    lists: bool
    distinct: int
    mean_length: float
    frames: bool = False
    words: float = 0.0
    note: bool = False
    decimal: str = "."
    unit: str = ""
    date_style: str = ""
    counts_rows: bool = False
    unnamed: bool = False
    images: bool = False
    clips: bool = False

    @property
    def dates(self) -> bool:
        """Whether nearly all cells are dates or times."""
        return self.date_style != ""

    @property
    def moments(self) -> bool:
        """Whether they put rows in order, as times of any day do not."""
        return self.date_style not in ("", CLOCK)

    @property
    def text(self) -> bool:
        """Whether these are texts, hardly one of them twice."""
        plain = not (self.lists or self.numeric or self.note or self.dates)
        plain = plain and not (self.stamp or self.images or self.clips)
        return plain and self.mean_length >= 2 and 2 * self.distinct > self.filled > 1

    @property
    def single(self) -> bool:
        """Whether a cell is a word or a name."""
        return self.words < 2 and self.mean_length <= SHORT

    @property
    def spelt(self) -> bool:
        """Whether a cell is single sounds with blanks between them."""
        return self.mean_length <= 3.5 * self.words

    @property
    def labels(self) -> bool:
        """Whether the values repeat like labels do."""
        return (
            not (self.lists or self.images or self.clips)
            and 2 <= self.distinct <= FEW
            and self.filled >= REPEATS * self.distinct
        )

    @property
    def are_kinds(self) -> bool:
        """Whether these are labels, and no values or texts."""
        repeated = 2 * self.distinct <= self.filled
        return not self.lists and (self.labels or (repeated and not self.numeric))

    @property
    def category(self) -> bool:
        """Whether the values are kinds of something, each of which occurs again and again."""
        plain = not (self.lists or self.numeric or self.dates or self.identity)
        plain = plain and not (self.images or self.clips)
        return (
            plain
            and 2 <= self.distinct <= CATEGORIES
            and self.filled >= REPEATS * self.distinct
            and self.words < 4
        )

    @property
    def identity(self) -> bool:
        """Whether the name says that a row's own mark stands here, or that of a person."""
        name = self.name.strip()
        if name.lower() in IDENTITIES or _MARK.search(name):
            return True
        return name.lower().endswith(("_id", " id", ".id", "_uuid", "_key"))

    @property
    def row_number(self) -> bool:
        """Whether rows are counted here, which tells nothing of the next file's rows."""
        name = self.name.strip().lower()
        distinct = self.whole and self.distinct == self.filled
        unnamed = self.unnamed or name == "" or _PANDAS.fullmatch(name) is not None
        if distinct and unnamed:
            return True  # of rows that were drawn or shuffled
        automatic = name in _ROW_NUMBERS or _AUTOMATIC.fullmatch(name) is not None
        return self.counts_rows and automatic

    @property
    def stamp(self) -> bool:
        """Whether a row's own mark or its time stands here, which is no text."""
        name = self.name.strip().lower()
        return name in _STAMPS or self.identity or self.row_number


def look(name: str, values: Sequence[Any], decimal: str | None = None) -> Column:
    """Describe the values of a column; ``decimal`` is the mark before decimals, if it is known."""
    filled = [value for value in values if value is not None and value != ""]
    count = max(1, len(filled))
    if filled and all(isinstance(value, list) for value in filled):
        return _lists(name, filled)
    if filled and all(isinstance(value, ImageFile | Clip) for value in filled):
        return _pictures(name, filled)
    amounts = _amounts_of(filled, decimal)
    numbers = amounts.numbers
    known = [value for value in numbers if value is not None]
    others = len(filled) - len(known)
    if others:
        others -= sum(map(is_missing, filled))
    # an exception is named with its line when the rows are read
    texts = list(map(str, filled))
    numeric = len(known) > 0 and len(known) >= NEARLY_ALL * (len(known) + others)
    # with a zero before them digits are a code, such as that of a town or a telephone
    codes = sum(_CODE.fullmatch(text) is not None for text in texts)
    numeric = numeric and codes * 10 <= len(texts)
    dated = names_dates(name)
    style = style_of(filled, named=dated) if dated or not numeric else ""
    numeric = numeric and not style
    return Column(
        name=name,
        filled=len(filled),
        numeric=numeric,
        whole=numeric and all(value.is_integer() for value in known),
        lists=False,
        distinct=len(set(texts)),
        mean_length=sum(map(len, texts)) / count,
        words=sum(len(text.split()) for text in texts) / count,
        note=_are_notes(texts),
        decimal=amounts.decimal,
        unit=amounts.unit if numeric else "",
        date_style=style,
        counts_rows=numeric and _counts(numbers),
    )


def _lists(name: str, filled: Sequence[list[Any]]) -> Column:
    """Describe a column of lists."""
    return Column(
        name=name,
        filled=len(filled),
        numeric=False,
        whole=False,
        lists=True,
        distinct=0,
        mean_length=sum(map(len, filled)) / len(filled),
        frames=all(map(_frames, filled)),
    )


def _pictures(name: str, filled: Sequence[Any]) -> Column:
    """Describe a column of images, or of clips."""
    return Column(
        name=name,
        filled=len(filled),
        numeric=False,
        whole=False,
        lists=False,
        distinct=len(set(map(str, filled))),
        mean_length=1.0,
        images=isinstance(filled[0], ImageFile),
        clips=isinstance(filled[0], Clip),
    )


class _Amounts(NamedTuple):
    """The numbers of a column, the mark before their decimals, and the unit behind them."""

    numbers: list[float | None]
    decimal: str
    unit: str


def _amounts_of(cells: Sequence[Any], decimal: str | None) -> _Amounts:
    mark = decimal or decimal_mark(cells)
    numbers = [number(cell, mark) for cell in cells]
    unit = unit_of(cells) if None in numbers else ""
    if unit:
        mark = decimal or decimal_mark(bare_cells(cells, unit))
        numbers = [amount(cell, mark, unit) for cell in cells]
    return _Amounts(numbers, mark, unit)


def _are_notes(texts: Sequence[str]) -> bool:
    """Return whether all texts begin alike and say hardly anything else, as a licence does."""
    if len(texts) < 2:
        return False
    pairs = zip(min(texts), max(texts), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    length = sum(map(len, texts)) / len(texts)
    return common >= NOTE and 2 * common >= length


def _frames(cell: list[Any]) -> bool:
    first = cell[0] if cell else None
    values = first if isinstance(first, list) else cell
    return bool(values) and all(type(value) in (int, float) for value in values)


def _counts(numbers: Sequence[float | None]) -> bool:
    """Return whether numbers are those of rows, from 0 or 1 on."""
    if len(numbers) < NUMBERED or numbers[0] not in (0.0, 1.0):
        return False
    first = numbers[0]
    return all(value == first + row for row, value in enumerate(numbers))


def label(cell: Any) -> str:
    """Return a label as text; JSON's true and 1.0 read like a table's ``true`` and ``1``."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell).strip()


@functools.lru_cache(maxsize=1 << 16)
def spelling(name: str) -> str:
    """Return what labels have in common that are surely one: 1 and 1.0, true and TRUE.

    Blanks, characters that take no room, and the forms that Unicode calls compatible are no
    difference either.
    """
    text = unicodedata.normalize("NFKC", name)
    text = " ".join(text.translate(dict.fromkeys(map(ord, INVISIBLE))).split())
    if text.lower() in ("true", "false"):
        return text.lower()
    value = number(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?", text, re.ASCII) else None
    if value is None or abs(value) >= 2**53:
        return text  # of so many digits a float does not tell all
    if text.lstrip("+-").startswith("0") and value >= 1:
        return text  # 007 is a code
    return repr(int(value)) if value.is_integer() else repr(value)


def counts(values: Sequence[Any]) -> dict[str, int]:
    """Return how often each label occurs, the most frequent first; cells without one as (empty).

    Of several spellings of one label the commonest stands for all.
    """
    written = Counter(label(value) for value in values)
    merged: Counter[str] = Counter()
    names: dict[str, str] = {}
    for name, count in written.most_common():
        first = names.setdefault(spelling(name), name)
        merged[first or "(empty)"] += count
    return dict(merged.most_common())


def named_column(names: Sequence[str], columns: Sequence[Column]) -> Column | None:
    """Return the first column of these names, or of an object of such a name its value."""
    by_name = {c.name.strip().lower(): c for c in columns}
    for name in names:
        for known in (name, *(f"{name}.{inner}" for inner in VALUES)):
            if known in by_name:
                return by_name[known]
    return None


def labelled_column(columns: Sequence[Column]) -> Column | None:
    """Return the first column whose name ends in a word for labels: airline_sentiment."""
    for column in columns:
        words = re.split(r"[_\-. ]+", column.name.strip().lower())
        if len(words) > 1 and words[-1] in LABEL_WORDS and not column.stamp:
            return column
    return None
