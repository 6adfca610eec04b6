"""Checks of language models: where texts end, and where reading them begins."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.checks.base import Context, Finding
from unrolled.checks.model import answer
from unrolled.data.batches import IGNORED, Batch
from unrolled.training.objectives import begin_with

SECONDS = 8.0  # of the processor, to look for the end of a text
COUNTED = 1 << 24  # tokens in which ends are counted: a text may be larger than memory
FEW = 20  # ends of texts: fewer are not learnt from
# positions of a text where reading is begun, and tokens read from each
STARTS = 16
LENGTH = 512
DEPENDS = 0.05  # nats a token by which a score may depend on where reading begins


def ending(context: Context) -> Finding | None:
    """A language model that is never shown an end never stops."""
    tokenizer = context.task.tokenizer
    prepared = context.plan.prepared
    if tokenizer is None or context.task.answers_rows:
        return None
    end = tokenizer.eos_id
    began = time.process_time()
    source = context.plan.source
    length = source.length(0)
    for index in range(3 * length):
        batch = source.batch(*divmod(index, length))
        batch = batch.to(context.plan.compute_device.device)
        if batch.targets is not None and (batch.targets == end).any():
            count = int((prepared.train.tokens[:COUNTED] == end).sum())
            return ended(context, batch, end, max(1, count))
        if time.process_time() - began > SECONDS:
            break
    return Finding(
        "problem",
        f"no end mark among the targets of {index + 1:,} batches",
        advice="end every text with the end mark, or nothing will stop",
    )


@torch.no_grad()
def ended(context: Context, batch: Batch, end: int, total: int) -> Finding:
    """Judge a batch whose targets hold the end mark."""
    assert batch.targets is not None
    ends = batch.targets == end
    without = replace(batch, targets=batch.targets.masked_fill(ends, IGNORED))
    _, loss = _seeded(context, batch)
    outputs, loss_without = _seeded(context, without)
    chances = outputs.float().softmax(-1)[..., end]
    here = float(chances[ends].mean())
    elsewhere = float(chances[~ends].mean())
    if loss == loss_without and here < 0.999:
        return Finding(
            "problem",
            "the end mark is among the targets, but the loss leaves it out",
            where="the objective",
            advice="score it, or nothing will stop",
        )
    message = f"the loss scores the end mark; training holds {total:,}"
    if not context.trained:
        return Finding("ok", message)
    message += f"; its probability is {here:.2g} at ends and {elsewhere:.2g} elsewhere"
    if total >= FEW and here < 2 * elsewhere:
        advice = "it has not learnt to stop: train longer"
        return Finding("warning", message, advice=advice)
    return Finding("ok", message)


def _seeded(context: Context, batch: Batch) -> tuple[Tensor, float]:
    """Return outputs and loss under one seed: an objective may draw."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs, loss = answer(context, context.model, batch)
    return outputs, float(loss.sum)


@torch.no_grad()
def begins(context: Context) -> Finding | None:
    """A state carried without end must not depend on which token reading began with."""
    model: Any = context.model
    tokenizer = context.task.tokenizer
    if tokenizer is None or context.task.answers_rows or model.context is not None:
        return None
    mark = tokenizer.eos_id
    text = context.plan.prepared.dev.tokens[: STARTS * LENGTH]
    tokens = torch.from_numpy(text.astype(np.int64))
    length = min(LENGTH, len(tokens) - 1)
    if length < 1:
        return None
    first = torch.linspace(0, len(tokens) - length - 1, STARTS).long()
    rows = tokens[first[:, None] + torch.arange(length + 1)]
    rows = rows.to(context.plan.compute_device.device)
    inputs = rows[:, :-1]
    with_mark = _nats(model, begin_with(inputs, mark), rows)
    from_middle = _nats(model, inputs, rows)
    message = (
        f"after a mark of beginning {with_mark:.3f} nats a token, "
        f"from the middle {from_middle:.3f}"
    )
    if from_middle - with_mark <= DEPENDS:
        return Finding("ok", message)
    return Finding(
        "warning",
        message,
        advice="scores and generated texts begin with the mark; so must whoever steps the "
        "model by himself: the end mark first (training.reset=0.02 teaches to begin)",
    )


def _nats(model: nn.Module, inputs: Tensor, rows: Tensor) -> float:
    """Return the loss a token of rows (B, T + 1), but for the first target.

    The first token is seen in one kind of inputs (B, T) alone.
    """
    scores = model(inputs)[0][:, 1:].flatten(0, 1)
    targets = rows[:, 2:].flatten()
    return float(nn.functional.cross_entropy(scores.float(), targets))
