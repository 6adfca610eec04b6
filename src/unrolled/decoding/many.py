"""Many texts at once, all rows of a batch stepped together, with the log probability of each token.

Legend: B rows, T tokens of the longest prompt, V tokens of the vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unrolled.decoding.sampling import OUT, Sampling, choose

ROWS = 512  # texts that are written side by side
PATIENCE = 12  # steps before rows that have ended are left out
NOTHING = -1  # where no token was drawn


class ManyStepper(Protocol):
    """What steps rows that stand at lengths of their own."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Any, Any]:
        """Read one token a row (B,); return scores (B, V) and the state."""
        ...


class ManyReader(Protocol):
    """A model that reads prompts of several lengths at once."""

    @property
    def context(self) -> int | None:
        """Positions the model can read; None is no limit."""
        ...

    def read_prompts(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        """Read padded prompts (B, T); return scores of what follows each (B, V), and the state."""
        ...

    def stepper(self) -> ManyStepper:
        """Return what steps it."""
        ...


@dataclass(slots=True)
class WrittenText:
    """A text that was written.

    Attributes:
        tokens: its ids, without what ends it.
        log_probabilities: of each of them, and of what ends it, as they were drawn.
        ended: whether it ended itself, or was cut.
    """

    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    ended: bool = False

    def ids(self, end: int) -> list[int]:
        """Return all that was drawn."""
        return [*self.tokens, end] if self.ended else list(self.tokens)


@torch.no_grad()
def write_many(
    model: ManyReader,
    prompts: Sequence[Sequence[int]],
    most: int,
    sampling: Sampling,
    end: int,
    banned: Sequence[int] = (),
    seed: int | None = None,
    device: torch.device | None = None,
    rows: int = ROWS,
) -> list[WrittenText]:
    """Write on from each prompt, in the order of the prompts.

    Args:
        model: in evaluation mode.
        prompts: each of one token at least, shorter than the context.
        most: tokens of a text at most, its end included.
        sampling, seed: how they are drawn; without a seed from torch's own generator.
        end: the token that ends a text.
        banned: tokens that are never drawn.
        device: where the model computes.
        rows: texts that are written side by side.
    """
    device = device or torch.device("cpu")
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    # prompts of like length stand side by side
    order = sorted(
        range(len(prompts)),
        key=lambda row: len(prompts[row]),
    )
    written = [WrittenText() for _ in prompts]
    stepper = model.stepper()

    def draw(scores: Tensor) -> tuple[Tensor, Tensor]:
        allowed = scores.float()
        if banned:
            allowed = allowed.index_fill(
                1, torch.tensor(list(banned), device=device), OUT
            )
        tokens = choose(allowed, sampling, None, generator)
        logs = (allowed / (sampling.temperature or 1.0)).log_softmax(-1)
        return tokens, logs.gather(1, tokens[:, None])[:, 0]

    rooms = _rooms(prompts, most, model.context)
    # a text is cut where its own context ends, not where that of a longer one does
    for limit, group in itertools.groupby(order, rooms.__getitem__):
        alike = list(group)
        for first in range(0, len(alike), rows):
            chosen = alike[first : first + rows]
            _write_batch(
                model,
                stepper,
                [prompts[row] for row in chosen],
                [written[row] for row in chosen],
                limit,
                end,
                draw,
                device,
            )
    return written


def _rooms(
    prompts: Sequence[Sequence[int]], most: int, context: int | None
) -> list[int]:
    """Return how many tokens can be written on from each prompt."""
    rooms: list[int] = []
    for prompt in prompts:
        left = most if context is None else context - len(prompt)
        rooms.append(max(1, min(most, left)))
    return rooms


def padded(rows: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Return rows side by side (B, T), padded at the right, and their lengths (B,)."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    ids = torch.full(
        (len(rows), int(lengths.max())),
        pad,
        dtype=torch.int64,
    )
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(list(row), dtype=torch.int64)
    return ids, lengths


def _read(
    model: ManyReader, prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Any]:
    """Read prompts; one that is written on from several times is read once."""
    different = list(dict.fromkeys(map(tuple, prompts)))
    tokens, lengths = padded(different)
    scores, state = model.read_prompts(tokens.to(device), lengths.to(device))
    if len(different) == len(prompts):
        return scores, state
    numbers = {prompt: number for number, prompt in enumerate(different)}
    chosen = [numbers[tuple(prompt)] for prompt in prompts]
    rows = torch.tensor(chosen, device=device)
    return scores[rows], state.reorder(rows)


def _write_batch(
    model: ManyReader,
    stepper: ManyStepper,
    prompts: Sequence[Sequence[int]],
    written: list[WrittenText],
    most: int,
    end: int,
    draw: Callable[[Tensor], tuple[Tensor, Tensor]],
    device: torch.device,
) -> None:
    """Write the texts of one batch."""
    scores, state = _read(model, prompts, device)
    alive = np.arange(len(written))
    ended = np.zeros(len(written), dtype=bool)
    ids = np.full((len(written), most), NOTHING)
    logs = np.zeros((len(written), most))
    since = 0
    for number in range(most):
        drawn, drawn_logs = draw(scores)
        tokens = drawn.cpu().numpy()
        going_on = ~ended
        rows = alive[going_on]
        ids[rows, number] = tokens[going_on]
        logs[rows, number] = drawn_logs.cpu().numpy()[going_on]
        ended |= tokens == end
        count = int((~ended).sum())
        if not count or number == most - 1:
            break
        since += 1
        if since > PATIENCE and count <= len(alive) // 2:
            # rows that have ended cost as much as others, but so does a stream of fewer
            since = 0
            left = torch.from_numpy((~ended).nonzero()[0]).to(device)
            alive = alive[~ended]
            ended = ended[~ended]
            state = state.reorder(left)
            drawn = drawn[left]
        scores, state = stepper.step(drawn, state)
    counts = (ids != NOTHING).sum(1).tolist()
    columns = zip(written, counts, ids.tolist(), logs.tolist(), strict=True)
    for text, count, row_ids, row_logs in columns:
        text.ended = row_ids[count - 1] == end
        text.tokens = row_ids[: count - text.ended]
        text.log_probabilities = row_logs[:count]
