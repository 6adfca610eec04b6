"""Which inputs mattered: integrated gradients, and what changes where a step is left out.

Legend: T steps, D numbers of a step, F features of other columns, N rows read together, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.insight.looker import Looker
from unrolled.insight.straight_path import READ, Shares, StraightPath
from unrolled.insight.trace import Attributions, Explained, Floats, spans_of
from unrolled.ops.recording import LONG
from unrolled.tasks.steps import InputSteps, joined

GAP = 1e-3
Doubles = NDArray[np.float64]
Span = tuple[int, int]


def attribute(looker: Looker, steps: InputSteps, explained: Explained) -> Attributions:
    """Return how much each step, and each other column, added to the number that is explained."""
    effort = effort_of(looker, steps)
    is_long = effort.spans < len(steps)
    path = StraightPath(looker, steps, explained, effort.grid)
    bound = GAP
    if looker.reader.are_values:
        bound *= max(abs(path.difference), 1e-9)
    shares, gap, count = _integrated(path, effort.points, bound)
    spans = spans_of(len(steps), effort.spans)
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


@dataclass(frozen=True)
class Effort:
    """How finely an input is looked at.

    Attributes:
        grid: points at which it is seen where the number changes.
        points: of the quadrature, until the gap is small.
        spans: of steps that are left out one by one, at most.
    """

    grid: int
    points: tuple[int, ...]
    spans: int

    def readings(self, steps: int) -> int:
        """Return how many readings of the input that is, of those with gradients three each."""
        return self.grid + 3 * self.points[0] + min(self.spans, steps)


# from the finest to the coarsest
EFFORTS = (
    Effort(33, (16, 64, 256), LONG),
    Effort(33, (16, 64), 64),
    Effort(9, (16,), 32),
    Effort(5, (8,), 8),
)
PRODUCTS = 5e11  # of weights and steps that a look takes, about


def effort_of(looker: Looker, steps: InputSteps) -> Effort:
    """Return how finely an input is looked at: less so where one reading of it takes long."""
    sizes: dict[int, int] = {}
    for module in looker.names:
        # a block's weights are also those of its stack
        sizes |= {id(weight): weight.numel() for weight in module.parameters()}
    count = len(steps)
    one_reading = count * sum(sizes.values())
    efforts = EFFORTS if count <= LONG else EFFORTS[1:]
    affordable = [
        effort for effort in efforts if effort.readings(count) * one_reading <= PRODUCTS
    ]
    return affordable[0] if affordable else EFFORTS[-1]


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
