"""Pure scorers: numbers in, numbers out. Scores are fractions of 1 unless their name says else."""

from unrolled.scores.classes import (
    ConfusionCounts,
    accuracy,
    by_class,
    calibration,
    confusion,
    confusion_counts,
    counted,
    macro_f1,
)
from unrolled.scores.values import mean_absolute_error, root_mean_squared_error

__all__ = [
    "ConfusionCounts",
    "accuracy",
    "by_class",
    "calibration",
    "confusion",
    "confusion_counts",
    "counted",
    "macro_f1",
    "mean_absolute_error",
    "root_mean_squared_error",
]
