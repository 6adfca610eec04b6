"""Cross entropy of a linear layer over many classes, without the scores ever being kept.

Shapes: N rows, D features, V classes, K candidates.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.nn.attention import at_least_fp32
from unrolled.nn.forms import unlike
from unrolled.ops.derivatives import is_batched, is_transformed

SCORES = 2**25  # scores that exist at once; more rows are taken in parts
# scores, in fp32, that a processor core keeps at hand while it normalises them
CACHED = 2**19


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    smoothing: float = 0.0,
    ignored: int = -100,
) -> Tensor:
    """Return ``F.cross_entropy(F.linear(x, weight, bias), targets, reduction="sum")``.

    The gradients are computed in the same pass as the loss, for some rows at a time, so that memory
    is bounded by ``SCORES`` and not by N x V. Under autocast the products are in its precision;
    biases, the normalisation, sums over rows and the loss are fp32. torch.func and forward mode
    take the plain form, whose memory is not bounded.

    Args:
        x: features (N, D).
        weight: (V, D).
        bias: (V,).
        targets: the class of each row (N,).
        smoothing: probability spread over all classes (Szegedy et al. 2016, section 7).
        ignored: the target of rows that are left out.

    Returns:
        the summed loss, a scalar.

    Raises:
        RuntimeError: a gradient of it is differentiated again: x is not kept for that.
    """
    if is_transformed():
        return _plain(
            x, weight, bias, targets, smoothing, ignored, _precision(x, weight)
        )
    apply: Any = _Fused.apply
    # holds no numbers; what is differentiated again meets it on every way to the inputs
    inputs = (x, weight, bias)
    anchor = torch.stack(
        [part.flatten()[:0].clone().sum().to(x.dtype) for part in inputs]
    ).sum()
    return cast(Tensor, apply(x, weight, bias, targets, smoothing, ignored, anchor))


def _precision(x: Tensor, weight: Tensor) -> torch.dtype:
    """Return in what the products are computed."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    smoothing: float,
    ignored: int,
    low: torch.dtype,
) -> Tensor:
    """Return the same loss by operations of torch, which can be differentiated in every way."""
    with torch.autocast(x.device.type, enabled=False):
        scores = F.linear(x.to(low), weight.to(low)).to(bias.dtype) + bias
        return F.cross_entropy(
            scores,
            targets,
            reduction="sum",
            label_smoothing=smoothing,
            ignore_index=ignored,
        )


def head_cross_entropy(
    head: nn.Module,
    x: Tensor,
    targets: Tensor,
    smoothing: float = 0.0,
    ignored: int = -100,
    candidates: int | None = None,
) -> Tensor:
    """Return the summed cross entropy of what ``head`` says of x (N, D), a scalar.

    A plain linear layer is read by its weights, at a bounded memory; a head with hooks, or of
    another class, is called.

    Args:
        head: scores of V classes.
        x: features (N, D).
        targets: the class of each row (N,).
        smoothing, ignored: see :func:`linear_cross_entropy`.
        candidates: compare so many classes, see :func:`sampled_cross_entropy`; None compares all.
    """
    if unlike(head, nn.Linear):
        return F.cross_entropy(
            head(x).to(at_least_fp32(x).dtype),
            targets,
            reduction="sum",
            label_smoothing=smoothing,
            ignore_index=ignored,
        )
    linear = cast(nn.Linear, head)
    weight = linear.weight
    bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias
    if candidates is None:
        return linear_cross_entropy(x, weight, bias, targets, smoothing, ignored)
    return sampled_cross_entropy(x, weight, bias, targets, candidates, ignored)


