"""What is minimised: functions ``(model, batch, carry) -> Loss``.

A loss is a sum and what it is divided by, never a mean, so that padding, accumulation and several
processes weigh every scored step alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.data.batches import IGNORED, Batch
from unrolled.nn.state import State


@dataclass(frozen=True, slots=True)
class Loss:
    """Summed loss, its divisor, the state for the next window, and (sum, count) pairs to log."""

    sum: Tensor
    count: Tensor
    carry: State | None = None
    logs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


Objective = Callable[[nn.Module, Batch, State | None], Loss]


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Loss:
    """Return the summed cross entropy of logits (..., C) and classes (...), IGNORED left out."""
    flat = targets.reshape(-1)
    total = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        flat,
        reduction="sum",
        ignore_index=IGNORED,
        label_smoothing=smoothing,
    )
    return Loss(total, (flat != IGNORED).sum())


def classes(smoothing: float = 0.0) -> Objective:
    """Return the objective of class scores (B, C) or (B, T, C)."""

    def objective(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        assert batch.targets is not None
        return cross_entropy(model(batch.inputs, batch.lengths), batch.targets, smoothing)

    return objective


def values() -> Objective:
    """Return half the squared error of values (B,): -log likelihood of a unit normal."""

    def objective(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        assert batch.targets is not None
        answers = model(batch.inputs, batch.lengths).squeeze(-1).float()
        total = 0.5 * F.mse_loss(answers, batch.targets, reduction="sum")
        return Loss(total, torch.tensor(len(answers), device=answers.device))

    return objective


def next_token(smoothing: float = 0.0, carry_state: bool = True) -> Objective:
    """Return the objective of a language model, with the state carried across windows or not."""

    def objective(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        assert batch.targets is not None
        state = None if batch.restart else carry
        logits, state = model(batch.inputs, state)
        loss = cross_entropy(logits, batch.targets, smoothing)
        return Loss(loss.sum, loss.count, state.detach() if carry_state else None)

    return objective
