"""Scores of classes equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from unrolled.scores import accuracy, confusion, macro_f1

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(PAIRS)
def test_equal_to_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs, dtype=np.int64).T
    matrix = confusion(truth, predicted, 5)
    assert np.array_equal(matrix, metrics.confusion_matrix(truth, predicted, labels=range(5)))
    # both are ratios of the same integers, summed in another order at most
    assert accuracy(matrix) == pytest.approx(metrics.accuracy_score(truth, predicted), rel=1e-15)
    expected = metrics.f1_score(truth, predicted, average="macro")
    assert macro_f1(matrix) == pytest.approx(expected, rel=1e-14)


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    matrix = confusion(np.array([0, 0, 1]), np.array([1, 1, 1]), 3)
    assert matrix.tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_nothing_predicted_scores_zero() -> None:
    empty = confusion(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 2)
    assert empty.shape == (2, 2)
    assert accuracy(empty) == 0.0
    assert macro_f1(empty) == 0.0


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    # class 2 occurs nowhere; were it counted as 0, the score would be 2/3
    matrix = confusion(np.array([0, 1]), np.array([0, 1]), 3)
    assert macro_f1(matrix) == 1.0
