"""What stands behind streams and native decoders: parts of a model that the native core steps.

The core reads weights past the modules. So it is asked first whether the modules would say what
their weights say, and weights are those of the moment they were packed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from unrolled.nn.layer import Layer
from unrolled.ops import mode, native

Layout = list[tuple[torch.Size, torch.dtype, str] | None]


class StepParts(ABC):
    """A layer, and what stands before and after it in a model, as one kind of stepper runs them.

    Attributes:
        steps: the class of layers whose own ``step`` the core takes over.
        heeds_autocast: whether torch would step them in another precision under autocast.
        layer: what carries the state.
    """

    steps: ClassVar[type[Layer]]
    heeds_autocast: ClassVar[bool]
    layer: Layer

    @abstractmethod
    def weights(self) -> Iterable[Tensor | None]:
        """Return all weights that a step follows from, in order; None where one is missing."""

    @abstractmethod
    def changes(self) -> Iterator[str]:
        """Yield what makes parts say something else than their weights do; empty where nothing."""

    def unfit(self) -> Iterator[str]:
        """Yield why the layer as it was built is none that is stepped so."""
        yield from ()

    @abstractmethod
    def unsupported(self, rows: int) -> Iterator[str]:
        """Yield why the core has no step for ``rows`` rows of unchanged parts."""

    def now(self) -> Self:
        """Return the same parts as they are now, some of them perhaps replaced in their model."""
        return self

    def layout(self) -> Layout:
        """Return what the core relies on when weights are packed again, weight by weight."""
        return [
            None if weight is None else (weight.shape, weight.dtype, weight.device.type)
            for weight in self.weights()
        ]

    def first_change(self) -> str:
        """Return the first of ``changes`` that says something; empty where none does."""
        return next(filter(None, self.changes()), "")


def why_not_native(parts: StepParts, rows: int = 1) -> str | None:
    """Return why the native core cannot step these parts for ``rows`` rows; None when it can."""
    return next(_reasons(parts, rows), None)


def _reasons(parts: StepParts, rows: int) -> Iterator[str]:
    """Yield why not, the first to be told first; a later one may rely on the earlier ones."""
    layer = type(parts.layer)
    if not issubclass(layer, parts.steps) or layer.step is not parts.steps.step:
        yield f"{layer.__name__} has no native step"
    yield from parts.unfit()
    change = parts.first_change()
    if change:
        yield f"the native core reads weights alone, and there is {change}"
    yield from parts.unsupported(rows)
    kinds = {weight[1:] for weight in parts.layout() if weight is not None}
    if kinds != {(torch.float32, "cpu")}:
        names = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        yield f"the native core packs torch.float32 on cpu, the weights are {names}"
    if parts.heeds_autocast and torch.is_autocast_enabled("cpu"):
        yield "autocast was asked for, and the native core would step in float32"
    if mode() == "reference":
        yield "ops.use('reference') was chosen"
    missing = native.missing()
    if missing:
        yield f"there is no native core: {missing}"


Parts = TypeVar("Parts", bound=StepParts)


class NativeStepper(ABC, Generic[Parts]):
    """Steps parts with the weights of the moment it was made, or of the last :meth:`refresh`.

    Args:
        parts: what is stepped; see :func:`why_not_native`.
    """

    noun: ClassVar[str]  # what messages call it

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._layout = parts.layout()

    @abstractmethod
    def _pack(self) -> None:
        """Pack the weights of the parts as they are now."""

    def refresh(self) -> None:
        """Take the weights as they are now.

        Raises:
            ValueError: they have other shapes than when it was made, or moved elsewhere.
        """
        self._parts = self._parts.now()
        change = self._parts.first_change()
        # what changed may have no weights to look at
        if change or self._parts.layout() != self._layout:
            raise ValueError(
                f"expected weights of the shapes, precision and device that the {self.noun} was "
                f"made with, got {change or 'others'}; make another {self.noun}"
            )
        self._pack()
