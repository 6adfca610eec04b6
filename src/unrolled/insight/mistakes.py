"""The scored rows a model answers worst, and where they stand in the data file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.data.examples import Examples, Ints
from unrolled.data.sources import Document, Table
from unrolled.insight.thumbnails import thumbnail_of
from unrolled.tasks.base import Evaluation, GeneratedTexts, Task, locate

LONGEST = 300  # characters shown of a row

# what stands before a word, the word, and what follows it
Excerpt = tuple[str, str, str]
Cells = tuple[Any, ...]


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
        image: the address of a small picture of the image that was read, if one was.
    """

    path: str
    line: int
    text: Excerpt
    truth: str
    answer: str
    size: float
    image: str = ""

    @property
    def file(self) -> str:
        """The name of the data file."""
        return Path(self.path).name


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """The N answers that were scored, of which the worst are looked for.

    Attributes:
        rows: index of the row among the examples, (N,).
        sizes: how wrong each is, (N,); 0 of a right one.
        truths, answers: labels or values, (N,).
        words: index of the word in its row, (N,); None where an answer is about the whole row.
    """

    rows: Ints
    sizes: NDArray[np.float64]
    truths: NDArray[Any]
    answers: NDArray[Any]
    words: Ints | None = None

    def worst(self, count: int) -> list[int]:
        """Return the indices of the ``count`` worst, equals in the order of the file."""
        order = np.argsort(-self.sizes, kind="stable")[:count]
        return [index for index in order.tolist() if self.sizes[index] > 0]


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
    if not isinstance(data, Table) or not isinstance(examples, Examples) or not count:
        return []
    if evaluation.written is not None:
        return _texts(data, evaluation.written, count)
    scored = _scored(task, evaluation)
    if scored is None:
        return []
    return _with_rows(task, data, examples, scored, scored.worst(count))


def right_answers(
    task: Task,
    data: Table | Document,
    examples: Any,
    evaluation: Evaluation,
    count: int,
) -> list[Mistake]:
    """Return ``count`` answers that are right, or values no worse than most, evenly spaced."""
    scored = _scored(task, evaluation)
    is_table = isinstance(data, Table) and isinstance(examples, Examples)
    if scored is None or not is_table or not count:
        return []
    assert isinstance(data, Table)
    right = np.flatnonzero(scored.sizes <= np.median(scored.sizes))
    if not task.answers_values:
        right = np.flatnonzero(scored.sizes == 0)
    if not len(right):
        return []
    spaced = np.linspace(0, len(right) - 1, min(count, len(right)))
    chosen = right[np.unique(spaced.astype(np.int64))]
    return _with_rows(task, data, examples, scored, chosen.tolist())


def _with_rows(
    task: Task,
    data: Table,
    examples: Examples,
    scored: ScoredAnswers,
    indices: list[int],
) -> list[Mistake]:
    """Return some of the answers with the rows that they are about."""
    lines = examples.lines[scored.rows[indices]]
    # stretches of sequences have lines of their own, and their numbers are not shown
    cells_by_line: dict[int, Cells] = dict.fromkeys(lines.tolist(), ())
    for line, row in zip(data.lines, data.rows, strict=True):
        if line in cells_by_line:
            cells_by_line[line] = row
    return [
        _mistake(task, data, examples, scored, index, cells_by_line)
        for index in indices
    ]


def _scored(task: Task, evaluation: Evaluation) -> ScoredAnswers | None:
    """Return labels with their confidence, or values with their error; None of other answers."""
    judged = evaluation.judged
    pairs = evaluation.pairs
    if judged is not None:
        is_wrong = judged.truth != judged.predicted
        names = np.array(task.class_names, dtype=object)
        return ScoredAnswers(
            rows=judged.rows,
            sizes=np.where(is_wrong, judged.confidence, 0.0),
            truths=names[judged.truth],
            answers=names[judged.predicted],
            words=judged.words,
        )
    if pairs is not None:
        truths, answers = pairs.T
        return ScoredAnswers(
            rows=np.arange(len(pairs)),
            sizes=np.abs(truths - answers),
            truths=truths,
            answers=answers,
        )
    return None


def _mistake(
    task: Task,
    data: Table,
    examples: Examples,
    scored: ScoredAnswers,
    index: int,
    cells_by_line: dict[int, Cells],
) -> Mistake:
    """Return one of the answers with the row, or the word in it, that it is about."""
    row = scored.rows[index]
    line = int(examples.lines[row])
    cells = cells_by_line[line]
    if scored.words is not None:
        word = int(scored.words[index])
        text = _around(task, data, cells, word)
        frames = examples.frames
        if frames is not None and frames.lines is not None:
            step = frames.starts[row] + word
            line = int(frames.lines[step])
    else:
        text = (text_of_row(task, data, cells), "", "")
    path, line = data.position(line)
    return Mistake(
        path=path,
        line=line,
        text=text,
        truth=_shown(scored.truths[index]),
        answer=_shown(scored.answers[index]),
        size=float(scored.sizes[index]),
        image=thumbnail_of(cells),
    )


def _shown(answer: str | float) -> str:
    return answer if isinstance(answer, str) else f"{answer:.6g}"


def _texts(data: Table, written: GeneratedTexts, count: int) -> list[Mistake]:
    """Return some of the texts that a model wrote, beside the right ones."""
    total = len(written.answers)
    spaced = np.linspace(0, total - 1, min(count, total))
    texts = []
    row_of_line = dict(zip(data.lines, data.rows, strict=True))
    for index in np.unique(spaced.astype(np.int64)).tolist():
        path, line = data.position(int(written.lines[index]))
        references = dict.fromkeys(written.references[index])
        text = Mistake(
            path=path,
            line=line,
            text=(_cut(written.sources[index]), "", ""),
            truth=_cut(" | ".join(references)),
            answer=_cut(written.answers[index]),
            size=0.0,
            image=thumbnail_of(row_of_line.get(int(written.lines[index]), ())),
        )
        texts.append(text)
    return texts


def text_of_row(task: Task, data: Table, row: Cells) -> str:
    """Return the input cells of a row, with the names of their columns where there are several."""
    if task.schema.frames:
        return "a sequence of numbers"
    names = task.schema.inputs
    columns = locate(data, names, task.columns)
    cells = ["" if row[column] is None else str(row[column]) for column in columns]
    if len(cells) == 1:
        return _cut(cells[0])
    named = [f"{name}: {cell}" for name, cell in zip(names, cells, strict=True)]
    separator = "\n" if task.schema.text else ", "
    return _cut(separator.join(named))


def _around(task: Task, data: Table, row: Cells, index: int) -> Excerpt:
    """Return the word of that index with what stands before and after it."""
    if task.schema.frames:
        return "", f"step {index + 1}", " of a sequence of numbers"
    columns = locate(data, task.schema.inputs, task.columns)
    if task.schema.clips:
        return "", f"frame {index + 1}", f" of {row[columns[0]]}"
    words = task.words([row[column] for column in columns])
    before = " ".join([*words[:index], ""])
    after = " ".join(["", *words[index + 1 :]])
    half = LONGEST // 2
    # cut at its beginning: what stands nearest to the word is kept
    reversed_before = _cut(before[::-1], half)
    return reversed_before[::-1], _cut(words[index]), _cut(after, half)


def _cut(text: str, limit: int = LONGEST) -> str:
    if len(text) <= limit:
        return text
    return text[: limit - 1] + "…"
