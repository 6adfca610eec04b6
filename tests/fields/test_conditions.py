"""Labels and numbers that a text is written for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fields.cells import nested
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.conditions import Conditions

SCHEMA = Schema("write", numbers=("age",), categories=("language", "kind"))
ROWS = [
    (10, "Korean", "first"),
    (20, "German", "last"),
    (30, "Korean", "last"),
]


@pytest.fixture(scope="module")
def field() -> Conditions:
    return Conditions.fit(SCHEMA, ROWS, [*ROWS, (0, "Thai", "first")])


def test_numbers_are_scaled_and_labels_counted_from_one(field: Conditions) -> None:
    assert field.columns == ("age", "language", "kind")
    assert field.parts == ("age", "language", "kind")
    deviation = float(np.std([10, 20, 30]))
    assert field.check((30, "Korean", "last")) == (10 / deviation, 2.0, 2.0)
    # a label that the rows held out alone have is known
    assert field.check_to_predict(("20", "Thai", "first")) == (0.0, 3.0, 1.0)
    examples = field.examples([field.check(row) for row in ROWS], np.arange(3))
    assert examples.vectors is not None
    assert examples.vectors[:, 1].tolist() == [2, 1, 2]


def test_an_unknown_label_is_answered_with_the_nearest(field: Conditions) -> None:
    with pytest.raises(InvalidCell, match=r"'Koraen'.*did you mean 'Korean'"):
        field.check_to_predict((1, "Koraen", "last"))
    with pytest.raises(InvalidCell, match="'language' holds no label"):
        field.check((1, "", "last"))
    with pytest.raises(InvalidCell, match="'big' where a number is expected"):
        field.check_to_predict(("big", "Korean", "last"))


def test_a_field_is_read_back(field: Conditions) -> None:
    values = json.loads(json.dumps(field.to_json()))
    again = Conditions.from_json(values)
    assert again == field
    assert again.schema == field.schema
    assert field.schema.inputs == SCHEMA.inputs
    alone = Schema("write", categories=("language",))
    labels = Conditions.fit(alone, [("a",), ("b",)], [("a",), ("b",)])
    assert Conditions.from_json(labels.to_json()) == labels
    assert labels.parts == ("language",)


def test_a_row_is_shown_as_its_cells(field: Conditions) -> None:
    assert field.describe((30, "Korean", None)) == "30, Korean, "


@given(st.tuples(nested, nested, nested))
def test_any_cells_are_read_or_refused(
    field: Conditions, cells: tuple[Any, ...]
) -> None:
    for check in (field.check, field.check_to_predict):
        try:
            features = check(cells)
        except InvalidCell:
            continue
        assert len(features) == 3
        assert all(np.isfinite(features))
