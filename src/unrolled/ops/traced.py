"""The native core as operators of ``torch.library``, for torch.compile alone.

Tensors stand in their schemas and sizes follow from sizes, so what is kept has room for all B * T
steps. Outside of a compiled graph ``kernel`` is called, which costs less.

Shapes: B rows, T steps, D input, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.ops import kernel
from unrolled.ops.kernel import KEPT, Call, Inputs
from unrolled.ops.layout import is_time_first, like, padded


def _tensors(x: Tensor, parts: Any) -> list[Tensor]:
    """Return the parts with an empty tensor in the place of None."""
    return [x.new_empty(0) if part is None else part for part in parts]


@torch.library.custom_op("unrolled::recurrent", mutates_args=())
def recurrent(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    mask: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    precision: str,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Read x (B, T, D); return y, h, c and what the gradients need, empty where there is none.

    x holds a step at least.

    Raises:
        ValueError: shapes that do not fit one another.
    """
    call = Call(cell, precision, reverse, padded(x, lengths))
    inputs = Inputs(x, w_ih, w_hh, b_ih, b_hh, h, c)
    room = x.shape[0] * x.shape[1] if keep else 0
    y, after, kept = kernel.forward(call, inputs, mask, room)
    for part in kept:
        # room that no step took must not differ between two calls
        if part is not None:
            part[call.layout.total :] = 0
    h_end = after[0]
    c_end = after[1] if after[1:] else None
    h, c, gates, cells, inner = _tensors(x, (h_end, c_end, *kept))
    return y, h, c, gates, cells, inner


@recurrent.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    h, c = rest[4:6]
    cell = rest[-4]
    keep = rest[-1]
    size = h.shape[1]
    room = x.shape[0] * x.shape[1]
    y = like(x, size, is_time_first(x), False)
    h_end = x.new_empty(h.shape)
    c_end = None if c is None else x.new_empty(c.shape)
    kept = (
        x.new_empty(room, multiple * size) if keep and multiple else None
        for multiple in KEPT[cell]
    )
    return y, *_tensors(x, (h_end, c_end, *kept))


_BACKWARD_NAMES = (
    "y",
    "gradients of y",
    "gradients of h",
    "gradients of c",
    "gates",
    "cells",
    "inner",
)


def _backward_shapes(cell: str, x: Tensor, h: Tensor) -> list[tuple[int, ...]]:
    """Return the shapes of what ``_BACKWARD_NAMES`` names; that of nothing is (0,)."""
    (rows, steps, _) = x.shape
    size = h.shape[1]
    room = rows * steps
    y = (rows, steps, size)
    end = (rows, size)
    kept = [(room, multiple * size) if multiple else (0,) for multiple in KEPT[cell]]
    return [y, y, end, end, *kept]


@torch.library.custom_op("unrolled::recurrent_backward", mutates_args=())
def recurrent_backward(
    d_y: Tensor | None,
    d_h: Tensor | None,
    d_c: Tensor | None,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
    inner: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    mask: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    precision: str,
    reverse: bool,
    needed: list[bool],
) -> list[Tensor]:
    """Return gradients of x, weights, biases, h and c, empty where not needed.

    Raises:
        ValueError: shapes that do not fit one another.
    """
    call = Call(cell, precision, reverse, padded(x, lengths))
    inputs = Inputs(x, w_ih, w_hh, b_ih, b_hh, h, c)
    kernel.check(call, inputs, mask)
    outputs = (y, d_y, d_h, d_c)
    kept = (gates, cells, inner)
    shapes = _backward_shapes(cell, x, h)
    kernel.check_shapes(cell, _BACKWARD_NAMES, (*outputs, *kept), shapes)
    gradients = kernel.backward(
        call,
        inputs,
        mask,
        y,
        [part if part.numel() else None for part in kept],
        [d_y, d_h, d_c],
        needed,
    )
    return _tensors(x, gradients)


@recurrent_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    (x, *rest) = arguments[7:14]
    needed = arguments[-1]
    d_x = like(x, x.shape[-1], is_time_first(x), False)
    d_rest = (None if part is None else part.new_empty(part.shape) for part in rest)
    gradients = zip((d_x, *d_rest), needed, strict=True)
    return _tensors(x, (gradient if need else None for gradient, need in gradients))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, _, *kept = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(y, *kept, *inputs[:9])
    ctx.settings = inputs[9:12]


def _gradients(ctx: Any, d_y: Any, d_h: Any, d_c: Any, *kept: Any) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:7])
    cell = ctx.settings[0]
    if cell != "lstm":  # others return an empty tensor as their c
        d_c = None
    gradients = recurrent_backward(
        *(d_y, d_h, d_c), *ctx.saved_tensors, *ctx.settings, needed
    )
    pairs = zip(gradients, needed, strict=True)
    of_inputs = (gradient if need else None for gradient, need in pairs)
    of_the_rest = (None,) * 6  # mask, lengths and settings
    return *of_inputs, *of_the_rest


recurrent.register_autograd(_gradients, setup_context=_remember)
