"""Scores of values equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from unrolled.scores import mean_absolute_error, root_mean_squared_error

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30))
def test_equal_to_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    truth, predicted = np.array(pairs, dtype=np.float64).T
    # float64 sums of at most 30 terms: a few units in the last place
    close = {"rel": 1e-13, "abs": 1e-300}
    expected = metrics.mean_absolute_error(truth, predicted)
    assert mean_absolute_error(truth, predicted) == pytest.approx(expected, **close)
    expected = metrics.root_mean_squared_error(truth, predicted)
    assert root_mean_squared_error(truth, predicted) == pytest.approx(expected, **close)


def test_by_hand() -> None:
    truth = np.array([1.0, 2.0])
    predicted = np.array([4.0, -2.0])
    assert mean_absolute_error(truth, predicted) == 3.5
    assert root_mean_squared_error(truth, predicted) == pytest.approx(
        np.sqrt(12.5), rel=1e-15
    )
