"""How far back each layer remembers, and what that costs: many small trainings in one budget."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from unrolled.core.errors import UsageError, UserError, shown, unknown
from unrolled.core.files import read_json, replacing, write_json
from unrolled.core.locks import locked
from unrolled.core.words import counted, option
from unrolled.nn.build import LAYERS
from unrolled.studies import learner, speed
from unrolled.studies.learner import Weights
from unrolled.studies.memory_tasks import TASKS
from unrolled.training.checkpoints import save_tensors
from unrolled.training.precision import callers_state_kept
from unrolled.training.stopping import Terminated

DELAYS = (10, 30, 100, 300, 1000)
LONGEST = 100_000
MINUTES = 30.0
UPDATES = 20_000  # of one training, at most
GRACE = 0.1  # of the budget, by which single updates may exceed it
SETTINGS = "study.json"
CELLS = "cells"
JSON = "recall.json"
PAGE = "recall.html"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RecallPlan:
    """What a study is of.

    Attributes:
        layers, tasks: names.
        delays: steps, ascending.
        minutes: for all of it, what was spent before a stop included.
        seed: of weights and sequences.
        updates: of one training, at most.
        threads: of the processor; models of this size gain nothing from a second one.
    """

    layers: tuple[str, ...] = tuple(LAYERS)
    tasks: tuple[str, ...] = tuple(TASKS)
    delays: tuple[int, ...] = DELAYS
    minutes: float = MINUTES
    seed: int = 0
    updates: int = UPDATES
    threads: int = 1

    def __post_init__(self) -> None:
        _check_names("layer", self.layers, LAYERS)
        _check_names("task", self.tasks, TASKS)
        if not self.delays:
            raise UsageError("name at least one delay")
        for delay in self.delays:
            if not 1 <= delay <= LONGEST:
                raise UsageError(
                    f"{option('delays')} {delay}: a delay is from 1 to {LONGEST:,} steps"
                )
        if sorted(set(self.delays)) != list(self.delays):
            raise UsageError(
                f"{option('delays')}: every training begins with the weights of the delay before; "
                "name the delays in ascending order, none twice"
            )
        for name, least in (("seed", 0), ("updates", 1), ("threads", 1)):
            value = getattr(self, name)
            if not least <= value < 2**31:
                raise UsageError(
                    f"{option(name)} {value}: give a whole number of at least {least}"
                )
        if not 0 < self.minutes < math.inf:
            raise UsageError(f"{option('minutes')} {self.minutes}: give a time above 0")

    def cells(self) -> list[Cell]:
        """Return the trainings, short delays of all layers first; before them what is timed."""
        cells: list[Cell] = []
        for length in self.delays:
            cells += [Cell(layer, None, length) for layer in self.layers]
        return cells + self._trained()

    def _trained(self) -> list[Cell]:
        cells: list[Cell] = []
        for delay in self.delays:
            for task in self.tasks:
                cells += [Cell(layer, task, delay) for layer in self.layers]
        return cells

    def before(self, delay: int) -> int | None:
        """Return the delay whose weights a training begins with; None for the first."""
        index = self.delays.index(delay)
        return self.delays[index - 1] if index else None


def _check_names(kind: str, names: Sequence[str], known: Any) -> None:
    if not names:
        raise UsageError(f"name at least one {kind}")
    for name in names:
        if name not in known:
            raise UsageError(unknown(kind, name, known))
    if len(set(names)) < len(names):
        raise UsageError(f"{option(f'{kind}s')}: a {kind} stands there twice")


@dataclass(frozen=True, slots=True)
class Cell:
    """One training; without a task what a layer costs at a length is measured."""

    layer: str
    task: str | None
    delay: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.layer}-{self.task or 'speed'}-{self.delay}"

    @property
    def weight(self) -> float:
        """What share of the time it may take: longer sequences take longer, and more of them."""
        return math.sqrt(self.delay + 100) if self.task else 0.0


def study(plan: RecallPlan, folder: Path, say: Say) -> dict[str, Any]:
    """Run what a folder lacks of a study, and return all of its results.

    Each result is written whole as soon as it is known, so that a stop loses one training at most.

    Args:
        plan: what is studied.
        folder: where results are kept: ``recall.json`` and ``recall.html`` when all are there.
        say: takes a line about each result.

    Raises:
        UsageError: the folder holds another study, or something else.
        UserError: the time is too little for one update of every training.
    """
    with callers_state_kept(), locked(folder):
        torch.set_num_threads(plan.threads)
        _begin(plan, folder)
        try:
            rows = _run(plan, folder, say)
        except (KeyboardInterrupt, Terminated):
            say(f"what is done stays in {folder}; the same command goes on")
            raise
        results = as_results(plan, rows)
        write_json(folder / JSON, results)
    return results


def _begin(plan: RecallPlan, folder: Path) -> None:
    """Write what a study's results depend on, or compare it with what its folder holds."""
    settings = {
        "seed": plan.seed,
        "delays": list(plan.delays),
        "updates": plan.updates,
        "parameters": learner.PARAMETERS,
        "threads": plan.threads,
    }
    path = folder / SETTINGS
    if not path.exists():
        strange = [file.name for file in folder.iterdir() if file.name != ".lock"]
        if strange:
            raise UsageError(
                f"{folder}: holds {shown(strange[0])} and no study; name another folder with "
                f"{option('out')}"
            )
        write_json(path, settings)
        return
    kept = _read(path)
    for key, value in settings.items():
        if kept.get(key) != value:
            raise UsageError(
                f"{folder}: holds a study with {key} {shown(kept.get(key))}, not {shown(value)}; "
                f"go on with that, or name another folder with {option('out')}"
            )


