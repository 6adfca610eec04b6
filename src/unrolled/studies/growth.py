"""What more labelled rows are worth: a curve through the scores, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
SIZES = 3  # fewer say nothing of a curve: a line goes through two
MORE = 1000
INTERVAL = (2.5, 50.0, 97.5)  # percentiles
Floats = NDArray[np.float64]
Map = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class GrowthEstimate:
    """What ``more`` rows beyond the most that were tried would bring.

    Attributes:
        rows: the most that were tried.
        more: how many more.
        low, middle, high: by how much the score would change: a 95% interval and its median; None
            where it cannot be said.
        reason: why not.
    """

    rows: int
    more: int
    low: float | None = None
    middle: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out that nothing changes."""
        if self.low is None or self.high is None:
            return False
        return self.low > 0 or self.high < 0


def next_rows(
    sizes: Sequence[float], scores: Sequence[float], higher: bool
) -> GrowthEstimate:
    """Estimate what the next thousand rows would bring.

    The error falls as a power of the rows, error = c * n**-a (Hestness et al. 2017, section 3): a
    line between logarithms, fitted by least squares. The error is 1 - score where more is better
    and all scores lie below 1, and the score itself where less is better; scores of other kinds
    are fitted as a + b log n. The interval is that of a bootstrap of the residuals (Efron and
    Tibshirani 1993, section 9.5).

    Args:
        sizes: rows of each run.
        scores: of each run.
        higher: whether more of the score is better.
    """
    n = np.asarray(sizes, np.float64)
    score = np.asarray(scores, np.float64)
    most = int(n.max())
    # nobody can say what lies beyond twice of what was tried
    more = min(MORE, most)
    tried = len(set(sizes))
    reason = ""
    if tried < SIZES:
        reason = f"it takes {SIZES} sizes, and {tried} were tried"
    elif np.ptp(score) == 0:
        reason = "all scores are the same"
    if reason:
        return GrowthEstimate(most, more, reason=reason)
    to_line, from_line = _scales(score, higher)
    ends = np.array([most, most + more], np.float64)
    values = _lines(n, to_line(score), ends)
    before, after = from_line(values).T
    gains = after - before
    percentiles = np.percentile(gains, INTERVAL)
    low, middle, high = percentiles.tolist()
    return GrowthEstimate(most, more, low, middle, high)


def _scales(score: Floats, higher: bool) -> tuple[Map, Map]:
    """Return how a score becomes what is linear in log n, and the way back."""
    if higher and score.max() < 1 and score.min() >= 0:
        return _log_error, _from_log_error
    if not higher and score.min() > 0:
        return np.log, np.exp
    return np.asarray, np.asarray


def _log_error(score: Floats) -> Floats:
    return np.log(1 - score)


def _from_log_error(value: Floats) -> Floats:
    return 1 - np.exp(value)


def _lines(n: Floats, y: Floats, ends: Floats) -> Floats:
    """Return values at ``ends`` of lines through y over log n, one a draw, (DRAWS, ends)."""
    columns = [np.ones_like(n), np.log(n)]
    design = np.stack(columns, axis=1)
    solve = np.linalg.pinv(design)
    fitted = design @ (solve @ y)
    # residuals are smaller than errors are, by the degrees of freedom that the line takes
    count = len(n)
    free = max(1, count - 2)
    residuals = (y - fitted) * np.sqrt(count / free)
    draw = np.random.default_rng(0)
    drawn = fitted + draw.choice(residuals, (DRAWS, count))
    lines = drawn @ solve.T
    first = lines[:, :1]
    gradient = lines[:, 1:]
    return np.asarray(first + gradient * np.log(ends))
