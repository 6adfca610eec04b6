"""Dates and times as people write them; the datetime module is the oracle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.data.dates import are_dates, is_day_first, is_order_doubtful, read_date


def seconds(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2021-03-04", seconds(2021, 3, 4)),
        ("2021/3/4", seconds(2021, 3, 4)),
        ("2021.03.04.", seconds(2021, 3, 4)),
        ("2021년 3월 4일", seconds(2021, 3, 4)),
        ("2021-03", seconds(2021, 3, 1)),
        ("2021Q3", seconds(2021, 7, 1)),
        ("Q4 2021", seconds(2021, 10, 1)),
        ("04.03.2021", seconds(2021, 3, 4)),
        ("4/3/21", seconds(2021, 3, 4)),
        ("4-3-1970", seconds(1970, 3, 4)),
        ("4 Mar 2021", seconds(2021, 3, 4)),
        ("March 4, 2021", seconds(2021, 3, 4)),
        ("Mar 2021", seconds(2021, 3, 1)),
        (" 2021-03-04 ", seconds(2021, 3, 4)),
        ("2021-03-04 10:30", seconds(2021, 3, 4, 10, 30)),
        ("2021-03-04T10:30:05Z", seconds(2021, 3, 4, 10, 30, 5)),
        ("2021-03-04 10:30:05+09:00", seconds(2021, 3, 4, 1, 30, 5)),
        ("2021-03-04 10:30:05 -0130", seconds(2021, 3, 4, 12, 0, 5)),
        ("04.03.2021 10:30", seconds(2021, 3, 4, 10, 30)),
        ("4/3/2021 12:05 AM", seconds(2021, 3, 4, 0, 5)),
        ("4/3/2021 1:05 p.m.", seconds(2021, 3, 4, 13, 5)),
        ("4/3/2021, 24:00", seconds(2021, 3, 5)),
        ("Jan-10", seconds(2010, 1, 1)),
        ("2010-Jan", seconds(2010, 1, 1)),
        ("2019년 3월", seconds(2019, 3, 1)),
        ("3/2019", seconds(2019, 3, 1)),
        ("2019-W05", seconds(2019, 1, 28)),
        ("2019-W05-3", seconds(2019, 1, 30)),
        ("15-Jan-21", seconds(2021, 1, 15)),
        ("15JAN2021", seconds(2021, 1, 15)),
        ("2021-Jan-05 10:30", seconds(2021, 1, 5, 10, 30)),
        ("Mon, 04 Jan 2021", seconds(2021, 1, 4)),
        ("3. März 2021", seconds(2021, 3, 3)),
        ("2021-03-04 10:30:05,5", seconds(2021, 3, 4, 10, 30, 5) + 0.5),
    ],
)
def test_dates(cell: str, expected: float | None) -> None:
    assert read_date(cell) == expected


@pytest.mark.parametrize(
    "cell",
    [
        *("", "2021", "20210304", "2021-13-01", "31.02.2021", "0/1/2021", "1.2"),
        *("1.2.3", "10:30", "Monday", "-2021-03-04", "may be 2021", None, 5, 2021.5),
        *("2019-W60", "13/2019", "maybe-10", "Marge-12", "2019 decline"),
        *("32/1/2021", "2021-03-04 and later", "1/2-2021", "0000-01-01"),
    ],
)
def test_no_dates(cell: object) -> None:
    assert read_date(cell) is None


def test_the_order_of_day_and_month_is_that_of_the_column() -> None:
    assert read_date("3/4/2021", day_first=False) == seconds(2021, 3, 4)
    assert read_date("13/4/2021", day_first=False) is None
    assert is_day_first(["3/4/2021", "13/4/2021"])
    assert not is_day_first(["3/4/2021", "", None, "4/13/2021"])
    assert is_day_first(["3/4/2021", "2021-03-04"])


def test_an_order_that_no_cell_tells_is_doubtful() -> None:
    assert is_order_doubtful(["3/4/2021", "5/6/2021"])
    assert not is_order_doubtful(["3/4/2021", "13/4/2021"])
    assert not is_order_doubtful(["3/3/2021", "4/4/2021"])
    assert not is_order_doubtful(["03.04.2021"])  # a point: the day stands first
    assert not is_order_doubtful(["2021-03-04", "x", None, 7])


def test_a_column_of_dates_may_have_a_few_exceptions() -> None:
    assert are_dates(["2021-01-02", "", None, "3.1.2021"])
    assert are_dates([*["1/13/2021"] * 9, "soon"])
    assert not are_dates([*["1/13/2021"] * 5, "soon"])
    assert not are_dates(["", None])
    assert not are_dates(["2021", "2022"])  # years are numbers


moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59))


@given(moments)
def test_what_python_writes(moment: datetime) -> None:
    expected = (moment - datetime(1970, 1, 1)).total_seconds()
    assert read_date(moment) == expected
    assert read_date(moment.isoformat()) == pytest.approx(expected)
    assert read_date(str(moment)) == pytest.approx(expected)


@given(moments, st.integers(-12 * 60, 14 * 60))
def test_zones(moment: datetime, minutes: int) -> None:
    moment = moment.replace(year=min(max(moment.year, 2), 9998), microsecond=0)
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (zoned - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    assert read_date(zoned) == expected
    assert read_date(zoned.isoformat()) == expected


@given(st.dates(datetime(1970, 1, 1).date(), datetime(2069, 12, 31).date()))
def test_days_as_countries_write_them(day: datetime) -> None:
    expected = seconds(day.year, day.month, day.day)
    assert read_date(f"{day:%d.%m.%y}") == expected
    assert read_date(f"{day:%d/%m/%Y}") == expected
    assert read_date(f"{day:%m/%d/%Y}", day_first=False) == expected
    assert read_date(f"{day:%d %B %Y}") == expected
    assert read_date(f"{day:%b %d, %Y}") == expected
