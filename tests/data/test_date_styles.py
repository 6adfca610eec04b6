"""Times of day, and dates that are numbers; the datetime module is the oracle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.data.columns import look
from unrolled.data.date_styles import (
    CLOCK,
    COMPACT,
    SERIAL,
    UNIX,
    may_be_durations,
    names_dates,
    read_styled,
    style_of,
)

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1))


@given(st.times(), st.sampled_from(["%H:%M", "%H:%M:%S", "%I:%M %p", "%I %p"]))
def test_times_of_day(time: object, form: str) -> None:
    text = format(time, form)
    parsed = datetime.strptime(text, form)
    assert read_styled(text, CLOCK) == (parsed - datetime(1900, 1, 1)).total_seconds()


@given(st.lists(MOMENTS, min_size=1, max_size=20))
def test_dates_that_are_numbers(moments: list[datetime]) -> None:
    days = [
        moment.replace(hour=0, minute=0, second=0, microsecond=0) for moment in moments
    ]
    expected = [day.replace(tzinfo=UTC).timestamp() for day in days]
    serial = [str((day - datetime(1899, 12, 30)) // timedelta(days=1)) for day in days]
    written = {
        SERIAL: serial,
        COMPACT: [day.strftime("%Y%m%d") for day in days],
        UNIX: [int(seconds) for seconds in expected],
    }
    for style, cells in written.items():
        assert style_of(cells) == style
        assert look("Datum", cells).date_style == style
        assert look("amount", cells).numeric
        assert [read_styled(cell, style) for cell in cells] == expected


@pytest.mark.parametrize("cell", ["24:00", "25:10", "1:2", "10:75", "13 PM", "2:1", 5])
def test_no_times_of_day(cell: object) -> None:
    assert read_styled(cell, CLOCK) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("OrderDate", True), ("date_of_birth", True), ("구매일자", True)),
        *(("Datum", True), ("candidate", False), ("update", False), ("year", False)),
    ],
)
def test_names_of_dates(name: str, expected: bool) -> None:
    assert names_dates(name) == expected


def test_durations_are_doubtful() -> None:
    assert may_be_durations(["2:15:30", "3:01:02"])
    assert not may_be_durations(["9:15", "14:30"])
    assert not may_be_durations(["9:15 AM"])
