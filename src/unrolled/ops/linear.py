"""The product of a linear layer, by the native core's matrix kernel where that is faster.

Shapes: M rows, K inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.ops import native
from unrolled.ops import recurrent as table
from unrolled.ops.derivatives import is_batched
from unrolled.ops.layout import dense
from unrolled.ops.modes import mode


def takes_native() -> bool:
    """Say whether a product of these sizes goes to the native kernel: the rule, and its only place.

    On the processors measured so far torch's products were as fast or faster (docs/log.md), so the
    native ones are taken where they were asked for: their rows have the same bits in any batch.
    Another rule may look at the sizes and the precision, never at a clock: a model always runs in
    one way.
    """
    return mode() == "fast"


def _matmul(low: bool, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a (m, k) times b (k, n) plus bias (n,); a and b are whole or transposed in memory."""
    a_trans = not a.is_contiguous() and a.t().is_contiguous()
    b_trans = (
        not a_trans and not b.is_contiguous()
    )  # the core takes one of them transposed
    a = dense(a.t() if a_trans else a)
    b = dense(b.t() if b_trans else b)
    inner, rows = a.shape if a_trans else a.shape[::-1]
    columns = b.shape[0] if b_trans else b.shape[1]
    out = a.new_empty(rows, columns)
    bias = None if bias is None else dense(bias)
    precision = native.PRECISIONS["bf16" if low else "float32"]
    threads = torch.get_num_threads()
    there = None if bias is None else bias.data_ptr()
    pointers = (
        a.data_ptr(),
        a.shape[1],
        a_trans,
        b.data_ptr(),
        b.shape[1],
        b_trans,
        there,
    )
    run: Any = native.library()
    sizes = (rows, columns, inner)
    native.check(
        run.matmul(precision, threads, *sizes, *pointers, out.data_ptr(), columns, 0)
    )
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, low: bool, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.low = low
        ctx.save_for_backward(x, weight)
        return _matmul(low, x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        _, of_x, of_weight, of_bias = ctx.needs_input_grad
        d_bias = gradient.sum(0) if of_bias else None
        # a second derivative is wanted: torch's products have one
        if torch.is_grad_enabled() or is_batched([gradient]):
            return None, gradient @ weight, gradient.t() @ x, d_bias
        d_x = _matmul(ctx.low, gradient, weight) if of_x else None
        d_weight = _matmul(ctx.low, gradient.t(), x) if of_weight else None
        return None, d_x, d_weight, d_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight^T + bias, as torch.nn.functional.linear does.

    The native kernel runs fp32 on the CPU, in bf16 under autocast to it, where
    :func:`takes_native` says so; F.linear runs everything else.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,).

    Returns:
        (..., N), in bf16 under autocast to it.
    """
    parts = [p for p in (x, weight, bias) if p is not None]
    low = table.autocast()
    rows = x.numel() // max(x.shape[-1], 1)
    if (
        not takes_native()
        or torch.compiler.is_compiling()
        or low not in (None, torch.bfloat16)
        or any(part.dtype != torch.float32 for part in parts)
        or not x.numel()
        or weight.shape[1:] != x.shape[-1:]
        or (bias is not None and bias.shape != weight.shape[:1])
        or table.unreachable(*parts)
    ):
        return F.linear(x, weight, bias)
    run: Any = _Linear.apply
    y: Tensor = run(low is not None, x.reshape(rows, x.shape[-1]), weight, bias)
    y = y if x.dim() == 2 else y.reshape(*x.shape[:-1], len(weight))
    return y if low is None else y.to(low)
