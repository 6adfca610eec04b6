"""Talks in the rows of a table: in which columns they are, and how each row is read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.data.chat_columns import CHAT, CHOSEN, REJECTED, choose_chat
from unrolled.data.schema import Schema
from unrolled.data.sources import Table
from unrolled.fields.base import InvalidCell
from unrolled.fields.talks import Talk, check_turns, question, talk_of, with_answer
from unrolled.tasks.base import locate
from unrolled.text.turns import ASSISTANT, Turn


@dataclass(frozen=True, slots=True)
class TalkColumns:
    """The columns of a file that hold talks, and where each stands.

    Attributes:
        text: of talks, or of questions and what they are about; of pairs the better answer last.
        answer: of answers; None where talks hold them, or there are none.
        indices: where all of them stand in a row.
    """

    text: tuple[str, ...]
    answer: str | None
    indices: tuple[int, ...]

    @classmethod
    def of_training(cls, table: Table, schema: Schema) -> TalkColumns:
        """Return the columns of a training file, by its schema."""
        names = [*schema.text, *([schema.answer] if schema.answer else [])]
        indices = locate(table, names, table.columns)
        return cls(
            schema.text,
            schema.answer,
            tuple(indices),
        )

    @classmethod
    def find(cls, table: Table, schema: Schema, trained: Sequence[str]) -> TalkColumns:
        """Return the columns of a file: those of training, or else those that look like talks.

        Args:
            table: the file.
            schema: of training.
            trained: all columns of the training file.

        Raises:
            DataError: there are none.
        """
        names = table.columns
        texts = schema.text
        answer = schema.answer
        is_known = all(name in names for name in texts)
        if not (is_known or not table.format.named):
            chosen = choose_chat(table, (), None, CHAT)
            assert chosen is not None
            texts = chosen["text"]
            answer = chosen.get("answer")
        elif answer not in names and (table.format.named or len(names) != len(trained)):
            answer = None
        names_of_cells = [*texts, *([answer] if answer else [])]
        indices = locate(table, names_of_cells, trained, schema.answer)
        return cls(tuple(texts), answer, tuple(indices))

    @property
    def is_paired(self) -> bool:
        """Whether each row holds two answers."""
        return _is(self.answer, REJECTED) and _is(self.text[-1], CHOSEN)

    def talk(self, row: Sequence[Any]) -> Talk:
        """Return the talk of a row. Raises InvalidCell: a cell holds no part of one."""
        cells = [row[index] for index in self.indices]
        if self.answer is None:
            return question(self.text, cells)
        talk = question(self.text, cells[:-1])
        return with_answer(talk, self.answer, cells[-1])

    def pair(self, row: Sequence[Any]) -> tuple[Talk, Talk]:
        """Return the talks with the better and with the other answer. Raises InvalidCell."""
        cells = [row[index] for index in self.indices]
        *before, better, worse = cells
        assert self.answer is not None
        sides = ((self.text[-1], better), (self.answer, worse))
        talks: list[Talk] = []
        for name, cell in sides:
            if before:
                talk = with_answer(
                    question(self.text[:-1], before),
                    name,
                    cell,
                )
            else:
                talk = talk_of(name, cell)
            talks.append(check_turns(talk, answered=True))
        chosen, rejected = talks
        if chosen == rejected:
            raise InvalidCell("both answers are the same: neither is the better one")
        return chosen, rejected

    def is_answered(self, table: Table) -> bool:
        """Whether the first talk of a file that can be read ends with an answer: so do all."""
        if self.answer is not None:
            return True
        for row in table.rows:
            try:
                return self.talk(row)[-1].role == ASSISTANT
            except InvalidCell:
                continue
        return True

    def talks(self, table: Table) -> list[Talk]:
        """Return the talks of a table, without those that cannot be read: they are told later."""
        talks: list[Talk] = []
        for row in table.rows:
            try:
                if self.is_paired:
                    talks += self.pair(row)
                else:
                    talks.append(self.talk(row))
            except InvalidCell:
                continue
        return talks


def _is(name: str | None, known: str) -> bool:
    return name is not None and name.strip().lower() == known


def answers_in(talks: Sequence[Talk]) -> list[Turn]:
    """Return what assistants say."""
    turns = itertools.chain.from_iterable(talks)
    return [turn for turn in turns if turn.role == ASSISTANT]
