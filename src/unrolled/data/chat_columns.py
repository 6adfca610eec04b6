"""Columns by which talks are known: lists of messages, questions and answers, pairs of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unrolled.core.errors import DataError
from unrolled.data.sources import Table

CHAT = "chat"
REWARD = "reward"
# the columns that hold a whole talk each
TALKS = ("messages", "conversations", "conversation")
# the columns of a question, of what it is about, and of its answer
QUESTIONS = ("prompt", "instruction", "question", "q")
CONTEXTS = ("input", "context")
ANSWERS = (
    "completion",
    "response",
    "output",
    "answer",
    "reply",
    "a",
    "instances",
)
# of two answers the better one, and the other
CHOSEN = "chosen"
REJECTED = "rejected"
# what nothing but a talk is written as
PLAIN_PAIRS = (
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "instances"),
)


def choose_chat(
    table: Table, texts: tuple[str, ...], answer: str | None, task: str | None
) -> dict[str, Any] | None:
    """Return what is read of talks and what answers; None where a table is of something else.

    Args:
        table: the file.
        texts, answer: the columns that the user named.
        task: the task that the user named; without one talks have to be plain to see.

    Raises:
        DataError: the user wants talks, and no column looks like one.
    """
    names = {name.strip().lower(): name for name in table.columns}
    if task == CHAT and texts == (names.get(CHOSEN),) and answer is None:
        # the better answers alone, as talks
        return {"task": CHAT, "text": texts}
    if task == CHAT and answer is not None and answer == names.get(CHOSEN):
        asks = texts or tuple(filter(None, [_first(names, QUESTIONS)]))
        if not asks:
            return {"task": CHAT, "text": (answer,)}
        return {"task": CHAT, "text": asks, "answer": answer}
    if CHOSEN in names and REJECTED in names and task in (None, CHAT, REWARD):
        return _pairs(names, texts, task)
    if task == REWARD:
        raise DataError(
            f"two answers a row are compared, in the columns {CHOSEN} and {REJECTED} (columns: "
            f"{', '.join(table.columns)})",
            table.path,
        )
    if task is None:
        return _plain(table, names) if not (texts or answer) else None
    if task != CHAT:
        return None
    if texts:
        return {"task": CHAT, "text": texts, "answer": answer or _answer(names, texts)}
    talk = _talk(table, names)
    if talk is not None:
        return {"task": CHAT, "text": (talk,)}
    question = _first(names, QUESTIONS)
    free = [name for name in table.columns if name != answer]
    question = question or (free[0] if len(table.columns) < 3 else None)
    if question is None:
        raise DataError(
            "no column looks like a talk or a question; name them with data.text=COLUMN and "
            f"data.label=COLUMN (columns: {', '.join(table.columns)})",
            table.path,
        )
    return _question_columns(names, question, answer)


def _pairs(
    names: dict[str, str], texts: tuple[str, ...], task: str | None
) -> dict[str, Any]:
    """Return the columns of two answers to a question, or of two talks that end in them."""
    question = texts or tuple(
        filter(
            None,
            [_first(names, QUESTIONS[:1])],
        )
    )
    reads = (*question, names[CHOSEN])
    return {"task": task or REWARD, "text": reads, "answer": names[REJECTED]}


def _plain(table: Table, names: dict[str, str]) -> dict[str, Any] | None:
    talk = _talk(table, names)
    if talk is not None:
        return {"task": CHAT, "text": (talk,)}
    for question, answer in PLAIN_PAIRS:
        if question in names and answer in names:
            return _question_columns(
                names,
                names[question],
                names[answer],
            )
    return None


def _question_columns(
    names: dict[str, str], question: str, answer: str | None
) -> dict[str, Any]:
    context = _first(names, CONTEXTS) if question.lower() == "instruction" else None
    reads = tuple(
        filter(
            None,
            [question, context],
        )
    )
    return {"task": CHAT, "text": reads, "answer": answer or _answer(names, reads)}


def _answer(names: dict[str, str], texts: Sequence[str]) -> str | None:
    free = {name: own for name, own in names.items() if own not in texts}
    return _first(free, ANSWERS)


def _first(names: dict[str, str], known: Sequence[str]) -> str | None:
    return next((names[name] for name in known if name in names), None)


def _talk(table: Table, names: dict[str, str]) -> str | None:
    """Return the column whose cells are lists of messages."""
    for known in TALKS:
        name = names.get(known)
        if name is not None and any(map(_is_talk, table.cells(name))):
            return name
    return None


def _is_talk(cell: Any) -> bool:
    if not isinstance(cell, list) or not cell:
        return False
    return all(isinstance(item, dict) for item in cell)
