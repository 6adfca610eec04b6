"""GRU and RNN over time on the CPU, with hand-written slopes.

torch runs these cells there operation by operation and records every one of them. Here the loops
hold only what must be sequential; the weights' slopes are one product after the loop. With weights
in bf16 the products alone are bf16: gates, states and sums stay fp32.

What costs here beside the products is fresh memory, so there are few temporaries, time comes first
and the GRU's slopes share one tensor of the columns candidate, reset, update, inner candidate: the
first three belong to the input, the last three to the hidden vector, and nothing is copied. That is
why a GRU's input gates come in the order candidate, reset, update here.

Shapes: B rows, T steps, D input, H hidden, G gates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.ops import reference
from unrolled.ops.reference import Weights


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device)


class _Loop(torch.autograd.Function):
    """What GRU and RNN share: saving, the slopes of the weights, and second derivatives."""

    @staticmethod
    def forward(ctx: Any, cell: str, a: Tensor, h: Tensor, hh: Tensor, bias: Tensor) -> Tensor:
        """Return every state (T, B, H).

        Args:
            ctx: autograd's.
            cell: gru, rnn_tanh or rnn_relu.
            a: what the input adds to the gates (T, B, G*H), in the precision of the states.
            h: the state before (B, H).
            hh: recurrent weights (G*H, H), perhaps in bf16.
            bias: their bias (G*H,), in the precision of ``hh``.
        """
        run = _gru_forward if cell == "gru" else _rnn_forward
        states, kept = run(cell, a, h, hh, bias)
        ctx.cell = cell
        ctx.save_for_backward(a, h, hh, bias, states, *kept)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        """Return slopes in the order of ``forward``'s arguments; ``slope`` is (T, B, H)."""
        a, h, hh, bias, states, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: differentiate the equations
            inputs = (a, h, hh, bias)
            again = _by_reference(ctx.cell, *inputs)
            found = torch.autograd.grad(
                again, inputs, slope, create_graph=True, allow_unused=True, materialize_grads=True
            )
            return None, *found
        run = _gru_backward if ctx.cell == "gru" else _rnn_backward
        from_input, from_hidden, dh = run(ctx.cell, slope, hh, states, *kept)
        # one product over all steps; the sums in it are fp32 whatever its operands are
        gates = from_hidden.flatten(0, 1).to(hh.dtype)
        before = states[:-1].flatten(0, 1).to(hh.dtype)
        d_bias = from_hidden.sum((0, 1)).to(bias.dtype)
        return None, from_input, dh, gates.t() @ before, d_bias


def _by_reference(cell: str, a: Tensor, h: Tensor, hh: Tensor, bias: Tensor) -> Tensor:
    w, states = Weights(hh, hh, None, bias), []
    state: tuple[Tensor, ...] = (h,)
    a = a.roll(-h.shape[1], 2) if cell == "gru" else a  # back to torch's order
    for step in a.unbind(0):
        cast = (state[0].to(hh.dtype),)
        state = reference.STEPS[cell](step, cast, w, reference.PLAIN)[0]
        states.append(state[0].to(h.dtype))
    return torch.stack(states)


def _product(h: Tensor, low: Tensor | None) -> Tensor:
    """Return h in the precision of the products, through a buffer if that is another one."""
    return h if low is None else low.copy_(h)


def _low(h: Tensor, hh: Tensor) -> Tensor | None:
    return None if h.dtype == hh.dtype else torch.empty_like(h, dtype=hh.dtype)


