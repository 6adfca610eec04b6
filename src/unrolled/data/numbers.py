"""Numbers as people write them, and the marks that they leave where there is none.

A spreadsheet writes 1.234,50 or 1,234.50 by the country it is used in, with a currency, a percent
sign, or digits of another script. A cell says by itself which of its marks is the decimal one,
unless it is like 1,234 or 1.234; then the other cells of its column do (``decimal_mark``).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# what stands where a number is missing, in lower case; in pandas, R, SQL, SPSS and spreadsheets
MISSING = frozenset(
    {
        *("", "na", "n/a", "n.a.", "nan", "-nan", "<na>", "nat", "null", "none", "nil"),
        *("(null)", "\\n", "?", "-", "--", "---", "\u2013", "\u2014", ".", "..", "*"),
        *("#n/a", "#na", "#value!", "#div/0!", "#ref!", "#num!", "#null!", "#name?"),
        *("missing", "unknown", "결측", "없음", "欠損"),
    }
)
# where a label is missing: the other marks may be labels
NO_LABEL = frozenset({"", "nan", "<na>", "#n/a", "null"})
LONGEST = 64  # characters of a number
TELLING = 20_000  # cells that tell how a column is written
NEARLY_ALL = 0.9  # of the cells of a column of numbers that are numbers, or missing

# a first group without a leading zero, and then groups of three behind equal marks
_POINT_GROUPS = r"[1-9][0-9]{0,2}([, '])[0-9]{3}(?:\1[0-9]{3})*"
_COMMA_GROUPS = r"[1-9][0-9]{0,2}([. '])[0-9]{3}(?:\1[0-9]{3})*"
_INDIAN_GROUPS = r"[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}"
_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
_WITH_POINT = re.compile(rf"(?:{_POINT_GROUPS}|{_INDIAN_GROUPS})(?:\.[0-9]+)?")
_WITH_COMMA = re.compile(rf"{_COMMA_GROUPS}(?:,[0-9]+)?|[0-9]*,[0-9]+{_EXPONENT}")
_POINT = re.compile(r"[+-]?[0-9]+\.[0-9]+")  # as nearly all numbers are written
_PROSE = re.compile(r"[^\W\d_]{4}|^\D*$")
_SIGNED = re.compile(r"([+-])\s*([^+-].*)")
_PLAIN = re.compile(rf"(?:[0-9]+\.?[0-9]*|\.[0-9]+){_EXPONENT}")
# one group after one mark: a thousand or three decimals, which the cell does not tell
_DOUBTFUL = re.compile(r"[1-9][0-9]{0,2}[,.][0-9]{3}")
_CURRENCY = r"(?:US\$|A\$|C\$|R\$|HK\$|NT\$|[A-Z]{3}|kr\.?|Kč|zł|lei|Ft|Rp\.?|Rs\.?|Fr\.?|원|円|元)"
_CODE_LIST = """
AED ARS AUD BRL CAD CHF CLP CNY COP CZK DKK EUR GBP HKD HUF IDR ILS INR JPY KRW MXN MYR NOK NZD PHP
PLN RON RUB SAR SEK SGD THB TRY TWD UAH USD VND ZAR
"""
_CODES = frozenset(_CODE_LIST.split())
_BEFORE = re.compile(rf"({_CURRENCY})(?=[ 0-9.,+-])")
_AFTER = re.compile(rf"(?<=[ 0-9.,])({_CURRENCY})$")
_RAISED = re.compile("[⁰¹²³⁴-⁹₀-₉]")  # a footnote, or a power
_TO_ASCII = str.maketrans({"\u066b": ".", "\u066c": ",", "\u2212": "-", "\u2019": "'"})


def number(value: Any, decimal: str = ".") -> float | None:
    """Return a finite number for a cell, or None when it is not one.

    Args:
        value: a number, or text such as 12, 1,234.50, 1.234,50, 12 %, $ 5, (3) for -3.
        decimal: the mark before decimals, in a cell that has one mark and three digits after it.
    """
    if isinstance(value, str):
        return _read(value, decimal)
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        return None
    return _finite(value)


def is_missing(cell: Any) -> bool:
    """Return whether a cell says that there is no number."""
    if cell is None:
        return True
    if isinstance(cell, float):
        return math.isnan(cell)
    return isinstance(cell, str) and cell.strip().lower() in MISSING


def are_numbers(cells: Iterable[Any]) -> bool:
    """Return whether nearly all cells of a column are numbers, not counting those missing."""
    numbers = 0
    others = 0
    for cell in cells:
        if number(cell) is not None:
            numbers += 1
        elif not is_missing(cell):
            others += 1
    return numbers > 0 and numbers >= NEARLY_ALL * (numbers + others)


def decimal_mark(cells: Iterable[Any], usual: str = ".") -> str:
    """Return the mark before decimals in a column; ``usual`` where no cell tells."""
    commas = 0
    points = 0
    for cell in evenly(cells):
        if not isinstance(cell, str):
            continue
        mark = _mark_of(cell)
        commas += mark == ","
        points += mark == "."
    if commas == points:
        return usual
    return "," if commas > points else "."


def evenly(cells: Iterable[Any], count: int = TELLING) -> Sequence[Any]:
    """Return so many of a column's cells as tell how it is written, from its whole length."""
    known = cells if isinstance(cells, Sequence) else list(cells)
    step = len(known) // count
    return known[:: max(1, step)]


