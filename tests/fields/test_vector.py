"""Vectors: columns of numbers, categories and dates as features, each by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell, MissingCell
from unrolled.fields.columns import DateColumn
from unrolled.fields.vector import Vector

NUMBERS = Schema("", numbers=("a", "b"))
MIXED = Schema("", numbers=("a",), categories=("city",), dates=("day",))
CITIES = ["Seoul", "Busan", "Seoul", "Busan", "Jeju"]


def mixed_rows() -> list[tuple[object, ...]]:
    return [(n, city, f"2021-0{n + 1}-15") for n, city in enumerate(CITIES)]


def test_a_vector_scales_each_column_by_itself() -> None:
    rows = [(1, 100), (2, 300), (3, 800)]
    field = Vector.fit(NUMBERS, rows)
    scaled = np.array([field.check(row) for row in rows])
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(0), 1)


@pytest.mark.parametrize("cell", ["x", "", None, "nan", [1], True])
def test_a_cell_of_a_vector_that_is_no_number_is_named_with_its_column(
    cell: object,
) -> None:
    field = Vector.fit(NUMBERS, [(1, 2), (3, 5)], missing="error")
    with pytest.raises(
        InvalidCell, match=r"column 'b' holds .* where a number is expected"
    ):
        field.check([1, cell])


@pytest.mark.parametrize(("missing", "filled"), [("median", 2.0), ("mean", 4.0)])
def test_a_missing_number_is_filled_and_flagged(missing: str, filled: float) -> None:
    rows = [(1, 1), (1, 2), (2, "NA"), (3, 9)]
    field = Vector.fit(NUMBERS, rows, missing=missing)  # type: ignore[arg-type]
    assert field.width == 3
    _, value, flag = field.check((1, "n/a"))
    assert flag == 1.0
    assert value == pytest.approx(field.check((1, filled))[1])
    assert field.check((1, 9))[2] == 0.0
    # what is no number and no mark of a missing one is set right in training alone
    assert field.check((1, "x"))[2] == 1.0
    with pytest.raises(InvalidCell, match="column 'b' holds 'x'"):
        field.check_to_predict((1, "x"))
    assert field.check_to_predict((1, None))[2] == 1.0


def test_a_column_that_was_always_there_is_filled_without_a_flag() -> None:
    field = Vector.fit(NUMBERS, [(1, 2), (3, 5)])
    assert field.width == 2
    assert field.check_to_predict((None, 2))[0] == pytest.approx(0.0)


def test_a_row_without_a_number_is_left_out_where_it_is_to_be() -> None:
    field = Vector.fit(NUMBERS, [(1, 2), (3, "")], missing="drop")
    with pytest.raises(MissingCell, match="column 'b' holds no number"):
        field.check((1, ""))


def test_a_category_has_a_feature_for_each_kind_that_repeats() -> None:
    field = Vector.fit(MIXED, mixed_rows())
    number, category, date = field.features
    assert category.width == 2  # Jeju stands there once
    assert category.encode("Seoul", training=False) == (0.0, 1.0)
    assert category.encode(" Busan\u200b", training=False) == (1.0, 0.0)
    assert category.encode("Jeju", training=False) == (0.0, 0.0)
    assert field.width == number.width + category.width + date.width
    assert len(field.check(mixed_rows()[0])) == field.width


def test_a_date_is_its_parts() -> None:
    column = DateColumn.fit("day", ["2021-01-01", "2021-12-31 18:00"], None)
    assert column.has_time
    features = np.array(column.encode("2021-12-31 18:00", training=False))
    first = np.array(column.encode("2021-01-01", training=False))
    assert features.shape == (column.width,)
    # the last day of a year is next to the first, and a quarter of a day is an angle
    np.testing.assert_allclose(features[1:3], first[1:3], atol=0.03)
    np.testing.assert_allclose(features[10:12], [-1.0, 0.0], atol=1e-9)
    assert features[3:10].tolist() == [0, 0, 0, 0, 1, 0, 0]  # a Friday
    assert column.encode("", training=False) == (*[0.0] * (column.width - 1), 1.0)
    with pytest.raises(InvalidCell, match="where a date is expected"):
        column.encode("soon", training=False)


def test_rows_become_examples_in_their_order() -> None:
    field = Vector.fit(NUMBERS, [(1, 2), (3, 6)])
    rows = [field.check(row) for row in [(3, 2), (1, 6)]]
    examples = field.examples(rows, np.array([4, 9]))
    assert examples.lines.tolist() == [4, 9]
    assert examples.vectors is not None
    assert examples.vectors.dtype == np.float32
    assert examples.vectors.tolist() == [[1, -1], [-1, 1]]


@pytest.mark.parametrize("missing", ["median", "error"])
def test_a_vector_field_survives_json(tmp_path: Path, missing: str) -> None:
    field = Vector.fit(MIXED, mixed_rows(), missing=missing)  # type: ignore[arg-type]
    field.save(tmp_path)
    assert not list(tmp_path.iterdir())
    again = Vector.from_json(json.loads(json.dumps(field.to_json())), tmp_path)
    assert again == field
    assert again.schema == MIXED


def test_a_run_of_before_there_were_other_columns_is_read() -> None:
    saved = {"columns": ["a", "b"], "means": [2.0, 4.0], "deviations": [1.0, 2.0]}
    field = Vector.from_json(saved)
    assert field.check((3, 4)) == (1.0, 0.0)
    with pytest.raises(InvalidCell, match="where a number is expected"):
        field.check(("", 4))
