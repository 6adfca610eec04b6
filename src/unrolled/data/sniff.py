"""Whether lines are rows of a table, told from how even they are: delimiter, header, quotes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unrolled.data.date_styles import style_of
from unrolled.data.numbers import MISSING, number
from unrolled.data.units import are_amounts

Cells = Sequence[str]  # of a row, or of a column
Rows = Sequence[Cells]
DELIMITERS = ("\t", ";", "|", ",")
FEW = 4  # fewer rows than these tell no labels from texts
LABELS = 200  # distinct ones of a column at most
# Words people put over a column. Only a first row of short, distinct cells is held against them.
_KNOWN = """
answer article body caption captions category chinese chosen class comment completion content
context date de doc document documents emotion en english es file filename form fr french german
grapheme graphemes headline hypothesis id idx image images index input inputs instruction intent
ja japanese ko korean label labels lang language lemma message name ner output outputs passage
path phase phoneme phonemes polarity pos premise prompt pronunciation q query question rating
rejected reply response review reviews score sentence sentences sentiment source spanish spelling
split src stars summary tag tags target targets text texts tgt time timestamp title token tokens
tree trees tweet upos user utterance value word words x y zh
감정 날짜 내용 답변 댓글 라벨 레이블 리뷰 문장 번역 번호 본문 분류 영어 원문
이름 입력 정답 제목 질문 출력 평점 한국어
"""
KNOWN = frozenset(_KNOWN.split())


def fields(count: int) -> str:
    """Return a number of fields in words."""
    return f"{count} field" if count == 1 else f"{count} fields"


def is_number(cell: str) -> bool:
    """Return whether a cell is written as a number; blanks around it do not matter."""
    return number(cell) is not None


def find_delimiter(head: str, *, named_table: bool) -> str | None:
    """Return what separates the fields of a file, or None for running text.

    Args:
        head: the first lines of the file.
        named_table: the file's name ends in .csv or .tsv. It only tips a doubtful case: one with
            rows of unequal length, which as a table gives an error that names the line.
    """
    fitting = []
    for order, delimiter in enumerate(DELIMITERS):
        if delimiter not in head:
            continue
        masked = _masked(head, delimiter)
        # quotes may be part of the text: what gives the more even rows is taken
        readings = [_split_all(text, delimiter) for text in (masked, head)]
        rows = max(readings, key=_evenness)
        width, evenness = usual_width(rows)
        if width < 2:
            continue
        cells = [row for row in rows if len(row) == width]
        closed = closed_columns(cells)
        first = named_table and len(rows[0]) == width
        even = _is_table(
            delimiter, cells, evenness, closed=closed, named_table=named_table
        )
        if first or even:
            is_even = evenness >= 0.9
            is_tab = delimiter == "\t"
            rank = (is_even, is_tab, closed, evenness, -order, delimiter)
            fitting.append(rank)
    return max(fitting)[-1] if fitting else None


def _is_table(
    delimiter: str,
    rows: Rows,
    evenness: float,
    *,
    closed: int,
    named_table: bool,
) -> bool:
    """Return whether rows of the usual width, of all rows a share ``evenness``, are a table's."""
    if named_table:
        return evenness > 0.5
    if delimiter == "\t":
        # tabs are rare in prose, but a program's lines are indented with them
        indented = sum(not row[0].strip() for row in rows)
        return evenness > 0.5 and indented * 2 <= len(rows)
    if closed:
        return evenness >= 0.6
    if evenness < 0.95:
        return False
    # prose has a blank after its commas; a table of texts has none, or names its columns
    spaced = 0
    later = 0
    for row in rows:
        cells = row[1:]
        later += len(cells)
        spaced += sum(not cell or cell.startswith(" ") for cell in cells)
    return spaced * 2 < later or names_columns(rows)


def _split_all(text: str, delimiter: str) -> list[list[str]]:
    lines = text.split("\n")
    return [line.split(delimiter) for line in lines if line.strip()]


def _evenness(rows: Rows) -> tuple[float, int]:
    """Return what is larger for more even rows; of equally even ones, for fewer."""
    _, evenness = usual_width(rows)
    return evenness, -len(rows)


