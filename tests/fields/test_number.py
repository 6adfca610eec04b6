"""Numbers: scaled, given back, shown, and what is none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from unrolled.core.errors import UserError
from unrolled.fields.base import InvalidCell, MissingCell
from unrolled.fields.number import Number


def test_a_number_is_scaled_and_comes_back() -> None:
    values = [1.0, 2.0, 6.0, 7.5]
    field = Number.fit("x", values)
    scaled = np.array([field.check(value) for value in values])
    assert scaled.mean() == pytest.approx(0, abs=1e-12)
    assert scaled.std() == pytest.approx(1)
    np.testing.assert_allclose(field.decode(scaled), values, rtol=1e-12)


def test_a_constant_column_does_not_divide_by_nothing() -> None:
    field = Number.fit("x", [5, 5])
    assert field.check(5) == 0
    assert field.check(6) == 1


def test_answers_are_whole_where_training_saw_only_whole_numbers() -> None:
    assert Number.fit("x", ["1", "2", "40"]).show(41.7) == "42"
    assert Number.fit("x", ["1", "2.5"]).show(41.75) == "41.75"


@pytest.mark.parametrize("cell", ["x", "", None, "nan", "1_000", [1], True])
def test_a_cell_that_is_no_number_is_named_with_its_column(cell: object) -> None:
    field = Number.fit("x", [1, 2])
    with pytest.raises(
        InvalidCell, match=r"column 'x' holds .* where a number is expected"
    ):
        field.check(cell)


def test_a_number_out_of_all_proportion_is_refused() -> None:
    field = Number.fit("x", [1, 2])
    assert field.check(1e14) > 0
    with pytest.raises(InvalidCell, match="out of all proportion"):
        field.check(1e29)


def test_a_column_without_any_number_is_refused() -> None:
    with pytest.raises(UserError, match="column 'x' holds no number"):
        Number.fit("x", ["a", ""])


def test_a_number_field_survives_json() -> None:
    field = Number.fit("x", [1, 2.5])
    assert Number.from_json(json.loads(json.dumps(field.to_json()))) == field


@pytest.mark.parametrize("cell", ["", None, "NA", "nan", float("nan"), "?", "#N/A"])
def test_a_row_without_a_value_is_left_out_where_it_is_optional(cell: Any) -> None:
    field = Number.fit("x", [1, cell, 2], optional=True)
    assert (field.mean, field.deviation) == (1.5, 0.5)
    with pytest.raises(MissingCell, match="column 'x' holds no number"):
        field.check(cell)
    with pytest.raises(InvalidCell, match="holds 'few' where a number") as caught:
        field.check("few")
    assert not isinstance(caught.value, MissingCell)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        (["1.234,50", "0,5"], (1234.5 + 0.5) / 2),
        (["1,234.50", "0.5"], (1234.5 + 0.5) / 2),
        (["€ 3", "(5)", "12 %"], (3 - 5 + 12) / 3),
        (["٣", "\uff15"], 4.0),
    ],
)
def test_numbers_are_read_as_people_write_them(values: list[str], mean: float) -> None:
    field = Number.fit("x", values)
    assert field.mean == pytest.approx(mean)
    scaled = [field.check(value) for value in values]
    assert np.mean(scaled) == pytest.approx(0, abs=1e-12)


def test_the_usual_mark_is_for_cells_that_do_not_tell() -> None:
    assert Number.fit("x", ["1,234"], usual=",").mean == pytest.approx(1.234)
    assert Number.fit("x", ["1,234"]).mean == 1234
    assert Number.fit("x", ["1,234", "0.5"], usual=",").mean == pytest.approx(617.25)
    assert Number.fit("x", ["1,234"], ".", usual=",").mean == 1234
