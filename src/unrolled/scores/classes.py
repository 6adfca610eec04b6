"""Scores of predicted classes. Legend: N predictions, C classes.

They are scikit-learn's numbers without scikit-learn. Its import takes one to
two seconds beside torch, which every short training, ``evaluate`` and report would wait for; each
of its calls reads all labels again (at a million labels of 50 classes 0.4 s beside 0.1 s here, of
20,000 classes 1.9 s beside 0.16 s), where here they are counted once for all scores; and its
confusion matrix holds C * C numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.int64]
Ratios = NDArray[np.float64]


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
        truth = self.cells // self.classes
        return self._by_class(truth, self.counts)

    @property
    def predicted(self) -> Classes:
        """How often each class was predicted (C,)."""
        predicted = self.cells % self.classes
        return self._by_class(predicted, self.counts)

    @property
    def right(self) -> Classes:
        """How often each class was predicted where it was true (C,)."""
        truth, predicted = divmod(self.cells, self.classes)
        right = self.counts * (truth == predicted)
        return self._by_class(truth, right)

    def _by_class(self, classes: Classes, counts: Classes) -> Classes:
        summed = np.zeros(self.classes, dtype=np.int64)
        np.add.at(summed, classes, counts)
        return summed

    def mistaken(self, most: int) -> list[tuple[int, int, int]]:
        """Return true class, predicted class and count of the pairs mistaken most often."""
        truth, predicted = divmod(self.cells, self.classes)
        wrong = np.flatnonzero(truth != predicted)
        # stable: pairs mistaken equally often come in the order of their classes
        commonest_first = np.argsort(-self.counts[wrong], kind="stable")
        chosen = wrong[commonest_first[:most]]
        return list(
            zip(
                truth[chosen].tolist(),
                predicted[chosen].tolist(),
                self.counts[chosen].tolist(),
                strict=True,
            )
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole matrix (C, C): rows are the true class, columns the predicted one."""
        matrix = np.zeros((self.classes, self.classes), dtype=np.int64)
        flat = matrix.reshape(-1)
        flat[self.cells] = self.counts
        return matrix if dtype is None else matrix.astype(dtype)


def confusion(truth: Classes, predicted: Classes, count: int) -> Classes:
    """Return the confusion matrix (C, C): rows are the true class, columns the predicted one."""
    return np.asarray(confusion_counts(truth, predicted, count))


def confusion_counts(truth: Classes, predicted: Classes, count: int) -> ConfusionCounts:
    """Count the predictions (N,) of each of ``count`` classes by their true class (N,)."""
    truth = np.asarray(truth, dtype=np.int64)
    pairs = truth * count + predicted
    cells, counts = np.unique(pairs, return_counts=True)
    return ConfusionCounts(
        classes=count,
        cells=cells.astype(np.int64),
        counts=counts.astype(np.int64),
    )


def counted(confusions: ConfusionCounts | Classes) -> ConfusionCounts:
    """Return the counts of a confusion matrix (C, C), or what is counted already."""
    if isinstance(confusions, ConfusionCounts):
        return confusions
    cells = np.flatnonzero(confusions)
    counts = confusions.reshape(-1)[cells]
    return ConfusionCounts(len(confusions), cells, counts)


def accuracy(confusions: ConfusionCounts | Classes) -> float:
    """Return the share of right predictions, counted or in a matrix (C, C)."""
    counts = counted(confusions)
    right = counts.right.sum()
    return float(right / max(1, counts.total))


def macro_f1(confusions: ConfusionCounts | Classes) -> float:
    """Return the mean F1 over the classes that occur as truth or as prediction.

    The F1 of a class is 2 TP / (2 TP + FP + FN), as scikit-learn's ``f1_score`` with
    ``average="macro"`` and its default labels has it.
    """
    f1 = by_class(confusions).f1
    occurs = ~np.isnan(f1)
    return float(f1[occurs].mean()) if occurs.any() else 0.0


@dataclass(frozen=True, slots=True)
class ByClass:
    """Scores of each class (C,); NaN where nothing tells: a class never predicted, or never true.

    ``precision`` is the share of right ones among the predictions of a class, ``recall`` among its
    true ones, ``f1`` their harmonic mean, ``support`` how many are true: scikit-learn's
    ``precision_recall_fscore_support`` with ``zero_division=nan``.
    """

    precision: Ratios
    recall: Ratios
    f1: Ratios
    support: Classes


def by_class(confusions: ConfusionCounts | Classes) -> ByClass:
    """Return precision, recall, F1 and support of each class (C,)."""
    counts = counted(confusions)
    right = counts.right
    true = counts.true
    predicted = counts.predicted
    return ByClass(
        precision=_ratios(right, predicted),
        recall=_ratios(right, true),
        f1=_ratios(2 * right, true + predicted),
        support=true,
    )


def _ratios(part: Classes | Ratios, whole: Classes) -> Ratios:
    """Return part / whole, NaN where whole is 0."""
    undefined = np.full(len(whole), np.nan)
    return np.divide(part, whole, out=undefined, where=whole > 0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence beside accuracy in B bins of equal width; means are NaN in an empty bin.

    ``error`` is the expected calibration error: the mean of |accuracy - confidence| over the
    bins, each weighed by its predictions.
    """

    counts: Classes
    confidence: Ratios
    accuracy: Ratios
    error: float


def calibration(
    confidence: Ratios, right: NDArray[np.bool_], bins: int = 10
) -> Calibration:
    """Compare how sure a classifier was with how often it was right (Guo et al. 2017, eq. 3).

    Bin b of B holds the confidences in (b / B, (b + 1) / B].

    Args:
        confidence: probability of each prediction, (N,).
        right: whether it was right, (N,).
        bins: B.
    """
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_indices = np.searchsorted(inner_edges, confidence, side="left")
    counts = np.bincount(bin_indices, minlength=bins)
    confidences = np.bincount(bin_indices, weights=confidence, minlength=bins)
    hits = np.bincount(bin_indices, weights=right, minlength=bins)
    # sums of a bin: their gap is that of its means times how many predictions it holds
    gaps = np.abs(hits - confidences)
    return Calibration(
        counts=counts,
        confidence=_ratios(confidences, counts),
        accuracy=_ratios(hits, counts),
        error=float(gaps.sum() / max(1, len(confidence))),
    )