def sampled_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    candidates: int,
    ignored: int = -100,
) -> Tensor:
    """Estimate :func:`linear_cross_entropy` from some of the classes.

    Half of the candidates are the classes with the lowest numbers, which in a vocabulary sorted
    by frequency are the most frequent; all targets come on top. The other half is drawn from the
    remaining classes, new in each call, and each of these speaks for as many as were not drawn:
    importance sampling (Bengio and Senecal 2008) of the rare classes alone, so that the sum that
    normalises has the right mean and little noise.

    Args:
        candidates: how many of the V classes are compared; V or more compares all.
    """
    count = len(weight)
    if candidates >= count:
        return linear_cross_entropy(x, weight, bias, targets, 0.0, ignored)
    real = targets != ignored
    sure = torch.zeros(count, dtype=torch.bool, device=x.device)
    sure[: candidates // 2] = True
    sure[targets[real]] = True
    known = torch.nonzero(sure)[:, 0]
    rest = torch.nonzero(~sure)[:, 0]
    drawn = rest[
        torch.randperm(len(rest), device=x.device)[: candidates - candidates // 2]
    ]
    chosen = torch.cat([known, drawn])
    # of each class, its index among those that are compared
    indices = torch.full((count,), ignored, device=x.device)
    indices[chosen] = torch.arange(len(chosen), device=x.device)
    speaks = torch.zeros(len(chosen), dtype=bias.dtype, device=x.device)
    if len(drawn):  # else every class is compared
        speaks[len(chosen) - len(drawn) :] = math.log(len(rest) / len(drawn))
    moved = torch.where(real, indices[targets.where(real, 0)], ignored)
    few = F.embedding(chosen, weight)
    return linear_cross_entropy(x, few, bias[chosen] + speaks, moved, 0.0, ignored)


class _Fused(torch.autograd.Function):
    """The loss, and its gradients while the scores are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        ignored: int,
        anchor: Tensor,
    ) -> Tensor:
        kind = x.device.type
        low = _precision(x, weight)
        exact = weight.dtype
        w = weight.to(low)
        rows = max(1, SCORES // len(weight))
        losses = torch.empty(len(x), dtype=exact, device=x.device)
        needs_gradients = any(ctx.needs_input_grad)
        parts = []
        d_weight = torch.zeros((), dtype=exact, device=x.device)
        d_bias = torch.zeros_like(bias)
        with torch.autocast(kind, enabled=False):
            for at in range(0, max(1, len(x)), rows):
                here = slice(at, at + rows)
                read = x[here].to(low)
                scores = read @ w.T
                losses[here], gradients = _score(
                    scores, bias, targets[here], smoothing, ignored
                )
                if needs_gradients:
                    parts.append((scores @ w).to(x.dtype))
                    part = (scores.T @ read).to(exact)
                    d_weight = d_weight.add_(part) if at else part
                    d_bias += gradients
        if needs_gradients:
            ctx.save_for_backward(torch.cat(parts), d_weight, d_bias, anchor)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *gradients, anchor = ctx.saved_tensors
        # a second derivative may ask how all of this follows from the gradient, whatever it is
        followed = torch.is_grad_enabled() and gradient.requires_grad
        plain = gradient.is_cpu and not is_batched([gradient]) and not followed
        if not plain or float(gradient) != 1:  # else three passes over memory are saved
            gradients = [part * gradient.to(part.dtype) for part in gradients]
        if torch.is_grad_enabled():
            once: Any = _Once.apply
            gradients = [once(part, anchor) for part in gradients]
        return (*gradients, *(None,) * 4)


class _Once(torch.autograd.Function):
    """Hands a gradient on, and refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, anchor: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise RuntimeError(
            "linear_cross_entropy has no second derivative, for which it would have to keep all "
            "that it reads; use F.cross_entropy(F.linear(x, weight, bias), targets)"
        )


def _score(
    scores: Tensor, bias: Tensor, targets: Tensor, smoothing: float, ignored: int
) -> tuple[Tensor, Tensor]:
    """Return the loss of each row of scores (N, V) and the gradients of the biases (V,).

    The gradients of the scores are put in their place.
    """
    count = scores.shape[1]
    d_bias = torch.zeros_like(bias)
    size = max(1, CACHED // count) if scores.is_cpu else max(1, len(scores))
    losses = []
    for some, truth in zip(scores.split(size), targets.split(size), strict=True):
        real = (truth != ignored)[:, None]
        law = torch.log_softmax(some.to(bias.dtype).add_(bias), 1)
        at = truth[:, None].where(real, 0)
        loss = (smoothing - 1) * law.gather(1, at)
        if smoothing:
            loss -= smoothing / count * law.sum(1, keepdim=True)
        law.exp_().sub_(smoothing / count) if smoothing else law.exp_()
        law.scatter_add_(1, at, law.new_full(at.shape, smoothing - 1))
        some.copy_(law.mul_(real))
        d_bias += law.sum(0)  # while it is at hand, and before it is rounded
        losses.append((loss * real)[:, 0])
    return torch.cat(losses), d_bias
