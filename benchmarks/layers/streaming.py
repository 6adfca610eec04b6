"""One step at a time, batch 1, one thread: a stream against torch's cells and modules."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.layers import common
from benchmarks.layers.common import Options, Tensors, Work

SIZES = (64, 256, 512, 1024)
PRECISIONS = ("float32", "bf16", "int8")

# how many times faster than the cell, by H, in fp32
TARGETS = {
    "gru": {64: 6, 256: 2.8, 512: 2.1, 1024: 2},
    "lstm": {64: 5.5, 256: 2.7, 512: 2, 1024: 2},
}
MODULE = {("lstm", 64): 30.0, ("lstm", 512): 30.0}  # than nn.LSTM called for one step
INT8 = {512: 2.0, 1024: 2.0}  # than our own fp32
# the bound: this often the time to read the weights, and this long
READS = 1.25
EXTRA = 2e-6
STEPS = 32  # compared
MANY = 2000  # steps in which no memory may be taken

CELLS = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


def outputs(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensors:
    """Return what follows on each of x (T, 1, D): (T, 1, H)."""
    return {"y": torch.stack([step(frame).clone() for frame in x])}


def carried(cell: nn.Module, hidden: int) -> Callable[[Tensor], Tensor]:
    """Return a function that steps one of torch's cells or modules and carries its state."""
    state: Any = None

    def by_cell(x: Tensor) -> Tensor:
        nonlocal state
        state = cell(x, state)
        return state[0] if isinstance(state, tuple) else state

    def by_module(x: Tensor) -> Tensor:
        nonlocal state
        y, state = cell(x[None], state)
        return y[0]

    return by_module if isinstance(cell, nn.RNNBase) else by_cell


def compare(
    what: str, precision: str, ours: Tensors, beside: Tensors, exact: Tensors
) -> float:
    """Refuse outputs too far from float64; return their error."""
    if precision == "float32":
        return common.compare(what, ours, beside, exact, "float32")
    off = common.error(ours["y"], exact["y"])
    bound = common.STEP_BOUND[precision]
    if not off <= bound:
        common.refuse(
            f"{what}, {precision}: y is off by {off:.1e}, more than {bound:.1e}"
        )
    return off


def blocks_taken(work: Work) -> int:
    """Return how many of Python's memory blocks ``MANY`` steps leave taken: the least of three."""

    def held(count: int) -> int:
        before = sys.getallocatedblocks()
        for _ in repeat(None, count):
            work()
        return sys.getallocatedblocks() - before

    # looking takes a block itself
    return min(held(MANY) - held(0) for _ in range(3))


def measure(cell: str, hidden: int, options: Options) -> list[dict[str, Any]]:
    """Return a line of the table for each precision."""
    layer, module, double = common.twins(cell, hidden, hidden)
    single = CELLS[cell](hidden, hidden)
    single.load_state_dict(
        {k.removesuffix("_l0"): v for k, v in module.state_dict().items()}
    )
    x = torch.randn(STEPS, 1, hidden)
    exact = outputs(carried(double, hidden), x.double())
    beside = outputs(carried(single, hidden), x)
    works = dict[str, Work]()
    worst = {}
    sizes = {}
    taken = {}
    for precision in PRECISIONS:
        stream = layer.stream(batch=1, precision=precision)
        what = f"stream of {cell} {hidden}"
        with common.at_work(what, "step"):
            ours = outputs(stream.step, x)
        worst[precision] = compare(what, precision, ours, beside, exact)
        works[precision] = partial(stream.step, x[0])
        sizes[precision] = stream.bytes
        taken[precision] = blocks_taken(works[precision])
    works["cell"] = partial(carried(single, hidden), x[0])
    works["module"] = partial(carried(module, hidden), x[0])
    times = common.take_turns(works, options)
    seconds = common.medians(times)
    lines = []
    for name in PRECISIONS:
        speed = common.bandwidth(sizes[name], 1, options.slot / 2)
        floor = sizes[name] / speed
        lines.append(
            {
                "cell": cell,
                "hidden": hidden,
                "precision": name,
                "us": seconds[name] * 1e6,
                "cell_us": seconds["cell"] * 1e6,
                "module_us": seconds["module"] * 1e6,
                "ratio_to_cell": common.ratio(times, "cell", name),
                "target_to_cell": TARGETS[cell][hidden] if name == "float32" else None,
                "ratio_to_module": common.ratio(times, "module", name),
                "target_to_module": MODULE.get((cell, hidden))
                if name == "float32"
                else None,
                "ratio_to_fp32": common.ratio(times, "float32", name),
                "target_to_fp32": INT8.get(hidden) if name == "int8" else None,
                "bytes": sizes[name],
                "bandwidth_gb": speed / 1e9,
                "bound_us": (READS * floor + EXTRA) * 1e6,
                "within": seconds[name] <= READS * floor + EXTRA,
                "blocks_taken": taken[name],
                "error": worst[name],
            }
        )
    return lines


WIDTHS = (6, 5, 8, 8, 8, 8, 6, 8, 7, 7, 6, 6, 8, 4, 6, 8)
TITLES = (
    "cell",
    "H",
    "",
    "us",
    "cell",
    "module",
    "ratio",
    "target",
    "to mod",
    "target",
    "to32",
    "target",
    "bound",
    "",
    "blocks",
    "error",
)


def run(options: Options) -> list[dict[str, Any]]:
    """Measure GRU and LSTM at every size and precision."""
    print(
        f"us a step; bound: {READS} x weights / bandwidth + {EXTRA * 1e6:g} us; blocks: of memory"
    )
    print(
        f"left taken by {MANY} steps; cell and module: torch's, fp32, under inference_mode"
    )
    common.line(WIDTHS, *TITLES)
    lines = []
    with torch.inference_mode(), common.threads_of(1):
        for cell in CELLS:
            for hidden in SIZES[:2] if options.quick else SIZES:
                for line in measure(cell, hidden, options):
                    lines.append(line)
                    show(line)
    return lines


def show(line: dict[str, Any]) -> None:
    """Print a line of the table."""
    common.line(
        WIDTHS,
        line["cell"],
        line["hidden"],
        line["precision"],
        f"{line['us']:.2f}",
        f"{line['cell_us']:.1f}",
        f"{line['module_us']:.1f}",
        f"{line['ratio_to_cell']:.2f}",
        common.against(line["ratio_to_cell"], line["target_to_cell"]),
        f"{line['ratio_to_module']:.1f}",
        common.against(line["ratio_to_module"], line["target_to_module"]),
        f"{line['ratio_to_fp32']:.2f}",
        common.against(line["ratio_to_fp32"], line["target_to_fp32"]),
        f"{line['bound_us']:.2f}",
        "yes" if line["within"] else "NO",
        line["blocks_taken"],
        f"{line['error']:.0e}",
    )
