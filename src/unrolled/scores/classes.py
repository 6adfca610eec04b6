"""Scores of predicted classes. Legend: N predictions, C classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.int64]
Shares = NDArray[np.float64]


def confusion(truth: Classes, predicted: Classes, count: int) -> Classes:
    """Return the confusion matrix (C, C): rows are the true class, columns the predicted one."""
    return np.bincount(truth * count + predicted, minlength=count * count).reshape(count, count)


def accuracy(matrix: Classes) -> float:
    """Return the share of right predictions in a confusion matrix (C, C)."""
    return float(np.trace(matrix) / max(1, matrix.sum()))


def macro_f1(matrix: Classes) -> float:
    """Return the mean F1 over the classes that occur as truth or as prediction.

    The F1 of a class is 2 TP / (2 TP + FP + FN), as scikit-learn's ``f1_score`` with
    ``average="macro"`` and its default labels has it.
    """
    right = np.diag(matrix).astype(np.float64)
    either = matrix.sum(0) + matrix.sum(1)
    occurs = either > 0
    return float((2 * right[occurs] / either[occurs]).mean()) if occurs.any() else 0.0


@dataclass(frozen=True, slots=True)
class ByClass:
    """Scores of each class (C,); NaN where nothing tells: a class never predicted, or never true.

    ``precision`` is the share of right ones among the predictions of a class, ``recall`` among its
    true ones, ``f1`` their harmonic mean, ``support`` how many are true: scikit-learn's
    ``precision_recall_fscore_support`` with ``zero_division=nan``.
    """

    precision: Shares
    recall: Shares
    f1: Shares
    support: Classes


def by_class(matrix: Classes) -> ByClass:
    """Return precision, recall, F1 and support of each class of a confusion matrix (C, C)."""
    right, true, told = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    return ByClass(_share(right, told), _share(right, true), _share(2 * right, true + told), true)


def _share(part: Classes, whole: Classes) -> Shares:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence beside accuracy in B bins of equal width; means are NaN in an empty bin.

    ``error`` is the expected calibration error: the mean of |accuracy - confidence| over the
    bins, each weighed by its predictions.
    """

    counts: Classes
    confidence: Shares
    accuracy: Shares
    error: float


def calibration(confidence: Shares, right: NDArray[np.bool_], bins: int = 10) -> Calibration:
    """Compare how sure a classifier was with how often it was right (Guo et al. 2017, eq. 3).

    Bin b of B holds the confidences in (b / B, (b + 1) / B].

    Args:
        confidence: probability of each prediction, (N,).
        right: whether it was right, (N,).
        bins: B.
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(edges, confidence, side="left")
    counts = np.bincount(place, minlength=bins)
    sure = np.bincount(place, weights=confidence, minlength=bins)
    hits = np.bincount(place, weights=right, minlength=bins)
    error = float(np.abs(hits - sure).sum() / max(1, len(confidence)))
    return Calibration(counts, _share(sure, counts), _share(hits, counts), error)
