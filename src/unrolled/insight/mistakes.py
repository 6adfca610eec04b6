"""The scored rows a model answers worst, and where they stand in the data file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unrolled.data.examples import Examples
from unrolled.data.sources import Document, Table
from unrolled.tasks.base import Evaluation, GeneratedTexts, Task, locate
from unrolled.tasks.labelled import Classify
from unrolled.tasks.tag import Tag

LONGEST = 300  # characters shown of a row


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong answer, or one of the texts that a model wrote.

    Attributes:
        path, line: the data file, and the line its row starts on, from 1; that of the step where
            rows are steps.
        text: the row, cut to a sane length: what stands before the word in question, the word,
            and what follows; for an answer about the whole row all of it stands first.
        truth, answer: what the file says and what the model says.
        size: confidence of a wrong label; error of a value, in its unit; 0 for a text.
    """

    path: str
    line: int
    text: tuple[str, str, str]
    truth: str
    answer: str
    size: float


def mistakes(
    task: Task,
    data: Table | Document,
    examples: Any,
    evaluation: Evaluation,
    count: int,
) -> list[Mistake]:
    """Return the ``count`` worst answers to the rows of a file, the surest or furthest off first.

    Of texts that a model wrote as many are returned, right or wrong, evenly spaced.

    ``examples`` are the rows of ``data`` as ``evaluation`` scored them, faulty ones left out.
    """
    judged = evaluation.judged
    pairs = evaluation.pairs
    if not isinstance(data, Table) or not isinstance(examples, Examples) or not count:
        return []
    if evaluation.written is not None:
        return _texts(data, evaluation.written, count)
    if judged is not None and isinstance(task, Classify | Tag):
        rows = judged.rows
        sizes = np.where(judged.truth != judged.found, judged.confidence, 0.0)
        both = np.array(task.output.names, dtype=object)[
            np.stack([judged.truth, judged.found], 1)
        ]
    elif pairs is not None:
        rows = np.arange(len(pairs))
        sizes = np.abs(pairs[:, 0] - pairs[:, 1])
        both = pairs
    else:
        return []
    worst = [
        i for i in np.argsort(-sizes, kind="stable")[:count].tolist() if sizes[i] > 0
    ]
    # stretches of sequences have lines of their own, and their numbers are not shown
    cells = dict.fromkeys(examples.lines[rows[worst]].tolist(), ())
    cells |= {
        n: row for n, row in zip(data.lines, data.rows, strict=True) if n in cells
    }
    found = []
    for item in worst:
        line = int(examples.lines[rows[item]])
        if judged is not None and judged.words is not None and isinstance(task, Tag):
            word = int(judged.words[item])
            text = _around(task, data, cells[line], word)
            if examples.frames is not None and examples.frames.lines is not None:
                line = int(
                    examples.frames.lines[examples.frames.starts[rows[item]] + word]
                )
        else:
            text = (_text(task, data, cells[line]), "", "")
        truth, answer = (v if isinstance(v, str) else f"{v:.6g}" for v in both[item])
        found.append(
            Mistake(*data.position(line), text, truth, answer, float(sizes[item]))
        )
    return found


def _texts(data: Table, written: GeneratedTexts, count: int) -> list[Mistake]:
    """Return some of the texts that a model wrote, beside the right ones."""
    total = len(written.answers)
    found = []
    for row in np.unique(
        np.linspace(0, total - 1, min(count, total)).astype(np.int64)
    ).tolist():
        path, line = data.position(int(written.lines[row]))
        right = _cut(" | ".join(dict.fromkeys(written.references[row])), LONGEST)
        text = _cut(written.sources[row], LONGEST), "", ""
        found.append(
            Mistake(path, line, text, right, _cut(written.answers[row], LONGEST), 0.0)
        )
    return found


def _text(task: Task, data: Table, row: tuple[Any, ...]) -> str:
    """Return the input cells of a row, with the names of their columns where there are several."""
    if task.schema.frames:
        return "a sequence of numbers"
    names = task.schema.inputs
    cells = [
        "" if row[i] is None else str(row[i]) for i in locate(data, names, task.columns)
    ]
    if len(cells) == 1:
        return _cut(cells[0], LONGEST)
    told = [f"{name}: {cell}" for name, cell in zip(names, cells, strict=True)]
    return _cut(("\n" if task.schema.text else ", ").join(told), LONGEST)


def _around(
    task: Tag, data: Table, row: tuple[Any, ...], place: int
) -> tuple[str, str, str]:
    """Return a word with what stands before and after it."""
    if task.schema.frames:
        return "", f"step {place + 1}", " of a sequence of numbers"
    words = task.inputs.check(
        [row[i] for i in locate(data, task.schema.inputs, task.columns)]
    )
    before = " ".join([*words[:place], ""])
    after = " ".join(["", *words[place + 1 :]])
    reversed_cut = _cut(before[::-1], LONGEST // 2)[::-1]
    return reversed_cut, _cut(words[place], LONGEST), _cut(after, LONGEST // 2)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
