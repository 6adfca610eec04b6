"""The equations, plain: recurrent cells and attention, every gate and weight of every step.

Every fast path is tested against this file. All of it can be differentiated twice and vectorised
with torch.func. Shapes: B rows, T steps, S steps read, D input, H hidden, P output (H unless an
LSTM projects), G gates, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.ops.masking import real_steps, zero_padding


class Weights(NamedTuple):
    """The weights of one layer in one direction, gates stacked in torch.nn's order.

    Args:
        ih: (G*H, D). hh: (G*H, P). bias_ih, bias_hh: (G*H,). hr: the LSTM's projection (P, H).
        norm_ih, norm_hh: gains of layer normalisation (G*H,).
        norm_c, norm_c_bias: gain and bias for the LSTM's cell (H,).
    """

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    hr: Tensor | None = None
    norm_ih: Tensor | None = None
    norm_hh: Tensor | None = None
    norm_c: Tensor | None = None
    norm_c_bias: Tensor | None = None


class Extras(NamedTuple):
    """What torch.nn's cells lack.

    Args:
        zoneout: probability that a unit keeps its old value for a step (Krueger et al. 2017).
        recurrent_mask: (B, P), zeros and 1/(1-p), multiplied into h on its way to the gates; the
            same at every step (Gal and Ghahramani 2016).
        training: False uses zoneout's expectation instead of drawing.
    """

    zoneout: float = 0.0
    recurrent_mask: Tensor | None = None
    training: bool = False


PLAIN = Extras()
Trace = dict[str, Tensor]
Step = Callable[
    [Tensor, tuple[Tensor, ...], Weights, Extras], tuple[tuple[Tensor, ...], Trace]
]


def _normalise(product: Tensor, gain: Tensor | None, groups: tuple[int, ...]) -> Tensor:
    """Normalise the summed inputs to a group of units (Ba et al. 2016, eq. 4); no gain, no norm.

    The bias of eq. 4 is the cell's own bias.
    """
    if gain is None:
        return product
    whole = sum(groups)
    sizes = [product.shape[-1] * share // whole for share in groups]
    parts = zip(product.split(sizes, -1), gain.split(sizes), strict=True)
    return torch.cat([F.layer_norm(part, part.shape[-1:], g) for part, g in parts], -1)


# GRU normalises reset and update together and the candidate by itself (Ba et al. 2016, eq. 26-28)
_GROUPS = {"gru": (2, 1)}  # other cells: all gates together


def from_input(cell: str, x: Tensor, w: Weights) -> Tensor:
    """Return what the input adds to every gate (..., G*H), for any number of steps at once."""
    a = _normalise(F.linear(x, w.ih), w.norm_ih, _GROUPS.get(cell, (1,)))
    return a if w.bias_ih is None else a + w.bias_ih


def from_hidden(cell: str, h: Tensor, w: Weights, extras: Extras) -> Tensor:
    """Return what the old hidden vector (B, P) adds to every gate (B, G*H)."""
    h = h if extras.recurrent_mask is None else h * extras.recurrent_mask
    a = _normalise(F.linear(h, w.hh), w.norm_hh, _GROUPS.get(cell, (1,)))
    return a if w.bias_hh is None else a + w.bias_hh


def zone_out(old: Tensor, new: Tensor, extras: Extras) -> Tensor:
    """Keep some units' old values (Krueger et al. 2017, eq. 4; its expectation when evaluating)."""
    if not extras.zoneout:
        return new
    if not extras.training:
        return extras.zoneout * old + (1 - extras.zoneout) * new
    return torch.where(torch.rand_like(new) < extras.zoneout, old, new)


def _rnn_step(
    activation: Callable[[Tensor], Tensor],
    cell: str,
    a: Tensor,
    state: tuple[Tensor, ...],
    w: Weights,
    extras: Extras,
) -> tuple[tuple[Tensor, ...], Trace]:
    """One step of Elman's network (1990): h' = f(W x + b + U h + b')."""
    (h,) = state
    candidate = activation(a + from_hidden(cell, h, w, extras))
    h = zone_out(h, candidate, extras)
    return (h,), {"candidate": candidate, "h": h}


def rnn_tanh_step(
    a: Tensor, state: tuple[Tensor, ...], w: Weights, extras: Extras = PLAIN
) -> tuple[tuple[Tensor, ...], Trace]:
    """One step of the tanh network. a (B, H) from the input, state (h (B, H),)."""
    return _rnn_step(torch.tanh, "rnn_tanh", a, state, w, extras)


def rnn_relu_step(
    a: Tensor, state: tuple[Tensor, ...], w: Weights, extras: Extras = PLAIN
) -> tuple[tuple[Tensor, ...], Trace]:
    """One step of the relu network. a (B, H) from the input, state (h (B, H),)."""
    return _rnn_step(torch.relu, "rnn_relu", a, state, w, extras)


