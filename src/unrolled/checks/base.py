"""What a check is: a name and a function from what will be trained to a finding about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from unrolled.data.batches import Batch, collate
from unrolled.data.columns import label
from unrolled.data.examples import Examples
from unrolled.data.sources import Document
from unrolled.runs.plan import Plan
from unrolled.tasks.base import Data, Task, locate
from unrolled.tasks.recipe import Recipe
from unrolled.training.objectives import Objective

Status = Literal["ok", "warning", "problem"]
LINE = 30  # characters: shorter lines of running text recur by chance
SHORT = 64  # tokens of the rows that a model is checked on
SHOWN = 3  # examples that are named
SAMPLE = 10_000  # rows that the slower checks look at
FEW = 5  # a label of fewer training rows is hardly learnt
SMALL = 100  # a score on fewer rows moves by chance
MANY = 0.05  # share of rows that makes a score wrong
TINY = 0.005  # share of rows that moves no score one can tell from chance


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says, where (file and line, column, weight), and what to do about it."""

    status: Status
    message: str
    where: str = ""
    advice: str = ""
    name: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the finding under the keys of ``doctor --json``."""
        return {
            "status": self.status,
            "found": self.message,
            "where": self.where,
            "advice": self.advice,
            "name": self.name,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Check:
    """A named question; ``run`` answers None where it does not arise.

    A ``quick`` one looks at the data alone and is asked at the start of every training.
    """

    name: str
    run: Callable[[Context], Finding | None]
    quick: bool = False


@dataclass(frozen=True, slots=True)
class PartRows:
    """One part of the data, to compare: inputs as ``normal`` gives them, answers, lines.

    Of texts that are written for labels they stand in the place of inputs; see ``identifying``.

    ``lines`` is None of a scored part when nobody counted the lines of the file before it.
    """

    data: Data
    inputs: list[str]
    answers: list[str]
    lines: list[int] | None

    def at(self, row: int) -> str:
        """Return where a row stands, as ``file:line``, or in which part without the lines."""
        if self.lines is None:
            return f"the scored part of {Path(self.data.path).name}"
        return location(self.data, self.lines[row])

    def taken(self, rows: Sequence[int]) -> PartRows:
        """Return some of the rows."""
        assert self.lines is not None
        return replace(
            self,
            inputs=[self.inputs[row] for row in rows],
            answers=[self.answers[row] for row in rows],
            lines=[self.lines[row] for row in rows],
        )


def location(data: Data, line: int) -> str:
    """Return a line of a part of the data as ``file:line``."""
    path = data.path
    if not isinstance(data, Document):
        path, line = data.position(line)
    return f"{Path(path).name}:{line}"


@dataclass(frozen=True)
class Context:
    """What the checks look at: a plan, and its model with weights as built or ``trained``."""

    plan: Plan
    model: nn.Module
    trained: bool = False

    @property
    def task(self) -> Task:
        """The fields and scores."""
        return self.plan.prepared.task

    @property
    def names(self) -> tuple[str, ...]:
        """The labels to choose from; none where the answer is no label."""
        return self.task.class_names

    @cached_property
    def train(self) -> PartRows:
        """The training rows, without those that were skipped as faulty."""
        prepared = self.plan.prepared
        part = compared(prepared.train_data, self.task)
        kept = prepared.train
        # an example of a stretch of a sequence has a line of its own
        if (
            part.lines is None
            or not isinstance(kept, Examples)
            or self.task.schema.frames
        ):
            return part
        learnt = set(kept.lines.tolist())
        return part.taken(
            [row for row, line in enumerate(part.lines) if line in learnt]
        )

    @cached_property
    def dev(self) -> PartRows:
        """The scored rows."""
        before = self.plan.prepared.train_data
        after = self.plan.prepared.dev_data
        # the held-out part of a text follows the training part in the same file
        held = isinstance(before, Document) and self.plan.recipe.data.dev is None
        above = before.text.count("\n") if held and isinstance(before, Document) else 0
        part = compared(after, self.task, above)
        if held and self.plan.prepared.partial:
            # only the beginning is at hand, and not all that stands before this part
            return replace(part, lines=None)
        return part

    @property
    def only(self) -> str:
        """What a finding adds where only the first training rows of a large file are compared."""
        if not self.plan.prepared.partial:
            return ""
        unit = "rows" if self.task.schema.inputs else "lines"
        count = f"{len(self.train.inputs):,} {unit}"
        return f"; of training only the first {count} were looked at"

    @cached_property
    def first(self) -> dict[str, int]:
        """The first training row of every input."""
        first: dict[str, int] = {}
        for row, key in enumerate(self.train.inputs):
            first.setdefault(key, row)
        return first

    @cached_property
    def objective(self) -> Objective:
        """What training minimises, without label smoothing: its floor is zero."""
        recipe = self.plan.recipe
        plain = recipe.training.changed(label_smoothing=0.0)
        return self.task.objective(recipe.changed(training=plain), self.model)

    def small(self, rows: int, **settings: Any) -> Recipe:
        """Return the recipe with small batches, and ``settings`` under ``training``."""
        training = self.plan.recipe.training
        changes = {
            "batch_size": min(rows, training.batch_size),
            "window": min(SHORT, training.window),
            "batch_tokens": None,
            "tensorboard": False,
            **settings,
        }
        return self.plan.recipe.changed(training=training.changed(**changes))

    def batch(self, rows: int) -> Batch:
        """Return a few training rows of different inputs and unequal lengths."""
        examples = self.plan.prepared.train
        device = self.plan.compute_device.device
        if not isinstance(examples, Examples):
            source = self.task.source(examples, self.small(rows), self.model)
            return source.batch(0, 0).to(device)
        order = np.argsort(examples.lengths, kind="stable")
        short = order[examples.lengths[order] <= SHORT]
        # more than are needed: short texts repeat
        sample = evenly(short if len(short) else order, 4 * rows)
        inputs = collate(examples, sample).inputs.numpy()
        _, first = np.unique(inputs, axis=0, return_index=True)
        distinct = sample[np.sort(first)]
        return collate(examples, evenly(distinct, rows)).to(device)


def evenly(entries: Any, most: int) -> Any:
    """Return at most ``most`` entries of an array, the first and the last among them."""
    spaced = np.linspace(0, len(entries) - 1, min(most, len(entries)))
    return entries[spaced.astype(np.int64)]


def normal(cells: Iterable[Any]) -> str:
    """Return the cells of a row without case and runs of blanks."""
    texts = (
        " ".join(map(str, cell)) if isinstance(cell, list) else str(cell)
        for cell in cells
        if cell is not None
    )
    words = (" ".join(text.split()) for text in texts)
    return "\x1f".join(filter(None, words)).casefold()


def compared(data: Data, task: Task, above: int = 0) -> PartRows:
    """Return a part of the data as rows; ``above`` counts the lines of the file before it."""
    if isinstance(data, Document):
        lines = data.text.split("\n")
        kept = [normal([line]) if len(line) >= LINE else "" for line in lines]
        numbers = range(above + 1, above + len(lines) + 1)
        return PartRows(data, kept, [], list(numbers))
    columns = locate(data, task.schema.identifying, task.columns)
    inputs = [normal(row[column] for column in columns) for row in data.rows]
    answer = task.schema.answer
    if answer is None:
        return PartRows(data, inputs, [], data.lines)
    (column,) = locate(data, [answer], task.columns)
    answers = [label(row[column]) for row in data.rows]
    return PartRows(data, inputs, answers, data.lines)


def few_of(names: Sequence[str]) -> str:
    """Name the first few, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def proportion(count: int, total: int, unit: str) -> str:
    """Say a count, its total and the percentage."""
    return f"{count:,} of {total:,} {unit} ({count / max(1, total):.1%})"


def grave(count: int, total: int) -> Status:
    """Return how far a count of faulty rows can move a score."""
    if count < TINY * total:
        return "ok"
    return "problem" if count >= MANY * total else "warning"


def ask(checks: Sequence[Check], context: Context) -> Iterator[Finding]:
    """Yield what the checks find; a model that cannot be run is a finding too."""
    for check in checks:
        began = time.monotonic()
        try:
            finding = check.run(context)
        # an error of one check is no reason to do without the others
        except Exception as error:
            finding = Finding(
                "problem",
                f"this fails with {_error_line(error)}",
                advice="see that shapes and types fit",
            )
        if finding is not None:
            seconds = time.monotonic() - began
            yield replace(finding, name=check.name, seconds=seconds)


def _error_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
