"""What a stream runs: a layer alone, or with what stands before and after it in a model.

Shapes: B rows, D input features (or one token id a row), H outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from unrolled.nn.dropout import Dropout, LockedDropout
from unrolled.nn.embedding import TokenEmbedding
from unrolled.nn.forms import unlike
from unrolled.nn.layer import Layer
from unrolled.nn.state import State
from unrolled.nn.stepper import StepParts
from unrolled.ops import native


@dataclass(frozen=True, eq=False)
class StreamParts(StepParts, ABC):
    """What a stream runs: a layer alone, or with what stands before and after it in a model.

    Attributes:
        layer: what carries the state.
        embedding, dropout, head: what a model runs before and after it, if any.
        model: the model, whose own ``step``, if it has one, runs its hooks.
        kind: the class of models that run these parts one after the other.
        precisions: of packed weights, as the core has them for this class.
    """

    precisions: ClassVar[Mapping[str, int]] = native.PRECISIONS
    heeds_autocast = False
    layer: Layer
    embedding: nn.Module | None = None
    dropout: nn.Module | None = None
    head: nn.Module | None = None
    model: nn.Module | None = None
    kind: type[nn.Module] = nn.Module

    @classmethod
    def of_model(cls, model: Any, kind: type[nn.Module]) -> Self:
        """Return what a stream over a model of this kind runs."""
        embedding = model.embedding
        if type(embedding) is nn.Identity:
            embedding = None
        return cls(
            model.layer,
            embedding,
            model.dropout,
            model.head,
            model,
            kind,
        )

    def now(self) -> Self:
        if self.model is None:
            return self
        return self.of_model(self.model, self.kind)

    def modules(self) -> list[nn.Module]:
        """Return the parts that there are, the model aside."""
        parts = (self.layer, self.embedding, self.dropout, self.head)
        return [part for part in parts if part is not None]

    @abstractmethod
    def layer_changes(self) -> Iterator[str]:
        """Yield what makes the layer say something else than its weights do, empty where not."""

    def changes(self) -> Iterator[str]:
        yield from self.layer_changes()
        if self.embedding is not None:
            yield unlike(self.embedding, TokenEmbedding)
            for child in self.embedding.children():
                yield unlike(child, LockedDropout)
        if self.dropout is not None:
            yield unlike(self.dropout, nn.Dropout, Dropout)
        if self.head is not None:
            yield unlike(self.head, nn.Linear)
        if self.model is not None:
            yield unlike(self.model, self.kind)


def stream_room(parts: StreamParts, batch: int) -> tuple[Tensor, Tensor, State]:
    """Return a stream's input and output, and the state before its first step."""
    layer = parts.layer
    weights = chain.from_iterable(part.parameters() for part in parts.modules())
    first = next(weights, None)
    dtype = torch.float32 if first is None else first.dtype
    device = None if first is None else first.device
    width = layer.output_size
    if parts.head is not None:
        width = _head_width(parts.head, width, dtype, device)
    output = torch.zeros(batch, width, dtype=dtype, device=device)
    if parts.embedding is None:
        input = torch.zeros(
            batch,
            layer.input_size,
            dtype=dtype,
            device=device,
        )
    else:
        input = torch.zeros(batch, dtype=torch.int64, device=device)
    return input, output, layer.initial_state(batch)


def _head_width(head: nn.Module, size: int, dtype: torch.dtype, device: Any) -> int:
    """Return how many outputs a head of any class has, for ``size`` features."""
    if isinstance(head, nn.Linear):
        return head.out_features
    with torch.no_grad():
        zeros = torch.zeros(1, size, dtype=dtype, device=device)
        scores: Tensor = head(zeros)
    return scores.shape[-1]
