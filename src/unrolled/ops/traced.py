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
        if (
            part is not None
        ):  # what nothing was kept for must not differ between two calls
            part[call.layout.total :] = 0
    h, c, gates, cells, inner = _tensors(
        x, (after[0], after[1] if after[1:] else None, *kept)
    )
    return y, h, c, gates, cells, inner


@recurrent.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    h, c = rest[4:6]
    cell = rest[-4]
    keep = rest[-1]
    size = h.shape[1]
    room = x.shape[0] * x.shape[1]
    kept = (
        x.new_empty(room, wide * size) if keep and wide else None for wide in KEPT[cell]
    )
    ends = (None if part is None else x.new_empty(part.shape) for part in (h, c))
    return like(x, size, is_time_first(x), False), *_tensors(x, (*ends, *kept))


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
    wanted: list[bool],
) -> list[Tensor]:
    """Return gradients of x, weights, biases, h and c, empty where not wanted.

    Raises:
        ValueError: shapes that do not fit one another.
    """
    call = Call(cell, precision, reverse, padded(x, lengths))
    (rows, steps, _) = x.shape
    inputs = Inputs(x, w_ih, w_hh, b_ih, b_hh, h, c)
    size = h.shape[1]
    kernel.check(call, inputs, mask)
    names = (
        "y",
        "gradients of y",
        "gradients of h",
        "gradients of c",
        "gates",
        "cells",
        "inner",
    )
    states = [(rows, steps, size)] * 2 + [(rows, size)] * 2
    widths = [(rows * steps, wide * size) if wide else (0,) for wide in KEPT[cell]]
    parts = (y, d_y, d_h, d_c, gates, cells, inner)
    kernel.check_shapes(cell, names, parts, [*states, *widths])
    kept = [part if part.numel() else None for part in (gates, cells, inner)]
    return _tensors(
        x, kernel.backward(call, inputs, mask, y, kept, [d_y, d_h, d_c], wanted)
    )


@recurrent_backward.register_fake
def _(*given: Any) -> list[Tensor]:
    (x, *parts) = given[7:14]
    wanted = given[-1]
    rest = (None if part is None else part.new_empty(part.shape) for part in parts)
    found = (like(x, x.shape[-1], is_time_first(x), False), *rest)
    return _tensors(
        x, (part if want else None for part, want in zip(found, wanted, strict=True))
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, _, *kept = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(y, *kept, *inputs[:9])
    ctx.settings = inputs[9:12]


def _gradients(ctx: Any, d_y: Any, d_h: Any, d_c: Any, *kept: Any) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[:7])
    d_c = (
        d_c if ctx.settings[0] == "lstm" else None
    )  # of other cells it is an empty tensor
    found = recurrent_backward(d_y, d_h, d_c, *ctx.saved_tensors, *ctx.settings, wanted)
    return *(s if want else None for s, want in zip(found, wanted, strict=True)), *(
        None,
    ) * 6


recurrent.register_autograd(_gradients, setup_context=_remember)
