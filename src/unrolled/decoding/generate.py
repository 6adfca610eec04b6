"""Writing on: one token at a time through the step form, the state carried along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from unrolled.decoding.sampling import OUT, Sampling, choose

CHUNK = 256  # tokens of a prompt read at once: memory stays constant however long it is


class Stepper(Protocol):
    """What decoding asks of a model: the unrolled form for the prompt, the step for the rest."""

    @property
    def context(self) -> int | None:
        """Positions the model can read; None is no limit."""
        ...

    def unroll(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read tokens (B, T); return scores (B, T, V) and the state."""
        ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token a row (B,); return scores (B, V) and the state."""
        ...


def read(model: Stepper, tokens: Sequence[int], device: torch.device) -> tuple[Tensor, Any]:
    """Read one sequence of tokens in chunks; return the last scores (1, V) and the state."""
    state: Any = None
    logits = torch.empty(0)
    for start in range(0, len(tokens), CHUNK):
        part = torch.tensor([list(tokens[start : start + CHUNK])], device=device)
        logits, state = model.unroll(part, state)
    return logits[:, -1], state


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
        notice: called with a sentence once when the text outgrows the model's context. Then the
            model reads the last half of its context anew and goes on, as it must again each time
            the context is full.

    Raises:
        ValueError: the prompt is empty.
    """
    if not prompt:
        raise ValueError("the prompt holds no token; start it with the token that starts a text")
    device = device or torch.device("cpu")
    generator = torch.Generator(device=device).manual_seed(seed) if seed is not None else None
    context = model.context
    recent = list(prompt)
    if context is not None and len(recent) > context:
        notice(f"the prompt is longer than the model's context of {context} tokens; its end is read")
        recent = recent[-max(1, context // 2) :]
    logits, state = read(model, recent, device)
    held = len(recent)
    said = torch.zeros_like(logits, dtype=torch.bool) if sampling.repetition_penalty != 1 else None
    if said is not None:
        said[:, list(prompt)] = True
    told = False
    for made in range(max_new_tokens):
        if banned:
            logits[:, list(banned)] = OUT
        token = choose(logits, sampling, said, generator)
        value = int(token)
        if value in ends:
            return
        yield value
        if made + 1 == max_new_tokens:
            return
        if said is not None:
            said[:, value] = True
        if context is None:
            logits, state = model.step(token, state)
            continue
        recent = [*recent, value][-context:]
        if held == context:
            if not told:
                notice(f"the text outgrew the context of {context} tokens; the window slides")
                told = True
            recent = recent[-max(1, context // 2) :]
            logits, state = read(model, recent, device)
            held = len(recent)
        else:
            logits, state = model.step(token, state)
            held += 1
