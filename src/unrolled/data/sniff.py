"""What a data file is, told from its content: table, JSON lines or running text; header; quotes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

DELIMITERS = ("\t", ";", "|", ",")
NAMES = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma"}
KINDS = {
    "text": "plain text",
    "jsonl": "JSON lines",
    "conllu": "CoNLL-U",
    "trees": "Penn trees",
    "dictionary": "pronunciation dictionary",
    "parquet": "Parquet",
    "folder": "folder of texts",
    "hub": "data set of the hub",
}
OBJECTS = {"jsonl", "parquet", "hub"}  # kinds of which a row by itself is a JSON object
NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?\s*", re.ASCII)
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})

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


@dataclass(frozen=True, slots=True)
class Format:
    """How a data file is written.

    Attributes:
        kind: rows of fields, JSON objects one a line, running text, sentences of words, trees in
            brackets, words with their sounds, columns of Parquet, a text a file, a data set of the
            hub, or one of ``formats``; the keys of ``KINDS``, and ``table``.
        delimiter: what stands between the fields of a table; None otherwise.
        header: the first row of a table holds the names of the columns.
        quoted: fields may stand in double quotes, with "" for a quote inside.
        encoding: the name of the text encoding, such as "utf-8".
        newline: the line end as found: a line feed, a carriage return, both, or "mixed".
        comments: lines with # that stand before a table and are passed over.
        gzip, zip: the file is compressed, or stands in a zip archive.
        without: columns that cannot be read, and files such as README.md that hold no data.
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

    @property
    def named(self) -> bool:
        """Whether every file of this kind names its columns."""
        return self.header or self.kind not in ("table", "text")

    @property
    def objects(self) -> bool:
        """Whether a row by itself is written as a JSON object."""
        return self.kind in OBJECTS

    def describe(self) -> str:
        """Return one line for people: "tab-separated, header, UTF-8"."""
        packed = [name for name in ("gzip", "zip") if getattr(self, name)]
        if self.without:
            more = f" and {len(self.without) - 3} more" if len(self.without) > 3 else ""
            packed.append(f"without {', '.join(self.without[:3])}{more}")
        if self.kind in ("parquet", "folder", "hub"):
            return ", ".join([KINDS[self.kind], *packed])
        words = [KINDS[self.kind]] if self.kind != "table" else []
        if self.kind == "table":
            words.append(
                f"{NAMES[self.delimiter]}-separated" if self.delimiter else "one column"
            )
            words.append("header" if self.header else "no header")
            # with commas quoting is what everyone expects
            words += ["quoted"] if self.quoted and self.delimiter != "," else []
        words.append(self.encoding.upper())
        words += ["mixed line ends"] if self.newline == "mixed" else []
        return ", ".join(words + packed)


def fields(count: int) -> str:
    """Return a number of fields in words."""
    return f"{count} field" if count == 1 else f"{count} fields"


def is_number(cell: str) -> bool:
    """Return whether a cell is written as a number; blanks around it do not matter."""
    return NUMBER.fullmatch(cell) is not None


def looks_like_jsonl(lines: Sequence[str]) -> bool:
    """Return whether most of the lines that are not blank are JSON objects (or were meant to be).

    A line that only starts with a brace and does not parse counts as a fault of the file, not as
    text, when the file's other lines are objects.
    """
    written = [line.strip() for line in lines if line.strip()][:50]
    if not written:
        return False
    objects = sum(_is_object(line) for line in written)
    meant = sum(line.startswith('{"') for line in written)
    return objects > 0 and max(objects, meant) * 2 > len(written)


