"""What the parts share: the cells, taking turns, the comparison before a timing, and tables."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

import unrolled.nn as ours
from unrolled.ops import native

Tensors = dict[str, Tensor]
Work = Callable[[], object]

# of each cell: our layer, torch's, and the number of its gates
CELLS: dict[str, tuple[Any, Any, int]] = {
    "rnn": (ours.RNN, nn.RNN, 1),
    "gru": (ours.GRU, nn.GRU, 3),
    "lstm": (ours.LSTM, nn.LSTM, 4),
}


@dataclass(frozen=True)
class Options:
    """How long to measure.

    Attributes:
        repeats: turns of every competitor.
        slot: about how many seconds a turn takes; at least one call.
        quick: leave out what only a full run needs.
        runs: folders of trained runs.
    """

    repeats: int = 7
    slot: float = 0.2
    quick: bool = False
    runs: tuple[str, ...] = ()


def refuse(why: str) -> NoReturn:
    """End the benchmark: what was to be timed is not right."""
    raise SystemExit(f"no speed is reported: {why}")


def core() -> str:
    """Return level and features of the native core, or refuse where there is none."""
    if not native.available():
        refuse(
            f"there is no native core: {native.missing()}; build it with pip install ."
        )
    return " ".join((native.level(), *native.features()))


@contextlib.contextmanager
def at_work(what: str, *kinds: str) -> Iterator[None]:
    """Refuse unless the native core makes a call of each of these kinds inside."""
    before = {kind: native.count(kind) for kind in kinds}
    yield
    for kind, count in before.items():
        if native.count(kind) == count:
            refuse(f"{what}: the native core made no call of the kind {kind!r}")


# ---- comparison ----

# Every error is the norm of the difference from float64 over the norm of the float64 result.
#
# fp32 against torch's own fp32 error of the same tensor. The errors of a sum of K products walk at
# random, so they grow with the square root of the length of a chain. Ours is one chain over K;
# a product that keeps 16 partial sums, as wide vectors do, has chains of K / 16: a fourth of the
# error. 8 roundings more are left to gates, whose exp and tanh are good to a few units.
# bf16: the rounding of the operands, which both sides make, outweighs the order of the sums; 2
# roundings more stand for what only one side keeps in bf16.
SLACK = {"float32": (4.0, 8 * 2.0**-24), "bf16": (2.0, 2 * 2.0**-8)}

# A step alone, where torch has no counterpart of the same precision. An operand rounded to a grid
# of step s errs by s / sqrt(12). bf16: a relative step between 2^-8 and 2^-7, in both operands:
# 2^-8 / sqrt(12) * 1.5 * sqrt(2) = 0.0024. int8: of weights drawn uniformly the largest is sqrt(3)
# times the rms, 0.0039 / 2 a number; of states and normal inputs up to 4.5 times: 0.0102; both:
# 0.011. A state that is carried on adds its own error again at most by 1 / (1 - 1 / sqrt(3)) = 2.4,
# since weights within 1 / sqrt(H) have the spectral radius 1 / sqrt(3). Twice that is the bound.
STEP_BOUND = {"bf16": 2 * 2.4 * 0.0024, "int8": 2 * 2.4 * 0.011}


def error(approximation: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference over the norm of ``exact``."""
    difference = approximation.detach().double() - exact.detach().double()
    return float(difference.norm() / exact.detach().double().norm().clamp_min(1e-300))


def compare(
    what: str, tensors: Tensors, beside: Tensors, exact: Tensors, precision: str
) -> float:
    """Refuse unless every tensor is as near to float64 as torch's in the same precision.

    Returns:
        The largest error, relative in the norm.
    """
    slack, floor = SLACK[precision]
    worst = 0.0
    for name, truth in exact.items():
        got = error(tensors[name], truth)
        bound = slack * error(beside[name], truth) + floor
        if not got <= bound:  # also a NaN
            refuse(
                f"{what}, {precision}: {name} is off by {got:.1e}, more than {bound:.1e}"
            )
        worst = max(worst, got)
    return worst


