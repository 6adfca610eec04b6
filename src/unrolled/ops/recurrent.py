"""Runs one recurrent cell over time by the best path there is: the one table of them.

``path`` says which one: the native core, torch's kernels or the equations. On the CPU only torch's
LSTM without packing reaches a fused kernel (oneDNN, fp32 and bf16), so for torch ragged batches are
never packed: padding at the right cannot influence earlier steps, and the backward direction reads
rows that were reversed one by one.
Shapes as in ``reference``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.ops import kernel, native, reference, traced
from unrolled.ops.derivatives import is_transformed
from unrolled.ops.kernel import Call, Inputs
from unrolled.ops.layout import Layout, padded
from unrolled.ops.masking import last_steps, reverse_rows, zero_padding
from unrolled.ops.modes import chosen_precision, mode
from unrolled.ops.reference import PLAIN, Extras, StateTensors, Weights

_vf: Any = torch._VF
# cells that torch has kernels for
_TORCH = frozenset(("rnn_tanh", "rnn_relu", "lstm", "gru"))

# added to a gate, it closes or opens the gate for good: sigmoid(-30000) is 0 and sigmoid(30000) is
# 1 in every precision, fp16 included, and both have gradient 0
_SHUT = 30000.0


def _flat(w: Weights) -> list[Tensor]:
    parts = (w.ih, w.hh, w.bias_ih, w.bias_hh, w.hr)
    return [part for part in parts if part is not None]


def _carried(after: Iterable[Tensor], state: StateTensors) -> StateTensors:
    """Return the state afterwards in the precision of the one before."""
    pairs = zip(after, state, strict=True)
    return tuple(
        [new if new.dtype == old.dtype else new.to(old.dtype) for new, old in pairs]
    )


def _kernel(
    cell: str, x: Tensor, state: StateTensors, w: Weights
) -> tuple[Tensor, StateTensors]:
    """Run torch's kernel over x (B, T, D), one layer, forward in time."""
    call = _on_cuda if x.is_cuda else _call
    y, *final = call(cell, x, state, w)
    # under autocast the kernel answers in bf16; what is carried on keeps its precision
    return y, _carried((part[0] for part in final), state)


def _call(cell: str, x: Tensor, state: StateTensors, w: Weights) -> StateTensors:
    """Call torch's kernel: the outputs, then the state."""
    carried = tuple(part[None].to(x.dtype) for part in state)
    # a trace keeps the flag: it must be the same in every run, and let it be differentiated
    train = torch.is_grad_enabled() or _tracing()
    arguments = (_flat(w), w.bias_ih is not None, 1, 0.0, train, False, True)
    if cell == "lstm":
        return tuple(_vf.lstm(x, carried, *arguments))
    return tuple(getattr(_vf, cell)(x, carried[0], *arguments))


def _on_cuda(cell: str, x: Tensor, state: StateTensors, w: Weights) -> StateTensors:
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
            warnings.filterwarnings(
                "ignore", message="RNN module weights are not part of single"
            )
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
    columns[0, :, 0] = -_SHUT
    columns[1, :, 0] = _SHUT
    ih = torch.cat([w.ih, columns.flatten(0, 1)], 1)
    return torch.cat([x, F.pad(padding, (0, wide - 1))], 2), w._replace(ih=ih)


def _fast(
    cell: str,
    x: Tensor,
    state: StateTensors,
    w: Weights,
    lengths: Tensor | None,
    reverse: bool,
    final: bool,
) -> tuple[Tensor, StateTensors]:
    x = zero_padding(x, lengths)
    if reverse:
        x = reverse_rows(x, lengths)
    if lengths is None:
        y, after = _kernel(cell, x, state, w)
    else:
        if cell == "lstm" and final:
            x, w = _holding(x, w, lengths)
        y, after = _kernel(cell, x, state, w)
        if final:
            h = last_steps(y.to(state[0].dtype), lengths, state[0])
            after = (h, *after[1:])
        y = zero_padding(y, lengths)
    if reverse:
        y = reverse_rows(y, lengths)
    return y, after


class Path(NamedTuple):
    """Which path a call takes, and why.

    Attributes:
        name: native, torch or reference.
        why: what keeps it from a faster one, and what would help; empty for native.
    """

    name: str
    why: str = ""


_NATIVE = Path("native")
_NARROW = (torch.float32, torch.bfloat16)
_TENSORS = (Tensor, torch.nn.Parameter)


def _tracing() -> bool:
    return (
        not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None
    )


def _checkpointed() -> bool:
    """Say whether hooks take what is saved for the backward pass, as activation checkpoints do.

    They read a part of the model a second time then, outside of a dispatch mode that was left
    since, and what is saved must be the same both times.
    """
    saved: Any = torch._C._autograd
    return saved._top_saved_tensors_default_hooks(True) is not None


