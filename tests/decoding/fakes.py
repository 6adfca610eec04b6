"""A model that is a table: the scores after a history are looked up by a hash of all of it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from unrolled.decoding.back_pointers import length_penalty
from unrolled.decoding.search import Hypothesis, Search, search

START = 1
END = 0
PRIME = 10_007


@dataclass
class TableState:
    """Rows: a hash of what each has read, and its source. Given up, it says so when used."""

    hashes: Tensor
    log: list[int] = field(default_factory=list)
    used_up: bool = False

    @property
    def rows(self) -> int:
        return self.hashes.shape[0]

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        assert not self.used_up
        assert not keep
        assert rows.dtype == torch.int64
        self.used_up = True
        moved = rows != torch.arange(len(rows))
        self.log.append(int(moved.sum()))
        return type(self)(self.hashes[rows], self.log)


class Table:
    """Every history has its own scores, drawn once; what a row gets depends on nothing else."""

    def __init__(
        self, vocabulary: int, seed: int = 0, scale: float = 2.0, end: float = 0.0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.scores = torch.randn(
            PRIME, vocabulary, generator=generator, dtype=torch.float64
        )
        self.scores *= scale
        self.scores[:, END] += end
        self.vocabulary = vocabulary
        self.row_counts: list[int] = []  # rows of each step

    def start(self, sources: list[int]) -> TableState:
        return TableState(torch.tensor([17 * source + 5 for source in sources]))

    def step(self, tokens: Tensor, state: TableState) -> tuple[Tensor, TableState]:
        assert not state.used_up
        assert tokens.shape == (state.rows,)
        self.row_counts.append(state.rows)
        hashes = (state.hashes * 31 + tokens + 1) % PRIME
        return self.scores[hashes], TableState(hashes, state.log)

    def log_probabilities(self, source: int, tokens: list[int]) -> list[float]:
        """Return those of all tokens, read one after the other."""
        history = 17 * source + 5
        log_probs = []
        before = START
        for token in tokens:
            history = (history * 31 + before + 1) % PRIME
            log_probs.append(float(self.scores[history].log_softmax(0)[token]))
            before = token
        return log_probs


class Attending(Table):
    """A table that also says where it looks: at positions of its source, by the same hash."""

    steps = 6

    def __init__(
        self, vocabulary: int, seed: int = 0, scale: float = 2.0, end: float = 0.0
    ) -> None:
        super().__init__(vocabulary, seed, scale, end)
        generator = torch.Generator().manual_seed(seed + 1)
        table = 3 * torch.randn(
            PRIME, self.steps, generator=generator, dtype=torch.float64
        )
        table[:, 4:] = -math.inf  # padding
        self.weights = table.softmax(-1)

    def step_attending(
        self, tokens: Tensor, state: TableState
    ) -> tuple[Tensor, TableState, Tensor]:
        logits, state = self.step(tokens, state)
        return logits, state, self.attention_weights(state.hashes)

    def attention_weights(self, hashes: Tensor) -> Tensor:
        return self.weights[hashes]


def coverage(model: Attending, source: int, tokens: list[int], real: int) -> float:
    """Return equation 14 of Wu et al. 2016 over the first ``real`` positions."""
    history = 17 * source + 5
    seen = torch.zeros(model.steps, dtype=torch.float64)
    before = START
    for token in tokens:
        history = (history * 31 + before + 1) % PRIME
        seen += model.attention_weights(torch.tensor([history]))[0]
        before = token
    return float(seen[:real].clamp(max=1).log().sum())


def run(
    model: Any,
    sources: list[int],
    limit: int = 8,
    *,
    seed: int | None = None,
    **values: Any,
) -> list[list[Hypothesis]]:
    """Search with fields of ``Search`` and arguments of ``search`` mixed."""
    settings = {
        name: values.pop(name) for name in list(values) if name in Search.model_fields
    }
    limits = values.pop("limits", [limit] * len(sources))
    return search(
        model,
        model.start(sources),
        Search(**settings),
        start=START,
        end=END,
        limits=limits,
        seed=seed,
        **values,
    )


def everything(
    model: Table, source: int, limit: int, alpha: float = 0.0
) -> list[tuple[float, list[int]]]:
    """Return every answer that ends within ``limit`` with its score, best first."""
    words = [token for token in range(model.vocabulary) if token != END]
    answers = []
    for size in range(limit):
        for tokens in itertools.product(words, repeat=size):
            total = sum(model.log_probabilities(source, [*tokens, END]))
            answers.append((total / length_penalty(size + 1, alpha), list(tokens)))
    return sorted(answers, key=lambda pair: -pair[0])


def greedy(
    model: Table, source: int, limit: int, banned: tuple[int, ...] = ()
) -> list[int]:
    """Return what an argmax in a loop writes."""
    tokens: list[int] = []
    while len(tokens) < limit:
        scores = [
            model.log_probabilities(source, [*tokens, t])[-1]
            for t in range(model.vocabulary)
        ]
        for token in banned:
            scores[token] = -math.inf
        best = scores.index(max(scores))
        if best == END:
            break
        tokens.append(best)
    return tokens


def occurs(phrase: list[int], text: list[int]) -> bool:
    """Return whether a phrase stands somewhere in a text."""
    return any(
        text[i : i + len(phrase)] == phrase for i in range(len(text) - len(phrase) + 1)
    )
