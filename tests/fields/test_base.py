"""What fields share: bounds of numbers, scales, and the errors of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from fields.cells import numbers
from unrolled.fields.base import (
    InvalidCell,
    invalid_row,
    is_plain,
    read_number,
    scale_of,
)


@given(numbers)
def test_a_number_that_is_read_is_a_number(value: Any) -> None:
    for cell in (value, str(value)):
        if abs(value) <= 1e30:
            assert read_number("x", cell) == pytest.approx(float(value))
        else:  # nan too
            with pytest.raises(InvalidCell, match="column 'x'"):
                read_number("x", cell)


def test_what_never_changes_has_deviation_one() -> None:
    values = np.array([[1.0, 0.1], [3.0, 0.1]] * 9)
    means, deviations = scale_of(values)
    np.testing.assert_allclose(means, [2.0, 0.1])
    assert deviations.tolist() == [1.0, 1.0]
    _, deviations = scale_of(2 * values)
    assert deviations.tolist() == [2.0, 1.0]


def test_the_error_of_a_row_says_where_and_what_to_do() -> None:
    error = invalid_row(InvalidCell("it is empty"), "a.csv", 3)
    assert str(error) == (
        "a.csv:3: it is empty; mend the row, or set data.on_error=skip"
    )


def test_lists_and_objects_are_not_plain() -> None:
    assert all(map(is_plain, (None, "", "a", 0, 1.5, True)))
    assert not any(map(is_plain, ([], {}, ["a"], {"a": 1})))
