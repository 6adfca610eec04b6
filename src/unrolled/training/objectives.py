"""What is minimised: functions ``(model, batch, carry) -> Loss``.

A loss is a sum and what it is divided by, never a mean, so that padding, accumulation and several
processes weigh every scored step alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

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
        logits = model(batch.inputs, batch.lengths, *batch.extra)
        return cross_entropy(logits, batch.targets, smoothing)

    return objective


def values() -> Objective:
    """Return half the squared error of values (B,): -log likelihood of a unit normal."""

    def objective(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        assert batch.targets is not None
        answers = model(batch.inputs, batch.lengths, *batch.extra).squeeze(-1).float()
        total = 0.5 * F.mse_loss(answers, batch.targets, reduction="sum")
        return Loss(total, torch.tensor(len(answers), device=answers.device))

    return objective


def next_token(smoothing: float = 0.0, carry_state: bool = True) -> Objective:
    """Return the objective of a language model, with the state carried across windows or not."""

    def objective(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        assert batch.targets is not None
        state = None if batch.restart else carry
        if state is not None and batch.fresh is not None:
            state = begin_anew(cast(Begins, model), state, batch.fresh)
        logits, state = model(batch.inputs, state)
        loss = cross_entropy(logits, batch.targets, smoothing)
        return Loss(loss.sum, loss.count, state.detach() if carry_state else None)

    return objective


class Begins(Protocol):
    """A model that knows the state before a text."""

    def initial_state(self, batch: int) -> State:
        """Return it for ``batch`` rows."""


def begin_anew(model: Begins, state: State, fresh: Tensor) -> State:
    """Return the state with the rows that ``fresh`` (B,) marks set to the state before a text."""
    own = torch.arange(state.rows, device=fresh.device)
    both = type(state).join([state, model.initial_state(1)])
    return both.reorder(torch.where(fresh, state.rows, own))


class Recovers(Protocol):
    """A model that can guess tokens from their neighbours."""

    def recover(self, tokens: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        """Return scores (M, K) of the real tokens."""
        ...


def recovered(model: Recovers, batch: Batch, vocabulary: int, samples: int) -> Loss:
    """Return the loss of guessing tokens from their neighbours, among a sample of the vocabulary.

    The candidates are the tokens of the batch and ``samples`` others: a softmax over all would
    cost more than the layer itself.
    """
    assert batch.lengths is not None
    tokens, lengths = batch.inputs, batch.lengths
    real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    truth = tokens[real]
    others = torch.randint(vocabulary, (samples,), device=tokens.device)
    candidates = torch.cat([truth, others]).unique()
    logits = model.recover(tokens, lengths, candidates)
    return cross_entropy(logits, torch.searchsorted(candidates, truth), 0.0)


def pretrained(objective: Objective, vocabulary: int, samples: int = 2000) -> Objective:
    """Return an objective that learns the language from batches without targets.

    Labels tell little about each text; guessing its tokens tells much (Dai and Le 2015). Batches
    that have targets go to ``objective``.
    """

    def either(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        if batch.targets is None:
            return recovered(cast(Recovers, model), batch, vocabulary, samples)
        return objective(model, batch, carry)

    return either
