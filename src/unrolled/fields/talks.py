"""Talks: who says what, read from the cells in which people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from unrolled.core.errors import shown
from unrolled.data.lines import nfc
from unrolled.fields.base import InvalidCell, MissingCell
from unrolled.text.turns import ASSISTANT, SYSTEM, USER, Turn

Talk = tuple[Turn, ...]
# what roles are called by others
ROLE_NAMES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "human": USER,
    "prompter": USER,
    "assistant": ASSISTANT,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bot": ASSISTANT,
    "model": ASSISTANT,
}
# talks that were written down in one text (Bai et al. 2022)
TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):[ \t]?")


def talk_of(column: str, cell: Any) -> Talk:
    """Return the turns in a cell: a list of messages, a transcript, or one turn of the user.

    Raises:
        InvalidCell: it holds something else.
    """
    if cell is None:
        raise MissingCell(f"column {column!r} is empty")
    if isinstance(cell, list):
        if not cell:
            raise InvalidCell(f"column {column!r} holds a talk without a turn")
        return tuple(
            _message(column, number, item) for number, item in enumerate(cell, 1)
        )
    if isinstance(cell, dict):
        raise InvalidCell(
            f"column {column!r} holds {shown(cell)} where a list of messages or a text is expected"
        )
    text = nfc(str(cell))
    if TRANSCRIPT.match(text):
        return _transcript(text)
    return (Turn(USER, text),)


def _transcript(text: str) -> Talk:
    _, *parts = TRANSCRIPT.split(text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Turn(ROLE_NAMES[role.lower()], said.strip()) for role, said in pairs)


def _message(column: str, number: int, item: Any) -> Turn:
    if not isinstance(item, Mapping):
        raise InvalidCell(
            f"column {column!r}: turn {number} is {shown(item)}, and no object of role and content"
        )
    role = item.get("role", item.get("from"))
    content = item.get("content", item.get("value", item.get("text")))
    known = ROLE_NAMES.get(str(role).strip().lower())
    if known is None:
        raise InvalidCell(
            f"column {column!r}: turn {number} is of the role {shown(role)}; say system, user or "
            "assistant"
        )
    if isinstance(content, list):
        content = "".join(
            str(part.get("text", "")) for part in content if isinstance(part, Mapping)
        )
    if not isinstance(content, str):
        raise InvalidCell(
            f"column {column!r}: turn {number} says {shown(content)} where a text is expected"
        )
    return Turn(known, nfc(content))


def check_turns(talk: Talk, answered: bool) -> Talk:
    """Return a talk whose turns are in order: the user and the assistant speak by turns.

    Args:
        talk: of some turns.
        answered: whether the assistant has to speak last; else the user has to.

    Raises:
        InvalidCell: they are not, or a turn says nothing.
    """
    spoken = talk[1:] if talk and talk[0].role == SYSTEM else talk
    before = len(talk) - len(spoken)
    for index, turn in enumerate(spoken):
        number = before + index + 1
        expected = ASSISTANT if index % 2 else USER
        if turn.role != expected:
            raise InvalidCell(
                f"turn {number} is of the {turn.role} where the {expected} speaks; turns go from "
                "user to assistant and back, a system turn stands first"
            )
        if not turn.text.strip():
            raise InvalidCell(f"turn {number}, of the {turn.role}, is empty")
    if not spoken:
        raise InvalidCell("the talk has no turn")
    last = spoken[-1].role
    if answered and last != ASSISTANT:
        raise InvalidCell("the last turn is of the user, and nothing answers it")
    if not answered and last != USER:
        raise InvalidCell("the last turn is of the assistant, and asks nothing")
    return talk


def question(columns: Sequence[str], cells: Sequence[Any]) -> Talk:
    """Return the talk that the cells of a question begin: what it is about follows it.

    Raises:
        InvalidCell: a cell holds something else.
    """
    (first, *others) = zip(columns, cells, strict=True)
    talk = talk_of(*first)
    contexts: list[str] = []
    for column, cell in others:
        if isinstance(cell, list | dict):
            raise InvalidCell(
                f"column {column!r} holds {shown(cell)} where text is expected"
            )
        if cell is not None and str(cell).strip():
            contexts.append(nfc(str(cell)))
    if not contexts:
        return talk
    *before, last = talk
    return (*before, Turn(last.role, "\n\n".join([last.text, *contexts])))


def _holds_instances(cell: Any) -> bool:
    if not isinstance(cell, list) or not cell:
        return False
    return all(isinstance(item, Mapping) and "output" in item for item in cell)


def _with_instances(
    talk: Talk, column: str, instances: Sequence[Mapping[str, Any]]
) -> Talk:
    """Return an instruction with its instances: the first input follows it, others are turns."""
    *turns, last = talk
    for number, instance in enumerate(instances, 1):
        read = instance.get("input") or ""
        answer = instance["output"]
        if not isinstance(read, str) or not isinstance(answer, str):
            raise InvalidCell(
                f"column {column!r}: instance {number} holds {shown(instance)} where texts of "
                "input and output are expected"
            )
        asks = nfc(read)
        if number == 1 or not asks:
            asks = "\n\n".join(filter(None, [last.text, asks]))
        turns += [Turn(USER, asks), Turn(ASSISTANT, nfc(answer))]
    return tuple(turns)


def with_answer(talk: Talk, column: str, cell: Any) -> Talk:
    """Return a talk with the answer in a cell behind it.

    A list of objects of input and output, as instructions have their instances, is several turns.

    Raises:
        InvalidCell: the cell holds no text.
    """
    if _holds_instances(cell):
        return _with_instances(talk, column, cell)
    if isinstance(cell, list):
        return (*talk, *talk_of(column, cell))
    if isinstance(cell, dict):
        raise InvalidCell(
            f"column {column!r} holds {shown(cell)} where text is expected"
        )
    if cell is None:
        raise MissingCell(f"column {column!r} is empty")
    return (*talk, Turn(ASSISTANT, nfc(str(cell))))
