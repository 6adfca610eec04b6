"""Columns next to each step: their features against scikit-learn and a loop over dates."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder

from unrolled.core.errors import UserError
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell, MissingCell
from unrolled.fields.columns import DateColumn
from unrolled.fields.steps import (
    at_steps,
    beside_words,
    columns_of,
    features_at_steps,
    steps_in,
)
from unrolled.fields.vector import Vector

START = datetime(2021, 3, 1, 5)
HOURS = [START + timedelta(hours=t) for t in range(24 * 30)]
STAMPS = [f"{hour:%Y-%m-%d %H:%M}" for hour in HOURS]
RNG = np.random.default_rng(0)
KINDS = RNG.choice(["rain", "sun", "snow"], len(HOURS)).tolist()
FIELD = Vector.fit(
    Schema("", categories=("sky",), dates=("at",), frames=True),
    list(zip(KINDS, STAMPS, strict=True)),
)


def angle(turn: float) -> list[float]:
    return [math.sin(math.tau * turn), math.cos(math.tau * turn)]


def test_features_are_those_of_scikit_learn_and_of_a_loop_over_dates() -> None:
    read = slice(100, 160)
    kinds = ["hail", *KINDS[read]]  # the first was never seen
    stamps = ["", *STAMPS[read]]
    features = features_at_steps(FIELD, [kinds, stamps], 61, training=False)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encoder.fit(np.array(KINDS)[:, None])
    expected = encoder.transform(np.array(kinds)[:, None])
    assert not expected[0].any()
    np.testing.assert_array_equal(features[:, :3], expected)
    rows = [[0.0] * 9 + [1.0]]  # no date but a flag
    for hour in HOURS[read]:
        weekday = np.eye(7)[hour.weekday()].tolist()
        turn = (hour.hour + hour.minute / 60) / 24
        rows.append([*weekday, *angle(turn), 0.0])
    np.testing.assert_allclose(features[:, 3:], rows, atol=1e-6)


@pytest.mark.parametrize(
    ("days", "step", "parts"),
    [
        (1, 1 / 24, ()),
        (2, 1 / 24, ("hour",)),
        (13, 1, ()),
        (14, 1, ("weekday",)),
        (14, 1 / 24, ("weekday", "hour")),
        (720, 1, ("weekday",)),
        (731, 1, ("season", "weekday")),
        (731, 1 / 4, ("season", "weekday", "hour")),
        # each a week, a month or a year after the one before
        (1000, 7, ("season",)),
        (1000, 30, ("season",)),
        (10_000, 365.25, ()),
    ],
)
def test_those_parts_are_read_that_came_round(
    days: float, step: float, parts: tuple[str, ...]
) -> None:
    moments = [START + timedelta(days=step * t) for t in range(round(days / step))]
    cells = [f"{moment:%Y-%m-%d %H:%M}" for moment in moments]
    column = DateColumn.fit("at", cells, None, of_steps=True)
    assert column.parts == parts
    assert len(column.encode(cells[0], True)) == column.width
    assert DateColumn.from_json(column.to_json()) == column


def test_a_date_of_a_row_is_saved_as_before() -> None:
    column = DateColumn.fit("at", STAMPS, None)
    assert column.parts == ("year", "season", "weekday", "hour")
    assert list(column.to_json()) == ["name", "day_first", "year", "years", "has_time"]


def test_one_value_holds_for_all_steps() -> None:
    alike = features_at_steps(FIELD, ["sun", STAMPS[7]], 3, training=True)
    listed = features_at_steps(FIELD, [["sun"] * 3, [STAMPS[7]] * 3], 3, training=True)
    np.testing.assert_array_equal(alike, listed)
    assert steps_in(["sun", 2, [1, 2, 3], [1]]) == 3
    assert steps_in(["sun", 2]) is None


def test_what_does_not_fit_is_named_with_its_column_and_step() -> None:
    with pytest.raises(InvalidCell, match="column 'sky' has 1 value for 2 words"):
        at_steps("sky", ["sun"], 2, "word")
    cells: list[Any] = [["sun", ["sun"]], STAMPS[:2]]
    with pytest.raises(InvalidCell, match=r"'sky' holds \['sun'\] .* at step 2"):
        features_at_steps(FIELD, cells, 2, training=True)
    cells = [["sun"] * 2, [STAMPS[0], "soon"]]
    assert features_at_steps(FIELD, cells, 2, training=True)[1, -1] == 1
    with pytest.raises(InvalidCell, match=r"'at' holds 'soon' .* at step 2"):
        features_at_steps(FIELD, cells, 2, training=False)
    numbers = Vector.fit(Schema("", numbers=("x",)), [(1,), (2,)], missing="drop")
    with pytest.raises(MissingCell, match="'x' holds no number at step 2"):
        features_at_steps(numbers, [[1, "NA"]], 2, training=True)


def test_a_sequence_given_step_by_step() -> None:
    steps = [["a", 1], ("b", 2)]
    assert columns_of(steps, ("k", "x")) == {"k": ["a", "b"], "x": [1, 2]}
    assert columns_of(["a", "b"], ("k",)) == {"k": ["a", "b"]}
    with pytest.raises(UserError, match="step 2 has 1 cell; expected 2: k, x"):
        columns_of([["a", 1], ["b"]], ("k", "x"))
    with pytest.raises(UserError, match="holds no step"):
        columns_of([], ("k",))


def test_other_columns_are_written_as_the_words_are() -> None:
    assert beside_words([["a", "b"], "N V", ["x", "y"]]) == ["N V", ["x", "y"]]
    assert beside_words(["a b", "N V", "en", 3]) == [["N", "V"], "en", 3]
