"""What layers go through at each step, for whoever asks to see it, and what is held meanwhile.

``with Recorder(names):`` records the layers that run inside the block, in this thread and task
alone. Recurrent layers then run on the equations of ``reference``, whose gates they are; attention
computes its weights, some queries at a time. Without a recorder nothing of this is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LONG = 1000  # steps; weights over more are recorded by spans
MANY = (
    2**20
)  # weights of a layer, if as many steps look; more are recorded by spans, too
SPANS = 200


@dataclass(frozen=True, slots=True)
class Hold:
    """What is held at one value at every step: a gate, or the state ``h`` or ``c``.

    Attributes:
        name: of the gate or state.
        value: what it is held at.
        unit: which unit alone; None holds all.
        layer: which layer alone, by its name; None holds those of all layers that have it.
    """

    name: str
    value: float
    unit: int | None = None
    layer: str | None = None

    def __str__(self) -> str:
        unit = "" if self.unit is None else f":{self.unit}"
        layer = "" if self.layer is None else f"{self.layer}."
        return f"{layer}{self.name}{unit}={self.value:g}"


class Observer(Protocol):
    """Takes in what one layer goes through, and holds what is to be held."""

    def held(self, name: str, value: Tensor) -> Tensor:
        """Return ``value`` (..., H), or what it is held at."""
        ...

    def record(self, steps: Sequence[dict[str, Tensor]]) -> None:
        """Take in the gates and states of some steps, each (B, H)."""
        ...

    def attended(self, weights: Tensor) -> None:
        """Take in the weights (B, heads, t, S) of the next t queries over S steps."""
        ...


@dataclass
class LayerRecord:
    """What one layer, in one direction, went through.

    Attributes:
        name: of the layer.
        cell: which equations.
        backward: whether it read from the end to the beginning.
        steps: gates and states of each step, each (B, H), in the order of the sequence.
        weights: attention weights (B, heads, t, S), some queries after others.
        span: how many steps stand behind each of the S, whose weights are summed.
        holds: what is held in it.
        applied: the holds that had something to hold.
        keeps: whether steps and weights are kept.
    """

    name: str
    cell: str
    backward: bool = False
    steps: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    span: int = 1
    holds: tuple[Hold, ...] = ()
    applied: set[Hold] = field(default_factory=set)
    keeps: bool = True

    def held(self, name: str, value: Tensor) -> Tensor:
        """Return ``value`` (..., H), or what it is held at.

        Raises:
            IndexError: a unit is held that the layer does not have.
        """
        for hold in self.holds:
            if hold.name != name:
                continue
            if hold.unit is None:
                value = torch.full_like(value, hold.value)
            else:
                units = value.shape[-1]
                if not 0 <= hold.unit < units:
                    raise IndexError(
                        f"unit {hold.unit} of {name} in {self.name}: it has {units} units, 0 to "
                        f"{units - 1}"
                    )
                value = value.clone()
                value[..., hold.unit] = hold.value
            self.applied.add(hold)
        return value

    def record(self, steps: Sequence[dict[str, Tensor]]) -> None:
        """Take in the gates and states of some steps."""
        if self.keeps:
            self.steps += steps

    def attended(self, weights: Tensor) -> None:
        """Take in the weights (B, heads, t, S) of the next queries; many of them by spans."""
        if not self.keeps:
            return
        read = weights.shape[-1]
        is_large = read > LONG or weights.shape[1] * read * read > MANY
        span = -(-read // SPANS) if is_large else 1
        self.span = span
        weights = weights.detach()
        if span > 1:
            weights = F.pad(weights, (0, -weights.shape[-1] % span))
            weights = weights.unflatten(-1, (-1, span)).sum(-1)
        self.weights.append(weights)


_recorder: ContextVar[Recorder | None] = ContextVar(
    "unrolled.ops.recorder", default=None
)


class Recorder:
    """Records the layers of a model while its block is open.

    Args:
        names: what the layers inside modules are called, by module.
        holds: what is held meanwhile.
        keeps: whether steps and weights are kept, and not only held.

    Attributes:
        layers: what each layer went through, in the order in which they first ran.
    """

    def __init__(
        self,
        names: Mapping[nn.Module, str],
        holds: Sequence[Hold] = (),
        keeps: bool = True,
    ) -> None:
        self.names = names
        self.keeps = keeps
        self.holds = tuple(holds)
        self._layers: dict[tuple[nn.Module, int | None, bool], LayerRecord] = {}
        self._tokens: list[Token[Recorder | None]] = []

    @property
    def layers(self) -> list[LayerRecord]:
        return list(self._layers.values())

    def __enter__(self) -> Recorder:
        self._tokens.append(_recorder.set(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _recorder.reset(self._tokens.pop())

    def observer(
        self, module: nn.Module, cell: str, index: int | None, backward: bool
    ) -> LayerRecord | None:
        """Return what takes in a layer of a module; None for one without a name."""
        if module not in self.names:
            return None
        key = (module, index, backward)
        if key not in self._layers:
            name = self.names[module]
            name = name if index is None else f"{name} {index + 1}"
            holds = tuple(h for h in self.holds if h.layer in (None, name))
            self._layers[key] = LayerRecord(
                name, cell, backward, holds=holds, keeps=self.keeps
            )
        return self._layers[key]


def observer(
    module: nn.Module, cell: str, index: int | None = None, backward: bool = False
) -> Observer | None:
    """Return what takes in a layer of a module that is about to run; None where nobody asks.

    Args:
        module: it.
        cell: which equations it follows.
        index: which of the module's layers it is; None where it is all of it.
        backward: whether it reads from the end.
    """
    if torch.compiler.is_compiling():
        return None
    recorder = _recorder.get()
    return (
        None if recorder is None else recorder.observer(module, cell, index, backward)
    )


def record_outputs(observer: Observer, y: Tensor) -> Tensor:
    """Record what a layer without a step of its own says, y (B, T, H), and return it.

    What is returned is made of the steps that are recorded, so that gradients of them are those of
    all that follows.
    """
    steps = observer.held("h", y).unbind(1)
    observer.record([{"h": h} for h in steps])
    return torch.stack(steps, 1)
