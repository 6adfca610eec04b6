"""Recurrent cells over time in the native core, with gradients: the calls and what autograd sees.

Shapes: B rows, T steps, N steps of all rows, D input, H hidden, G gates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from unrolled.ops import native, reference
from unrolled.ops.derivatives import differentiable_gradients, is_batched
from unrolled.ops.layout import Layout, dense, is_time_first, laid, like
from unrolled.ops.reference import Extras, Weights

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}
# how many times H wide the gates, cells and inner are that are kept of a step for the gradients
KEPT = {
    "rnn_tanh": (0, 0, 0),
    "rnn_relu": (0, 0, 0),
    "gru": (3, 0, 1),
    "lstm": (4, 1, 0),
}


class Call(NamedTuple):
    """What a call is, beside its tensors.

    Attributes:
        cell, precision: keys of ``native.CELLS`` and ``native.PRECISIONS``.
        reverse: from each row's last step to its first.
        layout: where the steps stand.
    """

    cell: str
    precision: str
    reverse: bool
    layout: Layout


class Inputs(NamedTuple):
    """What gradients can be needed of, all fp32: x (B, T, D) or (N, D), weights, h and c (B, H)."""

    x: Tensor
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    h: Tensor
    c: Tensor | None


_Tensors = list[Tensor | None]
_NAMES = (*Inputs._fields, "mask")


def check_shapes(
    cell: str,
    names: Iterable[str],
    parts: Iterable[Tensor | None],
    shapes: Iterable[object],
) -> None:
    """Refuse tensors of other shapes, or that are not fp32 on the CPU.

    Raises:
        ValueError: there is one.
    """
    for name, part, shape in zip(names, parts, shapes, strict=True):
        if part is None:
            continue
        if part.shape != shape or part.dtype != torch.float32 or not part.is_cpu:
            raise ValueError(
                f"expected {name} of shape {shape} in fp32 on the CPU for {cell}, got "
                f"{tuple(part.shape)} in {part.dtype} on {part.device}; the state has H columns, "
                "weights have H times the number of gates as rows"
            )


def check(call: Call, inputs: Inputs, mask: Tensor | None) -> None:
    """Refuse what would be read or written out of bounds.

    Raises:
        ValueError: a shape, precision or device that does not fit.
    """
    layout = call.layout
    width = inputs.x.shape[-1]
    size = inputs.h.shape[-1]
    gates = GATES[call.cell] * size
    x: tuple[int, ...] = (layout.total, width)
    if layout.offset is None:
        x = (layout.rows, layout.steps, width)
    weights = ((gates, width), (gates, size))
    biases = ((gates,), (gates,))
    state = (layout.rows, size)
    shapes = (x, *weights, *biases, state, state, state)  # h, c and the mask
    check_shapes(call.cell, _NAMES, (*inputs, mask), shapes)
    if (inputs.c is None) == (call.cell == "lstm"):
        raise ValueError(
            f"expected c for lstm and for no other cell, got it wrong for {call.cell}"
        )


def _whole(parts: Iterable[Tensor | None]) -> _Tensors:
    return [None if part is None else dense(part) for part in parts]


def _run(
    name: str, call: Call, inputs: Inputs, time_first: bool, parts: _Tensors
) -> None:
    """Call a function of the library; ``parts`` are tensors in the order of its struct."""
    layout = call.layout
    steps = (layout.offset, layout.active, layout.base(time_first), layout.order)
    numbers = (
        native.CELLS[call.cell],
        native.PRECISIONS[call.precision],
        call.reverse,
        torch.get_num_threads(),
        layout.rows,
        layout.steps,
        inputs.x.shape[-1],
        inputs.h.shape[1],
        layout.total,
        *layout.strides(time_first),
    )
    pointers = [0 if part is None else part.data_ptr() for part in (*steps, *parts)]
    native.run(name, numbers, pointers)


def _padded(layout: Layout) -> bool:
    return layout.active is not None and layout.offset is None


def forward(
    call: Call, inputs: Inputs, mask: Tensor | None, keep: int
) -> tuple[Tensor, tuple[Tensor, ...], _Tensors]:
    """Read all steps.

    Args:
        call: what to run.
        inputs: its tensors.
        mask: (B, H), multiplies h on its way to the gates.
        keep: for how many steps there is room in what is kept for ``backward``, at least N and at
            least 1; 0 keeps nothing.

    Returns:
        y (B, T, H) or (N, H) in the memory layout of x and zero at padding, the state after each
        row's last step read, and what is kept: gates, cells and inner.

    Raises:
        ValueError: shapes that do not fit one another.
    """
    check(call, inputs, mask)
    (x, *rest) = inputs
    time_first = is_time_first(x)
    size = inputs.h.shape[1]
    y = like(x, size, time_first, _padded(call.layout))
    after = [
        None if part is None else y.new_empty(part.shape)
        for part in (inputs.h, inputs.c)
    ]
    kept = [
        y.new_empty(keep, multiple * size) if keep and multiple else None
        for multiple in KEPT[call.cell]
    ]
    read = [laid(x, time_first), *_whole((*rest, mask))]
    written = [y, *after, *kept]
    _run("forward", call, inputs, time_first, [*read, *written])
    state = tuple(part for part in after if part is not None)
    return y, state, kept


def backward(
    call: Call,
    inputs: Inputs,
    mask: Tensor | None,
    y: Tensor,
    kept: _Tensors,
    gradients: _Tensors,
    needed: list[bool],
) -> _Tensors:
    """Return the gradients of those of the inputs that need one, None for the others.

    Args:
        call, inputs, mask: as ``forward`` was given them.
        y, kept: as it returned them.
        gradients: of y, and of h and c at the end; None is zero.
        needed: for each of the inputs, whether its gradient is.
    """
    (x, *rest) = inputs
    (d_y, d_h, d_c) = gradients
    time_first = is_time_first(x)
    d_x = None
    if needed[0]:
        d_x = like(x, x.shape[-1], time_first, _padded(call.layout))
    d_rest: _Tensors = [
        None if part is None or not need else x.new_empty(part.shape)
        for part, need in zip(rest, needed[1:], strict=True)
    ]
    d_y = None if d_y is None else laid(d_y, time_first)
    read = [laid(x, time_first), *_whole((*rest, mask))]
    no_end = (None, None)  # h and c at the end, which only forward writes
    outputs = [laid(y, time_first), *no_end, *_whole(kept)]
    of_outputs = [d_y, *_whole((d_h, d_c))]
    written = [d_x, *d_rest]
    parts = [*read, *outputs, *of_outputs, *written]
    _run("backward", call, inputs, time_first, parts)
    return written


def _by_reference(
    call: Call,
    inputs: Inputs,
    mask: Tensor | None,
    gradients: _Tensors,
    needed: Sequence[bool],
) -> _Tensors:
    """Do the same as ``backward`` by the equations, which can be differentiated again."""
    layout = call.layout

    def equations(*parts: Tensor | None) -> tuple[Tensor, ...]:
        x, w_ih, w_hh, b_ih, b_hh, h, c = cast(Inputs, parts)
        if layout.offset is not None:
            flat = x.new_zeros(layout.rows * layout.steps, x.shape[1])
            flat = flat.index_add(0, layout.padded_positions(), x)
            x = flat.unflatten(0, (layout.rows, layout.steps))
        state = (h,) if c is None else (h, c)
        y, after, _ = reference.unroll(
            call.cell,
            x,
            state,
            Weights(w_ih, w_hh, b_ih, b_hh),
            layout.lengths(),
            call.reverse,
            Extras(recurrent_mask=mask),
        )
        if layout.offset is not None:
            y = y.flatten(0, 1)[layout.padded_positions()]
        return y, *after

    return differentiable_gradients(equations, inputs, gradients, needed)


def _witness(y: Tensor) -> Tensor:
    """Return a tensor without memory whose version counts the changes of y in place."""
    counts = y.detach()
    counts.data = y.new_empty(0)
    return counts


class _Unroll(torch.autograd.Function):
    """Second derivatives come from the reference.

    y is kept for ``backward``, and may be changed in place by whoever gets it, as what torch.nn's
    layers return may be. Then all is read again there, from inputs that torch watches.
    """

    @staticmethod
    def forward(
        ctx: Any, call: Call, mask: Tensor | None, *parts: Any
    ) -> tuple[Tensor, ...]:
        inputs = Inputs(*parts)
        room = max(call.layout.total, 1)
        y, after, kept = forward(call, inputs, mask, room)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.witness = _witness(y)
        ctx.version = ctx.witness._version
        # y.data: torch would refuse any change of y itself, in place of looking at the witness
        ctx.save_for_backward(mask, y.data, *kept, *inputs)
        return y, *after

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        mask, y, *rest = ctx.saved_tensors
        kept = rest[:3]
        inputs = Inputs(*rest[3:])
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or is_batched(gradients):
            input_gradients = _by_reference(
                ctx.call, inputs, mask, list(gradients), needed
            )
        else:
            if ctx.witness._version != ctx.version:
                room = max(ctx.call.layout.total, 1)
                y, _, kept = forward(ctx.call, inputs, mask, room)
            of_y_h_c = [*gradients, None][:3]  # c has none where there is none
            input_gradients = backward(
                ctx.call, inputs, mask, y, kept, of_y_h_c, needed
            )
        return None, None, *input_gradients  # call and mask have none


def unroll(
    call: Call, inputs: Inputs, mask: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Read all steps; return y and the state as ``forward`` does, with gradients where needed."""
    differentiable = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in inputs
    )
    if differentiable:
        run: Any = _Unroll.apply
        y, *after = run(call, mask, *inputs)
        return y, tuple(after)
    return forward(call, inputs, mask, 0)[:2]
