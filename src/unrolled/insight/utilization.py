"""How much of what the machine can do went into a training: the model FLOP utilization (MFU).

Chowdhery et al. 2022, section 4.1 and appendix B: the operations that the model needs for the
tokens it read, over those that the machine could have made in that time. Dropout, norms, the
optimizer, and what is computed again for memory's sake are no operations; evaluations take no
time of training here, since the speed is the median of those that were logged.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unrolled.training.precision import ComputeDevice
from unrolled.training.progress import read_metrics

SECONDS = 0.2  # spent on the peak
# width of the matrices that are multiplied: large enough for the best rate
WIDTHS = {"cpu": 1024, "cuda": 8192}
UNITS = (("PFLOP/s", 1e15), ("TFLOP/s", 1e12), ("GFLOP/s", 1e9))


@dataclass(frozen=True, slots=True)
class Utilization:
    """Tokens a second in the median, the operations a second they took, and the machine's most."""

    tokens: float
    operations: float
    peak: float

    @property
    def fraction(self) -> float:
        """The share of the machine's peak."""
        return self.operations / self.peak

    def as_dict(self) -> dict[str, float]:
        """Return the numbers under the keys of ``result.json``."""
        return {
            "training_tokens_a_second": self.tokens,
            "operations_a_second": self.operations,
            "peak_operations_a_second": self.peak,
            "utilization": self.fraction,
        }


def utilization(
    folder: Path,
    operations: float | None,
    compute_device: ComputeDevice,
    processes: int,
) -> Utilization | None:
    """Compare the logged speed of a training with the peak of its machine, measured now.

    Args:
        folder: of the run.
        operations: of training on one token; None where they are not known.
        compute_device: of each process.
        processes: that trained, on devices of one kind.
    """
    speeds = [
        line["tokens_per_second"]
        for line in read_metrics(folder / "metrics.jsonl")
        if line.get("kind") == "train" and "tokens_per_second" in line
    ]
    if operations is None or not speeds:
        return None
    tokens = statistics.median(speeds)
    peak = processes * peak_operations(compute_device)
    return Utilization(tokens, tokens * operations, peak)


def peak_operations(compute_device: ComputeDevice) -> float:
    """Return the operations a second of a large matrix product in the precision of a training.

    The best of those that fit into ``SECONDS``, by torch's kernels and the threads set.
    """
    device = compute_device.device
    kind = torch.bfloat16 if compute_device.precision == "bf16" else torch.float32
    width = WIDTHS.get(device.type, WIDTHS["cpu"])
    # numbers like those of a training: equal ones take less power, and a device runs faster on them
    generator = torch.Generator(device).manual_seed(0)
    shape = 2, width, width
    left, right = torch.randn(shape, generator=generator, device=device).to(kind)
    _seconds(left, right)  # the first one chooses its kernel
    spent = 0.0
    best = float("inf")
    while spent < SECONDS:
        seconds = _seconds(left, right)
        spent += seconds
        best = min(best, seconds)
    return float(2 * width**3 / best)


@torch.no_grad()
def _seconds(left: Tensor, right: Tensor) -> float:
    """Return the seconds of a product, to its last number."""
    began = time.perf_counter()
    product = left @ right
    float(product[0, 0])  # a device answers when it is done
    return max(1e-9, time.perf_counter() - began)


def rate(operations: float) -> str:
    """Return operations a second in the unit that fits, such as ``1.2 TFLOP/s``."""
    for unit, size in UNITS:
        if operations >= size:
            return f"{operations / size:.3g} {unit}"
    return f"{operations:.3g} FLOP/s"


def closing_line(result: dict[str, Any]) -> str:
    """Return a line on the speed of the training; empty where its operations are not known."""
    fraction = result.get("utilization")
    if fraction is None:
        return ""
    return (
        f"{result['training_tokens_a_second']:,.0f} tokens a second, "
        f"{rate(result['operations_a_second'])}: {fraction:.1%} of "
        f"{rate(result['peak_operations_a_second'])}, what products reach on this machine"
    )