def lstm_step(
    a: Tensor, state: tuple[Tensor, ...], w: Weights, extras: Extras = PLAIN
) -> tuple[tuple[Tensor, ...], Trace]:
    """One step of the LSTM (Hochreiter and Schmidhuber 1997, with Gers et al.'s forget gate 2000).

    Args:
        a: (B, 4H) from the input, gates in the order input, forget, candidate, output.
        state: h (B, P) and c (B, H).
    """
    h, c = state
    i, f, g, o = (a + from_hidden("lstm", h, w, extras)).chunk(4, -1)
    i = i.sigmoid()
    f = f.sigmoid()
    g = g.tanh()
    o = o.sigmoid()
    cell = f * c + i * g
    shown = cell
    if w.norm_c is not None:  # Ba et al. 2016, eq. 22
        shown = F.layer_norm(cell, cell.shape[-1:], w.norm_c, w.norm_c_bias)
    hidden = o * shown.tanh()
    hidden = hidden if w.hr is None else F.linear(hidden, w.hr)  # Sak et al. 2014
    c = zone_out(c, cell, extras)
    h = zone_out(h, hidden, extras)
    return (h, c), {
        "input": i,
        "forget": f,
        "candidate": g,
        "output": o,
        "c": c,
        "h": h,
    }


def gru_step(
    a: Tensor, state: tuple[Tensor, ...], w: Weights, extras: Extras = PLAIN
) -> tuple[tuple[Tensor, ...], Trace]:
    """One step of the GRU (Cho et al. 2014, eq. 5-8), reset after the product as torch and cuDNN.

    Args:
        a: (B, 3H) from the input, gates in the order reset, update, candidate.
        state: h (B, H).
    """
    (h,) = state
    reset_a, update_a, candidate_a = a.chunk(3, -1)
    reset_b, update_b, candidate_b = from_hidden("gru", h, w, extras).chunk(3, -1)
    reset = (reset_a + reset_b).sigmoid()
    update = (update_a + update_b).sigmoid()
    candidate = (candidate_a + reset * candidate_b).tanh()
    h = zone_out(h, (1 - update) * candidate + update * h, extras)
    return (h,), {"reset": reset, "update": update, "candidate": candidate, "h": h}


def mingru_step(
    a: Tensor, state: tuple[Tensor, ...], w: Weights, extras: Extras = PLAIN
) -> tuple[tuple[Tensor, ...], Trace]:
    """One step of the minGRU (Feng et al. 2024, arXiv 2410.01201, section 3.1.3).

    Neither gate nor candidate sees the old state, so there are no recurrent weights.

    Args:
        a: (B, 2H) from the input, gates in the order update, candidate.
        state: h (B, H).
    """
    (h,) = state
    update_a, candidate = a.chunk(2, -1)
    update = update_a.sigmoid()
    h = zone_out(h, (1 - update) * h + update * candidate, extras)
    return (h,), {"update": update, "candidate": candidate, "h": h}


STEPS: dict[str, Step] = {
    "rnn_tanh": rnn_tanh_step,
    "rnn_relu": rnn_relu_step,
    "lstm": lstm_step,
    "gru": gru_step,
    "mingru": mingru_step,
}


def unroll(
    cell: str,
    x: Tensor,
    state: tuple[Tensor, ...],
    w: Weights,
    lengths: Tensor | None = None,
    reverse: bool = False,
    extras: Extras = PLAIN,
) -> tuple[Tensor, tuple[Tensor, ...], Trace]:
    """Run one cell over time.

    Args:
        cell: a key of ``STEPS``.
        x: (B, T, D).
        state: h (B, P), and c (B, H) for lstm.
        lengths: real steps of each row (B,); None when all are.
        reverse: read each row from its last real step to its first.

    Returns:
        y (B, T, P), zero at padding; the state after each row's last step read; and every gate,
        candidate and state of every step (B, T, H), zero at padding.
    """
    step = STEPS[cell]
    steps = x.shape[1]
    a = from_input(cell, zero_padding(x, lengths), w)
    real = None if lengths is None else real_steps(lengths, steps)[:, :, None]
    traces: list[Trace] = []
    dtypes = [
        part.dtype for part in state
    ]  # autocast must not narrow what is carried on
    for t in reversed(range(steps)) if reverse else range(steps):
        new, trace = step(a[:, t], state, w, extras)
        if real is not None:
            new = tuple(
                torch.where(real[:, t], n, s) for n, s in zip(new, state, strict=True)
            )
        state = tuple(n.to(dtype) for n, dtype in zip(new, dtypes, strict=True))
        traces.append(trace)
    if not traces:
        unread = tuple(part.clone() for part in state)
        return x.new_zeros(x.shape[0], 0, state[0].shape[-1]), unread, {}
    if reverse:
        traces.reverse()
    stacked = {
        name: zero_padding(torch.stack([trace[name] for trace in traces], 1), lengths)
        for name in traces[0]
    }
    # copies: whoever gets the state may change it in place, and a cell's backward reads its own
    return stacked["h"], tuple(part.clone() for part in state), stacked


def attention(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), grouped (Ainslie et al. 2023).

    Args:
        q: (B, heads, T, E). k, v: (B, key-value heads, S, E); heads is a multiple of theirs.
        allowed: bool (B or 1, 1, T, S), True where a query may look; None: causal, the queries
            standing at the last T of the S positions.

    Returns:
        the outputs (B, heads, T, E) and the weights (B, heads, T, S), whose rows sum to 1.

    Raises:
        ValueError: the query heads do not divide into groups.
    """
    groups, rest = divmod(q.shape[1], k.shape[1])
    if rest:
        raise ValueError(
            f"expected heads to be a multiple of key-value heads, got {q.shape[1]} and "
            f"{k.shape[1]}; change one of them"
        )
    k = k.repeat_interleave(groups, 1)
    v = v.repeat_interleave(groups, 1)
    if allowed is None:
        steps = q.shape[2]
        read = k.shape[2]
        everywhere = torch.ones(steps, read, dtype=torch.bool, device=q.device)
        allowed = everywhere.tril(read - steps)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    return weights @ v, weights
