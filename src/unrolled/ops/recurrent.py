"""Runs one recurrent cell over time by the best path there is: the one table of them.

Fast is torch's kernel, and for training a GRU or RNN on the CPU ``handwritten``. On the CPU only
torch's LSTM without packing reaches a fused kernel (oneDNN, fp32 and bf16), so ragged batches are
never packed: padding at the right cannot influence earlier steps, and the backward direction reads
rows that were reversed one by one. Shapes as in ``reference``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.ops import handwritten, reference
from unrolled.ops.masking import last_steps, reverse_rows, zero_padding
from unrolled.ops.reference import PLAIN, Extras, Weights

_vf: Any = torch._VF
_States = tuple[Tensor, ...]

# added to a gate, it closes or opens the gate for good: sigmoid(-30000) is 0 and sigmoid(30000) is
# 1 in every precision, fp16 included, and both have slope 0
_SHUT = 30000.0

_MODES = ("auto", "fast", "reference")
_mode = "auto"


class use:  # a function to its callers, hence the small letter
    """Choose how recurrent cells run: ``use("reference")``, or for a block ``with use(...)``.

    Args:
        mode: "auto" (a fast path where there is one), "fast" (ValueError where there is none) or
            "reference" (the plain equations: second derivatives, torch.func.vmap).

    Raises:
        ValueError: no such mode.
    """

    def __init__(self, mode: str) -> None:
        global _mode
        if mode not in _MODES:
            raise ValueError(f"expected a mode out of {', '.join(_MODES)}, got {mode!r}")
        self.before, _mode = _mode, mode

    def __enter__(self) -> use:
        return self

    def __exit__(self, *error: object) -> None:
        global _mode
        _mode = self.before


def mode() -> str:
    """Return what :class:`use` chose last."""
    return _mode


def _flat(w: Weights) -> list[Tensor]:
    return [part for part in (w.ih, w.hh, w.bias_ih, w.bias_hh, w.hr) if part is not None]


def _by_hand(x: Tensor, state: _States, w: Weights) -> bool:
    """Say whether slopes are wanted on the CPU, where the hand-written ones are cheaper."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return any(part.requires_grad for part in (x, *state, *_flat(w)))


def _kernel(cell: str, x: Tensor, state: _States, w: Weights) -> tuple[Tensor, _States]:
    """Run torch's kernel over x (B, T, D), one layer, forward in time."""
    if cell != "lstm" and _by_hand(x, state, w):
        y = handwritten.unroll(cell, x, state[0], w)
        return y, (y[:, -1],)
    y, *final = (_on_cuda if x.is_cuda else _call)(cell, x, state, w)
    # under autocast the kernel answers in bf16; what is carried on keeps its precision
    return y, tuple(f[0].to(s.dtype) for f, s in zip(final, state, strict=True))


def _call(cell: str, x: Tensor, state: _States, w: Weights) -> _States:
    """Call torch's kernel: the outputs, then the state."""
    carried = tuple(part[None].to(x.dtype) for part in state)
    arguments = (_flat(w), w.bias_ih is not None, 1, 0.0, torch.is_grad_enabled(), False, True)
    if cell == "lstm":
        return tuple(_vf.lstm(x, carried, *arguments))
    return tuple(getattr(_vf, cell)(x, carried[0], *arguments))


def _on_cuda(cell: str, x: Tensor, state: _States, w: Weights) -> _States:
    """Call torch's kernel in the precision that autocast names.

    ATen's own autocast of cuDNN's kernels takes fp16 whatever the user asked for, whose range
    overflows where bf16's does not, so autocast is left and its casts are made here.
    """
    # autocast leaves fp64 alone everywhere
    if torch.is_autocast_enabled("cuda") and x.dtype != torch.float64:
        low = torch.get_autocast_dtype("cuda")
        x = x.to(low)
        parts: Any = (None if part is None else part.to(low) for part in w)
        w = Weights(*parts)
    with torch.autocast("cuda", enabled=False):
        if torch.compiler.is_compiling():
            return _call(cell, x, state, w)
        with warnings.catch_warnings():
            # casts, and the weights of one direction of one layer, are never one chunk of memory:
            # cuDNN copies them together, and the advice to call flatten_parameters is of no use
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
            return _call(cell, x, state, w)


def _holding(x: Tensor, w: Weights, lengths: Tensor) -> tuple[Tensor, Weights]:
    """Give an LSTM one more input, 1 at padding, that shuts the input gate and opens forget.

    The cell then passes through padding bit for bit, and so does its gradient, which makes the
    cell after the last step of a ragged batch the cell after its last real step: exact, in one call
    of the fused kernel, which returns no cells in between.
    """
    step = torch.arange(x.shape[1], device=x.device)
    padding = (step >= lengths[:, None]).to(x.dtype)[:, :, None]
    size = w.ih.shape[0] // 4
    # zeros fill up to a multiple of 16: oneDNN's bf16 kernel takes 2.5 times as long at odd widths
    wide = 16 - x.shape[2] % 16
    columns = torch.zeros(4, size, wide, dtype=w.ih.dtype, device=w.ih.device)
    columns[0, :, 0], columns[1, :, 0] = -_SHUT, _SHUT
    ih = torch.cat([w.ih, columns.flatten(0, 1)], 1)
    return torch.cat([x, F.pad(padding, (0, wide - 1))], 2), w._replace(ih=ih)


