"""The recurrence alone: layers of one input feature, so that the input's product is 1/H of it.

Forward keeps what a backward pass needs. Both ways the weights are frozen: what remains of the
backward pass is the gradient of the hidden vector, again one product with the recurrent weights a
step.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.layers import common
from benchmarks.layers.common import CELLS, Options
from benchmarks.layers.training import FROM, SHAPES, THREADS, check, one_step

SHARE = 0.85  # of the peak
WIDTHS = (6, 14, 4, 12, 9, 8, 8, 9)


def run(options: Options) -> list[dict[str, Any]]:
    """Measure every cell from H 256 on, in fp32."""
    lines = []
    print(
        "layers of input size 1, fp32; both ways: weights frozen, so two products with W_hh"
    )
    common.line(WIDTHS, "cell", "T,B,H", "thr", "what", "ms", "GF/s", "peak", "target")
    large = [shape for shape in SHAPES if shape[2] >= FROM]
    for cell, (_, _, gates) in CELLS.items():
        for shape in large[:1] if options.quick else large:
            steps, batch, hidden = shape
            layer, beside, double = common.twins(cell, 1, hidden)
            x = torch.randn(steps, batch, 1, requires_grad=True)
            gradient = torch.randn(steps, batch, hidden)
            exact = common.results(double, x, gradient)
            once = 2 * steps * batch * gates * hidden * hidden
            for threads in THREADS:
                with common.threads_of(threads):
                    check(
                        f"recurrence of {cell} {shape}",
                        layer,
                        beside,
                        exact,
                        x,
                        gradient,
                    )
                    layer.requires_grad_(False)
                    works = {
                        "forward": lambda: layer(x),  # noqa: B023 - called in this round alone
                        "both ways": one_step(layer, x, gradient, False),
                    }
                    seconds = common.medians(common.take_turns(works, options))
                    layer.requires_grad_(True)
                    top = common.peak("float32", threads, options)
                for what, flops in (("forward", once), ("both ways", 2 * once)):
                    speed = flops / seconds[what]
                    common.line(
                        WIDTHS,
                        cell,
                        ",".join(map(str, shape)),
                        threads,
                        what,
                        f"{seconds[what] * 1e3:.2f}",
                        f"{speed / 1e9:.0f}",
                        f"{speed / top:.0%}",
                        common.against(speed / top, SHARE),
                    )
                    lines.append(
                        {
                            "cell": cell,
                            "shape": shape,
                            "threads": threads,
                            "what": what,
                            "ms": seconds[what] * 1e3,
                            "gflops": speed / 1e9,
                            "peak_gflops": top / 1e9,
                            "share_of_peak": speed / top,
                        }
                    )
    return lines
