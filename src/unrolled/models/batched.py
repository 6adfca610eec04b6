"""Many texts written side by side: what each asks for is answered for all of them at once.

Shapes: B texts, T tokens, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from unrolled.nn import State
from unrolled.nn.attention_stream import CHUNK


class TextPool(Protocol):
    """Reads texts that are each at its own length."""

    def read(self, tokens: Sequence[int]) -> tuple[Any, Tensor]:
        """Begin a text; return it, and the scores of the token after it (1, V)."""
        ...

    def step(self, texts: Sequence[Any], tokens: Sequence[int]) -> Tensor:
        """Read one more token of some texts; return the scores of what comes next (B, V)."""
        ...


class StateStepper(Protocol):
    """What ``JoinedTexts`` asks of a model."""

    def read_prompt(
        self, tokens: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Read tokens (B, T): scores of the next (B, V), and the state."""
        ...

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row (B,): scores of the next (B, V) and the state."""
        ...


class _JoinedText:
    """A text, by its state."""

    def __init__(self, state: State) -> None:
        self.state = state


class JoinedTexts:
    """Reads texts by the steps of a model: their states are joined before each and parted after it.

    Args:
        stepper: what steps; see ``LanguageModel.stepper``.
        device: where it computes.
    """

    def __init__(self, stepper: StateStepper, device: torch.device) -> None:
        self._stepper = stepper
        self._device = device
        # a native stream is made for a number of rows, and packs its weights anew for another
        self._rows = 0

    def read(self, tokens: Sequence[int]) -> tuple[_JoinedText, Tensor]:
        """Begin a text; return it, and the scores of the token after it (1, V)."""
        self._rows = 0
        state: State | None = None
        scores = torch.empty(0)
        row = torch.tensor([list(tokens)], device=self._device)
        for part in row.split(CHUNK, 1):
            scores, state = self._stepper.read_prompt(part, state)
        assert state is not None
        return _JoinedText(self._row(state, 0)), scores.clone()

    def step(self, texts: Sequence[_JoinedText], tokens: Sequence[int]) -> Tensor:
        """Read one more token of some texts; return the scores of what comes next (B, V)."""
        self._rows = max(self._rows, len(texts))
        spare = self._rows - len(texts)
        states = [text.state for text in texts] + [texts[0].state] * spare
        row = torch.tensor([*tokens, *[tokens[0]] * spare], device=self._device)
        joined = type(states[0]).join(states)
        scores, after = self._stepper.step(row, joined)
        for number, text in enumerate(texts):
            text.state = self._row(after, number)
        return scores[: len(texts)].clone()

    def _row(self, state: State, row: int) -> State:
        """Return a copy of the state of one row."""
        return state.reorder(torch.tensor([row], device=self._device))


class Later:
    """Scores (1, V) of what follows one more token of a text; see :meth:`now`."""

    def __init__(
        self,
        batch: Batched,
        text: Any,
        token: int,
    ) -> None:
        self.text = text
        self.token = token
        self.scores: Tensor | None = None
        self._batch = batch

    def now(self) -> Tensor:
        """Return the scores, made with those of all texts that wait."""
        if self.scores is None:
            self._batch.answer()
        if self.scores is None:
            raise RuntimeError("the step that was to answer this text failed")
        return self.scores


class Batched:
    """A language model in evaluation that steps the texts of many writers at once.

    Args:
        open_pool: makes what reads; called when the first text is read.
        context: positions that the model can read; None is no limit.
        precision: of packed weights; see ``Layer.stream``.
        path: what reads: ``pages`` of the native core, its ``native`` step, or ``torch``.
    """

    answers_later = True
    reads_prompts_whole = True

    def __init__(
        self,
        open_pool: Callable[[], TextPool],
        context: int | None,
        precision: str,
        path: str,
    ) -> None:
        self.precision = precision
        self.context = context
        self.path = path
        self._open_pool = open_pool
        self._pool: TextPool | None = None
        # who is no longer waited for, its text having ended, is not answered
        self._waiting: list[weakref.ref[Later]] = []

    @property
    def pool(self) -> TextPool:
        """What reads, made when it is first needed."""
        if self._pool is None:
            self._pool = self._open_pool()
        return self._pool

    def read_prompt(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Begin a text with tokens (1, T): scores of the next (1, V), and the text."""
        assert state is None
        text, scores = self.pool.read(tokens[0].tolist())
        return scores, text

    def step(self, tokens: Tensor, text: Any) -> tuple[Later, Any]:
        """Ask for what follows one more token (1,) of a text."""
        later = Later(self, text, int(tokens))
        self._waiting.append(weakref.ref(later))
        return later, text

    def unroll(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Refuse: guesses of a draft are checked for one text at a time."""
        raise NotImplementedError("a draft is for one text at a time")

    def forget(self) -> None:
        """Forget who waited where a call failed."""
        self._waiting.clear()

    def answer(self) -> None:
        """Answer all that wait."""
        answers = [reference() for reference in self._waiting]
        self._waiting = []
        waiting = [later for later in answers if later is not None]
        texts = [later.text for later in waiting]
        scores = self.pool.step(texts, [later.token for later in waiting])
        for row, later in enumerate(waiting):
            later.scores = scores[row : row + 1]
