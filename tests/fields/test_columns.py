"""Columns as features: numbers that are missing, kinds, dates; each against arithmetic by hand."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.core.errors import UserError
from unrolled.fields.base import InvalidCell, MissingCell
from unrolled.fields.columns import (
    KINDS,
    CategoryColumn,
    DateColumn,
    FeatureColumn,
    NumberColumn,
    old_columns,
)

from .cells import nested

CELLS = ["3", "8.5", "n/a", "-2", "", "40", "?", "7"]
KNOWN = [3.0, 8.5, -2.0, 40.0, 7.0]
MARKS = ["", " ", None, "NA", "n/a", "NaN", "null", "-", "?", "#N/A", ".", math.nan]


def number_column(missing: Any = "median", cells: Any = CELLS) -> NumberColumn:
    return NumberColumn.fit("x", cells, None, missing)


def scaled(value: float) -> float:
    """Return a number in float64 deviations from the mean of those that are known."""
    known = np.array(KNOWN)
    return float((value - known.mean()) / known.std())


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize(("missing", "fill"), [("median", 7.0), ("mean", 11.3)])
@pytest.mark.parametrize("mark", MARKS)
def test_what_stands_in_is_that_of_the_numbers_that_are_known(
    missing: str, fill: float, mark: Any
) -> None:
    column = number_column(missing)
    assert column.fill == pytest.approx(fill)
    for training in (True, False):
        value, flag = column.encode(mark, training)
        assert (value, flag) == (pytest.approx(scaled(fill)), 1.0)
    assert column.encode("8.5", training=False) == (pytest.approx(scaled(8.5)), 0.0)


@pytest.mark.parametrize("missing", ["drop", "error"])
def test_nothing_stands_in_where_rows_are_left_out_or_refused(missing: str) -> None:
    column = number_column(missing)
    assert (column.width, column.fill) == (1, None)
    assert column.encode(8.5, training=False) == (pytest.approx(scaled(8.5)),)
    error = MissingCell if missing == "drop" else InvalidCell
    for training in (True, False):
        with pytest.raises(error, match="column 'x' holds"):
            column.encode("NA", training)


def test_a_number_above_all_bounds_does_not_move_what_stands_in() -> None:
    column = number_column("mean", [1, 2, 3, "", 1e35])
    assert column.fill == 2.0
    assert column.encode("", training=False) == (0.0, 1.0)
    # its own row is refused, and not filled
    with pytest.raises(InvalidCell, match="which is more than 1e\\+30"):
        column.encode(1e35, training=True)


def test_a_number_above_all_bounds_is_not_missing() -> None:
    assert number_column(cells=[1, 2, 3, 1e35]).width == 1


@pytest.mark.parametrize(
    ("decimal", "usual", "value"), [(None, ".", 1234.0), (None, ",", 1.234)]
)
def test_a_mark_that_no_cell_tells_is_the_usual_one(
    decimal: str | None, usual: str, value: float
) -> None:
    cells = ["1,234", "5,678"]
    column = NumberColumn.fit("x", cells, decimal, "median", usual)
    assert column.scale.mean == pytest.approx(np.mean([value, value * 5678 / 1234]))
    # what is told stands above what is usual
    other = NumberColumn.fit("x", cells, ",", "median", usual)
    assert other.scale.decimal == ","


def test_a_column_of_one_number_tells_nothing_and_divides_by_one() -> None:
    column = number_column(cells=[5, "5.0", ""])
    assert column.encode(5, training=False) == (0.0, 0.0)
    assert column.encode(6, training=False) == (1.0, 0.0)


# ---------------------------------------------------------------------- categories


def test_kinds_are_one_hot_in_the_order_of_their_names() -> None:
    column = CategoryColumn.fit("c", ["b", "a", "b", "a", "rare", "c", "c"])
    assert column.names == ("a", "b", "c")
    encoded = [column.encode(name, training=False) for name in column.names]
    np.testing.assert_array_equal(encoded, np.eye(3))
    for unseen in ("rare", "new", "", None):
        assert column.encode(unseen, training=False) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("same", ["1", "1.0", 1, 1.0, " 1 ", "\uff11", "1\u200b"])
def test_one_kind_in_several_spellings_is_one_feature(same: Any) -> None:
    column = CategoryColumn.fit("c", ["1", 1.0, "2", 2, True, "TRUE", ""])
    assert column.names == ("1", "2", "true")
    assert column.encode(same, training=False) == (1.0, 0.0, 0.0)


def test_an_empty_cell_is_a_kind_where_it_repeats() -> None:
    column = CategoryColumn.fit("c", ["", None, "a", "a"])
    assert column.encode(None, training=False) == (1.0, 0.0)
    assert column.encode(" ", training=False) == (1.0, 0.0)


def test_a_column_in_which_nothing_repeats_is_no_category() -> None:
    with pytest.raises(UserError, match="'c' holds no value twice; leave it out of"):
        CategoryColumn.fit("c", ["a", "b", "c"])


# ---------------------------------------------------------------------- dates


def parts_of(text: str, years: list[str]) -> list[float]:
    """Return the features of a date without a time, by the calendar of Python."""
    date = datetime.fromisoformat(text)
    stamps = np.array([datetime.fromisoformat(y).toordinal() for y in years])
    in_years = (stamps - datetime(1970, 1, 1).toordinal()) / 365.25
    own = (date.toordinal() - datetime(1970, 1, 1).toordinal()) / 365.25
    turn = 2 * math.pi * (date.timetuple().tm_yday - 1) / 365.25
    week = [float(date.weekday() == day) for day in range(7)]
    year = (own - in_years.mean()) / in_years.std()
    return [year, math.sin(turn), math.cos(turn), *week, 0.0]


@pytest.mark.parametrize("day", ["2021-03-01", "2020-02-29", "2021-12-31"])
def test_a_date_is_year_season_and_weekday(day: str) -> None:
    days = ["2020-02-29", "2021-03-01", "2021-12-31", "2021-06-06"]
    column = DateColumn.fit("d", days, None)
    features = column.encode(day, training=False)
    assert len(features) == column.width == 11
    np.testing.assert_allclose(features, parts_of(day, days), atol=1e-12)


def test_an_hour_is_an_angle_and_the_zone_is_taken_off() -> None:
    column = DateColumn.fit("d", ["2021-03-01 06:00", "2021-03-02"], None)
    assert column.width == 13
    for same in ("2021-03-01 06:00", "2021-03-01T08:00+02:00", "2021-03-01 6:00 am"):
        features = column.encode(same, training=False)
        np.testing.assert_allclose(features[10:12], [1.0, 0.0], atol=1e-12)


def test_years_far_from_those_of_training_are_bounded() -> None:
    column = DateColumn.fit("d", ["2020-01-01", "2022-01-01"], None)
    assert column.encode("2900-01-01", training=False)[0] == 3.0
    assert column.encode("0001-01-01", training=False)[0] == -3.0


@pytest.mark.parametrize("cell", ["0001-01-01 00:00+23:00", "9999-12-31 23:59-05:00"])
def test_a_time_beyond_the_calendar_is_no_date(cell: str) -> None:
    column = DateColumn.fit("d", ["2020-01-01", "2022-01-01"], None)
    assert column.encode(cell, training=True)[-1] == 1.0
    with pytest.raises(InvalidCell, match="where a date is expected"):
        column.encode(cell, training=False)


@pytest.mark.parametrize(
    ("cells", "day_first", "same"),
    [
        (["13/02/2021", "01/02/2021"], None, "2021-02-01"),
        (["02/13/2021", "01/02/2021"], None, "2021-01-02"),
        (["01/02/2021", "03/02/2021"], None, "2021-02-01"),
        (["01/02/2021", "03/02/2021"], False, "2021-01-02"),
    ],
)
def test_a_column_has_one_order_of_day_and_month(
    cells: list[str], day_first: bool | None, same: str
) -> None:
    column = DateColumn.fit("d", cells, day_first)
    expected = column.encode(same, training=False)
    assert column.encode("01/02/2021", training=False) == expected


def test_a_missing_date_is_a_flag_alone() -> None:
    column = DateColumn.fit("d", ["2020-01-01", "2022-01-01", ""], None)
    nothing = (*[0.0] * 10, 1.0)
    for training in (True, False):
        assert column.encode("", training) == nothing
        assert column.encode("n/a", training) == nothing
    assert column.encode("soon", training=True) == nothing
    with pytest.raises(UserError, match="column 'd' holds no date"):
        DateColumn.fit("d", ["soon", ""], None)


# ---------------------------------------------------------------------- any column

FITTED: list[FeatureColumn] = [
    number_column(),
    number_column("error"),
    CategoryColumn.fit("c", ["a", "a", 1, 1]),
    DateColumn.fit("d", ["2020-01-01", "2022-05-01 10:30"], None),
]


@given(cell=nested, training=st.booleans())
def test_any_cell_has_finite_features_or_is_refused(cell: Any, training: bool) -> None:
    for column in FITTED:
        try:
            features = column.encode(cell, training)
        except InvalidCell as error:
            message = str(error)
        else:
            assert len(features) == column.width
            assert np.isfinite(features).all()
            continue
        assert repr(column.name) in message


@pytest.mark.parametrize("column", FITTED)
def test_a_column_survives_json(column: FeatureColumn) -> None:
    values = json.loads(json.dumps(column.to_json()))
    assert KINDS[column.kind].from_json(values) == column


def test_columns_of_older_runs_are_numbers_without_what_stands_in() -> None:
    saved = {"columns": ["a"], "means": [2.0], "deviations": [4.0]}
    (column,) = old_columns(saved)
    assert column.encode("4", training=False) == (0.5,)
    with pytest.raises(InvalidCell, match="where a number is expected"):
        column.encode("", training=False)