def twins(cell: str, size: int, hidden: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Return our layer, torch's and torch's in float64, with the same weights."""
    torch.manual_seed(seed)
    mine, theirs, _ = CELLS[cell]
    beside = theirs(size, hidden)
    layer = mine(size, hidden)
    exact = theirs(size, hidden).double()
    layer.load_state_dict(beside.state_dict())
    exact.load_state_dict(beside.state_dict())
    return layer, beside, exact


def results(
    layer: nn.Module, x: Tensor, gradient: Tensor, low: bool = False
) -> Tensors:
    """Return outputs, final state and all gradients of a layer over x (T, B, D), time first.

    Args:
        layer: ours or torch's.
        x: converted to the precision of its weights.
        gradient: of the outputs (T, B, H); the final state gets its last step.
        low: compute in bf16, by autocast.
    """
    kind = next(layer.parameters()).dtype
    x = x.detach().to(kind).requires_grad_()
    gradient = gradient.to(kind)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        y, final = layer(x)
    states = final if isinstance(final, tuple) else (final,)
    total = (y * gradient).sum() + sum(
        (part[-1] * gradient[-1]).sum() for part in states
    )
    total.backward()
    tensors = {"y": y, "h": states[0], "gradient of x": x.grad}
    tensors |= {"c": states[1]} if len(states) == 2 else {}
    tensors |= {
        f"gradient of {name}": weight.grad for name, weight in layer.named_parameters()
    }
    forget(layer)
    return {
        name: part.detach().clone()
        for name, part in tensors.items()
        if part is not None
    }


def forget(layer: nn.Module) -> None:
    """Drop the gradients of the weights."""
    for weight in layer.parameters():
        weight.grad = None


# ---- timing ----


# between turns: threads spin for a while after their work, on the cores of the next competitor
REST = 0.02


def timed(work: Work, calls: int) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    for _ in repeat(None, calls):
        work()
    return (time.perf_counter() - began) / calls


def take_turns(works: Mapping[str, Work], options: Options) -> dict[str, list[float]]:
    """Return seconds a call of each competitor: one turn of each, then the next round."""
    calls = {}
    for name, work in works.items():
        work()
        once = timed(work, 1)
        once = timed(work, 10) if once < options.slot / 20 else once
        calls[name] = max(1, round(options.slot / once))
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.repeats):
        for name, work in works.items():
            time.sleep(REST)
            if calls[name] > 1:
                work()
            times[name].append(timed(work, calls[name]))
    return times


def ratio(times: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """Return how many times faster one is than the other: the median over the rounds."""
    return statistics.median(
        a / b for a, b in zip(times[slow], times[fast], strict=True)
    )


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median seconds of each."""
    return {name: statistics.median(turns) for name, turns in times.items()}


def peak(precision: str, threads: int, options: Options) -> float:
    """Return operations a second with all operands in registers: the most of a few turns.

    Those of the instruction level in use, two a multiply-add.
    """
    number = native.PRECISIONS[precision]
    seconds = options.slot / 4
    return max(functions().peak(number, threads, seconds) for _ in range(4))


def bandwidth(size: int, threads: int, seconds: float) -> float:
    """Return bytes a second of reading a buffer of ``size`` bytes again and again."""
    return float(functions().bandwidth(size, threads, seconds))


def functions() -> SimpleNamespace:
    """Return the functions of the native core, which the layers here all run on."""
    library = native.library()
    assert library is not None
    return library


@contextlib.contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Give torch, and with it the native core, so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- tables ----


def line(widths: Sequence[int], *cells: object) -> None:
    """Print cells in columns: the first to the left, the others to the right."""
    first, *rest = (str(cell) for cell in cells)
    aligned = [f"{first:<{widths[0]}}"]
    aligned += [
        f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)
    ]
    print(" ".join(aligned), flush=True)


def against(value: float, target: float | None) -> str:
    """Return the target with a mark whether it is reached, ``-`` without one."""
    if target is None:
        return "-"
    mark = "yes" if value >= target else "NO"
    return f"{target:g} {mark}"
