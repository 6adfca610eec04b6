"""Choosing the next token from scores: filters, then greedy choice or a draw.

Legend: B rows, V tokens of the vocabulary. Works on token ids alone and knows no architecture.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from unrolled.core.config import Config

OUT = float("-inf")
LIKELIEST = (
    512  # tokens of a large vocabulary among which a nucleus is looked for first
)


class Sampling(Config):
    """How tokens are chosen. ``temperature=0`` is greedy; the filters apply in the order here."""

    repetition_penalty: float = Field(
        1.0,
        ge=0.01,
        le=1e6,
        description="divide the score of what was said; 1 is off",
    )
    temperature: float = Field(
        1.0, ge=0, description="0 is greedy, below 1 is safer, above is wilder"
    )
    top_k: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="only the k likeliest tokens",
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="only the likeliest tokens that sum to p",
    )
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="only tokens at least p times the likeliest",
    )


def penalise(logits: Tensor, said: Tensor, penalty: float) -> Tensor:
    """Weaken tokens that were said before (Keskar et al. 2019, CTRL, section 4.1).

    Args:
        logits: scores (B, V).
        said: whether a token was said, bool (B, V).
        penalty: above 1 weakens, below 1 strengthens.
    """
    weaker = torch.where(
        logits > 0,
        logits / penalty,
        logits * penalty,
    )
    return torch.where(said, weaker, logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Rule out all but the ``k`` likeliest tokens of (B, V); ties at the border stay."""
    if k >= logits.shape[-1]:
        return logits
    largest = logits.topk(k, dim=-1).values
    border = largest[..., -1:]
    return logits.masked_fill(logits < border, OUT)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probability reaches ``p``.

    Nucleus sampling, Holtzman et al. 2020, equation 2. The likeliest token always stays.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    # of the likelier ones: the token that reaches p is still kept
    before = probabilities.cumsum(dim=-1) - probabilities
    is_out = torch.zeros_like(before, dtype=torch.bool)
    is_out = is_out.scatter(-1, order, before >= p)
    likeliest = order[..., :1]
    is_out.scatter_(-1, likeliest, False)
    return logits.masked_fill(is_out, OUT)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least ``p`` times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = logits.softmax(dim=-1)
    border = p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < border, OUT)


def choose(
    logits: Tensor,
    sampling: Sampling,
    said: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the next token of each row, (B,) int64.

    Args:
        logits: scores (B, V); -inf rules a token out.
        sampling: temperature and filters.
        said: tokens said so far, bool (B, V); needed only with a repetition penalty.
        generator: source of randomness; the default one when None.
    """
    if sampling.temperature == 0:
        return _penalised(logits, sampling, said).argmax(dim=-1)
    if logits.is_cpu and len(logits) == 1:
        scores = _penalised(logits, sampling, said)[0].numpy()
        token = _draw(scores, sampling, generator)
        if token is not None:
            return torch.tensor([token])
    probabilities = probabilities_of(logits, sampling, said)
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return drawn.squeeze(-1)


def _draw(
    scores: NDArray[np.float32], sampling: Sampling, generator: torch.Generator | None
) -> int | None:
    """Return the token of one row, as ``choose`` does; None where its scores have no bounds.

    A row has its token in a tenth of the time by numpy: each of torch's operations costs as much
    as all numbers of a small vocabulary. Filters are those of ``probabilities_of``.

    Args:
        scores: of all tokens (V,).
        sampling: temperature and filters, the temperature above 0.
        generator: source of randomness.
    """
    best = scores.max()
    if not np.isfinite(best):
        return None
    values = (scores - best) / np.float32(_bounded(sampling.temperature))
    tokens: NDArray[np.intp] | None = None
    if sampling.top_k is not None and sampling.top_k < len(values):
        border = np.partition(values, -sampling.top_k)[-sampling.top_k]
        tokens = np.flatnonzero(values >= border)
        values = values[tokens]
    if sampling.top_p is not None and sampling.top_p < 1:
        order = _nucleus(values, sampling.top_p)
        values = values[order]
        tokens = order if tokens is None else tokens[order]
    weights = np.exp(values)
    if sampling.min_p:
        # the likeliest has a weight of 1
        weights = np.where(weights < sampling.min_p, 0, weights)
    sums = np.cumsum(weights, dtype=np.float64)
    drawn = torch.rand((), dtype=torch.float64, generator=generator)
    at = int(np.searchsorted(sums, float(drawn) * sums[-1], side="right"))
    return at if tokens is None else int(tokens[at])


def _nucleus(values: NDArray[np.float32], p: float) -> NDArray[np.intp]:
    """Return the likeliest of some tokens that sum to ``p``, as ``keep_top_p`` keeps them.

    Args:
        values: scores less the largest.
        p: below 1.
    """
    weights = np.exp(values)
    total = weights.sum()
    # most of a large vocabulary is never near: the few likeliest are sorted first
    few = np.arange(len(values))
    if len(values) > LIKELIEST:
        border = np.partition(values, -LIKELIEST)[-LIKELIEST]
        near = np.flatnonzero(values >= border)
        if weights[near].sum() >= p * total:
            few = near
    order = few[np.argsort(-values[few], kind="stable")]
    ordered = weights[order]
    before = np.cumsum(ordered) - ordered
    kept = before < p * total
    kept[0] = True
    return order[kept]


def _bounded(temperature: float) -> float:
    """Return a temperature that fp32 can divide by.

    A tiny one would overflow to inf - inf where the difference to the best score does not; beyond
    these bounds fp32 would divide by 0 or by inf, and no text would change.
    """
    return min(max(temperature, 1e-30), 1e30)


def _penalised(logits: Tensor, sampling: Sampling, said: Tensor | None) -> Tensor:
    logits = logits.float()
    if said is None or sampling.repetition_penalty == 1:
        return logits
    return penalise(logits, said, sampling.repetition_penalty)


def probabilities_of(logits: Tensor, sampling: Sampling, said: Tensor | None) -> Tensor:
    """Return with what probability each token is chosen (B, V).

    Args:
        logits, sampling, said: see ``choose``; at a temperature of 0 the likeliest is chosen.
    """
    logits = _penalised(logits, sampling, said)
    if sampling.temperature == 0:
        likeliest = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(-1, likeliest, 1.0)
    temperature = _bounded(sampling.temperature)
    best = logits.amax(dim=-1, keepdim=True)
    logits = (logits - best) / temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p:
        logits = keep_min_p(logits, sampling.min_p)
    return logits.softmax(dim=-1)
