"""Beams as arrays: which candidates go on, where they stand, and the way back through them.

Everything here is small and on the host: a step looks at B x k numbers, never at the vocabulary.

Shapes: S sources in the batch, W rows of each before a step, n rows of each after it, k candidates
of a row, H hypotheses, T steps.
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

# a hypothesis that writes no further; ``kind``: ENDED, CUT or LACKING; ``at`` tokens written, the
# last of them at ``row`` of that step; ``last`` is the log-probability of the end mark
RECORD = np.dtype(
    [
        *((name, np.int64) for name in ("source", "group", "kind", "at", "row")),
        *((name, np.float64) for name in ("score", "total", "last")),
    ]
)
# ended by itself; cut off at the limit; cut off without all the phrases it should have held
ENDED = 0
CUT = 1
LACKING = 2


# one way on: from row ``parent`` of its source (0 to W - 1) by ``token``, of log-probability
# ``value``; ``total`` is that of the whole, -inf where there is none
STEP = np.dtype(
    [
        ("parent", np.int64),
        ("token", np.int64),
        ("value", np.float64),
        ("total", np.float64),
    ]
)
Steps = NDArray[Any]


def expand(total: Floats, values: Floats, tokens: Ints, n: int) -> Steps:
    """Return the candidates of each row (S, W, k) as ``STEP``, at least 2 n of a source.

    Args:
        total: log-probability of each row (S, W).
        values, tokens: what may follow, best first (S, W, k).
        n: rows that are to go on.
    """
    sources, width, k = values.shape
    pool = np.zeros((sources, width, max(k, -(-2 * n // width))), STEP)
    pool["parent"] = np.arange(width)[:, None]
    pool["token"] = -1
    pool["value"] = OUT
    pool["total"] = OUT
    pool["token"][:, :, :k] = tokens
    pool["value"][:, :, :k] = values
    pool["total"][:, :, :k] = total[:, :, None] + values
    return pool


def select(
    pool: Steps, n: int, end: int, penalty: Floats | float = 0.0
) -> tuple[Steps, Steps]:
    """Choose what goes on and what ends.

    Of all candidates of a source in order, those end that write the end mark and are among the
    first ``n``; the first ``n`` that do not write it go on. Equal ones: the lower row first, then
    the lower token.

    Args:
        pool: candidates (S, W, k), k > n unless there are no more.
        n: rows that go on.
        end: the end mark.
        penalty: what ranking takes off each total (S, W, k).

    Returns:
        What goes on, and what ends: (S, n) each, ``total`` -inf where there is none.
    """
    ranks = (penalty - pool["total"]).reshape(len(pool), -1)
    base = np.arange(len(pool))[:, None]
    flat = pool.reshape(len(pool), -1)
    ordered = flat[base, ranks.argsort(axis=1, kind="stable")[:, : 2 * n]]
    ending = ordered["token"] == end
    on = ordered[base, ending.argsort(axis=1, kind="stable")[:, :n]]
    ended = ordered[:, :n]
    ended["total"][~ending[:, :n]] = OUT
    return on, ended


def arrange(parents: Ints) -> Ints:
    """Return an order (S, n) of the rows that go on: each parent keeps a child in its own place.

    The first child of row p stands at p, the others where nobody's first child does, so that a
    cache copies only what moves.
    """
    n = parents.shape[1]
    places = np.arange(n)
    elder = (parents[:, :, None] == parents[:, None, :]) & np.tri(n, k=-1, dtype=bool)
    first = ~elder.any(2)
    taken = (parents[:, :, None] == places).any(1)
    order = np.empty_like(parents)
    children = np.where(first, n + parents, places).argsort(axis=1, kind="stable")
    slots = taken.argsort(axis=1, kind="stable")
    np.put_along_axis(order, slots, children, 1)
    return order


def length_penalty(length: Any, alpha: float) -> Any:
    """Return the divisor of a log-probability: Wu et al. 2016 (GNMT), equation 14."""
    return ((5.0 + length) / 6.0) ** alpha


class BackPointers:
    """Back-pointers of every step, and the hypotheses that write no further.

    Memory is linear in rows x steps. Rows are numbered anew in each step, before any leaves.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.parents: list[Ints] = []
        self.tokens: list[Ints] = []
        self.values: list[Floats] = []
        self.records: list[NDArray[Any]] = []

    def add(self, parents: Ints, tokens: Ints, values: Floats) -> None:
        """Note a step: for each row the row of the step before, the token, its log-probability."""
        self.parents.append(parents)
        self.tokens.append(tokens)
        self.values.append(values)

    def close(self, coverage: Floats | float = 0.0, **fields: Any) -> Floats:
        """Note hypotheses by the fields of ``RECORD``; return their scores (H,)."""
        records = np.zeros(fields["source"].shape, RECORD)
        for name, value in fields.items():
            records[name] = value
        length = np.maximum(1, records["at"] + (records["kind"] == ENDED))
        records["score"] = (
            records["total"] / length_penalty(length, self.alpha) + coverage
        )
        self.records.append(records)
        return records["score"]

    def sorted(self) -> NDArray[Any]:
        """Return all records by source, those that ended first, best first, earlier first."""
        found = np.concatenate(self.records)
        return found[np.lexsort((-found["score"], found["kind"], found["source"]))]

    def trace(self, records: NDArray[Any]) -> tuple[Ints, Floats]:
        """Return tokens and log-probabilities (H, T) of hypotheses; only the first ``at`` count."""
        steps = int(records["at"].max(initial=0))
        tokens = np.zeros((len(records), steps), np.int64)
        values = np.zeros((len(records), steps))
        row = records["row"].copy()
        for step in range(steps, 0, -1):
            here = np.flatnonzero(records["at"] >= step)
            rows = row[here]
            tokens[here, step - 1] = self.tokens[step - 1][rows]
            values[here, step - 1] = self.values[step - 1][rows]
            row[here] = self.parents[step - 1][rows]
        return tokens, values