def _rnn_forward(
    cell: str, a: Tensor, h: Tensor, hh: Tensor, bias: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    steps, rows, size = a.shape
    states = _empty(a, steps + 1, rows, size)
    states[0] = h
    low, out, transposed = _low(h, hh), _empty(hh, rows, size), hh.t().contiguous()
    activate = torch.tanh_ if cell == "rnn_tanh" else torch.relu_
    every = states.unbind(0)
    for t, step in enumerate(a.unbind(0)):
        torch.addmm(bias, _product(every[t], low), transposed, out=out)
        activate(torch.add(step, out, out=every[t + 1]))
    return states, ()


def _rnn_backward(
    cell: str, slope: Tensor, hh: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    after = states[1:]
    factor = (after * after).neg_().add_(1) if cell == "rnn_tanh" else after.sign()
    gates = torch.empty_like(after)
    dh, low, out = torch.zeros_like(after[0]), _low(after[0], hh), _empty(hh, *after[0].shape)
    lists = [part.unbind(0) for part in (slope, factor, gates)]
    for d_y, f, gate in zip(*(reversed(part) for part in lists), strict=True):
        torch.add(dh, d_y, out=gate).mul_(f)
        torch.mm(_product(gate, low), hh, out=out)
        dh.copy_(out)
    return gates, gates, dh


def _gru_forward(
    cell: str, a: Tensor, h: Tensor, hh: Tensor, bias: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    steps, rows, _ = a.shape
    size = h.shape[1]
    states, gates = _empty(a, steps + 1, rows, size), _empty(a, steps, rows, 2 * size)
    candidates, inner = _empty(a, steps, rows, size), _empty(a, steps, rows, size)
    states[0] = h
    low, out, transposed = _low(h, hh), _empty(hh, rows, 3 * size), hh.t().contiguous()
    out_gates, out_inner = out[:, : 2 * size], out[:, 2 * size :]
    every, both, inners, news = (part.unbind(0) for part in (states, gates, inner, candidates))
    for t, step in enumerate(a.unbind(0)):
        torch.addmm(bias, _product(every[t], low), transposed, out=out)
        torch.add(step[:, size:], out_gates, out=both[t]).sigmoid_()
        reset, update = both[t][:, :size], both[t][:, size:]
        inners[t].copy_(out_inner)
        torch.addcmul(step[:, :size], reset, inners[t], out=news[t]).tanh_()
        torch.lerp(news[t], every[t], update, out=every[t + 1])
    return states, (gates, candidates, inner)


def _gru_backward(
    cell: str,
    slope: Tensor,
    hh: Tensor,
    states: Tensor,
    gates: Tensor,
    candidates: Tensor,
    inner: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    reset, update = gates.chunk(2, -1)
    # what a slope of h' is multiplied by on its way to the candidate, update and reset gates' sums
    closed = 1 - update
    by_update = (states[:-1] - candidates).mul_(update).mul_(closed)
    by_new = torch.addcmul(closed, candidates, candidates * closed, value=-1)
    by_reset = inner * reset
    by_reset = by_reset.addcmul_(by_reset, reset, value=-1)
    steps, rows, size = inner.shape
    slopes = _empty(inner, steps, rows, 4 * size)
    dh, total = torch.zeros_like(inner[0]), torch.empty_like(inner[0])
    low, out = _low(slopes[0, :, size:], hh), _empty(hh, rows, size)
    parts = (slope, by_new, by_update, by_reset, reset, update, slopes)
    lists = [part.unbind(0) for part in parts]
    for d_y, f_n, f_z, f_r, r, z, d in zip(*(reversed(p) for p in lists), strict=True):
        d_new, d_reset, d_update, d_inner = d.chunk(4, 1)
        torch.add(dh, d_y, out=total)
        torch.mul(total, f_n, out=d_new)
        torch.mul(total, f_z, out=d_update)
        torch.mul(d_new, f_r, out=d_reset)
        torch.mul(d_new, r, out=d_inner)
        torch.mul(total, z, out=dh)
        if low is None:
            dh.addmm_(d[:, size:], hh)
        else:
            dh.add_(torch.mm(low.copy_(d[:, size:]), hh, out=out))
    return slopes[:, :, : 3 * size], slopes[:, :, size:], dh


def unroll(cell: str, x: Tensor, h: Tensor, w: Weights) -> Tensor:
    """Run a GRU or RNN over time; under autocast its products are in the precision of that.

    Args:
        cell: gru, rnn_tanh or rnn_relu.
        x: (B, T, D), T >= 1.
        h: the state before (B, H).
        w: the weights; no norms.

    Returns:
        every state (B, T, H), in the precision of ``h``. Second derivatives come from the
        reference.
    """
    ih, bias_ih, kind = w.ih, w.bias_ih, x.device.type
    if cell == "gru":
        ih = ih.roll(h.shape[1], 0)
        bias_ih = None if bias_ih is None else bias_ih.roll(h.shape[1], 0)
    a = F.linear(x.transpose(0, 1).contiguous(), ih, bias_ih)
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else w.hh.dtype
    hh = w.hh.to(low)
    bias = _empty(hh, hh.shape[0]).zero_() if w.bias_hh is None else w.bias_hh.to(low)
    with torch.autocast(kind, enabled=False):
        run: Any = _Loop.apply
        states: Tensor = run(cell, a.to(h.dtype), h, hh, bias)
    return states.transpose(0, 1)