def is_doubtful(cell: Any) -> bool:
    """Return whether a number is a thousand times larger by one decimal mark than by the other."""
    if not isinstance(cell, str) or not ("," in cell or "." in cell) or _is_prose(cell):
        return False
    digits, _ = _bare(cell)
    return _DOUBTFUL.fullmatch(digits) is not None


def _read(text: str, decimal: str) -> float | None:
    # nearly all cells are plain, or words; and this runs for every one
    plain = "_" not in text and (decimal == "." or "." not in text)
    value = _finite(text) if plain else None
    if value is not None or _is_prose(text):
        return value
    digits, sign = _bare(text)
    for mark in (decimal, "," if decimal == "." else "."):
        if mark == "." and _PLAIN.fullmatch(digits):
            return _signed(digits, sign)
        grammar = _WITH_COMMA if mark == "," else _WITH_POINT
        if grammar.fullmatch(digits):
            return _without_groups(digits, mark, sign)
    return None


def _is_prose(text: str) -> bool:
    """Return whether a text is surely no number: it is long, or holds a word or no digit."""
    if len(text) > LONGEST or _PROSE.search(text) is not None:
        return True
    return not text.isascii() and _RAISED.search(text) is not None


def _without_groups(digits: str, mark: str, sign: float) -> float | None:
    whole, _, decimals = digits.rpartition(mark) if mark in digits else (digits, "", "")
    whole = re.sub("[,. ']", "", whole)
    return _signed(f"{whole or 0}.{decimals or 0}", sign)


def _signed(digits: str, sign: float) -> float | None:
    value = _finite(digits)
    return None if value is None else sign * value


def _finite(value: Any) -> float | None:
    try:
        parsed = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


def _bare(text: str) -> tuple[str, float]:
    """Return the digits and marks of a number in ASCII, and its sign; "" for what is none."""
    text = unicodedata.normalize("NFKC", text).translate(_TO_ASCII).strip()
    sign = 1.0
    if text.startswith("(") and text.endswith(")"):
        # as accountants write what is below nothing
        sign = -1.0
        text = text[1:-1].strip()
    text = _without_unit(text)
    signed = _SIGNED.fullmatch(text)
    if signed is not None:
        # -$ 5 as well as $ -5
        sign = -sign if signed.group(1) == "-" else sign
        text = _without_unit(signed.group(2))
    if text.isascii():
        return text, sign
    digits = [str(unicodedata.decimal(letter, letter)) for letter in text]
    return "".join(digits), sign


def _without_unit(text: str) -> str:
    """Return a number without its percent sign or currency, which stands before or after it."""
    text = text.removesuffix("%").rstrip()
    if text and unicodedata.category(text[0]) == "Sc":
        return text[1:].lstrip()
    if text and unicodedata.category(text[-1]) == "Sc":
        return text[:-1].rstrip()
    for pattern in (_BEFORE, _AFTER):
        unit = pattern.match(text) if pattern is _BEFORE else pattern.search(text)
        if unit is None:
            continue
        name = unit.group(1)
        if re.fullmatch("[A-Z]{3}", name) and name not in _CODES:
            return text
        return (text[: unit.start()] + text[unit.end() :]).strip()
    return text


def _mark_of(cell: str) -> str | None:
    """Return the mark before decimals that a cell has for certain."""
    if _POINT.fullmatch(cell):
        return None if _DOUBTFUL.fullmatch(cell.lstrip("+-")) else "."
    if cell.isdecimal() or _is_prose(cell):
        return None
    digits, _ = _bare(cell)
    if _DOUBTFUL.fullmatch(digits):
        return None
    comma = _WITH_COMMA.fullmatch(digits) is not None
    point = _WITH_POINT.fullmatch(digits) is not None
    if comma and point:
        return None
    if comma:
        # 1.234.567 and 1.234,5 and 0,5
        certain = "," in digits or digits.count(".") > 1
        return "," if certain else None
    if point:
        certain = "." in digits or digits.count(",") > 1
        return "." if certain else None
    plain = "." in digits and _PLAIN.fullmatch(digits) is not None
    return "." if plain else None
