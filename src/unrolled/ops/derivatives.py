"""Gradients that can be differentiated again, for operations whose fast backward cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_Optional = Tensor | None


def _functorch() -> bool:
    return torch._C._are_functorch_transforms_active()


# what torch.compiler.assume_constant_result sets: while torch.compile traces torch.func, it enters
# the same transforms, and it guards on them by itself
_functorch._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_transformed() -> bool:
    """Say whether torch.func or forward-mode gradients are at work, which know no fused kernel."""
    return _functorch() or forward_ad._current_level >= 0


def is_batched(gradients: Iterable[_Optional]) -> bool:
    """Say whether gradients of many outputs come at once, which have no memory of their own."""
    functions: Any = torch._C._functorch
    return _functorch() or any(
        part is not None and functions.is_legacy_batchedtensor(part)
        for part in gradients
    )


def differentiable_gradients(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[_Optional],
    gradients: Sequence[_Optional],
    needed: Sequence[bool],
) -> list[_Optional]:
    """Return the gradients of ``function`` at ``inputs``, which autograd can differentiate again.

    Each input is read through an alias made here, one a slot. What is differentiated ends at the
    aliases: an input may be computed from another one, as a state is from the weights that made
    it, and what lies before the inputs is the caller's own graph, which counts it once.

    Args:
        function: from the inputs to its outputs, by operations of torch.
        inputs: tensors, None where there is none.
        gradients: of each output; None is zero. Missing ones at the end are None.
        needed: for each input, whether its gradient is needed.

    Returns:
        the gradient of each input, None where it is not needed.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [None if part is None else part.view_as(part) for part in inputs]
        differentiated = [
            alias
            for alias, need in zip(aliases, needed, strict=True)
            if need and alias is not None
        ]
        outputs = function(*aliases)
        known = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=False)
            if gradient is not None
        ]
        if not known:
            return [None] * len(inputs)
        input_gradients = torch.autograd.grad(
            [output for output, _ in known],
            differentiated,
            [gradient for _, gradient in known],
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    remaining = iter(input_gradients)
    return [
        next(remaining) if need and part is not None else None
        for part, need in zip(inputs, needed, strict=True)
    ]
