"""Writing on: one token at a time through the step form, the state carried along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from unrolled.decoding.sampling import OUT, Sampling, choose

# called with the probabilities of all tokens (V,), before temperature and filters, and the choice
Observe = Callable[[Tensor, int], None]
CHUNK = 256  # tokens of a prompt read at once: memory stays constant however long it is


class Stepper(Protocol):
    """What decoding asks of a model: many tokens at once for the prompt, the step for the rest."""

    @property
    def context(self) -> int | None:
        """Positions the model can read; None is no limit."""
        ...

    def read_prompt(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read tokens (B, T); return scores of the next (B, V) and the state."""
        ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token a row (B,); return scores (B, V) and the state."""
        ...


def read(
    model: Stepper, tokens: Sequence[int], device: torch.device
) -> tuple[Tensor, Any]:
    """Read one sequence of tokens in chunks; return the last scores (1, V) and the state."""
    state: Any = None
    logits = torch.empty(0)
    for start in range(0, len(tokens), CHUNK):
        part = torch.tensor([list(tokens[start : start + CHUNK])], device=device)
        logits, state = model.read_prompt(part, state)
    return logits, state


class TokenReader:
    """Reads tokens one by one; where the model's context is full, reads the last half anew.

    Args:
        model: what reads.
        prompt: at least one token, read at once.
        device: where the model is.
        mark: the token that all the model has seen begins with; what is read anew begins with it
            too. None has none.
        notice: called with a sentence when the window slides for the first time.
    """

    def __init__(
        self,
        model: Stepper,
        prompt: Sequence[int],
        device: torch.device,
        notice: Callable[[str], None],
        mark: int | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self.notice = notice
        self.context = model.context
        self.has_slid = False
        self.mark = mark
        self.recent = list(prompt)
        self.logits = torch.empty(0)
        self.state: Any = None
        if self.context is not None and len(self.recent) > self.context:
            self._slide("the prompt is longer than")
        else:
            self._read()

    def feed(self, token: Tensor) -> None:
        """Read one more token (1,); ``logits`` (1, V) are then the scores of the next."""
        if self.context is None:
            self.logits, self.state = self.model.step(token, self.state)
            return
        full = len(self.recent) >= self.context
        self.recent.append(int(token))
        if full:
            self._slide("the text outgrew")
        else:
            self.logits, self.state = self.model.step(token, self.state)

    def _slide(self, reason: str) -> None:
        assert self.context is not None
        if not self.has_slid:
            self.notice(
                f"{reason} the model's context of {self.context} tokens; the window slides"
            )
            self.has_slid = True
        self.recent = self.recent[-max(1, self.context // 2) :]
        if self.mark is not None and len(self.recent) > 1:
            self.recent[0] = self.mark
        self._read()

    def _read(self) -> None:
        self.logits, self.state = read(self.model, self.recent, self.device)


@torch.no_grad()
def generate(
    model: Stepper,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    *,
    seed: int | None = None,
    ends: Sequence[int] = (),
    banned: Sequence[int] = (),
    device: torch.device | None = None,
    notice: Callable[[str], None] = lambda text: None,
    mark: int | None = None,
    observe: Observe | None = None,
) -> Iterator[int]:
    """Yield tokens that follow a prompt.

    Args:
        model: anything with ``unroll``, ``step`` and ``context``.
        prompt: at least one token.
        max_new_tokens: the most tokens yielded.
        sampling: how they are chosen.
        seed: equal seeds give equal texts; None draws from torch's own generator.
        ends: tokens that end the text; they are not yielded.
        banned: tokens never chosen.
        device: where the model is.
        notice: called with a sentence once when the text outgrows the model's context; then the
            model reads the last half of its context anew, each time the context is full.
        mark: the token that all the model was trained on begins with, and so what is read anew.
        observe: called before each token is yielded.

    Raises:
        ValueError: the prompt is empty.
    """
    if not prompt:
        raise ValueError(
            "the prompt holds no token; start it with the token that starts a text"
        )
    device = device or torch.device("cpu")
    generator = (
        torch.Generator(device=device).manual_seed(seed) if seed is not None else None
    )
    reader = TokenReader(model, prompt, device, notice, mark)
    said: Tensor | None = None
    if sampling.repetition_penalty != 1:
        said = torch.zeros_like(reader.logits, dtype=torch.bool)
        # the mark that stands before a text was not said: the end must not become unlikely
        said[:, [token for token in prompt if token not in ends]] = True
    for count in range(1, max_new_tokens + 1):
        reader.logits[:, list(banned)] = OUT
        token = choose(reader.logits, sampling, said, generator)
        if int(token) in ends:
            return
        if observe is not None:
            observe(reader.logits[0].float().softmax(dim=-1), int(token))
        yield int(token)
        if count == max_new_tokens:
            return
        if said is not None:
            said[:, token] = True
        reader.feed(token)