def _is_object(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


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
        readings = [
            _split_all(text, delimiter) for text in (_masked(head, delimiter), head)
        ]
        rows = max(readings, key=lambda rows: (usual_width(rows)[1], -len(rows)))
        width, share = usual_width(rows)
        if width < 2:
            continue
        cells = [row for row in rows if len(row) == width]
        closed = closed_columns(cells)
        first = named_table and len(rows[0]) == width
        if first or _is_table(
            delimiter, cells, share, closed=closed, named_table=named_table
        ):
            fitting.append(
                (share >= 0.9, delimiter == "\t", closed, share, -order, delimiter)
            )
    return max(fitting)[-1] if fitting else None


def _is_table(
    delimiter: str,
    cells: Sequence[Sequence[str]],
    share: float,
    *,
    closed: int,
    named_table: bool,
) -> bool:
    if named_table:
        return share > 0.5
    if (
        delimiter == "\t"
    ):  # tabs are rare in prose, but a program's lines are indented with them
        indented = sum(not row[0].strip() for row in cells)
        return share > 0.5 and indented * 2 <= len(cells)
    if closed:
        return share >= 0.6
    # prose has a blank after its commas; a table of texts has none, or names its columns
    later = [cell for row in cells for cell in row[1:]]
    spaced = sum(not cell or cell.startswith(" ") for cell in later)
    return share >= 0.95 and (spaced * 2 < len(later) or names_columns(cells))


def _split_all(text: str, delimiter: str) -> list[list[str]]:
    return [line.split(delimiter) for line in text.split("\n") if line.strip()]


def _masked(text: str, delimiter: str) -> str:
    """Return the text with quoted fields that hold delimiters or line ends made plain."""
    d = re.escape(delimiter)
    field = re.compile(rf'((?:^|{d}) *)"((?:[^"]|"")*+)"(?= *(?:{d}|$))', re.MULTILINE)

    def plain(match: re.Match[str]) -> str:
        content = match.group(2)
        safe = delimiter not in content and "\n" not in content
        return match.group(1) + (f'"{content}"' if safe else '"quoted text"')

    return field.sub(plain, text) if '"' in text else text


def usual_width(rows: Sequence[Sequence[str]]) -> tuple[int, float]:
    """Return the commonest number of fields and the share of rows that have it (0 for no rows)."""
    if not rows:
        return 0, 0.0
    # of equally common widths the larger one: a lone field is more often a stray line
    width, count = max(
        Counter(map(len, rows)).items(), key=lambda item: (item[1], item[0])
    )
    return width, count / len(rows)


def closed_columns(rows: Sequence[Sequence[str]]) -> int:
    """Return how many columns hold numbers only, or a few words again and again, below row one."""
    body = rows[1:] or rows
    columns = [_bare(column) for column in zip(*body, strict=True)]
    return sum(_numeric(column) or _closed(column) for column in columns)


def _numeric(column: Sequence[str]) -> bool:
    values = [cell for cell in column if cell.strip().lower() not in MISSING]
    return bool(values) and sum(map(is_number, values)) >= 0.9 * len(values)


def _closed(column: Sequence[str]) -> bool:
    """Return whether a column looks like labels: single words, nearly all of them repeated."""
    counts = Counter(cell.strip() for cell in column)
    if len(column) < 4 or any(not word or " " in word for word in counts):
        return False
    return len(counts) * 2 <= len(column) and len(counts) <= 200


def find_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first of these rows (all of one width) names the columns.

    It does when its cells are distinct, hold no numbers, and either one stands over numbers, or
    one is a word that people name columns with, or one stands over labels that never repeat it.
    A first row 1, 2, 3, ... that numbers the columns of a table is a header too.
    """
    first = [cell.strip().strip('"').strip() for cell in rows[0]]
    body = list(zip(*rows[1:], strict=True))
    if _counts_columns(first, body):
        return True
    if any(is_number(cell) for cell in first) or not any(first):
        return False
    named = [cell for cell in first if cell]
    if not all(_short(cell) for cell in named):
        return False
    over_numbers = any(
        cell.lower() not in MISSING and _numeric(_bare(column))
        for cell, column in zip(first, body, strict=False)
    )
    if over_numbers:
        return True
    if len({cell.lower() for cell in named}) < len(named) or not names_columns([first]):
        return _over_labels(first, body)
    repeated = any(
        cell in _bare(column) for cell, column in zip(first, body, strict=False)
    )
    return not repeated


def names_columns(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row has short cells, more than half of them usual column names."""
    cells = [cell.strip().strip('"') for cell in rows[0]] if rows else []
    known = sum(
        bool(KNOWN & {_stem(cell), *re.split(r"[_\- .]", _stem(cell))})
        for cell in cells
    )
    return all(_short(cell) for cell in cells) and known * 2 > len(cells)


def _stem(cell: str) -> str:
    """Return a name in lower case without a number at its end."""
    return re.sub(r"[_\- ]?\d+$", "", cell.lower())


def _short(cell: str) -> bool:
    """Return whether a cell could be a name: at most four words and no end of a sentence."""
    return (
        len(cell) <= 40
        and len(cell.split()) <= 4
        and not cell.endswith((".", "!", "?", "…"))
    )


def _bare(column: Sequence[str]) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in column]


def _over_labels(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Return whether row one has single words only, over texts and over labels without it."""
    if any(" " in cell or not cell for cell in first) or len(set(first)) < len(first):
        return False
    columns = [_bare(column) for column in body]
    texts = any(
        sum(" " in cell for cell in column) >= 0.8 * len(column) for column in columns
    )
    over = [cell not in column for cell, column in zip(first, columns, strict=False)]
    labels = any(
        _closed(column) and new and min(Counter(column).values()) > 1
        for column, new in zip(columns, over, strict=True)
    )
    return texts and labels and all(over)


def _counts_columns(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Return whether row one is 1, 2, 3, ... or 0, 1, 2, ... with at most one word after them."""
    digits = [int(cell) for cell in first if re.fullmatch("[0-9]{1,9}", cell)]
    last_is_name = (
        not first[-1].isdigit() and _short(first[-1]) and not is_number(first[-1])
    )
    run = digits in (list(range(len(digits))), list(range(1, len(digits) + 1)))
    if len(digits) < 3 or not run or len(digits) != len(first) - 1 or not last_is_name:
        return False
    # a word that also stands below it is an answer, and this a row like the others
    return bool(body) and first[-1] not in _bare(body[-1])


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
    lines = [line for line in text.split("\n") if line.strip()]
    even = usual_width([line.split(delimiter) for line in lines])[1] == 1.0
    d = re.escape(delimiter)
    inner = r'[^"\n]' if even and delimiter != "," else r'[^"]'
    start = re.compile(rf'(?:^|{d}) *"', re.MULTILINE)
    field = re.compile(
        rf'(?:^|{d}) *"((?:{inner}|"")*+)" *(?=[{d}\n]|\Z)', re.MULTILINE
    )
    closed = needed = broken = position = 0
    while opening := start.search(text, position):
        if match := field.match(text, opening.start()):
            closed += 1
            content = match.group(1)
            needed += not content or any(
                mark in content for mark in (delimiter, "\n", '"')
            )
            position = match.end()
        else:
            broken += text.find('"', opening.end()) >= 0
            position = opening.end()
    return Quotes(closed, needed, broken, len(lines))


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