def _read(path: Path) -> dict[str, Any]:
    """Return a file of results; nothing where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return read_json(path)
    return {}


def _run(plan: RecallPlan, folder: Path, say: Say) -> dict[Cell, dict[str, Any]]:
    """Run the cells that a folder lacks; return the results of all."""
    results: dict[Cell, dict[str, Any]] = {}
    pending: list[Cell] = []
    for cell in plan.cells():
        row = _read(_file(folder, cell))
        if row:
            results[cell] = row
        else:
            pending.append(cell)
    if results:
        say(f"{folder}: {counted(len(results), 'result')} there, {len(pending)} to go")
    budget = 60 * plan.minutes
    spent = sum(row["seconds"] for row in results.values())
    while pending:
        cell = pending[0]
        if spent > (1 + GRACE) * budget:
            raise UserError(
                f"{plan.minutes:g} minutes are too little for one update of each of "
                f"{counted(len(plan.cells()), 'training')}: {len(pending)} are left; give "
                f"{option('minutes')} more, or fewer layers, tasks or delays (what is done stays "
                f"in {folder})"
            )
        left = (budget - spent) / (sum(other.weight for other in pending) or 1.0)
        began = time.monotonic()
        row = _result(plan, cell, folder, cell.weight * left)
        row["seconds"] = round(time.monotonic() - began, 3)
        write_json(_file(folder, cell), row)
        spent += row["seconds"]
        results[cell] = row
        del pending[0]
        say(_line(cell, row))
    return results


def _file(folder: Path, cell: Cell, suffix: str = ".json") -> Path:
    return folder / CELLS / f"{cell.name}{suffix}"


def _result(
    plan: RecallPlan, cell: Cell, folder: Path, seconds: float
) -> dict[str, Any]:
    """Return what a cell comes to; its weights are kept for the next delay."""
    if cell.task is None:
        return asdict(speed.measure(cell.layer, cell.delay))
    before = plan.before(cell.delay)
    begin = None
    if before is not None:
        begin = _weights(folder, Cell(cell.layer, cell.task, before))
    outcome, weights = learner.learn(
        TASKS[cell.task],
        cell.layer,
        cell.delay,
        plan.seed,
        plan.updates,
        seconds,
        begin,
    )
    # before the result: where this is there, so are they
    with replacing(_file(folder, cell, ".safetensors")) as temporary:
        save_tensors(temporary, weights)
    row = {"layer": cell.layer, "task": cell.task, "delay": cell.delay}
    return row | asdict(outcome) | {"began_with": before}


def _weights(folder: Path, cell: Cell) -> Weights:
    """Return the weights of a finished training."""
    path = _file(folder, cell, ".safetensors")
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        raise UserError(
            f"{path}: the weights that the next delay begins with cannot be read; remove "
            f"{_file(folder, cell).name} beside it, and they are learnt again"
        ) from None


def _line(cell: Cell, row: dict[str, Any]) -> str:
    name = f"{cell.layer} {cell.task or 'speed'} {cell.delay}"
    if cell.task is None:
        return f"{name}: {json.dumps(row['state_bytes'])} bytes of state"
    return (
        f"{name}: {row['accuracy']:.3f} ({row['stopped']}, {row['updates']:,} updates, "
        f"{row['seconds']:.1f} s)"
    )


def as_results(plan: RecallPlan, rows: dict[Cell, dict[str, Any]]) -> dict[str, Any]:
    """Return all results as plain values: ``rows``, ``speed``, and what they were measured by."""
    trained = [row for cell, row in rows.items() if cell.task]
    timed = [row for cell, row in rows.items() if not cell.task]
    return {
        "rows": trained,
        "speed": timed,
        "chance": {name: round(TASKS[name].chance, 4) for name in plan.tasks},
        "tasks": {name: TASKS[name].what for name in plan.tasks},
        "layers": list(plan.layers),
        "delays": list(plan.delays),
        "seed": plan.seed,
        "minutes": plan.minutes,
        "updates": plan.updates,
        "threads": plan.threads,
        "seconds": round(sum(row["seconds"] for row in rows.values()), 1),
        "scored": learner.SCORED,
    }
