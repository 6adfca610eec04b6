"""How fast a trained model answers, asked as a person asks it: from cells to an answer."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unrolled.core.errors import UserError
from unrolled.data.sources import Table
from unrolled.decoding.sampling import Sampling
from unrolled.tasks.base import AnswerOptions, Rows, Task, locate
from unrolled.training.precision import ComputeDevice

SECONDS = 0.5  # spent on rows by themselves, and again on batches
# the most that are timed: rows, batches, rows of a batch
ALONE = 100
BATCHES = 5
ROWS = 256


@dataclass(frozen=True, slots=True)
class Speed:
    """Milliseconds of one answer by itself (median), answers a second in batches, and how.

    For a language model an answer is a token that is written.
    """

    milliseconds: float
    per_second: float | None
    how: str


def measure(
    model: nn.Module,
    task: Task,
    data: Table,
    examples: Any,
    compute_device: ComputeDevice,
    options: AnswerOptions,
) -> Speed | None:
    """Time answers to the first rows of a table, one by one and in batches.

    It takes under 2 s, unless one batch of one row takes longer. ``examples`` tell by their lines
    which rows are sound; None is returned where they cannot be answered.
    """
    sound = set(examples.lines.tolist())
    columns = locate(data, task.schema.inputs, task.columns)
    pairs = zip(data.rows, data.lines, strict=True)
    # an example of a stretch of a sequence has a line of its own
    whole = task.schema.frames
    inputs = (
        tuple(row[column] for column in columns)
        for row, line in pairs
        if whole or line in sound
    )
    answerable = (
        row for row in inputs if not whole or not task.why_not_answerable(row)
    )
    rows = list(itertools.islice(answerable, ROWS))

    def ask(batch: Rows) -> None:
        task.predict(model, batch, compute_device, options)

    try:
        return _measured(ask, rows, compute_device) if rows else None
    except UserError:  # a training does not fail for want of a time
        return None


def _measured(
    ask: Callable[[Rows], None],
    rows: list[tuple[Any, ...]],
    compute_device: ComputeDevice,
) -> Speed:
    # the first call is slower than any after it
    ask(rows[:1])
    alone = _timed(ask, [[row] for row in rows[:ALONE]])
    median = statistics.median(alone)
    size = 1
    seconds = median
    batch = rows[:1]
    # larger batches answer more rows a second
    while size < ROWS and seconds < SECONDS / 4:
        size *= 2
        batch = list(itertools.islice(itertools.cycle(rows), size))
        (seconds,) = _timed(ask, [batch])
    in_batches = _timed(ask, [batch] * BATCHES)
    how = (
        f"{_where(compute_device)}; from cells to answer: median of {len(alone)} rows asked "
        f"one by one, and of {len(in_batches)} batches of {size}"
    )
    return Speed(1000 * median, size / statistics.median(in_batches), how)


def _timed(ask: Callable[[Rows], None], batches: list[Rows]) -> list[float]:
    """Return the seconds that the answers to each batch took, until ``SECONDS`` are spent."""
    seconds: list[float] = []
    for rows in batches:
        began = time.perf_counter()
        ask(rows)
        seconds.append(time.perf_counter() - began)
        if sum(seconds) > SECONDS:
            break
    return seconds


def write(
    model: nn.Module, task: Task, compute_device: ComputeDevice, count: int
) -> tuple[list[str], Speed]:
    """Return texts of up to 300 tokens that a language model writes, and how long a token takes."""
    texts = []
    seconds = []
    sampling = Sampling(temperature=0.8)
    with compute_device.autocast():
        for seed in range(count):
            pieces = task.generate(
                model, "", 300, sampling, seed=seed, device=compute_device.device
            )
            written = []
            began = time.perf_counter()
            for piece in pieces:
                written.append(piece)
                seconds.append(time.perf_counter() - began)
                began = time.perf_counter()
            texts.append("".join(written))
    how = (
        f"{_where(compute_device)}; median of {len(seconds)} tokens written one after "
        "the other"
    )
    return texts, Speed(1000 * statistics.median(seconds or [0.0]), None, how)


def _where(compute_device: ComputeDevice) -> str:
    threads = torch.get_num_threads()
    ending = "s" * (threads > 1)
    return (
        f"{compute_device.device}, {compute_device.precision}, {threads} thread{ending}"
    )