def _masked(text: str, delimiter: str) -> str:
    """Return the text with quoted fields that hold delimiters or line ends made plain."""
    mark = re.escape(delimiter)
    field = re.compile(
        rf'((?:^|{mark}) *)"((?:[^"]|"")*+)"(?= *(?:{mark}|$))', re.MULTILINE
    )

    def plain(match: re.Match[str]) -> str:
        before, content = match.groups()
        safe = delimiter not in content and "\n" not in content
        shown = content if safe else "quoted text"
        return f'{before}"{shown}"'

    return field.sub(plain, text) if '"' in text else text


def usual_width(rows: Rows) -> tuple[int, float]:
    """Return the commonest number of fields and the share of rows that have it (0 for no rows)."""
    if not rows:
        return 0, 0.0
    counts = Counter(map(len, rows))
    # of equally common widths the larger one: a lone field is more often a stray line
    width = max(counts, key=lambda width: (counts[width], width))
    return width, counts[width] / len(rows)


def closed_columns(rows: Rows) -> int:
    """Return how many columns hold numbers only, or a few words again and again, below row one."""
    body = rows[1:] or rows
    columns = map(_bare, zip(*body, strict=True))
    return sum(are_amounts(column) or _closed(column) for column in columns)


def _closed(column: Cells) -> bool:
    """Return whether a column looks like labels: single words, nearly all of them repeated."""
    if len(column) < FEW:
        return False
    counts = Counter(cell.strip() for cell in column)
    if not all(map(_is_word, counts)):
        return False
    distinct = len(counts)
    return distinct <= LABELS and distinct * 2 <= len(column)


def _is_word(cell: str) -> bool:
    return bool(cell) and " " not in cell


def find_header(rows: Rows) -> bool:
    """Return whether the first of these rows (all of one width) names the columns.

    It does when its cells hold no numbers, and either one stands over numbers or dates, or more
    than half are words that people name columns with, or one stands over labels that never repeat
    it. A first row 1, 2, 3, ... that numbers the columns of a table is a header too.
    """
    return _is_surely_header(rows) or is_doubtful_header(rows)


def is_doubtful_header(rows: Rows) -> bool:
    """Return whether the first row may be a header: nothing in it occurs again.

    One cell at least is a name that people give a column of texts, or stands over labels each of
    which does occur again; or all but the first are years.
    """
    first = _bare(rows[0])
    named = [cell for cell in first if cell]
    words = [cell for cell in named if not is_number(cell)]
    if len(rows) <= FEW or not words or not all(map(_short, named)):
        return False
    if len(words) < len(named) and not _are_years(first):
        return False
    columns = map(_bare, zip(*rows[1:], strict=True))
    telling = len(words) < len(named)
    for cell, column in zip(first, columns, strict=False):
        if cell and cell in column:
            return False
        known = _stem(cell) in KNOWN and _are_texts(column)
        telling |= known or _are_labels(column)
    distinct = len(set(named)) == len(named)
    return telling and distinct and not _is_surely_header(rows)


def _are_years(cells: Cells) -> bool:
    """Return whether all cells that are numbers are years, one after another."""
    years: list[float] = []
    for cell in cells:
        year = number(cell)
        if year is None:
            continue
        if years and year != years[-1] + 1:
            return False
        years.append(year)
    return len(years) > 1 and 1900 <= years[0] <= 2100


def _is_surely_header(rows: Rows) -> bool:
    first = _bare(rows[0])
    body = list(zip(*rows[1:], strict=True))
    if _counts_columns(first, body):
        return True
    if any(map(is_number, first)) or not any(first):
        return False
    named = [cell for cell in first if cell]
    if not all(map(_short, named)):
        return False
    # where the first row is all there is, it stands over nothing
    columns = list(zip(first, map(_bare, body), strict=False))
    for cell, column in columns:
        if cell.lower() not in MISSING and (are_amounts(column) or _say_when(column)):
            return not _say_when([cell])
    if not names_columns([named]):
        return _over_labels(first, body)
    return not any(cell and cell in column for cell, column in columns)


def _say_when(cells: Cells) -> bool:
    """Return whether nearly all cells are dates or times."""
    return style_of(cells, named=False) != ""


def names_columns(rows: Rows) -> bool:
    """Return whether the first row has short cells, more than half of them usual column names."""
    if not rows:
        return False
    cells = [cell.strip().strip('"') for cell in rows[0]]
    known = sum(map(_is_known, cells))
    return all(map(_short, cells)) and known * 2 > len(cells)


