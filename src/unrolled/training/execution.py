"""How the same updates are computed: with less memory, or by compiled code."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._functorch.config as functorch_config
from torch import nn

from unrolled.core.errors import UsageError
from unrolled.data.batches import Batch
from unrolled.nn.layer import Layer
from unrolled.training.objectives import Carry, Loss, Objective
from unrolled.training.settings import TrainingConfig


def check_execution(settings: TrainingConfig) -> None:
    """Refuse keys that exclude each other.

    Raises:
        UsageError: a step is to be compiled whose weights come and go.
    """
    if settings.compile and settings.shard:
        raise UsageError(
            "training.compile=true goes without training.shard=true, which gathers weights between "
            "the parts of a step; unset one"
        )
    if settings.compile and settings.checkpoint_activations:
        raise UsageError(
            "training.compile=true goes without training.checkpoint_activations=true: the compiler "
            "chooses by itself what it computes again; unset one"
        )


def checkpoint_activations(model: nn.Module) -> None:
    """Let the layers of a model run their blocks again in the backward pass.

    Raises:
        UsageError: no layer has blocks.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
    stacks = [layer for layer in layers if layer.has_blocks]
    if not stacks:
        raise UsageError(
            "training.checkpoint_activations=true is for layer=attention; recurrent layers keep "
            "less with a shorter training.window"
        )
    for stack in stacks:
        stack.checkpoint_activations = True


class CompiledObjective:
    """An objective that torch.compile has made code of; where it fails, the one it was made of.

    Shapes that change are compiled anew, up to torch's limit, and then run as they are.

    Args:
        objective: what is compiled.
        device: where it runs.
        say: takes the line that tells why it is not compiled.
    """

    def __init__(
        self, objective: Objective, device: torch.device, say: Callable[[str], None]
    ) -> None:
        self.objective = objective
        self.say = say
        self.compiled: Objective | None = None
        # it keeps pickles on the disk, and writing one ended the process (torch 2.13, on a CPU)
        functorch_config.enable_autograd_cache = False
        try:
            _try_compiler(device)
            self.compiled = torch.compile(objective)
        except Exception as error:  # of whatever the compiler is made of
            self._give_up(error)

    def __call__(self, model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        """Return the loss of a batch; see ``objectives``."""
        if self.compiled is not None:
            try:
                return self.compiled(model, batch, carry)
            except torch._dynamo.exc.TorchDynamoException as error:
                self.compiled = None
                self._give_up(error)
        return self.objective(model, batch, carry)

    def _give_up(self, error: Exception) -> None:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        self.say(
            f"training.compile: the step cannot be compiled here ({first.strip()[:160]}); it runs "
            "as it is"
        )


def _try_compiler(device: torch.device) -> None:
    """Compile a sum and its gradient, which takes seconds and fails without a compiler."""
    x = torch.ones(8, device=device, requires_grad=True)
    torch.compile(_sum_of_squares)(x).backward()


def _sum_of_squares(x: torch.Tensor) -> torch.Tensor:
    return (x * x).sum()
