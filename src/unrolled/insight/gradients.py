"""How far gradients reach back: what vanishes and what is kept.

Legend: T steps, H units.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from unrolled.insight.trace import Floats
from unrolled.ops.recording import LayerRecord

PROBES = 8  # random directions in which the gradients of a long input are taken
EXACT = 300  # steps up to which they are taken in every direction
LONGEST = 20_000  # steps whose gradients are worked out


def _states(records: Sequence[LayerRecord]) -> list[list[Tensor]]:
    return [[step["h"] for step in record.steps] for record in records]


def gradient_norms(
    records: Sequence[LayerRecord], explained: Tensor, is_value: bool
) -> list[Floats] | None:
    """Return |d loss / d h_t| at each step of each layer, (T,).

    The loss is -log of the probability that is explained, or the value itself.
    """
    states = _states(records)
    flat = list(chain.from_iterable(states))
    longest = max(map(len, states), default=0)
    if longest > LONGEST or not explained.requires_grad:
        return None
    # a network without hidden layers has its inputs for a state
    if not all(state.requires_grad for state in flat):
        return None
    loss = explained if is_value else -explained.clamp(min=1e-30).log()
    gradients = torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True)
    norms = [0.0 if g is None else float(g.norm()) for g in gradients]
    by_layer: list[Floats] = []
    first = 0
    for layer in states:
        by_layer.append(np.array(norms[first : first + len(layer)], dtype=np.float32))
        first += len(layer)
    return by_layer


def state_gradient_norms(records: Sequence[LayerRecord]) -> Floats | None:
    """Return |d h_T / d h_t|, Frobenius's norm, of the last layer that reads forward, (T,).

    Up to ``EXACT`` steps it is exact; of more it is estimated with random directions v of signs,
    since E |v J|^2 = |J|^2 (Hutchinson 1990).
    """
    forward = [record for record in records if record.steps and not record.backward]
    if not forward:
        return None
    states = [step["h"] for step in forward[-1].steps]
    last = states[-1]
    if len(states) > LONGEST or not last.requires_grad:
        return None
    size = last.shape[-1]
    if len(states) <= EXACT:
        directions = torch.eye(size, dtype=last.dtype, device=last.device)
        scale = 1.0
    else:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (PROBES, size), generator=generator)
        directions = (2.0 * signs - 1).to(last)
        scale = 1 / PROBES
    gradients = torch.autograd.grad(
        last,
        states,
        directions[:, None],
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=True,
    )
    squares = [0.0 if g is None else float(g.square().sum()) * scale for g in gradients]
    return np.sqrt(squares).astype(np.float32)
