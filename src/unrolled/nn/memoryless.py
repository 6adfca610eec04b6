"""The layer without memory: the same small network at every step.

Shapes: B rows, T steps, D input, H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.nn.dropout import check_probability
from unrolled.nn.layer import Layer, checked
from unrolled.nn.state import EmptyState, State
from unrolled.ops import recording
from unrolled.ops.masking import Lengths, zero_padding

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


class Memoryless(Layer):
    """A multi-layer perceptron at every step; step t sees nothing but step t.

    Args:
        input_size: D.
        hidden: H, the width of the hidden layers and of the output.
        layers: how many hidden layers; 0 hands x on as it is.
        activation: tanh, relu or gelu.
        dropout: after every hidden layer.

    Raises:
        ValueError: a size below 1, a probability outside [0, 1], an unknown activation.
    """

    def __init__(
        self,
        input_size: int,
        hidden: int = 128,
        layers: int = 1,
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if input_size < 1 or hidden < 1 or layers < 0:
            raise ValueError(
                "expected input_size and hidden of at least 1 and layers of at least 0, got "
                f"{input_size}, {hidden} and {layers}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"expected an activation out of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        check_probability("dropout", dropout)
        self.input_size = input_size
        self.output_size = hidden if layers else input_size
        stages: list[nn.Module] = []
        for layer in range(layers):
            width = input_size if layer == 0 else hidden
            stages += [
                nn.Linear(width, hidden),
                ACTIVATIONS[activation](),
                nn.Dropout(dropout),
            ]
        self.stages = nn.Sequential(*stages)

    def depths(self) -> list[list[nn.Parameter]]:
        """Return the weights of each hidden layer."""
        groups = [list(stage.parameters()) for stage in self.stages]
        return [group for group in groups if group]

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> EmptyState:
        return EmptyState(batch)

    def unroll(
        self, x: Tensor, state: State | None = None, lengths: Lengths | None = None
    ) -> tuple[Tensor, EmptyState]:
        lengths = self._check(x, lengths, state)
        checked(state, EmptyState, "layer none")
        # zeros go in too: padding of 1e30 would make infinite gradients, and 0 times those is nan
        y: Tensor = self.stages(zero_padding(x, lengths))
        observer = recording.observer(self, "none", 0)
        if observer is not None:
            y = recording.record_outputs(observer, y)
        return zero_padding(y, lengths), EmptyState(x.shape[0])

    def step(self, x: Tensor, state: State) -> tuple[Tensor, EmptyState]:
        self._check_step(x, state)
        checked(state, EmptyState, "layer none")
        return self.stages(x), EmptyState(x.shape[0])
