"""Scores of labels at every frame, as stretches of equal labels: what action segmentation measures.

A segment is a stretch of equal labels that stand side by side. Frames by themselves hardly tell
whether a model says each action once: one that flickers loses few frames and most segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.scores.edits import distance

Labels = NDArray[np.int64]
# shares of overlap from which a segment counts as found (Lea et al. 2017, section 4)
OVERLAPS = (0.10, 0.25, 0.50)


@dataclass(frozen=True, slots=True)
class Segments:
    """The S segments of one sequence: labels, first frames, and the frames after the last (S,)."""

    labels: Labels
    starts: Labels
    ends: Labels

    @classmethod
    def of(cls, labels: NDArray[Any]) -> Segments:
        """Return the segments of labels (T,)."""
        labels = np.asarray(labels, dtype=np.int64)
        changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
        starts = np.concatenate([np.zeros(min(1, len(labels)), np.int64), changes])
        ends = np.append(starts[1:], len(labels)) if len(starts) else starts
        return cls(labels[starts], starts, ends)

    def __len__(self) -> int:
        return len(self.labels)


def segment_scores(
    truth: Sequence[NDArray[Any]], predicted: Sequence[NDArray[Any]]
) -> dict[str, float]:
    """Return edit score and F1 at each overlap of N sequences, all from 0 to 1.

    Args:
        truth, predicted: labels (T,) of each sequence.

    Returns:
        ``edit``, and ``f1_10``, ``f1_25``, ``f1_50``.

    Raises:
        ValueError: there is no sequence, or two of one sequence differ in length.
    """
    if not truth or [len(labels) for labels in truth] != [
        len(labels) for labels in predicted
    ]:
        raise ValueError("expected labels of the same frames, of one sequence at least")
    pairs = [
        (Segments.of(right), Segments.of(given))
        for right, given in zip(
            truth,
            predicted,
            strict=True,
        )
    ]
    scores = {"edit": float(np.mean([edit_score(*pair) for pair in pairs]))}
    for overlap in OVERLAPS:
        name = f"f1_{round(100 * overlap)}"
        scores[name] = overlap_f1(pairs, overlap)
    return scores


def edit_score(
    truth: Segments,
    predicted: Segments,
) -> float:
    """Return 1 less the edits between the two orders of labels, over the longer of them.

    Where segments begin and end makes no difference (Lea et al. 2016, section 4).
    """
    longer = max(len(truth), len(predicted))
    if not longer:
        return 1.0
    edits = distance(
        predicted.labels.tolist(),
        truth.labels.tolist(),
    )
    return 1 - edits / longer


def overlap_f1(
    pairs: Sequence[tuple[Segments, Segments]],
    overlap: float,
) -> float:
    """Return the F1 of segments that were found (Lea et al. 2017, section 4).

    A predicted segment has found the true one of its label with which it shares the largest part of
    what both cover, if that part is ``overlap`` at least and no other has found it before.
    """
    matched = 0
    predicted_count = 0
    true_count = 0
    for truth, predicted in pairs:
        predicted_count += len(predicted)
        true_count += len(truth)
        hits = np.zeros(len(truth), dtype=bool)
        for index in range(len(predicted)):
            shares = _shares(truth, predicted, index)
            if not len(shares):
                continue
            best = int(np.argmax(shares))
            if shares[best] >= overlap and not hits[best]:
                hits[best] = True
                matched += 1
    return (
        2
        * matched
        / max(
            1,
            predicted_count + true_count,
        )
    )


def _shares(
    truth: Segments,
    predicted: Segments,
    index: int,
) -> NDArray[np.float64]:
    """Return which part of what both cover a predicted segment shares with each true one (S,)."""
    start = predicted.starts[index]
    end = predicted.ends[index]
    shared = np.minimum(truth.ends, end) - np.maximum(truth.starts, start)
    covered = np.maximum(truth.ends, end) - np.minimum(truth.starts, start)
    same = truth.labels == predicted.labels[index]
    shares: NDArray[np.float64] = shared / covered * same
    return shares