def autocast() -> torch.dtype | None:
    """Return what autocast on the CPU casts to; None without it."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def _unlike(x: Tensor, h: Tensor, w: Weights) -> str:
    """Say which precision the native core does not take; empty when it takes all."""
    low = autocast()
    dtype = w.ih.dtype
    readable = (dtype,) if low is None else _NARROW
    if low not in (None, torch.bfloat16):
        return f"autocast to {low}; bf16 is native"
    if dtype not in _NARROW or w.hh.dtype != dtype:
        return f"weights in {dtype}; float32 and bf16 are native"
    if x.dtype not in readable or h.dtype not in readable:
        return f"x in {x.dtype} and state in {h.dtype} beside weights in {dtype}"
    return ""


def unreachable(*tensors: Tensor) -> str:
    """Say why the native core cannot be handed these tensors; empty when it can."""
    if not all(tensor.is_cpu for tensor in tensors):
        devices = sorted({tensor.device.type for tensor in tensors} - {"cpu"})
        return f"on {', '.join(devices)}; the native core is for CPUs"
    if is_transformed():
        return "torch.func or forward-mode gradients, which know no fused kernel"
    if torch.compiler.is_compiling():
        # operators stand in for the library's functions, but an export must not need these
        if torch.compiler.is_exporting():
            return "exported; torch's operators run anywhere"
    elif _tracing():
        return "tracing, which sees torch's operators alone"
    elif torch._C._len_torch_dispatch_stack() and not _checkpointed():
        return "a dispatch mode, which sees torch's operators alone"
    elif any(type(tensor) not in _TENSORS for tensor in tensors):
        return "subclasses of tensors, of which the native core knows nothing"
    return "" if native.available() else native.missing()


def _not_native(cell: str, x: Tensor, h: Tensor, w: Weights, extras: Extras) -> str:
    """Say why the native core cannot run this; empty when it can."""
    if cell not in native.CELLS:
        return f"cell {cell}, for which there is no kernel"
    if w.hr is not None:
        return "a projection (proj_size)"
    if not x.numel():
        return "nothing to read"
    if extras.recurrent_mask is not None and extras.recurrent_mask.requires_grad:
        return "gradients of the mask are wanted"
    if extras.recurrent_mask is not None and chosen_precision() == "int8":
        return "recurrent_dropout, which int8 has no use for"
    return _unlike(x, h, w) or unreachable(x, h, w.ih, w.hh)


def _lowered() -> str:
    """Return the choice of a precision that the native core alone has; empty without one."""
    name = chosen_precision()
    return "" if name in ("auto", "float32") else f"ops.precision({name!r})"


def path(cell: str, x: Tensor, h: Tensor, w: Weights, extras: Extras = PLAIN) -> Path:
    """Say which path :func:`unroll` takes now.

    Args:
        cell: a key of ``reference.STEPS``; those that no kernel knows run on the equations.
        x: what it will read.
        h: the hidden vector it starts from.
        w: its weights.
        extras: zoneout and recurrent dropout.

    Raises:
        ValueError: ``use("fast")`` was chosen and no fast path runs this, or none in the precision
            that was chosen.
    """
    if mode() == "reference":
        return Path(
            "reference", "ops.use('reference') was chosen; ops.use('auto') ends it"
        )
    if extras.observer is not None:
        return Path(
            "reference", "every gate is recorded, which only the equations have"
        )
    lacking = [] if w.norm_ih is None else ["layer_norm"]
    lacking += ["zoneout"] if extras.zoneout else []
    why = "" if lacking else _not_native(cell, x, h, w, extras)
    if not why and not lacking:
        return _NATIVE
    if mode() == "auto" and is_transformed():
        return Path(
            "reference",
            "torch.func or forward-mode gradients, which know no fused kernel",
        )
    if extras.recurrent_mask is not None:
        lacking.append("recurrent_dropout")
    if cell not in _TORCH:
        lacking.append(f"cell {cell}")
    if lacking and mode() == "fast":
        raise ValueError(
            f"expected settings that the fast path of {cell} can run, got {', '.join(lacking)}; "
            "choose ops.use('auto')"
        )
    if mode() == "fast" and _lowered():
        raise ValueError(
            f"expected what the native core runs, which alone has {_lowered()}, got {why}; choose "
            "ops.precision('auto') or ops.use('auto')"
        )
    if lacking:
        also = f"; not native: {why}" if why else ""
        return Path(
            "reference", f"{', '.join(lacking)}: only the equations have it{also}"
        )
    return Path("torch" if x.numel() else "reference", why)


def _needs_gradients(x: Tensor, state: StateTensors, w: Weights) -> bool:
    tensors = (x, *state, *_flat(w))
    return torch.is_grad_enabled() and any(part.requires_grad for part in tensors)


def _native_precision(w: Weights) -> str:
    if chosen_precision() != "auto":
        return chosen_precision()
    return "bf16" if torch.bfloat16 in (autocast(), w.ih.dtype) else "float32"


def describe(chosen: Path, w: Weights) -> str:
    """Return a path in words: the native one with its level and precision, others with the why."""
    if chosen.name == "native":
        return f"native ({native.level()}, {_native_precision(w)})"
    ignored = ""
    if _lowered():
        ignored = f"; {_lowered()} is ignored, which the native core alone has"
    return f"{chosen.name} ({chosen.why}{ignored})"


def shared_layout(x: Tensor, lengths: Tensor | None) -> Layout | None:
    """Return the layout of ragged x (B, T, D) for all layers that read it, if one can be had."""
    if lengths is None or torch.compiler.is_compiling() or unreachable(x, lengths):
        return None
    return padded(x, lengths)


def _native(
    cell: str,
    x: Tensor,
    state: StateTensors,
    w: Weights,
    lengths: Tensor | None,
    reverse: bool,
    mask: Tensor | None,
    layout: Layout | None,
) -> tuple[Tensor, StateTensors]:
    """Run the native core, whose inputs and outputs are fp32 in every precision."""
    low = _native_precision(w)
    compiling = torch.compiler.is_compiling()
    # elsewhere ``kernel.unroll`` looks by itself
    keeps = (compiling or low == "int8") and _needs_gradients(x, state, w)
    if keeps and low == "int8":
        raise ValueError(
            "expected a call without gradients under ops.precision('int8'), got one that wants "
            "them; add torch.no_grad(), or choose ops.precision('bf16') to train"
        )
    no_c = (None,) * (2 - len(state))
    tensors = (x, w.ih, w.hh, w.bias_ih, w.bias_hh, *state, *no_c, mask)
    in_fp32: list[Any] = [
        part if part is None or part.dtype == torch.float32 else part.float()
        for part in tensors
    ]
    inputs = Inputs(*in_fp32[:-1])
    mask = in_fp32[-1]
    after: StateTensors
    if compiling:
        y, *ends = traced.recurrent(*inputs, mask, lengths, cell, low, reverse, keeps)
        # what is kept for the backward pass is y itself, and outputs may be changed in place
        y = y.clone() if keeps else y
        after = tuple(ends[: len(state)])
    else:
        layout = padded(x, lengths) if layout is None else layout
        y, after = kernel.unroll(Call(cell, low, reverse, layout), inputs, mask)
    dtype = state[0].dtype
    y = y if y.dtype == dtype else y.to(dtype)
    return y, _carried(after, state)


def unroll(
    cell: str,
    x: Tensor,
    state: StateTensors,
    w: Weights,
    lengths: Tensor | None = None,
    reverse: bool = False,
    extras: Extras = PLAIN,
    final: bool = True,
    layout: Layout | None = None,
) -> tuple[Tensor, StateTensors]:
    """Run one layer of one direction over time.

    Args:
        cell: a key of ``reference.STEPS``.
        x: (B, T, D).
        state: h (B, P), and c (B, H) for lstm.
        w: its weights.
        lengths: real steps of each row (B,); None when all are.
        reverse: read each row from its last real step to its first.
        extras: zoneout and recurrent dropout; the first only the reference runs.
        final: False when the state afterwards is not needed, which is then perhaps not right for
            rows shorter than T.
        layout: what ``layout.padded`` says of x and lengths, when that is known already; or that of
            packed x (N, D), which only the native core reads.

    Returns:
        y (B, T, P), zero at padding, and the state after each row's last step read; y (N, P) where
        x is packed.

    Raises:
        ValueError: ``use("fast")`` was chosen and no fast path runs this; gradients in int8.
    """
    chosen = path(cell, x, state[0], w, extras)
    if chosen is _NATIVE:
        return _native(
            cell, x, state, w, lengths, reverse, extras.recurrent_mask, layout
        )
    if chosen.name == "torch":
        return _fast(cell, x, state, w, lengths, reverse, final)
    if _tracing():
        warnings.warn(
            f"the equations are traced step by step: the trace reads {x.shape[1]} steps, whatever "
            "it is given; torch.export and torch.compile keep the loop",
            torch.jit._trace.TracerWarning,
            stacklevel=2,
        )
    y, after, _ = reference.unroll(cell, x, state, w, lengths, reverse, extras)
    return y, after


def step(
    cell: str, x: Tensor, state: StateTensors, w: Weights, extras: Extras = PLAIN
) -> StateTensors:
    """Take one step.

    Args:
        x: (B, D). state: h (B, P), and c (B, H) for lstm.

    Returns:
        the new state, whose h is the output.

    Raises:
        ValueError: ``use("fast")`` was chosen and no fast path runs this.
    """
    mask = extras.recurrent_mask
    chosen = path(cell, x, state[0], w, extras)
    if chosen is _NATIVE and (mask is not None or _lowered()):
        return _native(cell, x[:, None], state, w, None, False, mask, None)[1]
    # torch has no cell with a projection
    after: StateTensors
    if chosen.name == "reference" or w.hr is not None:
        after, trace = reference.STEPS[cell](
            reference.from_input(cell, x, w), state, w, extras
        )
        if extras.observer is not None:
            extras.observer.record([trace])
    else:
        parts = (w.ih, w.hh, w.bias_ih, w.bias_hh)
        if cell == "lstm":
            after = tuple(_vf.lstm_cell(x, state, *parts))
        else:
            after = (getattr(_vf, f"{cell}_cell")(x, state[0], *parts),)
    # autocast must not narrow what is carried on
    return _carried(after, state)


__all__ = ["Extras", "Path", "Weights", "path", "step", "unroll"]
