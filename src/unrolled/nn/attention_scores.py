"""How a recurrent decoder weighs the steps of its source.

Shapes: S sources, M steps of a source, Q queries of a source, B rows, H width of a query, W
features of a source's step, A width of the scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from unrolled.nn.attention import at_least_fp32
from unrolled.nn.memory import Memory
from unrolled.ops import recording


class Attend(nn.Module, ABC):
    """How a recurrent decoder weighs the steps of its source."""

    @abstractmethod
    def keys(self, memory: Tensor) -> Tensor:
        """Return what is compared with queries (S, M, A), made once a source."""

    @abstractmethod
    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return scores (S, Q, M) of queries (S, Q, H) against keys (S, M, A)."""

    def forward(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the source's steps (B, W) and the weights (B, M).

        Of T queries a row (B, T, H) it returns as many of each, (B, T, W) and (B, T, M).

        Args:
            query: (B, H), or (B, T, H).
            memory: keys (S, 1, M, A) and values (S, 1, M, W) of one block.
        """
        keys = memory.keys[0][:, 0]
        values = memory.values[0][:, 0]
        allowed = memory.allowed(keys.shape[1])
        steps = 1 if query.dim() == 2 else query.shape[1]
        rows = memory.rows_per_source
        queries = query.reshape(len(query), steps, query.shape[-1])
        if rows:
            # the rows of a source are its queries, so that no key is copied for them
            queries = queries.reshape(-1, rows * steps, queries.shape[2])
        else:
            keys = memory.gather_rows(keys)
            values = memory.gather_rows(values)
            allowed = None if allowed is None else memory.gather_rows(allowed)
        scores = at_least_fp32(self.scores(queries, keys))
        if allowed is not None:
            masked = ~allowed[:, None]
            scores = scores.masked_fill(masked, -torch.inf)
        weights = scores.softmax(-1)
        observer = recording.observer(self, "attention")
        if observer is not None:
            # one head, whose queries are the steps of the rows of a source
            observer.attended(weights[:, None])
        context = weights.to(values.dtype) @ values
        shape = query.shape[:-1]
        return context.reshape(*shape, -1), weights.reshape(*shape, -1)


class Additive(Attend):
    """``v tanh(W q + U h)`` (Bahdanau et al. 2015, section A.1.2)."""

    def __init__(self, query_size: int, memory_size: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, width, bias=False)
        self.key = nn.Linear(memory_size, width)
        self.score = nn.Linear(width, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        return self.key(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        queries = self.query(query)[:, :, None]
        pairs = queries + keys[:, None]
        return self.score(pairs.tanh()).squeeze(-1)


class Multiplicative(Attend):
    """``q W h`` (Luong et al. 2015, eq. 8, "general")."""

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory_size, query_size, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        return self.key(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return query @ keys.transpose(1, 2)
