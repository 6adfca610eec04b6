"""One step of a beam as arrays: which candidates go on, which end, and where they stand.

Everything here is small and on the host: a step looks at B x k numbers, never at the vocabulary.

Shapes: S sources in the batch, W rows of each before a step, n rows of each after it, k candidates
of a row. Axis 0 is the source; axis 1 the row of that source, best first or where its parent was;
axis 2 the candidate of that row, best first. W is 1 before the first step and n ever after.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUT = -math.inf
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# One way on: from row ``parent`` of its source (0 to W - 1) by ``token``, of log-probability
# ``log_prob``; ``total`` is that of the whole hypothesis, -inf where there is none.
STEP = np.dtype(
    [
        ("parent", np.int64),
        ("token", np.int64),
        ("log_prob", np.float64),
        ("total", np.float64),
    ]
)
Steps = NDArray[Any]


def expand(
    totals: Floats,
    log_probs: Floats,
    tokens: Ints,
    n: int,
) -> Steps:
    """Return the candidates of each row (S, W, k) as ``STEP``, at least 2 n of a source.

    Args:
        totals: log-probability of each row (S, W).
        log_probs, tokens: what may follow, best first (S, W, k).
        n: rows that are to go on.
    """
    sources, width, k = log_probs.shape
    # ``select`` takes 2 n candidates of a source; a small vocabulary has fewer, and the rest of
    # the pool is candidates that are none
    fewest = math.ceil(2 * n / width)
    pool = np.zeros((sources, width, max(k, fewest)), STEP)
    pool["parent"] = np.arange(width)[:, None]
    pool["token"] = -1
    pool["log_prob"] = OUT
    pool["total"] = OUT
    real = pool[:, :, :k]
    real["token"] = tokens
    real["log_prob"] = log_probs
    real["total"] = totals[:, :, None] + log_probs
    return pool


def select(
    pool: Steps,
    n: int,
    end: int,
    penalty: Floats | float = 0.0,
) -> tuple[Steps, Steps]:
    """Choose what goes on and what ends.

    Of all candidates of a source in order, those end that write the end mark and are among the
    first ``n``; the first ``n`` that do not write it go on. Equal ones: the lower row first, then
    the lower token.

    Args:
        pool: candidates (S, W, k), k > n unless there are no more; W is at most ``n``.
        n: rows that go on.
        end: the end mark.
        penalty: what ranking takes off each total (S, W, k).

    Returns:
        What goes on, and what ends: (S, n) each, ``total`` -inf where there is none.
    """
    sources = np.arange(len(pool))[:, None]
    candidates = pool.reshape(len(pool), -1)
    costs = penalty - pool["total"]
    # Every row proposes the end mark once at most, so of the best 2 n at least n go on. The sort is
    # stable and the candidates stand by row, then by rank in it: that is how ties are broken.
    order = _stable_order(costs.reshape(candidates.shape))
    ordered = candidates[sources, order[:, : 2 * n]]
    ending = ordered["token"] == end
    # sorted by "ends" alone: those that do not come first, and stay in order
    going_first = _stable_order(ending)
    going = ordered[
        sources, going_first[:, :n]
    ]  # a copy, which the next lines do not reach
    ended = ordered[:, :n]
    goes_on = ~ending[:, :n]
    ended["total"][goes_on] = OUT
    return going, ended


def _stable_order(keys: NDArray[Any]) -> Ints:
    """Return the order of each row of keys (S, N), equal ones as they stand."""
    return keys.argsort(axis=1, kind="stable")


def arrange(parents: Ints) -> Ints:
    """Return an order (S, n) of the rows that go on: each parent keeps a child where it stood.

    The first child of row p stands at p, the others where nobody's first child does, so that a
    cache copies only what moves.

    Args:
        parents: row before the step of each row after it (S, n), from 0 to n - 1.
    """
    n = parents.shape[1]
    slots = np.arange(n)
    siblings = parents[:, :, None] == parents[:, None, :]
    earlier = np.tri(n, k=-1, dtype=bool)  # [i, j]: whether j stands before i
    is_first = ~(siblings & earlier).any(2)
    is_taken = (parents[:, :, None] == slots).any(1)
    # Two lists of a source that belong together, entry by entry. Children: those that are not the
    # first of their parent, then the first ones by parent. Slots: those that are nobody's parent,
    # then the parents. Both halves are as long, since each parent has one first child.
    keys = np.where(is_first, n + parents, slots)
    children = _stable_order(keys)
    free_first = _stable_order(is_taken)
    order = np.empty_like(parents)
    np.put_along_axis(order, free_first, children, 1)
    return order
