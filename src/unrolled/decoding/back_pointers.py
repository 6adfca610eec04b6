"""What a search remembers: the way back through its steps, and the hypotheses that ended.

Shapes: R rows of a step, H hypotheses, T steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.decoding.beams import Floats, Ints

# A hypothesis that writes no further, of ``source`` and ``group``. ``kind`` is ENDED, CUT or
# LACKING. It has ``length`` tokens, the end mark left out, the last of them at ``row`` of step
# ``length`` (of the sources before the first step where it has none). ``total`` is its
# log-probability, ``end_log_prob`` that of its end mark.
RECORD = np.dtype(
    [
        ("source", np.int64),
        ("group", np.int64),
        ("kind", np.int64),
        ("length", np.int64),
        ("row", np.int64),
        ("score", np.float64),
        ("total", np.float64),
        ("end_log_prob", np.float64),
    ]
)
Records = NDArray[Any]
# Ended by itself; cut off at the limit; cut off without all the phrases it should have held. The
# order is that of the answers.
ENDED = 0
CUT = 1
LACKING = 2


def length_penalty(length: Any, alpha: float) -> Any:
    """Return the divisor of a log-probability: Wu et al. 2016 (GNMT), equation 14."""
    return ((5.0 + length) / 6.0) ** alpha


class BackPointers:
    """Back pointers of every step, and the hypotheses that write no further.

    Row r of step t wrote ``tokens[t - 1][r]`` and came from row ``parents[t - 1][r]`` of step
    t - 1; step 0 is one row a source. A step's rows are numbered as they stood right after it,
    before the rows of finished sources leave the batch: a hypothesis cut off by that step has a
    number too. The rows that stay carry their number of the last step along, since their index in
    the batch is another one. Memory is linear in rows x steps.

    Args:
        alpha: exponent of the length penalty.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.parents: list[Ints] = []
        self.tokens: list[Ints] = []
        self.log_probs: list[Floats] = []
        self.records: list[Records] = []

    def add(
        self,
        parents: Ints,
        tokens: Ints,
        log_probs: Floats,
    ) -> None:
        """Note a step, (R,) each: the rows of the step before, the tokens written, and theirs."""
        self.parents.append(parents)
        self.tokens.append(tokens)
        self.log_probs.append(log_probs)

    def close(self, coverage: Floats | float = 0.0, **fields: Any) -> Floats:
        """Note hypotheses by the fields of ``RECORD``; return their scores (H,)."""
        records = np.zeros(fields["source"].shape, RECORD)
        for name, column in fields.items():
            records[name] = column
        # the end mark counts, and an answer of nothing has the length of one token
        scored = records["length"] + (records["kind"] == ENDED)
        scored = np.maximum(1, scored)
        scores = records["total"] / length_penalty(scored, self.alpha)
        scores += coverage
        records["score"] = scores
        self.records.append(records)
        return scores

    def sorted(self) -> Records:
        """Return all records by source, those that ended first, best first, earlier first."""
        records = np.concatenate(self.records)
        keys = (-records["score"], records["kind"], records["source"])
        return records[np.lexsort(keys)]

    def trace(self, records: Records) -> tuple[Ints, Floats]:
        """Return tokens and log-probabilities (H, T); only the first ``length`` count."""
        lengths = records["length"]
        steps = int(lengths.max(initial=0))
        shape = (len(records), steps)
        tokens = np.zeros(shape, np.int64)
        log_probs = np.zeros(shape)
        rows = records["row"].copy()
        # From the last step back. A shorter hypothesis keeps its row until its last step comes.
        for index in reversed(range(steps)):
            written = np.flatnonzero(lengths > index)
            here = rows[written]
            tokens[written, index] = self.tokens[index][here]
            log_probs[written, index] = self.log_probs[index][here]
            rows[written] = self.parents[index][here]
        return tokens, log_probs