def _is_known(cell: str) -> bool:
    """Return whether a name, or a word of it, is one that people put over a column."""
    stem = _stem(cell)
    words = re.split(r"[_\- .]", stem)
    return not KNOWN.isdisjoint((stem, *words))


def _stem(cell: str) -> str:
    """Return a name in lower case without a number at its end."""
    return re.sub(r"[_\- ]?\d+$", "", cell.lower())


def _short(cell: str) -> bool:
    """Return whether a cell could be a name: at most four words and no end of a sentence."""
    words = cell.split()
    if len(cell) > 40 or len(words) > 4:
        return False
    return not cell.endswith((".", "!", "?", "…"))


def _bare(column: Cells) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in column]


def _over_labels(first: Cells, body: Rows) -> bool:
    """Return whether row one has single words only, over texts and over labels without it."""
    named = [cell for cell in first if cell]
    if not all(map(_is_word, named)) or len(set(named)) < len(named):
        return False
    columns = [_bare(column) for column in body]
    # a name that its column repeats is a cell like the others
    pairs = zip(first, columns, strict=False)
    if any(cell and cell in column for cell, column in pairs):
        return False
    texts = any(map(_are_texts, columns))
    return texts and any(map(_are_labels, columns))


def _are_texts(column: Cells) -> bool:
    """Return whether nearly all cells are more than a word."""
    several = sum(" " in cell for cell in column)
    return several >= 0.8 * len(column)


def _are_labels(column: Cells) -> bool:
    """Return whether a column looks like labels, of which each one occurs again."""
    if not _closed(column):
        return False
    counts = Counter(column)
    return min(counts.values()) > 1


def _counts_columns(first: Cells, body: Rows) -> bool:
    """Return whether row one is 1, 2, 3, ... or 0, 1, 2, ... with at most one word after them."""
    digits = [int(cell) for cell in first if re.fullmatch("[0-9]{1,9}", cell)]
    count = len(digits)
    if count < 3 or count != len(first) - 1:
        return False
    from_zero = list(range(count))
    from_one = list(range(1, count + 1))
    if digits not in (from_zero, from_one):
        return False
    last = first[-1]
    if last.isdigit() or is_number(last):
        return False
    if not _short(last):
        return False
    # a word that also stands below it is an answer, and this a row like the others
    return bool(body) and last not in _bare(body[-1])


@dataclass(frozen=True, slots=True)
class Quotes:
    """How the quotes at the starts of fields behave in a stretch of a file (counts)."""

    closed: int = 0
    needed: int = 0
    broken: int = 0
    rows: int = 0


def count_quotes(text: str, delimiter: str) -> Quotes:
    """Count fields that open with a quote: closed properly, needing the quotes, or broken.

    A field may run over several lines only where reading line by line gives uneven rows.
    """
    rows = _split_all(text, delimiter)
    _, evenness = usual_width(rows)
    mark = re.escape(delimiter)
    inner = r'[^"\n]' if evenness == 1.0 and delimiter != "," else r'[^"]'
    start = re.compile(rf'(?:^|{mark}) *"', re.MULTILINE)
    field = re.compile(
        rf'(?:^|{mark}) *"((?:{inner}|"")*+)" *(?=[{mark}\n]|\Z)', re.MULTILINE
    )
    special = re.compile(rf'[{mark}\n"]')
    closed = 0
    needed = 0
    broken = 0
    position = 0
    while opening := start.search(text, position):
        match = field.match(text, opening.start())
        if match is None:
            broken += text.find('"', opening.end()) >= 0
            position = opening.end()
            continue
        closed += 1
        content = match.group(1)
        needed += not content or special.search(content) is not None
        position = match.end()
    return Quotes(closed, needed, broken, len(rows))


def is_quoted(quotes: Quotes, delimiter: str) -> bool:
    """Return whether quotes are part of how the file is written, not of its text.

    With commas they are, unless every one that opens a field is followed by more text. With
    other delimiters they must prove it: closed fields that need them (or a whole column of them)
    and hardly a broken one.
    """
    if delimiter == ",":
        return quotes.closed > 0 or quotes.broken == 0
    proof = quotes.needed > 0 or quotes.closed >= 0.9 * quotes.rows > 0
    return quotes.closed > 10 * quotes.broken and proof
