"""Columns of times that no calendar date stands in: hours of a day, and dates that are numbers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from unrolled.data.dates import (
    NEARLY_ALL,
    are_dates,
    read_date,
    read_moment,
)
from unrolled.data.numbers import (
    evenly,
    is_missing,
    number,
)

DAY = 86_400.0  # seconds
DATE = "date"  # as a calendar writes it
CLOCK = "time"  # of a day, which is that of 1970-01-01
SERIAL = "serial"  # Excel's days, of which 25569 is 1970-01-01
COMPACT = "compact"  # 20210131
UNIX = "unix"  # seconds, or milliseconds, from 1970
EXCEL = 25_569  # 1970-01-01 in days of Excel
_DAYS = (20_000, 60_000)  # of Excel, from 1954 to 2064
_SECONDS = (5e8, 4e9)  # from 1985 to 2096
SAMPLE = 50
_CLOCK = re.compile(
    r"(?:(?P<hour>[01]?[0-9]|2[0-3]):(?P<minute>[0-5][0-9])"
    r"(?::(?P<second>[0-5][0-9](?:[.,][0-9]{1,9})?))?(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?"
    r"|(?P<full_hour>1[0-2]|0?[1-9]) ?(?P<full_half>[AaPp])\.?[Mm]\.?"
    r"|(?P<korean_hour>[01]?[0-9]|2[0-3])시(?: ?(?P<korean_minute>[0-5]?[0-9])분)?)"
)
_NAME_LIST = """
date dates datum fecha dt day timestamp datetime ts birthday birthdate dob
"""
_NAMES = frozenset(_NAME_LIST.split())
_KOREAN = ("날짜", "일자", "일시", "日付", "日期")
SHOWN = {
    SERIAL: "Excel's days, of which 44197 is 2021-01-01",
    COMPACT: "year, month and day, of which 20210131 is 2021-01-31",
    UNIX: "seconds or milliseconds from 1970",
}


def style_of(cells: Sequence[Any], named: bool = True) -> str:
    """Return how nearly all filled cells of a column say when; "" where they do not.

    Args:
        cells: of a column.
        named: whether its numbers are dates at all, as the name of the column tells.
    """
    sample = [cell for cell in evenly(cells, SAMPLE) if not is_missing(cell)]
    styles = (DATE, CLOCK, SERIAL, COMPACT, UNIX) if named else (DATE, CLOCK)
    able = [style for style in styles if not sample or _are(style, sample)]
    if not able:
        return ""  # most columns are told by a few cells
    filled = [cell for cell in cells if not is_missing(cell)]
    return next((style for style in able if _are(style, filled)), "")


def names_dates(name: str) -> bool:
    """Return whether the name of a column says that dates stand below it."""
    words = re.split(r"[_\-. ]+|(?<=[a-z])(?=[A-Z])", name.strip())
    lower = {word.lower() for word in words}
    return bool(lower & _NAMES) or any(word in name for word in _KOREAN)


def read_styled(cell: Any, style: str, day_first: bool = True) -> float | None:
    """Return the seconds from 1970 to a cell of a column of a style; None where it is none."""
    reader = _READERS.get(style)
    return read_date(cell, day_first) if reader is None else reader(cell)


def read_order(cell: Any, style: str, day_first: bool = True) -> float | None:
    """Return where a row of a column of times stands among the others; None where it is none."""
    if style in (COMPACT, CLOCK):
        return read_styled(cell, style)
    return read_moment(cell, day_first)


def may_be_durations(cells: Sequence[Any]) -> bool:
    """Return whether no hour of a column tells that these are times of a day, and no durations."""
    hours = [read_styled(cell, CLOCK) or 0.0 for cell in cells]
    marked = any(isinstance(c, str) and re.search("[apAP시]", c) for c in cells)
    return not marked and max(hours, default=0.0) < DAY / 2


def _are(style: str, cells: list[Any]) -> bool:
    if style == DATE:
        return are_dates(cells)
    read = sum(read_styled(cell, style) is not None for cell in cells)
    return read > 0 and read >= NEARLY_ALL * len(cells)


def _clock(cell: Any) -> float | None:
    return _hour_of(cell) if isinstance(cell, str) else None


@functools.lru_cache(maxsize=1 << 14)
def _hour_of(cell: str) -> float | None:
    match = _CLOCK.fullmatch(cell.strip())
    if match is None:
        return None
    hour = int(match["hour"] or match["full_hour"] or match["korean_hour"])
    half = (match["half"] or match["full_half"] or "").lower()
    if half and not 1 <= hour <= 12:
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    minute = int(match["minute"] or match["korean_minute"] or 0)
    second = float((match["second"] or "0").replace(",", "."))
    return 3600.0 * hour + 60.0 * minute + second


def _serial(cell: Any) -> float | None:
    days = number(cell)
    if days is None or not _DAYS[0] <= days <= _DAYS[1]:
        return None
    return round((days - EXCEL) * DAY, 3)


def _compact(cell: Any) -> float | None:
    day = number(cell)
    if day is None or not day.is_integer() or not 1e7 <= day < 1e8:
        return None
    digits = str(int(day))
    return read_date(f"{digits[:4]}-{digits[4:6]}-{digits[6:]}")


def _unix(cell: Any) -> float | None:
    seconds = number(cell)
    if seconds is not None and seconds >= 1e3 * _SECONDS[0]:
        seconds /= 1e3
    within = seconds is not None and _SECONDS[0] <= seconds <= _SECONDS[1]
    return seconds if within else None


_READERS: dict[str, Callable[[Any], float | None]] = {
    CLOCK: _clock,
    SERIAL: _serial,
    COMPACT: _compact,
    UNIX: _unix,
}
