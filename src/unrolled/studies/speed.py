"""What a layer costs by the length of what it reads: state, a step, an update.

Shapes: B rows, T steps, D features.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from unrolled.nn import Layer
from unrolled.nn.state import State
from unrolled.studies.learner import layer_of
from unrolled.studies.memory_tasks import TASKS

ROWS = 8  # sequences that are trained on at once
STEPS = 50  # single steps that are timed
LONG = 1.0  # seconds of an update that is not repeated
REPEATS = 3


@dataclass(frozen=True, slots=True)
class LengthCost:
    """What one layer costs at one length.

    Attributes:
        layer, length: which layer, and T.
        state_bytes: of the state of one sequence after T steps: its numbers, fp32.
        step_seconds: the median of one more step of one sequence.
        training_seconds: the median of reading 8 sequences of T steps and going back through them.
        seconds: what measuring took.
    """

    layer: str
    length: int
    state_bytes: int
    step_seconds: float
    training_seconds: float
    seconds: float


def measure(name: str, length: int) -> LengthCost:
    """Return what the layer of the study's models costs at a length."""
    began = time.monotonic()
    layer = layer_of(TASKS["delay"], name)
    training = _training_seconds(layer, length)
    with torch.no_grad():
        x = torch.randn(1, length, layer.input_size)
        _, state = layer.unroll(x)
        size = state_bytes(state)
        step = _step_seconds(layer, state)
    elapsed = time.monotonic() - began
    return LengthCost(name, length, size, step, training, elapsed)


def state_bytes(state: State) -> int:
    """Return the bytes of a state's numbers; how many rows or steps there are is no part of it."""
    parts = state.to_tensors().values()
    return sum(part.nbytes for part in parts if part.is_floating_point())


def _step_seconds(layer: Layer, state: State) -> float:
    x = torch.randn(1, layer.input_size)
    seconds: list[float] = []

    def step() -> None:
        nonlocal state
        _, state = layer.step(x, state)

    for _ in range(STEPS):
        seconds.append(_timed(step))
    return statistics.median(seconds)


def _training_seconds(layer: Layer, length: int) -> float:
    x = torch.randn(ROWS, length, layer.input_size)

    def update() -> None:
        y, _ = layer.unroll(x)
        y.sum().backward()
        layer.zero_grad()

    first = _timed(update)
    if first > LONG:
        return first
    return statistics.median(_timed(update) for _ in range(REPEATS))


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
