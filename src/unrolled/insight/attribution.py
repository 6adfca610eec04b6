"""Which inputs mattered: integrated gradients, and what changes where a step is left out.

Legend: T steps, D numbers of a step, F features of other columns, N rows read together, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unrolled.insight.looker import Looker
from unrolled.insight.straight_path import READ, Shares, StraightPath
from unrolled.insight.trace import Attributions, Explained, Floats, spans_of
from unrolled.ops.recording import LONG
from unrolled.tasks.steps import InputSteps, joined

POINTS = (16, 64, 256)  # of the quadrature, until the gap is small
POINTS_LONG = (16, 64)
GAP = 1e-3
SPANS = 64  # that are left out one by one, of a long input
Doubles = NDArray[np.float64]
Span = tuple[int, int]


def attribute(looker: Looker, steps: InputSteps, explained: Explained) -> Attributions:
    """Return how much each step, and each other column, added to the number that is explained."""
    path = StraightPath(looker, steps, explained)
    is_long = len(steps) > LONG
    bound = GAP
    if looker.reader.are_values:
        bound *= max(abs(path.difference), 1e-9)
    shares, gap, count = _integrated(path, POINTS_LONG if is_long else POINTS, bound)
    spans = spans_of(len(steps), SPANS if is_long else len(steps))
    by_span = shares.steps
    if is_long:
        starts = [first for first, _ in spans]
        by_span = np.add.reduceat(shares.steps, starts)
    return Attributions(
        integrated_gradients=by_span.astype(np.float32),
        leave_one_out=_leave_out(path, spans),
        baseline=path.baseline,
        completeness_gap=gap,
        columns=shares.columns,
        points=count,
        spans=tuple(spans) if is_long else (),
    )


def _integrated(
    path: StraightPath, points: Sequence[int], bound: float
) -> tuple[Shares, float, int]:
    """Return the shares, by how much their sum misses the difference, and how many points it took.

    More points are taken until the gap is at most ``bound``.
    """
    for count in points:
        shares = path.integrate(count)
        gap = abs(shares.total - path.difference)
        if gap <= bound:
            break
    return shares, gap, count


def _leave_out(path: StraightPath, spans: Sequence[Span]) -> Floats:
    """Return the number that is explained, less what it is without each span of steps."""
    steps = path.steps
    number = path.explained.probability
    differences = np.zeros(len(spans), dtype=np.float32)
    # spans whose removal leaves equally many steps are left out side by side
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (first, end) in enumerate(spans):
        if _is_needed(path, first, end):
            differences[index] = number - path.without_vectors(first, end)
            continue
        step = _step_without(path, first, end)
        groups.setdefault((end - first, step), []).append(index)
    rows = max(1, READ // len(steps))
    for (_, step), indices in groups.items():
        for begin in range(0, len(indices), rows):
            chunk = indices[begin : begin + rows]
            changed = [steps.without(*spans[index]) for index in chunk]
            numbers = path.numbers(joined(changed), step)
            differences[chunk] = number - numbers
    return differences


def _is_needed(path: StraightPath, first: int, end: int) -> bool:
    """Whether steps cannot be left out: all there are, or the one whose label is explained."""
    if not path.steps.are_tokens:
        return False
    if end - first == len(path.steps):
        return True
    step = path.explained.step
    if step is None or not path.looker.reader.labels_steps:
        return False
    return first <= step < end


def _step_without(
    path: StraightPath,
    first: int,
    end: int,
) -> int:
    """Return the step whose output is explained once the steps from ``first`` are left out."""
    at = path.explained.step
    if at is None:
        return -1
    if path.looker.reader.is_generative or not path.steps.are_tokens:
        return at
    removed = max(0, min(end, at + 1) - first)
    return max(0, at - removed)
