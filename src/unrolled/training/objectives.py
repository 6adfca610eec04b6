"""What is minimised: functions ``(model, batch, carry) -> Loss``.

A loss is a sum and what it is divided by, never a mean, so that padding, accumulation and several
processes weigh every scored step alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.data.batches import IGNORED, Batch
from unrolled.nn.forms import has_hooks
from unrolled.nn.softmax import head_cross_entropy
from unrolled.nn.state import State

Logs = dict[str, tuple[Tensor, Tensor]]  # sum and count by name
Carry = State | None  # what a window hands to the next one of its text


@dataclass(frozen=True, slots=True)
class Loss:
    """Summed loss, its divisor, the state for the next window, and what else is logged."""

    sum: Tensor
    count: Tensor
    carry: Carry = None
    logs: Logs = field(default_factory=dict)


Objective = Callable[[nn.Module, Batch, Carry], Loss]


def cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None = None
) -> Loss:
    """Return the summed cross entropy of logits (..., C) and classes (...), IGNORED left out.

    With ``weights`` (C,) a target counts as much as its class weighs.
    """
    size = logits.shape[-1]
    rows = logits.reshape(-1, size).float()
    flat = targets.reshape(-1)
    if weights is not None:
        weights = weights.to(flat.device)
    total = F.cross_entropy(
        rows,
        flat,
        weights,
        reduction="sum",
        ignore_index=IGNORED,
        label_smoothing=smoothing,
    )
    is_scored = flat != IGNORED
    if weights is None:
        return Loss(total, is_scored.sum())
    # what is not scored has no class, and any index will do for it: it weighs nothing
    weight_of_target = weights[flat.clamp(min=0)]
    count = (weight_of_target * is_scored).sum()
    return Loss(total, count)


def outputs_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return what a model that carries no state makes of a batch."""
    outputs: Tensor = model(batch.inputs, batch.lengths, *batch.extra)
    return outputs


