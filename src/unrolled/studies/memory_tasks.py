"""Tasks that nothing but memory solves: each generated, of any delay, never twice the same.

Shapes: B rows, T steps. Every task is drawn from a numpy generator alone, so that a batch is a
function of (seed, epoch, index), and one that is scored on is one that was never trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unrolled.data.batches import IGNORED, Batch, random
from unrolled.data.examples import Ints

SYMBOLS = 8  # of the delay and the copying task
COPIED = 10  # symbols that are copied (Arjovsky et al. 2016, section 4.1)
KINDS = 4  # of brackets
OUTER = 3  # brackets at most that stand open around the one that is asked for
DEPTH = 4  # of the brackets in between
TOLERANCE = 0.04  # of a sum (Hochreiter and Schmidhuber 1997, section 5.4)

Floats = NDArray[np.float32]
Drawn = tuple[Ints | Floats, Ints | Floats]  # inputs and targets
Draw = Callable[[np.random.Generator, int, int], Drawn]


@dataclass(frozen=True, slots=True)
class MemoryTask:
    """A generated task.

    Attributes:
        name: what it is called.
        what: a sentence that says what is asked.
        vocabulary: how many tokens there are; 0 where steps are two numbers.
        outputs: classes; 1 for a value.
        at_every_step: whether answers are asked at steps of their own, not once at the end.
        chance: the accuracy of the best answer that remembers nothing.
        draw: ``draw(generator, rows, delay)`` gives inputs (B, T) or (B, T, 2) and targets (B,)
            or (B, T).
    """

    name: str
    what: str
    vocabulary: int
    outputs: int
    at_every_step: bool
    chance: float
    draw: Draw

    def batch(self, rows: int, delay: int, *key: int) -> Batch:
        """Return ``rows`` sequences that depend on ``key`` alone."""
        inputs, targets = self.draw(random(*key), rows, delay)
        return Batch(
            torch.from_numpy(inputs),
            None,
            torch.from_numpy(targets),
            np.arange(rows),
        )


def draw_delay(generator: np.random.Generator, rows: int, delay: int) -> Drawn:
    """Return a symbol, noise, and a mark ``delay`` steps after it, where the symbol is asked."""
    tokens = generator.integers(SYMBOLS, 2 * SYMBOLS, (rows, delay + 1))
    tokens[:, 0] = generator.integers(0, SYMBOLS, rows)
    tokens[:, delay] = 2 * SYMBOLS
    return tokens, tokens[:, 0].copy()


def draw_copying(generator: np.random.Generator, rows: int, delay: int) -> Drawn:
    """Return ten symbols, ``delay`` steps of blanks of which the last is a mark, ten blanks.

    In the last ten steps the symbols are to be given back in order, each ``delay`` + 10 steps
    after it was read (Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, section 4.1).
    """
    symbols = generator.integers(0, SYMBOLS, (rows, COPIED))
    tokens = np.full((rows, delay + 2 * COPIED), SYMBOLS)
    tokens[:, :COPIED] = symbols
    tokens[:, COPIED + delay - 1] = SYMBOLS + 1
    targets = np.full_like(tokens, IGNORED)
    targets[:, -COPIED:] = symbols
    return tokens, targets


def draw_parentheses(generator: np.random.Generator, rows: int, delay: int) -> Drawn:
    """Return brackets of four kinds: which one, opened ``delay`` steps before the mark, is open?

    Up to ``OUTER`` brackets stand open around it, and what stands between is balanced, no deeper
    than ``DEPTH``: only who follows the nesting knows the innermost one that is still open.
    """
    between = _balanced(generator, rows, delay - 1)
    # blanks, then the open ones, of which the last is asked for
    head = generator.integers(0, KINDS, (rows, OUTER + 1))
    blanks = generator.integers(0, OUTER + 1, (rows, 1))
    answers = head[:, -1].copy()
    head[np.arange(OUTER + 1) < blanks] = 2 * KINDS
    mark = np.full((rows, 1), 2 * KINDS + 1)
    return np.concatenate([head, between, mark], 1), answers


def _balanced(generator: np.random.Generator, rows: int, length: int) -> Ints:
    """Return (B, length) balanced brackets, opened as 0 ... KINDS - 1; an odd rest is a blank."""
    tokens = np.full((rows, length), 2 * KINDS)
    stack = np.zeros((rows, DEPTH + 1), dtype=np.int64)
    depth = np.zeros(rows, dtype=np.int64)
    every = np.arange(rows)
    steps = length - length % 2
    kinds = generator.integers(0, KINDS, (steps, rows))
    coins = generator.random((steps, rows)) < 0.5
    for step in range(steps):
        left = steps - step
        opens = (depth == 0) | (coins[step] & (depth < DEPTH) & (depth < left))
        closing = stack[every, np.maximum(depth - 1, 0)]
        tokens[:, step] = np.where(opens, kinds[step], KINDS + closing)
        stack[every[opens], depth[opens]] = kinds[step][opens]
        depth += np.where(opens, 1, -1)
    return tokens


def draw_adding(generator: np.random.Generator, rows: int, delay: int) -> Drawn:
    """Return ``delay`` + 1 steps of a number from 0 to 1 and a mark; the sum of the two marked.

    One is marked in each half (Hochreiter and Schmidhuber 1997, section 5.4, as in Arjovsky et
    al. 2016, section 4.2).
    """
    length = delay + 1
    half = length // 2
    frames = np.zeros((rows, length, 2), dtype=np.float32)
    frames[:, :, 0] = generator.random((rows, length))
    every = np.arange(rows)
    first = generator.integers(0, half, rows)
    second = generator.integers(half, length, rows)
    frames[every, first, 1] = 1
    frames[every, second, 1] = 1
    sums = frames[every, first, 0] + frames[every, second, 0]
    return frames, sums


TASKS: dict[str, MemoryTask] = {
    task.name: task
    for task in (
        MemoryTask(
            "delay",
            "one of 8 symbols, then noise: which was it?",
            2 * SYMBOLS + 1,
            SYMBOLS,
            False,
            1 / SYMBOLS,
            draw_delay,
        ),
        MemoryTask(
            "copying",
            "ten of 8 symbols, then blanks: write them down in order",
            SYMBOLS + 2,
            SYMBOLS,
            True,
            1 / SYMBOLS,
            draw_copying,
        ),
        MemoryTask(
            "parentheses",
            "nested brackets of 4 kinds: which closes the innermost open one?",
            2 * KINDS + 2,
            KINDS,
            False,
            1 / KINDS,
            draw_parentheses,
        ),
        MemoryTask(
            "adding",
            "two of all numbers are marked: their sum, right within 0.04",
            0,
            1,
            False,
            # of a sum of two uniform numbers the most stand around 1
            1 - (1 - TOLERANCE) ** 2,
            draw_adding,
        ),
    )
}
