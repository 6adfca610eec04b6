"""Lists in the cells of a table, written as pandas and numpy write them.

"[1.0, 2.0]", "['B-PER', 'O']" and numpy's "[1. 2.]" are taken apart; nothing of them is run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from unrolled.core.errors import UserError, shown
from unrolled.data.json_values import json_value
from unrolled.data.numbers import MISSING, NEARLY_ALL, evenly

DEPTH = 2  # lists of numbers, or of lists of numbers
SAMPLE = 200  # cells that tell whether a column holds lists
NAMES = ("tokens", "words")  # lists of words that are read without tags beside them
_TOKEN = re.compile(
    r"""(?P<blank>\s*)(?:(?P<open>\[)|(?P<close>\])|(?P<comma>,)|(?P<cut>\.\.\.)
    |(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<word>[A-Za-z]+)
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_WORDS = {
    "None": None,
    "null": None,
    "nan": None,
    "NaN": None,
    "True": True,
    "False": False,
    "true": True,
    "false": False,
}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\n": ""}


def read_list(text: str) -> list[Any]:
    """Return the list that a cell holds: of numbers, texts and truth values, or of lists of these.

    Raises:
        UserError: it holds no list, or one that was cut short when it was written.
    """
    bare = text.strip()
    try:
        value = json_value(bare)
    except UserError:
        value = _scanned(bare)
    if not isinstance(value, list) or not _is_flat(value, DEPTH):
        raise UserError(f"{shown(text)} is no list of words or numbers")
    return value


def list_columns(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the columns whose cells are lists of numbers, or of words with a tag for each.

    Lists of words alone, such as the kinds of a film, are texts, unless their name says words.

    Args:
        columns: their names.
        rows: the first rows of a table, all of which have a cell for each.
    """
    rows = [row for row in evenly(rows, SAMPLE) if len(row) == len(columns)]
    if not any(map(_has_list, rows)):
        return []
    lists: dict[str, list[list[Any] | None]] = {}
    for index, name in enumerate(columns):
        cells = [row[index] for row in rows]
        values = _values(cells)
        if values is not None:
            lists[name] = values
    able: set[str] = set()
    for name, values in lists.items():
        named = name.strip().lower() in NAMES
        if named or _of_numbers(values):
            able.add(name)
    for first, second in combinations(lists, 2):
        if _aligned(lists[first], lists[second]):
            able |= {first, second}
    return [name for name in columns if name in able]


def cell_of(text: str, name: str) -> list[Any] | None:
    """Return the list in a cell of a column of lists, None where it is empty.

    Raises:
        UserError: there is none.
    """
    if text.strip().lower() in MISSING:
        return None
    try:
        return read_list(text)
    except UserError as error:
        raise UserError(f"column {name!r} holds lists, but {error}") from None


def _has_list(row: Sequence[str]) -> bool:
    return any("[" in cell for cell in row)


def _values(cells: Sequence[str]) -> list[list[Any] | None] | None:
    """Return the lists in a column's cells, None for others; None where it is no such column."""
    filled = [cell for cell in cells if cell.strip().lower() not in MISSING]
    marked = [cell for cell in filled if cell.lstrip()[:1] == "["]
    if not marked or len(marked) < NEARLY_ALL * len(filled):
        return None
    values: list[list[Any] | None] = []
    cut = 0
    for cell in cells:
        try:
            values.append(read_list(cell))
        except UserError as error:
            cut += "cut short" in str(error)
            values.append(None)
    lists = [value for value in values if value is not None]
    several = cut > 0 or any(len(value) > 1 for value in lists)
    return values if several and len(lists) + cut >= NEARLY_ALL * len(filled) else None


def _of_numbers(values: Sequence[list[Any] | None]) -> bool:
    for value in values:
        for item in value or ():
            inner = item if isinstance(item, list) else [item]
            if any(isinstance(number, str | bool) for number in inner):
                return False
    return True


def _aligned(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Return whether two columns have lists of one length in nearly all rows."""
    lengths: list[int] = []
    same = 0
    for words, tags in zip(first, second, strict=True):
        if words is None or tags is None:
            continue
        lengths.append(len(words))
        same += len(words) == len(tags)
    return len(set(lengths)) > 1 and same >= NEARLY_ALL * len(lengths)


def _is_flat(value: Any, depth: int) -> bool:
    if not isinstance(value, list):
        return value is None or isinstance(value, str | int | float)
    return depth > 0 and all(_is_flat(item, depth - 1) for item in value)


def _scanned(text: str) -> Any:
    """Return a list whose items stand between commas or blanks, in any kind of quotes.

    Raises:
        UserError: it is none.
    """
    position = 0
    open_lists: list[list[Any]] = []
    before = "open"  # what stands before a token
    while match := _TOKEN.match(text, position):
        position = match.end()
        kind = match.lastgroup or ""
        if kind == "cut":
            raise UserError(
                f"{shown(text)} was cut short by ... when it was written; write whole lists, as "
                "with list(...) or to_json"
            )
        apart = before in ("open", "comma") or bool(match["blank"])
        if kind == "open" and len(open_lists) < DEPTH and (apart or not open_lists):
            open_lists.append([])
        elif not open_lists or (kind == "comma" and before in ("open", "comma")):
            break
        elif kind == "close" and before != "comma":
            value = open_lists.pop()
            if not open_lists:
                return value if position == len(text) else None
            open_lists[-1].append(value)
        elif kind in ("number", "word", "text") and apart:
            if kind == "word" and match["word"] not in _WORDS:
                break
            open_lists[-1].append(_item(match))
        elif kind != "comma":
            break
        before = kind
    return None


def _item(match: re.Match[str]) -> Any:
    if match["number"] is not None:
        digits = match["number"]
        if re.fullmatch(r"[+-]?\d{1,300}", digits):
            return int(digits)
        return float(digits)
    if match["word"] is not None:
        return _WORDS[match["word"]]
    return _ESCAPE.sub(_unescaped, match["text"][1:-1])


def _unescaped(match: re.Match[str]) -> str:
    code = match.group(1)
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPED.get(code, code)
