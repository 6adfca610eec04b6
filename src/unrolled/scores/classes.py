"""Scores of predicted classes. Legend: N predictions, C classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.int64]


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
