"""Dates and times as people write them, in a column that has one order of day and month."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from unrolled.data.numbers import number

EPOCH = datetime(1970, 1, 1)
NEARLY_ALL = 0.9  # of the cells of a column of dates that are dates, or empty
SHORT_YEAR = 70  # 69 is 2069 and 70 is 1970, as POSIX reads them

_TIME = (
    r"(?:[ T,]+(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}(?:[.,][0-9]+)?))?"
    r" ?(?P<half>[AaPp]\.?[Mm]\.?)?(?P<zone> ?(?:Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?)?"
)
_YEAR_FIRST = re.compile(
    r"(?P<year>[0-9]{4})[-/.년] ?(?P<month>[0-9]{1,2})[-/.월] ?(?P<day>[0-9]{1,2})[.일]?"
    + _TIME
)
_YEAR_LAST = re.compile(
    r"(?P<first>[0-9]{1,2})(?P<mark>[-/.]) ?(?P<second_part>[0-9]{1,2})(?P=mark) ?"
    r"(?P<year>[0-9]{4}|[0-9]{2})" + _TIME
)
_MONTH = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
]
# German ones that begin otherwise
_OTHER = {"mär": "mar", "mrz": "mar", "mai": "may", "okt": "oct", "dez": "dec"}
_LOOSE_NAME = rf"(?P<name>{'|'.join((*_MONTH, *_OTHER))})[a-zä]*"
_NAME = (
    r"(?:(?P<name>jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)"
    r"(?:uary|uar|ruary|ruar|ch|z|il|e|i|y|ust|t|tember|ober|ember)?)"
)
_NAMED = re.compile(
    rf"(?:(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th|\.)?[ -])?{_LOOSE_NAME}[. -]+"
    r"(?:(?P<late_day>[0-9]{1,2})(?:st|nd|rd|th)?,? )?(?P<year>[0-9]{4})" + _TIME,
    re.IGNORECASE,
)
# 15-Jan-21 and 15JAN2021, as databases and statistics programs write them
_NAMED_SHORT = re.compile(
    rf"(?P<day>[0-9]{{1,2}})(?P<mark>[ /-]?){_NAME}(?P=mark)(?P<year>[0-9]{{4}}|[0-9]{{2}})"
    + _TIME,
    re.IGNORECASE,
)
# Jan-10, which is a month of 2010 in a spreadsheet
_MONTH_AND_YEAR = re.compile(rf"{_NAME}\.?[-'](?P<year>[0-9]{{2}})", re.IGNORECASE)
_YEAR_AND_NAME = re.compile(
    rf"(?P<year>[0-9]{{4}})[ /-]?{_NAME}(?:[ /-](?P<late_day>[0-9]{{1,2}}))?" + _TIME,
    re.IGNORECASE,
)
_WEEK = re.compile(r"(?P<year>[0-9]{4})-?W(?P<week>[0-9]{2})(?:-?(?P<weekday>[1-7]))?")
_WEEKDAY = re.compile(
    r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?[.,]* ",
    re.IGNORECASE,
)
# 2021Q3 and Q3 2021, in the first month of the quarter
_QUARTER = re.compile(
    r"(?:(?P<year>[0-9]{4})[ -]?Q(?P<quarter>[1-4])"
    r"|Q(?P<early_quarter>[1-4])[ -/]?(?P<late_year>[0-9]{4}))"
)
_YEAR_AND_MONTH = re.compile(
    r"(?P<year>[0-9]{4})(?:[-/](?P<month>[0-9]{1,2})|년 ?(?P<korean_month>[0-9]{1,2})월)"
    r"|(?P<early_month>[0-9]{1,2})[-/](?P<late_year>[0-9]{4})"
)
_PATTERNS = (
    _YEAR_FIRST,
    _YEAR_LAST,
    _NAMED,
    _YEAR_AND_MONTH,
    _QUARTER,
    _NAMED_SHORT,
    _YEAR_AND_NAME,
    _MONTH_AND_YEAR,
    _WEEK,
)


def read_date(cell: Any, day_first: bool = True) -> float | None:
    """Return the seconds from 1970 to a date, or None when the cell is none.

    Args:
        cell: text such as 2021-01-02, 2021-01-02 10:30, 02.01.2021, 1/2/21, 2 Jan 2021, 2021-W05.
        day_first: whether 02/01/2021 is in January; see ``is_day_first``.
    """
    if isinstance(cell, datetime):
        return _seconds(cell)
    return _read(cell, day_first) if isinstance(cell, str) else None


@functools.lru_cache(maxsize=1 << 16)
def _read(cell: str, day_first: bool) -> float | None:
    # of a column of dates most stand there many times
    text = cell.strip()
    if not text[:1].isalnum() or len(text) > 40:
        return None
    if text[0].isalpha():
        text = _WEEKDAY.sub("", text, count=1)
    for pattern in _PATTERNS:
        match = pattern.fullmatch(text)
        if match is not None:
            return _of(match.groupdict(), day_first)
    return None


def read_moment(cell: Any, day_first: bool = True) -> float | None:
    """Return where a step stands in time: the seconds of a date, or a number as it is."""
    date = read_date(cell, day_first)
    return number(cell) if date is None else date


def are_dates(cells: Iterable[Any]) -> bool:
    """Return whether nearly all filled cells of a column are dates."""
    filled = [cell for cell in cells if cell is not None and cell != ""]
    sample = filled[:: max(1, len(filled) // 50)]
    for part in (sample, filled):
        # either order will do here; most columns are told by a few cells
        dates = sum(
            read_date(cell) is not None or read_date(cell, False) is not None
            for cell in part
        )
        if not dates or dates < NEARLY_ALL * len(part):
            return False
    return bool(filled)


def is_day_first(cells: Iterable[Any]) -> bool:
    """Return whether the day stands before the month: unless some cell tells that it does not."""
    for cell in cells:
        match = _YEAR_LAST.fullmatch(cell.strip()) if isinstance(cell, str) else None
        if match is None:
            continue
        if int(match["first"]) > 12:
            return True
        if int(match["second_part"]) > 12:
            return False
    return True


def is_order_doubtful(cells: Iterable[Any]) -> bool:
    """Return whether cells have day and month in an order that none of them tells."""
    doubtful = False
    for cell in cells:
        match = _YEAR_LAST.fullmatch(cell.strip()) if isinstance(cell, str) else None
        if match is None:
            continue
        parts = (int(match["first"]), int(match["second_part"]))
        if max(parts) > 12:
            return False
        # the world over a point stands behind the day
        doubtful |= parts[0] != parts[1] and match["mark"] != "."
    return doubtful


def is_year_doubtful(cells: Iterable[Any]) -> bool:
    """Return whether all of some cells are like Jan-10, which may be a day as well as a year."""
    years: list[int] = []
    for cell in cells:
        match = (
            _MONTH_AND_YEAR.fullmatch(cell.strip()) if isinstance(cell, str) else None
        )
        if match is not None:
            years.append(int(match["year"]))
    return bool(years) and max(years) <= 31


def _of(parts: dict[str, str | None], day_first: bool) -> float | None:
    try:
        date = _week(parts) or datetime(*_calendar(parts, day_first))
        date += timedelta(hours=_hour(parts), minutes=int(parts["minute"] or 0))
        second = (parts["second"] or "0").replace(",", ".")
        date += timedelta(seconds=float(second))
        date -= timedelta(seconds=_zone(parts.get("zone")))
    except (ValueError, OverflowError):
        return None
    return _seconds(date)


def _week(parts: dict[str, str | None]) -> datetime | None:
    """Return the day of a week of ISO 8601, its Monday where it names none."""
    if "week" not in parts:
        return None
    parts |= {"minute": None, "second": None}
    weekday = int(parts["weekday"] or 1)
    return datetime.fromisocalendar(
        int(parts["year"] or 0), int(parts["week"] or 0), weekday
    )


def _calendar(parts: dict[str, str | None], day_first: bool) -> tuple[int, int, int]:
    year = int(parts["year"] or parts.get("late_year") or 0)
    if len(parts["year"] or "") == 2:
        year += 1900 if year >= SHORT_YEAR else 2000
    parts.setdefault("minute", None)
    parts.setdefault("second", None)
    if parts.get("name"):
        name = (parts["name"] or "").lower()
        day = parts.get("day") or parts.get("late_day") or 1
        return year, _MONTH.index(_OTHER.get(name, name)) + 1, int(day)
    if "first" in parts:
        first = int(parts["first"] or 0)
        second = int(parts["second_part"] or 0)
        return (year, second, first) if day_first else (year, first, second)
    quarter = parts.get("quarter") or parts.get("early_quarter")
    if quarter:
        return year, 3 * int(quarter) - 2, 1
    months = (parts.get(name) for name in ("month", "korean_month", "early_month"))
    month = next(filter(None, months), "0")
    return year, int(month), int(parts.get("day") or 1)


def _hour(parts: dict[str, str | None]) -> int:
    hour = int(parts.get("hour") or 0)
    half = (parts.get("half") or "").lower()
    if half.startswith("p") and hour < 12:
        return hour + 12
    return 0 if half.startswith("a") and hour == 12 else hour


def _zone(zone: str | None) -> float:
    """Return the seconds that a zone's clock is before Greenwich's."""
    digits = re.sub("[^0-9]", "", zone or "")
    if not digits:
        return 0.0
    seconds = 3600.0 * int(digits[:2]) + 60.0 * int(digits[2:] or 0)
    return -seconds if "-" in (zone or "") else seconds


def _seconds(date: datetime) -> float:
    if date.tzinfo is not None:
        date = date.astimezone(UTC).replace(tzinfo=None)
    return (date - EPOCH).total_seconds()
