"""How fast a trained model answers, asked as a person asks it: from cells to an answer."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unrolled.core.errors import UserError
from unrolled.data.sources import Table
from unrolled.decoding.sampling import Sampling
from unrolled.fields.frames import Frames
from unrolled.tasks.base import Rows, Task, locate
from unrolled.tasks.language import Language
from unrolled.tasks.series import asked
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
    model: nn.Module, task: Task, data: Table, examples: Any, place: ComputeDevice
) -> Speed | None:
    """Time answers to the first rows of a table, one by one and in batches.

    It takes under 2 s, unless one batch of one row takes longer. ``examples`` tell by their lines
    which rows are sound; None is returned where they cannot be answered.
    """
    sound = set(examples.lines.tolist())
    places = locate(data, task.schema.inputs, task.columns)
    pairs = zip(data.rows, data.lines, strict=True)
    # an example of a stretch of a sequence has a line of its own
    whole = task.schema.frames
    found = (
        tuple(row[i] for i in places) for row, line in pairs if whole or line in sound
    )
    rows = list(
        itertools.islice((row for row in found if _answerable(task, row)), ROWS)
    )
    try:
        return _measured(model, task, rows, place) if rows else None
    except UserError:  # a training does not fail for want of a time
        return None


def _answerable(task: Task, row: tuple[Any, ...]) -> bool:
    """Whether a sequence of numbers is sound and as long as what is read of it."""
    inputs = getattr(task, "inputs", None)
    if not isinstance(inputs, Frames):
        return True
    try:
        asked(inputs, row)
    except UserError:
        return False
    return True


def _measured(
    model: nn.Module, task: Task, rows: list[tuple[Any, ...]], place: ComputeDevice
) -> Speed:
    task.predict(model, rows[:1], place)  # the first call is slower than any after it
    alone = _timed(model, task, [[row] for row in rows[:ALONE]], place)
    middle = statistics.median(alone)
    size = 1
    took = middle
    batch = rows[:1]
    while (
        size < ROWS and took < SECONDS / 4
    ):  # larger batches answer more rows a second
        size *= 2
        batch = list(itertools.islice(itertools.cycle(rows), size))
        (took,) = _timed(model, task, [batch], place)
    batches = _timed(model, task, [batch] * BATCHES, place)
    how = (
        f"{_where(place)}; from cells to answer: median of {len(alone)} rows asked one by one, and "
        f"of {len(batches)} batches of {size}"
    )
    return Speed(1000 * middle, size / statistics.median(batches), how)


def _timed(
    model: nn.Module, task: Task, asked: list[Rows], place: ComputeDevice
) -> list[float]:
    """Return the seconds of each question, until ``SECONDS`` are spent."""
    found: list[float] = []
    for rows in asked:
        began = time.perf_counter()
        task.predict(model, rows, place)
        found.append(time.perf_counter() - began)
        if sum(found) > SECONDS:
            break
    return found


def write(
    model: nn.Module, task: Language, place: ComputeDevice, count: int
) -> tuple[list[str], Speed]:
    """Return texts of up to 300 tokens that a language model writes, and how long a token takes."""
    texts = []
    taken = []
    with place.autocast():
        for seed in range(count):
            chosen = Sampling(temperature=0.8)
            pieces = task.generate(
                model, "", 300, chosen, seed=seed, device=place.device
            )
            found = []
            began = time.perf_counter()
            for piece in pieces:
                found.append(piece)
                taken.append(time.perf_counter() - began)
                began = time.perf_counter()
            texts.append("".join(found))
    how = f"{_where(place)}; median of {len(taken)} tokens written one after the other"
    return texts, Speed(1000 * statistics.median(taken or [0.0]), None, how)


def _where(place: ComputeDevice) -> str:
    threads = torch.get_num_threads()
    return f"{place.device}, {place.precision}, {threads} thread{'s' * (threads > 1)}"
