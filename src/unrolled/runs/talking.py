"""A talk with a model: what was said so far, and answers as they are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from unrolled.core.errors import UsageError
from unrolled.core.files import write_text
from unrolled.core.words import either
from unrolled.data.lines import nfc
from unrolled.fields.base import InvalidCell
from unrolled.fields.talks import Talk, check_turns
from unrolled.runs.generate import stream
from unrolled.runs.predictor import Predictor
from unrolled.text.turns import ASSISTANT, SYSTEM, USER, Turn

LONGEST = 256  # tokens of an answer, where nobody says otherwise


class Conversation:
    """Turns of a talk, and a model that answers; see ``Run.chat``.

    Args:
        predictor: of a run that was trained to chat.
        max_new_tokens: the most tokens of an answer.
        options: how they are drawn; see ``Run.generate``.
        notice: called with a sentence where the oldest turns no longer fit.

    Raises:
        UsageError: the run was trained to something else.
    """

    def __init__(
        self,
        predictor: Predictor,
        max_new_tokens: int = LONGEST,
        options: dict[str, Any] | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not predictor.task.answers_talks:
            train = either("`unrolled train FILE task=chat`", "task='chat'")
            raise UsageError(
                f"this run was trained to {predictor.task.name}, and answers no talk; a run of "
                f"{train} does"
            )
        self.predictor = predictor
        self.max_new_tokens = max_new_tokens
        self.options = options or {}
        self.notice = notice
        self.turns: Talk = ()

    def say(self, text: str) -> Iterator[str]:
        """Say something; yield the answer in pieces, as it is made.

        What was made is the answer also where nobody waits for its end.

        Raises:
            UserError: there is nothing to answer.
        """
        talk = (*self.turns, Turn(USER, nfc(text)))
        try:
            check_turns(talk, answered=False)
        except InvalidCell as error:
            raise UsageError(str(error)) from None
        task = cast(Any, self.predictor.task)
        model = cast(Any, self.predictor.model)
        most = self.max_new_tokens
        prompt = task.fitting(talk, model.context, most)
        if len(prompt) < len(task.tokenizer.opening(talk)):
            self.notice(
                f"the model reads {model.context:,} tokens: the oldest turns are left out"
            )
        if model.context is not None:
            most = max(1, min(most, model.context - len(prompt)))
        pieces: list[str] = []
        options = {"top_p": 0.9, **self.options}
        seed = options.pop("seed", None)
        try:
            for piece in stream(
                self.predictor,
                prompt,
                most,
                options,
                None if seed is None else seed + len(talk),
            ):
                pieces.append(piece)
                yield piece
        finally:
            answer = "".join(pieces)
            # a turn that says nothing would be no talk to go on with
            self.turns = (
                (*talk, Turn(ASSISTANT, answer)) if answer.strip() else self.turns
            )

    def set_system(self, text: str) -> None:
        """Say what the assistant is to be like; an empty text takes it back.

        Raises:
            UsageError: the template of the run has no such turn.
        """
        spoken = self._spoken()
        task = cast(Any, self.predictor.task)
        if text and SYSTEM not in task.tokenizer.template.opening:
            raise UsageError(
                f"data.template={task.tokenizer.template.name} of this run has no system turn"
            )
        self.turns = (Turn(SYSTEM, nfc(text)), *spoken) if text.strip() else spoken

    def undo(self) -> bool:
        """Take the last question and its answer back; return whether there was one."""
        spoken = self._spoken()
        before = self.turns[: len(self.turns) - len(spoken)]
        self.turns = (*before, *spoken[:-2])
        return bool(spoken)

    def reset(self) -> None:
        """Forget what was said; what the system says stays."""
        self.turns = self.turns[: len(self.turns) - len(self._spoken())]

    def save(self, path: Path) -> None:
        """Write the talk as a line of JSON that ``task=chat`` reads.

        Raises:
            UserError: the file cannot be written.
        """
        messages = [{"role": turn.role, "content": turn.text} for turn in self.turns]
        line = json.dumps({"messages": messages}, ensure_ascii=False)
        write_text(path, line + "\n")

    def _spoken(self) -> Talk:
        is_led = bool(self.turns) and self.turns[0].role == SYSTEM
        return self.turns[1:] if is_led else self.turns
