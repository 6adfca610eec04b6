"""Scores of predicted classes. Legend: N predictions, C classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ConfusionCounts:
    """How often each class was predicted for each: the cells of a confusion matrix that are not 0.

    A matrix of 20,000 classes would take 3 GB; this takes what the predictions take.

    Attributes:
        classes: C.
        cells: true class times C plus predicted class, in their order, (K,).
        counts: how often, (K,).
    """

    classes: int
    cells: Classes
    counts: Classes

    @property
    def total(self) -> int:
        """The number of predictions."""
        return int(self.counts.sum())

    @property
    def true(self) -> Classes:
        """How many predictions had each true class (C,)."""
        return self._by_class(self.cells // self.classes, self.counts)

    @property
    def predicted(self) -> Classes:
        """How often each class was predicted (C,)."""
        return self._by_class(self.cells % self.classes, self.counts)

    @property
    def right(self) -> Classes:
        """How often each class was predicted where it was true (C,)."""
        truth, predicted = divmod(self.cells, self.classes)
        return self._by_class(truth, self.counts * (truth == predicted))

    def _by_class(self, which: Classes, counts: Classes) -> Classes:
        summed = np.zeros(self.classes, dtype=np.int64)
        np.add.at(summed, which, counts)
        return summed

    def mistaken(self, most: int) -> list[tuple[int, int, int]]:
        """Return true class, predicted class and count of the pairs mistaken most often."""
        truth, predicted = divmod(self.cells, self.classes)
        wrong = np.flatnonzero(truth != predicted)
        order = wrong[np.argsort(-self.counts[wrong], kind="stable")[:most]]
        rows = np.stack([truth[order], predicted[order], self.counts[order]], 1)
        return [(i, j, count) for i, j, count in rows.tolist()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole matrix (C, C): rows are the true class, columns the predicted one."""
        matrix = np.zeros((self.classes, self.classes), dtype=np.int64)
        matrix.reshape(-1)[self.cells] = self.counts
        return matrix if dtype is None else matrix.astype(dtype)


def confusion(truth: Classes, predicted: Classes, count: int) -> Classes:
    """Return the confusion matrix (C, C): rows are the true class, columns the predicted one."""
    return np.asarray(confusion_counts(truth, predicted, count))


def confusion_counts(truth: Classes, predicted: Classes, count: int) -> ConfusionCounts:
    """Count the predictions (N,) of each of ``count`` classes by their true class (N,)."""
    truth = np.asarray(truth, dtype=np.int64)
    cells, counts = np.unique(truth * count + predicted, return_counts=True)
    return ConfusionCounts(count, cells.astype(np.int64), counts.astype(np.int64))


def counted(found: ConfusionCounts | Classes) -> ConfusionCounts:
    """Return the counts of a confusion matrix (C, C), or what is counted already."""
    if isinstance(found, ConfusionCounts):
        return found
    cells = np.flatnonzero(found)
    return ConfusionCounts(len(found), cells, found.reshape(-1)[cells])


def accuracy(found: ConfusionCounts | Classes) -> float:
    """Return the share of right predictions, counted or in a matrix (C, C)."""
    found = counted(found)
    return float(found.right.sum() / max(1, found.total))


def macro_f1(found: ConfusionCounts | Classes) -> float:
    """Return the mean F1 over the classes that occur as truth or as prediction.

    The F1 of a class is 2 TP / (2 TP + FP + FN), as scikit-learn's ``f1_score`` with
    ``average="macro"`` and its default labels has it.
    """
    found = counted(found)
    right = found.right.astype(np.float64)
    either = found.true + found.predicted
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


def by_class(found: ConfusionCounts | Classes) -> ByClass:
    """Return precision, recall, F1 and support of each class (C,)."""
    found = counted(found)
    right = found.right
    true = found.true
    told = found.predicted
    return ByClass(
        _share(right, told), _share(right, true), _share(2 * right, true + told), true
    )


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


def calibration(
    confidence: Shares, right: NDArray[np.bool_], bins: int = 10
) -> Calibration:
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
