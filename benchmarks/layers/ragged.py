"""Rows of unequal length, as film reviews have them, against torch's packed LSTM and GRU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from benchmarks.layers import common
from benchmarks.layers.common import CELLS, Options, Tensors, Work
from benchmarks.layers.training import THREADS

ROWS = 64
SIZES = (128, 256)
TARGETS = {"lstm": 2.0, "gru": 4.0}
# of the logarithms of the lengths of NSMC's training rows: tokens of the recipe, at most 80
MEAN = 2.496
SPREAD = 0.745
LONGEST = 80
WIDTHS = (6, 5, 4, 8, 9, 9, 6, 8)


def draw_lengths() -> tuple[Tensor, str]:
    """Return the lengths (B,) of one batch drawn at random, and where they come from."""
    draw = np.random.default_rng(0)
    if os.environ.get("UNROLLED_DATA"):
        from unrolled.runs.prepare import prepare
        from unrolled.runs.recipes import requested

        rows = prepare(requested("nsmc", {})).train.sequences
        lengths = draw.choice(np.diff(rows.offsets), ROWS)
        return torch.from_numpy(lengths), "rows of NSMC, tokens of the recipe nsmc"
    drawn = draw.lognormal(MEAN, SPREAD, ROWS).round().clip(1, LONGEST).astype(np.int64)
    return torch.from_numpy(
        drawn
    ), "a lognormal with NSMC's mean and spread (no UNROLLED_DATA)"


def read_padded(layer: nn.Module, x: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
    """Read x (T, B, D) with lengths: ours as an argument, torch's by packing and padding."""
    if isinstance(layer, nn.RNNBase):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, final = layer(packed)
        return pad_packed_sequence(y, total_length=x.shape[0])[0], final
    return layer(x, lengths=lengths)


def read_packed(
    layer: nn.Module, x: PackedSequence, data: Tensor
) -> tuple[Tensor, Any]:
    """Read a PackedSequence whose numbers are ``data`` (N, D)."""
    y, final = layer(PackedSequence(data, *x[1:]))
    return y.data, final


def results(
    layer: nn.Module, form: str, x: Tensor, lengths: Tensor, gradient: Tensor
) -> Tensors:
    """Return outputs, final state and gradients in one of two forms; arguments as in ``run``."""
    kind = next(layer.parameters()).dtype
    packed = pack_padded_sequence(x.detach().to(kind), lengths, enforce_sorted=False)
    if form == "lengths":
        leaf = x.detach().to(kind).requires_grad_()
        y, final = read_padded(layer, leaf, lengths)
        gradient = gradient.to(kind)
    else:
        leaf = packed.data.requires_grad_()
        y, final = read_packed(layer, packed, leaf)
        gradient = pack_padded_sequence(
            gradient.to(kind), lengths, enforce_sorted=False
        ).data
    states = final if isinstance(final, tuple) else (final,)
    ((y * gradient).sum() + sum(part.sum() for part in states)).backward()
    assert leaf.grad is not None
    tensors = {"y": y, "h": states[0], "gradient of x": leaf.grad}
    tensors |= {"c": states[1]} if len(states) == 2 else {}
    for name, weight in layer.named_parameters():
        assert weight.grad is not None
        tensors[f"gradient of {name}"] = weight.grad
    common.forget(layer)
    return {name: part.detach().clone() for name, part in tensors.items()}


def one_step(
    layer: nn.Module, form: str, x: Tensor, lengths: Tensor, gradient: Tensor
) -> Work:
    """Return a training step; a PackedSequence is made beforehand, as a loader would."""
    packed = pack_padded_sequence(x.detach(), lengths, enforce_sorted=False)
    x = x.detach().requires_grad_()
    data = packed.data.requires_grad_()
    gradient_packed = pack_padded_sequence(gradient, lengths, enforce_sorted=False).data

    def with_lengths() -> None:
        read_padded(layer, x, lengths)[0].backward(gradient)
        x.grad = None
        common.forget(layer)

    def with_packed() -> None:
        read_packed(layer, packed, data)[0].backward(gradient_packed)
        data.grad = None
        common.forget(layer)

    return with_lengths if form == "lengths" else with_packed


def run(options: Options) -> dict[str, Any]:
    """Measure LSTM and GRU in both forms; x (T, B, D) with D = H and a gradient of that shape."""
    lengths, source = draw_lengths()
    longest = int(lengths.max())
    real = int(lengths.sum())
    filled = real / longest / ROWS
    print(
        f"{ROWS} rows: {source}; mean {real / ROWS:.1f}, longest {longest}, {filled:.0%} real"
    )
    common.line(WIDTHS, "cell", "H", "thr", "form", "ms", "torch", "ratio", "target")
    lines = []
    for cell in TARGETS:
        for hidden in SIZES:
            layer, beside, double = common.twins(cell, hidden, hidden)
            x, gradient = torch.randn(2, longest, ROWS, hidden).unbind(0)
            for form in ("packed", "lengths"):
                exact = results(double, form, x, lengths, gradient)
                for threads in THREADS:
                    what = f"{cell} of {hidden}, {form}"
                    with common.threads_of(threads):
                        with common.at_work(what, "forward", "backward"):
                            ours = results(layer, form, x, lengths, gradient)
                        theirs = results(beside, form, x, lengths, gradient)
                        worst = common.compare(what, ours, theirs, exact, "float32")
                        works = {
                            name: one_step(module, form, x, lengths, gradient)
                            for name, module in (("ours", layer), ("torch", beside))
                        }
                        times = common.take_turns(works, options)
                    seconds = common.medians(times)
                    faster = common.ratio(times, "torch", "ours")
                    common.line(
                        WIDTHS,
                        cell,
                        hidden,
                        threads,
                        form,
                        f"{seconds['ours'] * 1e3:.2f}",
                        f"{seconds['torch'] * 1e3:.2f}",
                        f"{faster:.2f}",
                        common.against(faster, TARGETS[cell]),
                    )
                    lines.append(
                        {
                            "cell": cell,
                            "hidden": hidden,
                            "threads": threads,
                            "form": form,
                            "ms": seconds["ours"] * 1e3,
                            "torch_ms": seconds["torch"] * 1e3,
                            "ratio": faster,
                            "target": TARGETS[cell],
                            "error": worst,
                            "gflops": 12
                            * real
                            * CELLS[cell][2]
                            * hidden**2
                            / seconds["ours"]
                            / 1e9,
                        }
                    )
    return {"lengths": source, "mean": real / ROWS, "longest": longest, "rows": lines}
