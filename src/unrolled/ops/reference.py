"""The equations, plain: recurrent cells and attention, every gate and weight of every step.

Every fast path is tested against this file. All of it can be differentiated twice and vectorised
with torch.func. Shapes: B rows, T steps, S steps read, D input, H hidden, P output (H unless an
LSTM projects), G gates, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.ops.masking import real_steps, zero_padding
from unrolled.ops.recording import Observer


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
        observer: takes in every step, and holds gates and states; None does not.
    """

    zoneout: float = 0.0
    recurrent_mask: Tensor | None = None
    training: bool = False
    observer: Observer | None = None


PLAIN = Extras()
StateTensors = tuple[Tensor, ...]  # h (B, P), and c (B, H) for lstm
Trace = dict[str, Tensor]  # gates, candidates and states, by name
Stepped = tuple[StateTensors, Trace]
Step = Callable[[Tensor, StateTensors, Weights, Extras], Stepped]


def _normalise(product: Tensor, gain: Tensor | None, groups: tuple[int, ...]) -> Tensor:
    """Normalise the summed inputs to a group of units (Ba et al. 2016, eq. 4); no gain, no norm.

    The bias of eq. 4 is the cell's own bias.
    """
    if gain is None:
        return product
    gates = sum(groups)
    sizes = [product.shape[-1] * group // gates for group in groups]
    products = product.split(sizes, -1)
    gains = gain.split(sizes)
    normalised = [
        F.layer_norm(part, part.shape[-1:], part_gain)
        for part, part_gain in zip(products, gains, strict=True)
    ]
    return torch.cat(normalised, -1)


# GRU normalises reset and update together and the candidate by itself (Ba et al. 2016, eq. 26-28)
_GROUPS = {"gru": (2, 1)}  # other cells: all gates together


def from_input(cell: str, x: Tensor, w: Weights) -> Tensor:
    """Return what the input adds to every gate (..., G*H), for any number of steps at once."""
    product = F.linear(x, w.ih)
    a = _normalise(product, w.norm_ih, _GROUPS.get(cell, (1,)))
    return a if w.bias_ih is None else a + w.bias_ih


def from_hidden(cell: str, h: Tensor, w: Weights, extras: Extras) -> Tensor:
    """Return what the old hidden vector (B, P) adds to every gate (B, G*H)."""
    if extras.recurrent_mask is not None:
        h = h * extras.recurrent_mask
    product = F.linear(h, w.hh)
    a = _normalise(product, w.norm_hh, _GROUPS.get(cell, (1,)))
    return a if w.bias_hh is None else a + w.bias_hh


def zone_out(old: Tensor, new: Tensor, extras: Extras) -> Tensor:
    """Keep some units' old values (Krueger et al. 2017, eq. 4; its expectation when evaluating)."""
    if not extras.zoneout:
        return new
    if not extras.training:
        return extras.zoneout * old + (1 - extras.zoneout) * new
    keeps_old = torch.rand_like(new) < extras.zoneout
    return torch.where(keeps_old, old, new)


def _held(name: str, value: Tensor, extras: Extras) -> Tensor:
    """Return a gate or a state (B, H), or what it is held at."""
    if extras.observer is None:
        return value
    return extras.observer.held(name, value)


def _rnn_step(
    activation: Callable[[Tensor], Tensor],
    cell: str,
    a: Tensor,
    state: StateTensors,
    w: Weights,
    extras: Extras,
) -> Stepped:
    """One step of Elman's network (1990): h' = f(W x + b + U h + b')."""
    (h,) = state
    b = from_hidden(cell, h, w, extras)
    candidate = _held("candidate", activation(a + b), extras)
    h = _held("h", zone_out(h, candidate, extras), extras)
    return (h,), {"candidate": candidate, "h": h}


def rnn_tanh_step(
    a: Tensor,
    state: StateTensors,
    w: Weights,
    extras: Extras = PLAIN,
) -> Stepped:
    """One step of the tanh network. a (B, H) from the input, state (h (B, H),)."""
    return _rnn_step(torch.tanh, "rnn_tanh", a, state, w, extras)


def rnn_relu_step(
    a: Tensor,
    state: StateTensors,
    w: Weights,
    extras: Extras = PLAIN,
) -> Stepped:
    """One step of the relu network. a (B, H) from the input, state (h (B, H),)."""
    return _rnn_step(torch.relu, "rnn_relu", a, state, w, extras)


def lstm_step(
    a: Tensor,
    state: StateTensors,
    w: Weights,
    extras: Extras = PLAIN,
) -> Stepped:
    """One step of the LSTM (Hochreiter and Schmidhuber 1997, with Gers et al.'s forget gate 2000).

    Args:
        a: (B, 4H) from the input, gates in the order input, forget, candidate, output.
        state: h (B, P) and c (B, H).
    """
    h, c = state
    b = from_hidden("lstm", h, w, extras)
    i, f, g, o = (a + b).chunk(4, -1)
    i = _held("input", i.sigmoid(), extras)
    f = _held("forget", f.sigmoid(), extras)
    g = _held("candidate", g.tanh(), extras)
    o = _held("output", o.sigmoid(), extras)
    new_c = _held("c", f * c + i * g, extras)
    shown = new_c  # what the output gate shows of the cell
    if w.norm_c is not None:  # Ba et al. 2016, eq. 22
        shown = F.layer_norm(new_c, new_c.shape[-1:], w.norm_c, w.norm_c_bias)
    new_h = o * shown.tanh()
    if w.hr is not None:  # Sak et al. 2014
        new_h = F.linear(new_h, w.hr)
    c = _held("c", zone_out(c, new_c, extras), extras)
    h = _held("h", zone_out(h, new_h, extras), extras)
    trace = {
        "input": i,
        "forget": f,
        "candidate": g,
        "output": o,
        "c": c,
        "h": h,
    }
    return (h, c), trace


def gru_step(
    a: Tensor,
    state: StateTensors,
    w: Weights,
    extras: Extras = PLAIN,
) -> Stepped:
    """One step of the GRU (Cho et al. 2014, eq. 5-8), reset after the product as torch and cuDNN.

    Args:
        a: (B, 3H) from the input, gates in the order reset, update, candidate.
        state: h (B, H).
    """
    (h,) = state
    reset_a, update_a, candidate_a = a.chunk(3, -1)
    b = from_hidden("gru", h, w, extras)
    reset_b, update_b, candidate_b = b.chunk(3, -1)
    reset = _held("reset", (reset_a + reset_b).sigmoid(), extras)
    update = _held("update", (update_a + update_b).sigmoid(), extras)
    candidate = (candidate_a + reset * candidate_b).tanh()
    candidate = _held("candidate", candidate, extras)
    new_h = (1 - update) * candidate + update * h
    h = _held("h", zone_out(h, new_h, extras), extras)
    trace = {
        "reset": reset,
        "update": update,
        "candidate": candidate,
        "h": h,
    }
    return (h,), trace


def mingru_step(
    a: Tensor,
    state: StateTensors,
    w: Weights,
    extras: Extras = PLAIN,
) -> Stepped:
    """One step of the minGRU (Feng et al. 2024, arXiv 2410.01201, section 3.1.3).

    Neither gate nor candidate sees the old state, so there are no recurrent weights.

    Args:
        a: (B, 2H) from the input, gates in the order update, candidate.
        state: h (B, H).
    """
    (h,) = state
    update_a, candidate = a.chunk(2, -1)
    update = _held("update", update_a.sigmoid(), extras)
    candidate = _held("candidate", candidate, extras)
    new_h = (1 - update) * h + update * candidate
    h = _held("h", zone_out(h, new_h, extras), extras)
    trace = {"update": update, "candidate": candidate, "h": h}
    return (h,), trace


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
    state: StateTensors,
    w: Weights,
    lengths: Tensor | None = None,
    reverse: bool = False,
    extras: Extras = PLAIN,
) -> tuple[Tensor, StateTensors, Trace]:
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
    observed = extras.observer is not None
    if observed and lengths is not None and bool((lengths == steps).all()):
        # then the states that are recorded are those that are carried on, and not copies
        lengths = None
    a = from_input(cell, zero_padding(x, lengths), w)
    real = None
    if lengths is not None:
        real = real_steps(lengths, steps)[:, :, None]
    traces: list[Trace] = []
    # autocast must not narrow what is carried on
    dtypes = [part.dtype for part in state]
    for t in reversed(range(steps)) if reverse else range(steps):
        new, trace = step(a[:, t], state, w, extras)
        if real is not None:
            new = _where(real[:, t], new, state)
        state = tuple(part.to(dtype) for part, dtype in zip(new, dtypes, strict=True))
        traces.append(trace)
    if not traces:
        rows = x.shape[0]
        width = state[0].shape[-1]
        return x.new_zeros(rows, 0, width), _copied(state), {}
    if reverse:
        traces.reverse()
    if extras.observer is not None:
        extras.observer.record(traces)
    stacked = _stacked(traces, lengths)
    return stacked["h"], _copied(state), stacked


def _copied(state: StateTensors) -> StateTensors:
    """Return copies: callers may change them in place, and a cell's backward reads its own."""
    return tuple(part.clone() for part in state)


def _where(condition: Tensor, new: StateTensors, old: StateTensors) -> StateTensors:
    """Return the new state in the rows (B, 1) that meet the condition, the old one in others."""
    pairs = zip(new, old, strict=True)
    return tuple(torch.where(condition, part, old_part) for part, old_part in pairs)


def _stacked(traces: Sequence[Trace], lengths: Tensor | None) -> Trace:
    """Return what every step went through (B, T, H), zero at padding."""
    stacked: Trace = {}
    for name in traces[0]:
        steps = [trace[name] for trace in traces]
        stacked[name] = zero_padding(torch.stack(steps, 1), lengths)
    return stacked


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
    scores = scores.masked_fill(~allowed, -math.inf)
    weights = scores.softmax(-1)
    return weights @ v, weights
