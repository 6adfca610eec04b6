"""Scores of predicted values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def mean_absolute_error(truth: Values, predicted: Values) -> float:
    """Return the mean of |truth - predicted|, in the unit of the values."""
    return float(np.abs(truth - predicted).mean())


def root_mean_squared_error(truth: Values, predicted: Values) -> float:
    """Return the root of the mean squared error, in the unit of the values."""
    return float(np.sqrt(np.square(truth - predicted).mean()))
