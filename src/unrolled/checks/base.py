"""What a check is: a name and a function from what will be trained to what was found."""

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
from unrolled.data.examples import Examples
from unrolled.data.schema import label
from unrolled.data.sources import Document
from unrolled.fields.label import Label
from unrolled.runs.plan import Plan
from unrolled.runs.prepare import Data
from unrolled.tasks.base import Task, locate
from unrolled.tasks.recipe import Recipe
from unrolled.training.objectives import Objective

Status = Literal["ok", "warning", "problem"]
LINE = 30  # characters: shorter lines of running text recur by chance
SHORT = 64  # tokens of the rows that a model is checked on


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, where (file and line, column, weight), and what to do about it."""

    status: Status
    found: str
    where: str = ""
    advice: str = ""
    name: str = ""
    seconds: float = 0.0


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
        return place(self.data, self.lines[row])


def place(data: Data, line: int) -> str:
    """Return a line of a part of the data as ``file:line``."""
    path, line = (
        (data.path, line) if isinstance(data, Document) else data.position(line)
    )
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
        output = getattr(self.task, "output", None)
        return output.names if isinstance(output, Label) else ()

    @cached_property
    def train(self) -> PartRows:
        """The training rows, without those that were skipped as faulty."""
        prepared = self.plan.prepared
        found = compared(prepared.train_data, self.task)
        kept = prepared.train
        if (
            found.lines is None
            or not isinstance(kept, Examples)
            or self.task.schema.frames
        ):
            return found
        learnt = set(kept.lines.tolist())
        rows = [i for i, line in enumerate(found.lines) if line in learnt]
        return replace(
            found,
            inputs=[found.inputs[i] for i in rows],
            answers=[found.answers[i] for i in rows],
            lines=[found.lines[i] for i in rows],
        )

    @cached_property
    def dev(self) -> PartRows:
        """The scored rows."""
        before = self.plan.prepared.train_data
        after = self.plan.prepared.dev_data
        held = isinstance(before, Document) and self.plan.recipe.data.dev is None
        above = before.text.count("\n") if held and isinstance(before, Document) else 0
        found = compared(after, self.task, above)
        # of a large text only the beginning is at hand, and not all that stands before this part
        return (
            replace(found, lines=None) if held and self.plan.prepared.partial else found
        )

    @property
    def only(self) -> str:
        """What a finding adds where only the first training rows of a large file are compared."""
        if not self.plan.prepared.partial:
            return ""
        what = "rows" if self.task.schema.inputs else "lines"
        return f"; of training only the first {len(self.train.inputs):,} {what} were looked at"

    @cached_property
    def first(self) -> dict[str, int]:
        """The first training row of every input."""
        numbered = zip(
            reversed(self.train.inputs),
            reversed(range(len(self.train.inputs))),
            strict=True,
        )
        return dict(numbered)

    @cached_property
    def objective(self) -> Objective:
        """What training minimises, without label smoothing: its floor is zero."""
        recipe = self.plan.recipe
        plain = recipe.training.changed(label_smoothing=0.0)
        return self.task.objective(recipe.changed(training=plain), self.model)

    def small(self, rows: int, **settings: Any) -> Recipe:
        """Return the recipe with small batches, and ``settings`` under ``training``."""
        told = self.plan.recipe.training
        few = {
            "batch_size": min(rows, told.batch_size),
            "window": min(SHORT, told.window),
        }
        changes = {**few, "batch_tokens": None, "tensorboard": False, **settings}
        return self.plan.recipe.changed(training=told.changed(**changes))

    def batch(self, rows: int) -> Batch:
        """Return a few training rows of different inputs and unequal lengths."""
        examples = self.plan.prepared.train
        device = self.plan.place.device
        if not isinstance(examples, Examples):
            source = self.task.source(examples, self.small(rows), self.model)
            return source.batch(0, 0).to(device)
        order = np.argsort(examples.lengths, kind="stable")
        short = order[examples.lengths[order] <= SHORT]
        # more than are asked for: short texts repeat
        some = evenly(short if len(short) else order, 4 * rows)
        inputs = collate(examples, some).inputs.numpy()
        fresh = some[np.sort(np.unique(inputs, axis=0, return_index=True)[1])]
        return collate(examples, evenly(fresh, rows)).to(device)


def evenly(items: Any, most: int) -> Any:
    """Return at most ``most`` entries of an array, the first and the last among them."""
    return items[np.linspace(0, len(items) - 1, min(most, len(items))).astype(np.int64)]


def normal(cells: Iterable[Any]) -> str:
    """Return the cells of a row without case and runs of blanks."""
    texts = (
        " ".join(map(str, c)) if isinstance(c, list) else str(c)
        for c in cells
        if c is not None
    )
    return "\x1f".join(
        filter(None, (" ".join(text.split()) for text in texts))
    ).casefold()


def compared(data: Data, task: Task, above: int = 0) -> PartRows:
    """Return a part of the data as rows; ``above`` counts the lines of the file before it."""
    if isinstance(data, Document):
        lines = data.text.split("\n")
        kept = [normal([line]) if len(line) >= LINE else "" for line in lines]
        return PartRows(data, kept, [], list(range(above + 1, above + len(lines) + 1)))
    places = locate(data, task.schema.inputs, task.columns)
    answer = task.schema.answer
    inputs = [normal(row[i] for i in places) for row in data.rows]
    if answer is None:
        return PartRows(data, inputs, [], data.lines)
    (place,) = locate(data, [answer], task.columns)
    return PartRows(data, inputs, [label(row[place]) for row in data.rows], data.lines)


def ask(checks: Sequence[Check], context: Context) -> Iterator[Finding]:
    """Yield what the checks find; a model that cannot be run is a finding too."""
    for check in checks:
        began = time.monotonic()
        try:
            found = check.run(context)
        except (
            Exception
        ) as error:  # a fault of one check is no reason to do without the others
            told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            found = Finding(
                "problem",
                f"this fails with {told}",
                "",
                "see that shapes and types fit",
            )
        if found is not None:
            yield replace(found, name=check.name, seconds=time.monotonic() - began)
