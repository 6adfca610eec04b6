"""torch.nn's call forms for recurrent layers, as a thin face over ``unroll``.

Shapes: B rows, T steps, D input, P output of one direction, L layers, R directions.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from unrolled.nn.state import RecurrentState, State
from unrolled.ops.layout import Layout, packed
from unrolled.ops.masking import Lengths


class LikeTorch(Protocol):
    """What is asked of a recurrent layer, ``nn/recurrent.py``, which imports this file."""

    input_size: int
    num_layers: int
    directions: int
    batch_first: bool

    def state_sizes(self) -> list[int]: ...

    def reads_packed(self, x: Tensor, state: RecurrentState | None) -> bool: ...

    def unroll(
        self, x: Tensor, state: State | None, lengths: Lengths | None
    ) -> tuple[Tensor, RecurrentState]: ...

    def unroll_packed(
        self, x: Tensor, layout: Layout, state: State | None
    ) -> tuple[Tensor, RecurrentState]: ...


def call_like_torch(
    layer: LikeTorch, x: Tensor | PackedSequence, hx: Any, lengths: Lengths | None
) -> tuple[Any, Any]:
    """Read any form that torch.nn's modules take; see ``Recurrent.forward``."""
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise ValueError(
                "expected no lengths beside a PackedSequence, which has its own"
            )
        return _call_packed(layer, x, hx)
    if x.dim() not in (2, 3):
        raise ValueError(
            f"expected x of 3 dimensions, or 2 for one sequence, got shape {tuple(x.shape)}"
        )
    single = x.dim() == 2
    time_first = not layer.batch_first
    form = "batch, time"
    if single:
        form = "time"
    elif time_first:
        form = "time, batch"
    _check_width(layer, x, form)
    if single:
        if lengths is not None:
            raise ValueError(
                "expected no lengths for one sequence (time, features); cut x instead"
            )
        x = x[None]
    elif time_first:
        x = x.transpose(0, 1)
    y, after = layer.unroll(x, _as_state(layer, hx, single), lengths)
    if single:
        y = y[0]
    elif time_first:
        y = y.transpose(0, 1)
    return y, _as_tensors(after, single)


def _check_width(layer: LikeTorch, x: Tensor, form: str) -> None:
    """Refuse x of another width, in the shape that the caller gave it."""
    if x.shape[-1] != layer.input_size:
        raise ValueError(
            f"expected x of shape ({form}, {layer.input_size}), got {tuple(x.shape)}; set "
            "input_size to the number of features of x"
        )


def _call_packed(
    layer: LikeTorch, x: PackedSequence, hx: Any
) -> tuple[PackedSequence, Any]:
    """Read the steps where they stand; or else pad, run with lengths, pack again in that order."""
    _check_width(layer, x.data, "steps of all rows")
    initial = _as_state(layer, hx, False)
    if layer.reads_packed(x.data, initial):
        layout = packed(x.batch_sizes, x.sorted_indices)
        y, after = layer.unroll_packed(x.data, layout, initial)
        return x._replace(data=y), _as_tensors(after, False)
    padded, lengths = pad_packed_sequence(x, batch_first=True)
    y, after = layer.unroll(padded, initial, lengths)
    if x.sorted_indices is not None:
        order = x.sorted_indices
        y = y.index_select(0, order)
        lengths = lengths.index_select(0, order.cpu())
    vf: Any = torch._VF
    data, batch_sizes = vf._pack_padded_sequence(y, lengths, True)
    again = PackedSequence(data, batch_sizes, x.sorted_indices, x.unsorted_indices)
    return again, _as_tensors(after, False)


def _as_state(layer: LikeTorch, hx: Any, single: bool) -> RecurrentState | None:
    """Turn torch's h or (h, c) into a state; a state may be passed as well."""
    if hx is None or isinstance(hx, RecurrentState):
        return hx
    parts = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    sizes = layer.state_sizes()
    if len(parts) != len(sizes) or isinstance(hx, Tensor) != (len(sizes) == 1):
        form = "a pair (h, c)" if len(sizes) == 2 else "one tensor h"
        raise ValueError(f"expected {form} as initial state, got a {type(hx).__name__}")
    dimensions = 2 if single else 3
    if any(part.dim() != dimensions for part in parts):
        raise ValueError(
            f"expected an initial state of {dimensions} dimensions, as x has, got shapes "
            f"{[tuple(part.shape) for part in parts]}"
        )
    shapes = [(layer.num_layers * layer.directions, size) for size in sizes]
    if single and [tuple(part.shape) for part in parts] != shapes:
        raise ValueError(
            f"expected an initial state of shapes {shapes} (layers x directions, size), got "
            f"{[tuple(part.shape) for part in parts]}; give one for a single sequence, as x is"
        )
    return RecurrentState(*(part[:, None] if single else part for part in parts))


def _as_tensors(state: RecurrentState, single: bool) -> Any:
    parts = [state.h] if state.c is None else [state.h, state.c]
    parts = [part[:, 0] for part in parts] if single else parts
    return parts[0] if len(parts) == 1 else tuple(parts)
