"""A whole training step, forward and backward, against torch.nn's in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.layers import common
from benchmarks.layers.common import CELLS, Options, Tensors, Work

SHAPES = (
    (64, 16, 64),
    (64, 16, 128),
    (128, 32, 256),
    (64, 64, 512),
    (32, 64, 1024),
)  # T, B, H
THREADS = (2, 1)

# by H: how many times faster than torch.nn in fp32
TARGETS: dict[tuple[str, str], dict[int, float]] = {
    ("rnn", "float32"): {64: 6, 128: 4, 256: 1.9, 512: 1.4, 1024: 1.2},
    ("gru", "float32"): {64: 6, 128: 3.5, 256: 1.8, 512: 1.6, 1024: 1.45},
    ("lstm", "float32"): {64: 1.8, 128: 1.3, 256: 1.1, 512: 1.0, 1024: 1.0},
    ("gru", "bf16"): {128: 3.5, 256: 3, 512: 3, 1024: 2.8},
    ("lstm", "bf16"): {128: 2, 256: 2, 512: 1.9, 1024: 1.9},
}
# of the peak that a whole step is to reach, from this H on
SHARE = 0.8
FROM = 256


def one_step(layer: nn.Module, x: Tensor, gradient: Tensor, low: bool) -> Work:
    """Return a training step over x (T, B, D) whose gradients are thrown away."""
    gradients = {torch.float32: gradient, torch.bfloat16: gradient.bfloat16()}

    def work() -> None:
        if low:
            with torch.autocast("cpu", torch.bfloat16):
                y = layer(x)[0]
        else:
            y = layer(x)[0]
        y.backward(gradients[y.dtype])
        x.grad = None
        common.forget(layer)

    return work


def check(
    what: str,
    layer: nn.Module,
    beside: nn.Module,
    exact: Tensors,
    x: Tensor,
    gradient: Tensor,
) -> dict[str, float]:
    """Compare our layer in both precisions with torch's; return the largest errors."""
    worst = {}
    for precision in ("float32", "bf16"):
        low = precision == "bf16"
        with common.at_work(what, "forward", "backward"):
            ours = common.results(layer, x, gradient, low)
        theirs = common.results(beside, x, gradient, low)
        worst[precision] = common.compare(what, ours, theirs, exact, precision)
    return worst


def row(
    cell: str,
    shape: tuple[int, int, int],
    threads: int,
    times: dict[str, list[float]],
    peaks: dict[str, float],
) -> list[dict[str, Any]]:
    """Return one line of the table for each precision of ours."""
    steps, batch, hidden = shape
    work = 12 * steps * batch * CELLS[cell][2] * hidden * hidden
    seconds = common.medians(times)
    lines = []
    for precision in ("float32", "bf16"):
        mine = f"ours {precision}"
        lines.append(
            {
                "cell": cell,
                "shape": shape,
                "threads": threads,
                "precision": precision,
                "ms": seconds[mine] * 1e3,
                "gflops": work / seconds[mine] / 1e9,
                "torch_ms": seconds["torch float32"] * 1e3,
                "torch_bf16_ms": seconds["torch bf16"] * 1e3,
                "ratio": common.ratio(times, "torch float32", mine),
                "ratio_to_torch_bf16": common.ratio(times, "torch bf16", mine),
                "target": TARGETS.get((cell, precision), {}).get(hidden),
                "peak_gflops": peaks[precision] / 1e9,
                "share_of_peak": work / seconds[mine] / peaks[precision],
            }
        )
    return lines


WIDTHS = (6, 14, 4, 8, 9, 8, 9, 9, 6, 8, 9, 6, 9)
TITLES = (
    "cell",
    "T,B,H",
    "thr",
    "",
    "ms",
    "GF/s",
    "torch",
    "its bf16",
    "ratio",
    "target",
    "to bf16",
    "peak",
    "target",
)


def show(line: dict[str, Any]) -> None:
    """Print a line of the table; the share of the peak has a target in fp32 from ``FROM`` on."""
    hidden = line["shape"][2]
    fraction = line["share_of_peak"]
    target = SHARE if hidden >= FROM and line["precision"] == "float32" else None
    common.line(
        WIDTHS,
        line["cell"],
        ",".join(map(str, line["shape"])),
        line["threads"],
        line["precision"],
        f"{line['ms']:.2f}",
        f"{line['gflops']:.0f}",
        f"{line['torch_ms']:.2f}",
        f"{line['torch_bf16_ms']:.2f}",
        f"{line['ratio']:.2f}",
        common.against(line["ratio"], line["target"]),
        f"{line['ratio_to_torch_bf16']:.2f}",
        f"{fraction:.0%}",
        common.against(fraction, target),
    )


def run(options: Options) -> list[dict[str, Any]]:
    """Measure every cell, shape and number of threads; x is as wide as h, and wants gradients."""
    lines = []
    print(
        "fp32 and bf16 compute (autocast) against torch.nn in fp32; torch's autocast beside it"
    )
    common.line(WIDTHS, *TITLES)
    for cell in CELLS:
        for shape in SHAPES[:2] if options.quick else SHAPES:
            steps, batch, hidden = shape
            layer, beside, double = common.twins(cell, hidden, hidden)
            x = torch.randn(steps, batch, hidden, requires_grad=True)
            gradient = torch.randn(steps, batch, hidden)
            exact = common.results(double, x, gradient)
            del double
            for threads in THREADS:
                with common.threads_of(threads):
                    worst = check(f"{cell} {shape}", layer, beside, exact, x, gradient)
                    works = {}
                    for precision in ("float32", "bf16"):
                        for whose, module in (("ours", layer), ("torch", beside)):
                            works[f"{whose} {precision}"] = one_step(
                                module, x, gradient, precision == "bf16"
                            )
                    times = common.take_turns(works, options)
                    peaks = {
                        name: common.peak(name, threads, options) for name in worst
                    }
                for line in row(cell, shape, threads, times, peaks):
                    show(line)
                    lines.append(line | {"error": worst[line["precision"]]})
    return lines
