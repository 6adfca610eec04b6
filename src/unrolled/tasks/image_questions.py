"""What tasks that ask about images share: how questions are read, and what answers count.

Shapes: N rows, R right answers of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UsageError
from unrolled.data.columns import spelling
from unrolled.data.examples import Examples
from unrolled.data.schema import Schema
from unrolled.data.sources import Table
from unrolled.fields.base import InvalidCell
from unrolled.fields.text import Text
from unrolled.tasks.base import Scores, Task
from unrolled.tasks.recipe import DataConfig
from unrolled.text.tokenizers import KINDS, Tokenizer

QUESTIONS = "questions.json"
KIND = "kind"  # the column that tells kinds of questions apart, where a file has it
TOKENIZER = "words"  # of questions, where nobody says otherwise
# people who gave an answer that counts in full (Antol et al. 2015, section 3)
AGREEING = 3


@dataclass(frozen=True, slots=True)
class QuestionExamples(Examples):
    """Questions about images, with all right answers of each row, and its kind of question."""

    right: tuple[tuple[int, ...], ...] = ()
    kinds: tuple[str, ...] = ()

    def pick(self, rows: Any) -> QuestionExamples:
        """Return some of the examples (M,), in that order."""
        # without super(): a class with slots is made anew
        picked = cast(QuestionExamples, Examples.pick(self, rows))
        chosen = np.arange(len(self))[rows].tolist()
        kinds = tuple(self.kinds[row] for row in chosen) if self.kinds else ()
        return replace(
            picked, right=tuple(self.right[row] for row in chosen), kinds=kinds
        )


def need_question(task: str, schema: Schema) -> None:
    """Raise UsageError where a schema has no column of images, or not one of questions."""
    if len(schema.text) != 1 or not schema.images:
        raise UsageError(
            f"task={task} reads one column of images (data.image) and one of questions (data.text)"
        )


def fit_question(
    config: DataConfig, schema: Schema, table: Table, pretrained: Task | None
) -> Text:
    """Return the field of questions, its words those of another run or of the training rows."""
    (column,) = schema.text
    texts = [as_learnt(cell) for cell in table.cells(column) if cell]
    kind = config.tokenizer if config.tokenizer in KINDS else TOKENIZER
    # a task that writes has a tokenizer of answers beside that of questions
    of_questions = getattr(pretrained, "question", None)
    source = of_questions or pretrained
    known = source and source.tokenizer
    tokenizer = known or Tokenizer.fit(
        kind,
        texts,
        config.vocabulary,
        config.min_count,
    )
    return Text(
        (column,),
        tokenizer,
        config.max_tokens,
    )


def check_question(field: Text, cell: Any) -> str:
    """Return a question as it is learnt.

    Raises:
        InvalidCell: it is none, or has no word that is known.
    """
    (text,) = field.check([cell])
    question = as_learnt(text)
    if not question:
        raise InvalidCell(f"column {field.columns[0]!r} is empty")
    unknown = field.tokenizer.unk_id
    words = " ".join(filter(_is_word, question.split()))
    if all(id == unknown for id in field.tokenizer.encode(words)):
        raise InvalidCell(
            f"column {field.columns[0]!r} holds no word of the questions that were learnt: "
            f"{text[:60]!r}"
        )
    return question


def accuracy_by_kind(
    points: NDArray[np.float64], kinds: Sequence[str]
) -> dict[str, dict[str, Scores]]:
    """Return ``by_kind``: rows and accuracy of each kind of question; nothing without kinds."""
    if not kinds:
        return {}
    of_row = np.array(kinds)
    scores: dict[str, Scores] = {}
    for kind in sorted(set(kinds)):
        chosen = of_row == kind
        scores[kind] = {
            "rows": int(chosen.sum()),
            "accuracy": float(points[chosen].mean()),
        }
    return {"by_kind": scores}


def as_learnt(text: Any) -> str:
    """Return a question as it is learnt: in lower case, marks apart from words."""
    lowered = str(text).strip().lower()
    apart = "".join(
        character if character.isalnum() or character.isspace() else f" {character} "
        for character in lowered
    )
    return " ".join(apart.split())


def _is_word(word: str) -> bool:
    return any(character.isalnum() for character in word)


def answers_of(cell: Any) -> list[Any]:
    """Return the answers in a cell: one, or those of several people in a list."""
    if isinstance(cell, list):
        return [value for value in cell if spelling(str(value)) != ""]
    return [] if cell is None or cell == "" else [cell]


def points_of(
    right: Sequence[Sequence[Any]],
    answers: Sequence[Any],
) -> NDArray[np.float64]:
    """Return what each of N answers counts: 1 for the one right answer, or n / 3 at most 1.

    Args:
        right: what people said, of each row; numbers of answers, or texts.
        answers: what is to be scored, of the same kind.
    """
    points: list[float] = []
    for given, answer in zip(right, answers, strict=True):
        agreeing = min(AGREEING, len(given))
        count = given.count(answer)
        points.append(min(1.0, count / agreeing))
    return np.array(points)


def most_frequent_answers(right: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the answer that most people gave, of each of N rows; the first of equal ones."""
    return [Counter(answers).most_common(1)[0][0] for answers in right]


def kinds_of(table: Table, lines: NDArray[Any]) -> tuple[str, ...]:
    """Return the kind of question of each row, where the file has such a column."""
    if KIND not in table.columns:
        return ()
    cells = dict(zip(table.lines, table.cells(KIND), strict=True))
    return tuple(str(cells[line]) for line in lines.tolist())
