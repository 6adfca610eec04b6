"""How sure a share of rows is."""

from __future__ import annotations

import math

CONFIDENCE = 0.95


def wilson(fraction: float, answers: int) -> list[float]:
    """Return the 95% interval of a fraction of so many answers (Wilson 1927)."""
    from scipy.stats import norm

    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    square = z * z
    more = square / answers
    scale = 1 + more
    centre = (fraction + more / 2) / scale
    variance = fraction * (1 - fraction) / answers
    variance += more / (4 * answers)
    half = z * math.sqrt(variance) / scale
    low = max(0.0, centre - half)
    high = min(1.0, centre + half)
    return [low, high]
