"""Frames: sequences of numbers as cells, scaled by all training steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrolled.core.errors import UserError
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.frames import Frames
from unrolled.fields.series import WindowSpec
from unrolled.fields.vector import Vector

RNG = np.random.default_rng(0)
WALKS = [RNG.normal(5, 3, size=(n, 3)) for n in (4, 7, 1)]


def test_numbers_are_scaled_by_all_training_steps(tmp_path: Path) -> None:
    cells = [[walk[:, 0].tolist(), walk[:, 1:].tolist()] for walk in WALKS]
    field = Frames.fit(("a", "b"), cells, WindowSpec())
    assert field.sizes == (1, 2)
    everything = np.concatenate(WALKS)
    np.testing.assert_allclose(field.means, everything.mean(0))
    np.testing.assert_allclose(field.deviations, everything.std(0))
    expected = (WALKS[1] - everything.mean(0)) / everything.std(0)
    np.testing.assert_allclose(field.check(cells[1]), expected, rtol=1e-5)
    # the same sequence as a list of steps
    assert field.cells(WALKS[1].tolist()) == tuple(
        part.tolist() for part in (WALKS[1][:, :1], WALKS[1][:, 1:])
    )
    values = json.loads(json.dumps(field.to_json()))
    assert Frames.from_json(values, tmp_path) == field


@pytest.mark.parametrize("window", [None, 3])
def test_the_last_values_are_in_the_unit_of_the_file(window: int | None) -> None:
    walks = WALKS[:2]
    cells = [[walk[:, 0].tolist(), walk[:, 1:].tolist()] for walk in walks]
    field = Frames.fit(("a", "b"), cells, WindowSpec(window=window))
    rows = [field.check_to_predict(row) for row in cells]
    assert [len(row) for row in rows] == [window or len(walk) for walk in walks]
    examples = field.examples(rows, np.array([2, 3]))
    assert examples.lines.tolist() == [2, 3]
    last = [walk[-1] for walk in walks]
    for column, index in (("a", 0), ("b", 1)):
        np.testing.assert_allclose(
            field.last_values(column, examples),
            [row[index] for row in last],
            rtol=1e-6,
        )


def test_a_row_shorter_than_the_window_cannot_be_answered() -> None:
    field = Frames.fit(("a",), [[[1, 2, 4, 7]]], WindowSpec(window=3))
    with pytest.raises(InvalidCell, match="2 steps are given; this model reads 3"):
        field.check_to_predict([[1, 2]])
    assert len(field.whole().check_to_predict([[1, 2]])) == 2


def test_a_column_that_never_changes_is_not_blown_up() -> None:
    field = Frames.fit(("a",), [[[0.1] * 9]], WindowSpec())
    assert np.abs(field.check([[0.1, 0.1]])).max() < 1e-6


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1 2 3", [1]], "holds '1 2 3' where a list of numbers is expected"),
        ([[], []], r"holds \[\] where a list of numbers"),
        ([[1, None], [[1, 2], [3, 4]]], "column 'a' holds None at step 2"),
        ([[1, 2], [[1, 2], [3, "x"]]], "column 'b' holds 'x' at step 2"),
        ([[1, 2], [[1, 2], [3]]], "column 'b' has other than 2 numbers at step 2"),
        ([[1, 2], [[1, 2]]], "column 'b' has 1 steps and 'a' 2"),
        (
            [[1, 2], [[1, 2, 3], [4, 5, 6]]],
            "column 'b' holds 3 numbers a step; expected 2",
        ),
        ([[1, float("inf")], [[1, 2], [3, 4]]], "column 'a' holds inf at step 2"),
    ],
)
def test_a_cell_that_is_no_sequence_of_numbers_says_where(
    cells: Any, message: str
) -> None:
    field = Frames.fit(("a", "b"), [[[1, 2], [[1, 2], [3, 5]]]], WindowSpec())
    with pytest.raises(InvalidCell, match=message):
        field.check(cells)


def test_a_number_out_of_all_proportion_says_its_column_and_step() -> None:
    field = Frames.fit(("a", "b"), [[[1, 2], [[1, 2], [3, 5]]]], WindowSpec())
    with pytest.raises(InvalidCell, match=r"column 'b' holds 1e\+29 at step 2, out of"):
        field.check([[1, 2], [[1, 2], [3, 1e29]]])
    with pytest.raises(InvalidCell, match=r"column 'a' holds a number above 1e\+30 at"):
        field.check([[1, 1e31], [[1, 2], [3, 4]]])


def test_a_step_of_other_width_is_refused() -> None:
    field = Frames.fit(("a", "b"), [[[1, 2], [[1, 2], [3, 5]]]], WindowSpec())
    with pytest.raises(UserError, match="a step has 2 numbers; expected 3: a, b"):
        field.cells([[1, 2]])
    with pytest.raises(UserError, match="holds no sequence of numbers"):
        Frames.fit(("a",), [["text"]], WindowSpec())


@pytest.mark.parametrize("missing", ["median", "mean"])
def test_missing_numbers_of_steps_are_filled_and_flagged(missing: str) -> None:
    columns = [
        [[1.0, None, 3.0, 8.0], [5.0, 6.0, 7.0, 8.0]],
        [[2.0, 2.0, float("nan"), 6.0], [1.0, 2.0, 3.0, 4.0]],
    ]
    field = Frames.fit(("a", "b"), columns, WindowSpec(missing=missing))
    assert field.flagged == (0,)
    assert field.width == 3
    known = np.array([1, 3, 8, 2, 2, 6.0])
    other = np.array([5, 6, 7, 8, 1, 2, 3, 4.0])
    np.testing.assert_allclose(field.means, [known.mean(), other.mean()])
    np.testing.assert_allclose(field.deviations, [known.std(), other.std()])
    fill = np.median(known) if missing == "median" else known.mean()
    read = field.check(columns[0])
    values = np.array([1, fill, 3, 8])
    np.testing.assert_allclose(read[:, 0], (values - known.mean()) / known.std(), 1e-6)
    np.testing.assert_array_equal(read[:, 2], [0, 1, 0, 0])
    # a number that was always there in training has no flag, and is filled as well
    later = field.check_to_predict([[1.0, 2.0], [None, 3.0]])
    other_fill = np.median(other) if missing == "median" else other.mean()
    expected = (other_fill - other.mean()) / other.std()
    assert later[0, 1] == pytest.approx(expected, abs=1e-6)
    assert later[:, 2].tolist() == [0, 0]
    values = json.loads(json.dumps(field.to_json()))
    assert Frames.from_json(values, Path()) == field


def test_nothing_stands_in_for_what_is_no_number() -> None:
    field = Frames.fit(("a",), [[[1.0, None, 3.0]]], WindowSpec(missing="median"))
    for cell in ([1.0, "x"], [1.0, float("inf")]):
        with pytest.raises(InvalidCell, match=r"column 'a' holds .* at step 2"):
            field.check([cell])


def test_a_column_that_is_always_missing_is_refused() -> None:
    with pytest.raises(UserError, match="one of the columns a, b holds no number"):
        Frames.fit(("a", "b"), [[[1.0], [None]]], WindowSpec(missing="median"))


def test_the_last_value_that_is_missing_is_the_one_that_stands_in() -> None:
    field = Frames.fit(("a",), [[[1.0, None, 3.0, 9.0]]], WindowSpec(missing="median"))
    rows = [field.check([[1.0, None]]), field.check([[None, 9.0]])]
    examples = field.examples(rows, np.array([2, 3]))
    np.testing.assert_allclose(field.last_values("a", examples), [3.0, 9.0], rtol=1e-6)


OTHERS = Vector.fit(
    Schema("", categories=("k",), frames=True), [("up",), ("down",)] * 2
)


@pytest.mark.parametrize("window", [None, 2])
def test_other_columns_stand_behind_the_numbers(
    tmp_path: Path, window: int | None
) -> None:
    spec = WindowSpec(window=window, missing="median")
    alone = Frames.fit(("x",), [[[1.0, None, 4.0]]], spec)
    field = replace(alone, others=OTHERS)
    assert field.read == ("x", "k")
    assert field.width == alone.width + 2 == 4
    cells = [[1.0, None, 4.0], ["up", "down", "new"]]
    expected = [[0, 1], [1, 0], [0, 0]]
    read = field.check(cells)
    np.testing.assert_array_equal(read[:, :2], alone.check(cells[:1]))
    np.testing.assert_array_equal(read[:, 2:], expected)
    last = field.check_to_predict(cells)
    np.testing.assert_array_equal(last, read[-(window or 3) :])
    examples = field.examples([last], np.array([1]))
    np.testing.assert_allclose(field.last_values("x", examples), [4.0])
    # the same sequence, step by step in another order of columns
    steps = [[k, x] for x, k in zip(*cells, strict=True)]
    assert list(field.cells(steps, ("k", "x"))) == cells
    with pytest.raises(InvalidCell, match="column 'k' has 2 values for 3 steps"):
        field.check_to_predict([cells[0], ["up", "down"]])
    values = json.loads(json.dumps(field.to_json()))
    assert Frames.from_json(values, tmp_path) == field
    assert "others" not in alone.to_json()


def test_sequences_of_other_columns_alone() -> None:
    field = replace(Frames.fit((), [[]], WindowSpec()), others=OTHERS)
    assert field.check([["down", "up"]]).tolist() == [[1, 0], [0, 1]]
    assert list(field.cells(["down", "up"], ("k",))) == [["down", "up"]]
    with pytest.raises(InvalidCell, match="column 'k' holds no list of steps"):
        field.check(["down"])