def classes(smoothing: float = 0.0, weights: Tensor | None = None) -> Objective:
    """Return the objective of class scores (B, C) or (B, T, C), classes weighed by ``weights``."""

    def objective(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        assert batch.targets is not None
        logits = outputs_of(model, batch)
        return cross_entropy(logits, batch.targets, smoothing, weights)

    return objective


def values() -> Objective:
    """Return half the squared error of values (B,): -log likelihood of a unit normal."""

    def objective(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        assert batch.targets is not None
        outputs = outputs_of(model, batch)
        predictions = outputs.squeeze(-1).float()
        total = 0.5 * F.mse_loss(predictions, batch.targets, reduction="sum")
        rows = len(predictions)
        count = torch.tensor(rows, device=predictions.device)
        return Loss(total, count)

    return objective


def next_token(smoothing: float = 0.0, carry_state: bool = True) -> Objective:
    """Return the objective of a language model, with the state carried across windows or not."""

    def objective(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        assert batch.targets is not None
        if batch.starts is None and (carry_state or has_hooks(model)):
            inputs, before = begun(model, batch, carry)
            # as a call, whose scores a hook may read
            logits, after = model(inputs, before)
        else:
            read, after = features(model, batch, carry, carry_state)
            reader = cast(Reads, model)
            logits = reader.head(read)
        loss = cross_entropy(logits, batch.targets, smoothing)
        next_carry = after.detach() if carry_state else None
        return Loss(loss.sum, loss.count, next_carry)

    return objective


def answers(smoothing: float = 0.0) -> Objective:
    """Return the objective of a language model that learns some of the tokens of each text.

    Those are the tokens whose targets are not IGNORED, as what an assistant says in a talk.
    """

    def objective(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        assert batch.targets is not None
        reader = cast(Reads, model)
        read, _ = features(model, batch, carry, carry_state=False)
        learnt = batch.targets != IGNORED
        # scores of what is not learnt are never made
        vectors = read[learnt]
        targets = batch.targets[learnt]
        total = head_cross_entropy(reader.head, vectors, targets, smoothing)
        return Loss(total, learnt.sum())

    return objective


class Reads(Protocol):
    """A model whose scores are a linear layer over what it read."""

    head: nn.Linear

    def read_documents(
        self, tokens: Tensor, starts: Tensor | None, state: Carry, carry: bool
    ) -> tuple[Tensor, Carry]:
        """Return what the head reads (B, T, D), and the state where ``carry`` asks for it.

        ``starts`` (B, T) marks where documents begin that are not to see each other.
        """
        ...


def features(
    model: nn.Module, batch: Batch, carry: Carry, carry_state: bool
) -> tuple[Tensor, Any]:
    """Return what the head of a model reads of a batch (B, T, D), and the state afterwards.

    The state may be None where none is carried.
    """
    reader = cast(Reads, model)
    inputs, before = begun(model, batch, carry)
    return reader.read_documents(inputs, batch.starts, before, carry_state)


def next_word(
    smoothing: float = 0.0,
    carry_state: bool = True,
    candidates: int | None = None,
    activation: float = 0.0,
    slowness: float = 0.0,
) -> Objective:
    """Return ``next_token`` for a large vocabulary: the scores of all tokens are never kept.

    With ``candidates`` only so many tokens are compared at each step, and the loss is an estimate
    (``nn.softmax.sampled_cross_entropy``), which knows no smoothing. ``activation`` and
    ``slowness`` weigh the mean square of what the head reads, and of its change from step to step
    (Merity et al. 2018, section 4.6); the loss without them is then logged as ``nats``.
    """

    def objective(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        assert batch.targets is not None
        reader = cast(Reads, model)
        read, after = features(model, batch, carry, carry_state)
        vectors = read.flatten(0, 1)
        targets = batch.targets.flatten()
        total = head_cross_entropy(
            reader.head,
            vectors,
            targets,
            smoothing,
            IGNORED,
            candidates,
        )
        count = (batch.targets != IGNORED).sum()
        next_carry = after.detach() if carry_state else None
        if not activation and not slowness:
            return Loss(total, count, next_carry)
        read = read.float()
        penalty = activation * read.square().mean()
        if slowness and read.shape[1] > 1:
            changes = read.diff(dim=1)
            penalty = penalty + slowness * changes.square().mean()
        # the loop divides by the count, and the penalty is a mean already
        penalized = total + count * penalty
        logs = {"nats": (total, count)}
        return Loss(penalized, count, next_carry, logs)

    return objective


class Writes(Protocol):
    """A model that writes a sequence for one that it has read."""

    head: nn.Linear

    def read(
        self, source: Tensor, lengths: Tensor, inputs: Tensor, *extra: Tensor
    ) -> Tensor:
        """Return what the head reads at every target step (B, T, D)."""
        ...


def shifted(targets: Tensor, start: int) -> Tensor:
    """Return what stands before each target (B, T): ``start``, then the targets but the last."""
    first = torch.full_like(targets[:, :1], start)
    all_but_last = targets[:, :-1]
    before = torch.cat([first, all_but_last], 1)
    # padding is marked by a negative number, which is no token; it is never scored
    return before.clamp(min=0)


def seq2seq_loss(
    start: int,
    smoothing: float = 0.0,
    decoder_inputs: Callable[[Batch], Tensor] | None = None,
) -> Objective:
    """Return the objective of a sequence for a sequence: each target token, given those before.

    Args:
        start: the token that the first target is written after.
        smoothing: probability spread over all tokens (Szegedy et al. 2016, section 7).
        decoder_inputs: returns the tokens that stand before the targets of a batch (B, T), where
            these are not the targets themselves.
    """

    def objective(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        assert batch.targets is not None
        assert batch.lengths is not None
        writer = cast(Writes, model)
        targets = batch.targets
        before = decoder_inputs(batch) if decoder_inputs else shifted(targets, start)
        read = writer.read(
            batch.inputs,
            batch.lengths,
            before,
            *batch.extra,
        )
        real = targets != IGNORED
        # the output product is half of the work: padding is left out of it
        scored = read[real]
        scored_targets = targets[real]
        total = head_cross_entropy(writer.head, scored, scored_targets, smoothing)
        return Loss(total, real.sum())

    return objective


def rewarded(objective: Objective, start: int, unwritten: Sequence[int]) -> Objective:
    """Return an objective that learns from the rewards of what the model wrote itself.

    That is the sum of -(reward - what it is compared with) log p over the tokens of each sequence
    (Rennie et al. 2017, eq. 7). Probabilities are those that were drawn from, in evaluation and
    without what is never written: under any others what all earn alike would not cancel out.
    Batches without rewards go to ``objective``.

    Args:
        objective: of batches whose targets come from data.
        start: the token that the first target is written after.
        unwritten: tokens that are not drawn.
    """

    def either(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        if batch.rewards is None:
            return objective(model, batch, carry)
        assert batch.targets is not None
        assert batch.lengths is not None
        writer = cast(Writes, model)
        targets = batch.targets
        before = shifted(targets, start)
        model.eval()
        try:
            read = writer.read(
                batch.inputs,
                batch.lengths,
                before,
                *batch.extra,
            )
        finally:
            model.train()
        real = targets != IGNORED
        logits = writer.head(read[real]).float()
        logits[:, list(unwritten)] = -torch.inf
        costs = F.cross_entropy(logits, targets[real], reduction="none")
        earned, compared = batch.rewards.unbind(1)
        advantages = (earned - compared)[:, None].expand_as(targets)[real]
        rows = torch.tensor(len(earned), device=earned.device)
        logs = {"reward": (earned.sum(), rows)}
        return Loss((advantages * costs).sum(), real.sum(), None, logs)

    return either


class Begins(Protocol):
    """A model that knows the state before a text."""

    def initial_state(self, batch: int) -> State:
        """Return it for ``batch`` rows."""


def begun(model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
    """Return what is read of a batch (B, T), and from which state.

    Where no state is carried in though the batch goes on from one, as after a step that was
    skipped, all rows begin with the mark: no text begins with any other token.
    """
    inputs = batch.inputs
    if batch.restart:
        return inputs, None
    if carry is None:
        return begin_with(inputs, batch.start), None
    if batch.fresh is None:
        return inputs, carry
    beginner = cast(Begins, model)
    return inputs, begin_anew(beginner, carry, batch.fresh)


def begin_with(tokens: Tensor, start: int | None) -> Tensor:
    """Return tokens (B, T) with the first of each row replaced by ``start``, if there is one."""
    if start is None or not tokens.shape[1]:
        return tokens
    first = torch.full_like(tokens[:, :1], start)
    rest = tokens[:, 1:]
    return torch.cat([first, rest], 1)


def begin_anew(model: Begins, state: State, fresh: Tensor) -> State:
    """Return the state with the rows that ``fresh`` (B,) marks set to the state before a text."""
    rows = torch.arange(state.rows, device=fresh.device)
    # the state before a text becomes the row after the last one
    beginning = model.initial_state(1)
    both = type(state).join([state, beginning])
    sources = torch.where(fresh, state.rows, rows)
    return both.reorder(sources)


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
    tokens = batch.inputs
    lengths = batch.lengths
    steps = tokens.shape[1]
    positions = torch.arange(steps, device=tokens.device)
    real = positions < lengths[:, None]
    truth = tokens[real]
    others = torch.randint(vocabulary, (samples,), device=tokens.device)
    # unique sorts, so that the search finds each token
    candidates = torch.cat([truth, others]).unique()
    logits = model.recover(tokens, lengths, candidates)
    targets = torch.searchsorted(candidates, truth)
    return cross_entropy(logits, targets, 0.0)


def pretrained(objective: Objective, vocabulary: int, samples: int = 2000) -> Objective:
    """Return an objective that learns the language from batches without targets.

    Labels tell little about each text; guessing its tokens tells much (Dai and Le 2015). Batches
    that have targets go to ``objective``.
    """

    def either(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        if batch.targets is None:
            recoverer = cast(Recovers, model)
            return recovered(recoverer, batch, vocabulary, samples)
        return objective(model, batch, carry)

    return either
