"""What answers cost a model that did not write them, and what those are like that it writes.

Legend: N talks, T tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.data.batches import IGNORED, Batch, by_length, collate
from unrolled.data.examples import Examples
from unrolled.training.objectives import features
from unrolled.training.precision import ComputeDevice

Floats = NDArray[np.float64]
SCORED = 2**24  # scores that are made at once
TOGETHER = 64  # talks that are read at once
CHOICES = 10  # answers among which the right one is looked for
RANKED = 200  # questions for which it is


def log_probabilities(
    model: nn.Module,
    batch: Batch,
    banned: Sequence[int] = (),
    temperature: float = 1.0,
) -> Tensor:
    """Return the log probability (B, T) of each target, 0 where it is IGNORED.

    Args:
        model: a language model.
        batch: rows that begin anew, with targets (B, T).
        banned: tokens that cannot be written: they have no share of the probability.
        temperature: that scores are divided by.
    """
    assert batch.targets is not None
    read, _ = features(model, batch, None, carry_state=False)
    learnt = batch.targets != IGNORED
    head: nn.Linear = model.head  # type: ignore[assignment]
    vectors = read[learnt]
    targets = batch.targets[learnt]
    rows = max(1, SCORED // head.out_features)
    parts: list[Tensor] = []
    pairs = zip(vectors.split(rows), targets.split(rows), strict=True)
    for part, truth in pairs:
        scores = head(part).float() / temperature
        if banned:
            ids = torch.tensor(list(banned), device=scores.device)
            scores = scores.index_fill(1, ids, -torch.inf)
        parts.append(scores.log_softmax(-1).gather(1, truth[:, None])[:, 0])
    whole = torch.zeros(batch.targets.shape, device=vectors.device)
    if not parts:
        return whole
    return whole.masked_scatter(learnt, torch.cat(parts))


@torch.no_grad()
def costs(
    model: nn.Module, examples: Examples, compute_device: ComputeDevice
) -> tuple[Floats, Floats]:
    """Return what the answers of each talk cost in nats, and how many tokens they have, both (N,)."""
    nats = np.zeros(len(examples))
    counts = np.zeros(len(examples))
    order = np.argsort(examples.reach, kind="stable")
    for rows in by_length(examples.reach, order, TOGETHER, None):
        batch = collate(examples, rows).to(compute_device.device)
        assert batch.targets is not None
        logs = log_probabilities(model, batch)
        nats[rows] = -logs.double().sum(1).cpu().numpy()
        counts[rows] = (batch.targets != IGNORED).sum(1).cpu().numpy()
    return nats, counts


def distinct_pairs(texts: Sequence[Sequence[object]]) -> float:
    """Return the share of different pairs of neighbours among all (distinct-2, Li et al. 2016).

    1 where there is no pair: nothing was said twice.
    """
    pairs: Counter[tuple[object, object]] = Counter()
    for text in texts:
        pairs.update(zip(text, text[1:], strict=False))
    total = sum(pairs.values())
    return len(pairs) / total if total else 1.0
