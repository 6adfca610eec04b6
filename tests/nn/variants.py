"""Every layer in every variant that the invariants must hold for, small and of odd sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unrolled.nn import GRU, LSTM, RNN, Attention, Layer, Memoryless, MinGRU, State
from unrolled.nn.rotary_scaling import RotaryScaling
from unrolled.nn.variant import Variant

D = 5  # input features

_BOTH = {"bidirectional": True}
_DEEP = {"num_layers": 2}
_EXTRAS = {"layer_norm": True, "zoneout": 0.3}
_ATTENTION = partial(Attention, D, 12, 2, 6)
_LLAMA3 = RotaryScaling(
    kind="llama3",
    factor=8.0,
    original_context=12,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
)

CAUSAL: dict[str, Callable[[], Layer]] = {
    "none": partial(Memoryless, D, 7, 2),
    "none-identity": partial(Memoryless, D, layers=0),
    "rnn": partial(RNN, D, 7),
    "rnn-relu-2": partial(RNN, D, 7, 2, nonlinearity="relu"),
    "rnn-no-bias": partial(RNN, D, 7, bias=False),
    "rnn-extras": partial(RNN, D, 7, **_EXTRAS),
    "lstm": partial(LSTM, D, 7),
    "lstm-2": partial(LSTM, D, 7, **_DEEP),
    "lstm-no-bias": partial(LSTM, D, 7, bias=False),
    "lstm-projected": partial(LSTM, D, 7, 2, proj_size=3),
    "lstm-extras": partial(LSTM, D, 7, 2, proj_size=3, **_EXTRAS),
    "lstm-residual": partial(LSTM, D, 7, 3, residual=True, orthogonal=True),
    "lstm-last": partial(LSTM, D, 7, 3, last_size=4),
    "gru": partial(GRU, D, 7),
    "gru-2": partial(GRU, D, 7, **_DEEP),
    "gru-no-bias": partial(GRU, D, 7, bias=False),
    "gru-extras": partial(GRU, D, 7, **_EXTRAS),
    "gru-last": partial(GRU, D, 7, 2, last_size=3, **_EXTRAS),
    "mingru": partial(MinGRU, D, 7),
    "mingru-extras": partial(MinGRU, D, 7, 3, residual=True, **_EXTRAS),
    "mingru-last": partial(MinGRU, D, 7, 2, bias=False, last_size=3),
    "attention": _ATTENTION,
    "attention-grouped": partial(_ATTENTION, kv_heads=2),
    "attention-one-key": partial(_ATTENTION, kv_heads=1, norm="layer"),
    "attention-sinusoidal": partial(
        _ATTENTION, positions="sinusoidal", feedforward="gelu"
    ),
    "attention-learned": partial(_ATTENTION, positions="learned", context=40),
    "attention-window": partial(
        _ATTENTION, kv_heads=3, variant=Variant(attention_window=3, rotary_base=500.0)
    ),
    "attention-llama3": partial(
        _ATTENTION, variant=Variant(rotary_base=50.0, rotary_scaling=_LLAMA3)
    ),
    "attention-wide-heads": partial(
        _ATTENTION,
        kv_heads=2,
        bias=True,
        variant=Variant(
            head_size=4, query_key_norm=True, attention_bias="inputs", norm_eps=1e-4
        ),
    ),
    "attention-gelu-tanh": partial(
        _ATTENTION,
        positions="learned",
        context=40,
        norm="layer",
        feedforward="gelu-tanh",
        bias=True,
    ),
    "attention-post-norm": partial(_ATTENTION, norm_first=False, norm="layer"),
}
BOTH_WAYS: dict[str, Callable[[], Layer]] = {
    "rnn-both": partial(RNN, D, 7, **_BOTH),
    "rnn-both-extras": partial(RNN, D, 7, **_BOTH, **_EXTRAS),
    "lstm-both": partial(LSTM, D, 7, **_BOTH),
    "lstm-both-2": partial(LSTM, D, 7, **_BOTH, **_DEEP),
    "lstm-both-projected": partial(LSTM, D, 7, 2, proj_size=3, **_BOTH),
    "gru-both-residual": partial(GRU, D, 7, **_BOTH, **_DEEP, residual=True),
    "gru-both-2": partial(GRU, D, 7, **_BOTH, **_DEEP),
    "mingru-both-2": partial(MinGRU, D, 7, **_BOTH, **_DEEP),
    "attention-both": partial(_ATTENTION, bidirectional=True),
    "attention-both-window": partial(
        _ATTENTION, bidirectional=True, variant=Variant(attention_window=2)
    ),
    "attention-both-learned": partial(
        _ATTENTION, bidirectional=True, positions="learned", context=40, kv_heads=2
    ),
}
EVERY = CAUSAL | BOTH_WAYS


def build(name: str) -> Layer:
    """Build a variant in fp64, evaluating, with weights large enough that every part matters."""
    layer = EVERY[name]().double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return layer


def tensors(state: State) -> list[Tensor]:
    """Return what a state holds, differentiable, but for integers."""
    parts = [getattr(state, name, None) for name in ("h", "c", "keys", "values")]
    return [part for part in parts if part is not None]


def rows_of(state: State) -> Iterator[State]:
    """Yield each row of a state as a state of its own."""
    for row in range(state.rows):
        yield state.reorder(torch.tensor([row]))
