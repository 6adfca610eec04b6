"""Vectors: several columns of numbers, each with a scale of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unrolled.fields.base import InvalidCell
from unrolled.fields.vector import Vector


def test_a_vector_scales_each_column_by_itself() -> None:
    rows = [(1, 100), (2, 300), (3, 800)]
    field = Vector.fit(("a", "b"), rows)
    scaled = np.array([field.check(row) for row in rows])
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(0), 1)


@pytest.mark.parametrize("cell", ["x", "", None, "nan", [1], True])
def test_a_cell_of_a_vector_that_is_no_number_is_named_with_its_column(
    cell: object,
) -> None:
    field = Vector.fit(("a", "b"), [(1, 2), (3, 5)])
    with pytest.raises(
        InvalidCell, match=r"column 'b' holds .* where a number is expected"
    ):
        field.check([1, cell])


def test_rows_become_examples_in_their_order() -> None:
    field = Vector.fit(("a", "b"), [(1, 2), (3, 6)])
    rows = [field.check(row) for row in [(3, 2), (1, 6)]]
    examples = field.examples(rows, np.array([4, 9]))
    assert examples.lines.tolist() == [4, 9]
    assert examples.vectors is not None
    assert examples.vectors.dtype == np.float32
    assert examples.vectors.tolist() == [[1, -1], [-1, 1]]


def test_a_vector_field_survives_json(tmp_path: Path) -> None:
    field = Vector.fit(("a", "b"), [(1, 2), (3, 5)])
    field.save(tmp_path)
    assert not list(tmp_path.iterdir())
    assert Vector.from_json(json.loads(json.dumps(field.to_json())), tmp_path) == field
