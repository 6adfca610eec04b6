"""Scores of classes equal scikit-learn's."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from unrolled.scores import (
    accuracy,
    by_class,
    calibration,
    confusion,
    confusion_counts,
    macro_f1,
)

PAIRS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40
)


@given(PAIRS)
def test_equal_to_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs, dtype=np.int64).T
    matrix = confusion(truth, predicted, 5)
    assert np.array_equal(
        matrix, metrics.confusion_matrix(truth, predicted, labels=range(5))
    )
    # both are ratios of the same integers, summed in another order at most
    assert accuracy(matrix) == pytest.approx(
        metrics.accuracy_score(truth, predicted), rel=1e-15
    )
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


@given(PAIRS)
def test_scores_of_each_class_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs, dtype=np.int64).T
    scores = by_class(confusion(truth, predicted, 5))
    expected = metrics.precision_recall_fscore_support(
        truth, predicted, labels=range(5), zero_division=np.nan
    )
    # ratios of the same integers; F1 is made in another order at most
    for ours, theirs in zip(
        (scores.precision, scores.recall, scores.f1), expected[:3], strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    assert scores.support.tolist() == expected[3].tolist()


SURE = st.floats(0.001, 1, allow_subnormal=False) | st.sampled_from(
    [n / 10 for n in range(1, 11)]
)


@given(st.lists(st.tuples(SURE, st.booleans()), min_size=1, max_size=60))
def test_calibration_equals_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    confidence = np.array([sure for sure, _ in pairs])
    right = np.array([hit for _, hit in pairs])
    reliability = calibration(confidence, right)
    hits, sure = calibration_curve(right, confidence, n_bins=10)
    filled = reliability.counts > 0
    np.testing.assert_allclose(reliability.accuracy[filled], hits, rtol=1e-14)
    np.testing.assert_allclose(reliability.confidence[filled], sure, rtol=1e-14)
    assert np.isnan(reliability.accuracy[~filled]).all()
    assert reliability.counts.sum() == len(pairs)
    expected = np.average(np.abs(hits - sure), weights=reliability.counts[filled])
    assert reliability.error == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_calibration_by_hand() -> None:
    reliability = calibration(
        np.array([0.95, 0.85, 0.9, 0.1]), np.array([True, False, True, False])
    )
    # 0.9 closes the bin of 0.85, and 0.1 the first
    assert reliability.counts.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 2, 1]
    assert reliability.accuracy[[0, 8, 9]].tolist() == [0, 0.5, 1]
    # |0 - 0.1| / 4 + |1 - 1.75| / 4 + |1 - 0.95| / 4
    assert reliability.error == pytest.approx((0.1 + 0.75 + 0.05) / 4)


def test_nothing_predicted_is_not_miscalibrated() -> None:
    reliability = calibration(np.array([]), np.array([], dtype=bool))
    assert reliability.error == 0.0
    assert reliability.counts.tolist() == [0] * 10


@given(PAIRS, st.integers(1, 6))
def test_counted_pairs_say_what_the_matrix_says(
    pairs: list[tuple[int, int]], most: int
) -> None:
    truth, predicted = np.array(pairs, dtype=np.int64).T
    counts = confusion_counts(truth, predicted, 5)
    matrix = confusion(truth, predicted, 5)
    np.testing.assert_array_equal(np.asarray(counts), matrix)
    assert counts.total == len(pairs)
    np.testing.assert_array_equal(counts.true, matrix.sum(1))
    np.testing.assert_array_equal(counts.predicted, matrix.sum(0))
    np.testing.assert_array_equal(counts.right, np.diag(matrix))
    assert accuracy(counts) == accuracy(matrix)
    assert macro_f1(counts) == macro_f1(matrix)
    mistaken = counts.mistaken(most)
    assert [matrix[i, j] for i, j, _ in mistaken] == [count for *_, count in mistaken]
    wrong = sorted(
        (matrix - np.diag(np.diag(matrix))).reshape(-1).tolist(), reverse=True
    )
    assert [count for *_, count in mistaken] == [n for n in wrong if n][:most]


def test_many_classes_take_what_their_predictions_take() -> None:
    truth = np.arange(5000) * 20
    tracemalloc.start()
    counts = confusion_counts(truth, truth[::-1], 100_000)
    assert accuracy(counts) == 0
    assert len(counts.mistaken(7)) == 7
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000  # bytes; a matrix would take 80 GB
