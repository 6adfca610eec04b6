"""Amounts: numbers with a unit behind them, such as 70 kg, or a factor, such as 1.2M.

A unit belongs to a whole column. Nearly all of its cells have one and the same unit, or none; of
factors (k, M, B) all cells have to fit, since 12B and 3M are codes as often as amounts. What is
read of 70 kg is 70, in the unit of the file, and of 1.2M it is 1,200,000.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from unrolled.data.numbers import (
    LONGEST,
    NEARLY_ALL,
    are_numbers,
    evenly,
    is_missing,
    number,
)

FACTORS = "k, M, B"  # the unit of a column whose numbers have such letters behind them
SAMPLE = 50  # cells that tell that a column holds no amounts
LEAST = 0.5  # of the cells of a column with a unit that have one

_UNIT_LIST = """
mm cm m km dm nm μm in ft yd mi inch mg g kg t lb oz μg st ml l dl cl gal pt qt
ms s min h day week month year yr Hz kHz MHz GHz °C °F °K K C F mV V kV mA A W kW MW GW kWh MWh Wh
J kJ cal kcal N kN Nm Pa hPa kPa MPa bar mbar psi mmHg atm Ω kΩ F μF KB MB GB TB KiB MiB GiB kbit
Mbit bps kbps Mbps Gbps km/h m/s mph kn fps m/s2 m/s^2 m2 m3 cm2 cm3 mm2 km2 ft2 ha ac acre cc
mg/l mg/dl g/l μg/m3 kg/m3 g/cm3 g/mol mol mmol mmol/l lx lm cd px dpi rpm bpm dB dBm ppm ppb pH
rad deg ° ‰ bp pct people persons rooms pcs Stk
개 명 세 살 평 시간 분 초 점 회 건 년 개월 일 층 권 병 잔 그램 킬로 미터 리터 도
"""
KNOWN = frozenset(_UNIT_LIST.split())
_SAME = {
    "h": "hr hour hours hrs std stunde stunden uhr",
    "min": "mins minute minutes minuten",
    "s": "sec secs second seconds sek sekunden",
    "day": "days d tag tage tagen",
    "week": "weeks wk wks woche wochen",
    "month": "months mo mos monat monate",
    "year": "years yr yrs jahr jahre y",
    "lb": "lbs pound pounds",
    "oz": "ounce ounces",
    "in": "inch inches",
    "ft": "foot feet",
    "mi": "mile miles",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres kms",
    "kg": "kilo kilos kilogram kilograms kgs",
    "g": "gram grams gr",
    "l": "liter liters litre litres ltr",
    "km/h": "kmh kph kmph",
    "m2": "sqm qm m^2 sq.m",
    "ft2": "sqft sq.ft ft^2",
    "m3": "m^3 cbm",
}
_SYNONYMS: dict[str, str] = {}
for _unit, _names in _SAME.items():
    _SYNONYMS |= dict.fromkeys(_names.split(), _unit)
# units that differ by case alone, such as mW and MW, are known as they are written
_CASES = Counter(unit.casefold() for unit in KNOWN)
_FOLDED = {unit.casefold(): unit for unit in KNOWN if _CASES[unit.casefold()] == 1}
# a letter right behind a number makes it a code as often as an amount
_CODE_LETTERS = frozenset("ACFJKNt")
_NO_UNIT_LIST = """
am pm a.m p.m st nd rd th e bc ad ce bce jan feb mar apr may jun jul aug sep oct nov dec
january february march april june july august september october november december
"""
_NO_UNITS = frozenset(_NO_UNIT_LIST.split())
_FACTOR_LIST = {
    1e3: "k K thousand tsd 천 千",
    1e4: "만 萬 万",
    1e6: "M million millions mio mn mln",
    1e8: "억 億 亿",
    1e9: "B bn Bn BN billion billions mrd mia",
}
_FACTOR: dict[str, float] = {}
for _factor, _names in _FACTOR_LIST.items():
    _FACTOR |= dict.fromkeys(_names.split(), _factor)
# with a currency small letters are factors, too: $5m
_MONEY_FACTOR = {**_FACTOR, "m": 1e6, "b": 1e9}

_NUMBER = r"[^\w]{0,3}(?:[A-Z]{1,3}\$?)? ?[+-]?[\d.,][\d.,' ]*(?:[eE][+-]?\d+(?![\w]))?"
_AMOUNT = re.compile(
    rf"(?P<number>{_NUMBER})(?P<unit>°\s?[CFK]?|‰|[^\W\d_][\w°/^·*.-]{{0,11}})"
)
_CURRENCY = r" ?(?:[^\w\s]|[A-Z]{3}|원|円|元)?"
_SCALED = re.compile(
    rf"(?P<number>{_NUMBER})(?P<factor>[^\W\d_]{{1,8}}?)\.?(?P<currency>{_CURRENCY})"
)


_MARK = re.compile(r"[%$€£¥₩₹₽]|[A-Z]{3}|원")
_DIGIT = re.compile(r"\d")


class Amount(NamedTuple):
    """A cell taken apart: what is written before its unit, the unit, and what stands between."""

    digits: str
    unit: str
    known: bool
    apart: bool


def amount(cell: Any, decimal: str = ".", unit: str = "") -> float | None:
    """Return a cell's number in a column of a unit, or None when it is in another one, or none.

    Args:
        cell: as for ``number``; also text such as 70 kg, where the unit is kg.
        decimal: the mark before decimals; see ``number``.
        unit: that of the column, from ``unit_of``.
    """
    value = number(cell, decimal)
    if value is not None or not unit or not isinstance(cell, str):
        return value
    digits, factor = _without(cell, unit)
    bare = number(digits, decimal) if digits else None
    return None if bare is None else bare * factor


def bare_cells(cells: Iterable[Any], unit: str) -> list[Any]:
    """Return cells without their unit, from which the mark before decimals is told."""
    if not unit:
        return list(cells)
    bare: list[Any] = []
    for cell in cells:
        digits = _without(cell, unit)[0] if isinstance(cell, str) else ""
        bare.append(digits or cell)
    return bare


def are_amounts(cells: Sequence[Any]) -> bool:
    """Return whether nearly all cells are numbers, or amounts of one unit."""
    if are_numbers(cells):
        return True
    # a file may have very many columns, most of them of words
    digits = any(_DIGIT.search(str(cell)) for cell in cells[:SAMPLE])
    return digits and unit_of(cells) != ""


def unit_of(cells: Sequence[Any]) -> str:
    """Return the unit of a column of amounts; "" where it has none or is no such column."""
    if not _may_be_amounts(cells):
        return ""
    sample = [cell for cell in evenly(cells) if not is_missing(cell)]
    return _common_unit(sample) or _factors(sample)


def units_in(cells: Sequence[Any]) -> list[str]:
    """Return the units of a column of amounts in several known ones; none where it is no such."""
    if not _may_be_amounts(cells):
        return []
    units: Counter[str] = Counter()
    others = 0
    total = 0
    for cell in evenly(cells):
        if is_missing(cell):
            continue
        total += 1
        parts = _parts(cell)
        if parts is None:
            others += number(cell) is None
        elif parts.known and (len(parts.unit) > 1 or parts.unit.islower()):
            units[parts.unit] += 1
        else:
            others += 1
    many = len(units) > 1 and units.total() >= LEAST * total
    fits = others <= (1 - NEARLY_ALL) * total
    return [unit for unit, _ in units.most_common()] if many and fits else []


def marks_in(cells: Sequence[Any]) -> list[str]:
    """Return the currencies and percent signs of a column of numbers that are not all alike."""
    marks: Counter[str] = Counter()
    for cell in evenly(cells):
        if isinstance(cell, str) and number(cell) is not None:
            mark = _MARK.search(cell)
            marks[mark.group() if mark else ""] += 1
    plain = marks.pop("", 0)
    if len(marks) > 1:
        return list(marks)
    return ["%", "none"] if marks["%"] and plain else []


def is_unit(cell: str) -> bool:
    """Return whether a cell is the name of a unit, by itself or in brackets."""
    bare = unicodedata.normalize("NFKC", cell.strip())
    if re.fullmatch(r"[\[(][^\[\]()]{1,15}[\])]", bare):
        return True
    name, known = _canonical(bare)
    return known or name in ("%", "$", "€", "-") or name.casefold() in _FOLDED


def _may_be_amounts(cells: Sequence[Any]) -> bool:
    """Return whether some cells of a column look like amounts, which hardly takes time."""
    sample = [cell for cell in evenly(cells, SAMPLE) if not is_missing(cell)]
    fits = 0
    for cell in sample:
        if not isinstance(cell, str):
            fits += number(cell) is not None
        elif len(cell) <= LONGEST:
            scaled = _SCALED.fullmatch(cell) is not None
            fits += scaled or _parts(cell) is not None or number(cell) is not None
    return bool(sample) and fits >= (NEARLY_ALL - 0.1) * len(sample)


def _common_unit(cells: Sequence[Any]) -> str:
    """Return the unit that nearly all cells have, or a part of them where the rest has none."""
    plain = 0
    units: Counter[tuple[str, bool]] = Counter()
    apart: Counter[str] = Counter()
    decimals: Counter[str] = Counter()
    for cell in cells:
        parts = _parts(cell)
        if parts is None:
            plain += number(cell) is not None
            continue
        if parts.unit == "m" and _is_money(parts.digits):
            return ""  # $5m
        units[parts.unit, parts.known] += 1
        apart[parts.unit] += parts.apart
        decimals[parts.unit] += re.search(r"\d[.,]\d", parts.digits) is not None
    # without a blank before it K is a thousand, whatever else it may be
    factors = any(
        unit in _FACTOR and not (known and apart[unit]) for unit, known in units
    )
    if not units or factors:
        return ""
    (unit, known), count = units.most_common(1)[0]
    if count + plain < NEARLY_ALL * len(cells) or count < LEAST * len(cells):
        return ""
    is_apart = apart[unit] >= NEARLY_ALL * count
    if not known:
        # any word will do that stands behind each number
        words = is_apart and len(unit) > 1 and unit.isalpha()
        return unit if words and count >= NEARLY_ALL * len(cells) else ""
    if len(unit) > 1 or is_apart or not unit.isascii():
        return unit
    sure = decimals[unit] > 0 or unit not in _CODE_LETTERS
    return unit if sure and count >= NEARLY_ALL * len(cells) else ""


def _factors(cells: Sequence[Any]) -> str:
    """Return ``FACTORS`` where all cells are numbers with and without them, and surely amounts."""
    letters: Counter[str] = Counter()
    sure = False
    largest = 0.0
    for cell in cells:
        value = number(cell)
        if value is not None:
            continue
        match = _SCALED.fullmatch(_clean(cell)) if isinstance(cell, str) else None
        if match is None:
            return ""
        digits, _factor = _without(cell, FACTORS)
        value = number(digits) if digits else None
        if value is None:
            return ""
        letters[match["factor"]] += 1
        largest = max(largest, abs(value))
        sure |= "." in digits or "," in digits or _is_money(digits)
    if not letters:
        return ""
    most = letters.total() >= LEAST * len(cells)
    codes = letters["M"] + letters["B"]
    # 4K and 8K are of screens, 12B and 3M codes
    words = codes == 0 and (letters["K"] == 0 or largest >= 10)
    return FACTORS if sure or (most and words) else ""


def _without(cell: str, unit: str) -> tuple[str, float]:
    """Return what is written before a unit, and by how much it is multiplied; "" for no such."""
    if unit != FACTORS:
        parts = _parts(cell)
        return (parts.digits, 1.0) if parts and parts.unit == unit else ("", 1.0)
    match = _SCALED.fullmatch(_clean(cell))
    if match is None:
        return "", 1.0
    digits = f"{match['number'].strip()} {match['currency'].strip()}".strip()
    factors = _MONEY_FACTOR if _is_money(digits) else _FACTOR
    name = match["factor"]
    factor = factors.get(name) or (factors.get(name.lower()) if len(name) > 2 else None)
    return (digits, factor) if factor else ("", 1.0)


def _is_money(digits: str) -> bool:
    """Return whether a currency stands beside a number."""
    return re.search(r"[^\d.,' ()+-]", digits) is not None


def _clean(cell: str) -> str:
    if len(cell) > LONGEST:
        return ""
    return unicodedata.normalize("NFKC", cell).replace("\u2212", "-").strip()


def _parts(cell: Any) -> Amount | None:
    """Take a cell apart; None where it is no number with a unit behind it."""
    return _taken_apart(cell) if isinstance(cell, str) else None


@functools.lru_cache(maxsize=1 << 14)
def _taken_apart(cell: str) -> Amount | None:
    text = _clean(cell)
    match = _AMOUNT.fullmatch(text) if text else None
    if match is None:
        return None
    digits = match["number"]
    if number(digits) is None or number(text) is not None:
        return None
    unit, known = _canonical(match["unit"])
    if unit.casefold() in _NO_UNITS:
        return None
    return Amount(digits.strip(), unit, known, digits[-1] == " ")


def _canonical(written: str) -> tuple[str, bool]:
    """Return the one name of a unit, and whether it is a known one."""
    name = re.sub(r"°\s", "°", written.rstrip("."))
    if name in KNOWN and name not in _SYNONYMS:
        return name, True
    folded = name.casefold()
    if name in _SYNONYMS or (len(folded) > 1 and folded in _SYNONYMS):
        return _SYNONYMS.get(name) or _SYNONYMS[folded], True
    if len(folded) > 1 and folded in _FOLDED:
        return _FOLDED[folded], True
    # of 1 star and 2 stars
    return (folded[:-1] if len(folded) > 3 and folded.endswith("s") else folded), False


def described(name: str, unit: str) -> str:
    """Return what people are shown of the unit of a column: weight in kg."""
    return f"{name} with k, M or B" if unit == FACTORS else f"{name} in {unit}"