def _fast(
    cell: str,
    x: Tensor,
    state: _States,
    w: Weights,
    lengths: Tensor | None,
    reverse: bool,
    final: bool,
) -> tuple[Tensor, _States]:
    x = zero_padding(x, lengths)
    x = reverse_rows(x, lengths) if reverse else x
    if lengths is None:
        y, after = _kernel(cell, x, state, w)
    else:
        if cell == "lstm" and final:
            x, w = _holding(x, w, lengths)
        y, after = _kernel(cell, x, state, w)
        h = last_steps(y.to(state[0].dtype), lengths, state[0]) if final else after[0]
        after = (h, *after[1:])
        y = zero_padding(y, lengths)
    return reverse_rows(y, lengths) if reverse else y, after


def _reference(
    cell: str,
    x: Tensor,
    state: _States,
    w: Weights,
    lengths: Tensor | None,
    reverse: bool,
    extras: Extras,
) -> tuple[Tensor, _States]:
    y, after, _ = reference.unroll(cell, x, state, w, lengths, reverse, extras)
    return y, after


_Path = Callable[[str, Tensor, _States, Weights, Tensor | None, bool, bool], tuple[Tensor, _States]]

# the fast path of every cell; whatever it cannot run goes to the reference
FAST: dict[str, _Path] = {"rnn_tanh": _fast, "rnn_relu": _fast, "lstm": _fast, "gru": _fast}


def _transformed() -> bool:
    """Say whether torch.func is at work, vmap for one, which knows no fused kernel."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _takes_fast(what: str, w: Weights, extras: Extras, usual: bool = True) -> bool:
    """Say whether the fast path runs; raise when it was ordered and cannot."""
    if _mode == "reference" or (_mode == "auto" and _transformed()):
        return False
    lacking = [
        name
        for name, asked in (
            ("layer_norm", w.norm_ih is not None),
            ("zoneout", extras.zoneout > 0),
            ("recurrent_dropout", extras.recurrent_mask is not None),
        )
        if asked
    ]
    if lacking and _mode == "fast":
        raise ValueError(
            f"expected settings that the fast path of {what} can run, got {', '.join(lacking)}; "
            "choose ops.use('auto')"
        )
    return usual and not lacking


def unroll(
    cell: str,
    x: Tensor,
    state: _States,
    w: Weights,
    lengths: Tensor | None = None,
    reverse: bool = False,
    extras: Extras = PLAIN,
    final: bool = True,
) -> tuple[Tensor, _States]:
    """Run one layer of one direction over time.

    Args:
        cell: rnn_tanh, rnn_relu, lstm or gru.
        x: (B, T, D).
        state: h (B, P), and c (B, H) for lstm.
        w: its weights.
        lengths: real steps of each row (B,); None when all are.
        reverse: read each row from its last real step to its first.
        extras: zoneout and recurrent dropout, which only the reference runs.
        final: False when the state afterwards is not needed, which is then not right for rows
            shorter than T.

    Returns:
        y (B, T, P), zero at padding, and the state after each row's last step read.

    Raises:
        ValueError: ``use("fast")`` was chosen and no fast path runs this.
    """
    if _takes_fast(cell, w, extras, x.numel() > 0):
        return FAST[cell](cell, x, state, w, lengths, reverse, final)
    return _reference(cell, x, state, w, lengths, reverse, extras)


def step(cell: str, x: Tensor, state: _States, w: Weights, extras: Extras = PLAIN) -> _States:
    """Take one step.

    Args:
        x: (B, D). state: h (B, P), and c (B, H) for lstm.

    Returns:
        the new state, whose h is the output.

    Raises:
        ValueError: ``use("fast")`` was chosen and no fast path runs this.
    """
    # torch has no cell with a projection
    after: _States
    if not _takes_fast(cell, w, extras, w.hr is None and x.numel() > 0):
        after, _ = reference.STEPS[cell](reference.from_input(cell, x, w), state, w, extras)
    else:
        parts = (w.ih, w.hh, w.bias_ih, w.bias_hh)
        if cell == "lstm":
            after = tuple(_vf.lstm_cell(x, state, *parts))
        else:
            after = (getattr(_vf, f"{cell}_cell")(x, state[0], *parts),)
    # autocast must not narrow what is carried on
    return tuple(new.to(old.dtype) for new, old in zip(after, state, strict=True))


__all__ = ["FAST", "Extras", "Weights", "mode", "step", "unroll", "use"]
