"""Weights, gradients and the optimizer's state divided among processes: FSDP2.

Rajbhandari et al. 2020 (ZeRO, stage 3), Zhao et al. 2023. Each process keeps its part of every
matrix. The weights of a unit, such as the products of a block of attention, are gathered before it
runs, forward and backward, and given up after it; all other weights are one unit, gathered from the
model's forward pass to the end of its backward pass. Gradients are summed into the parts as each
unit's backward pass ends, so that an exchange hides behind the next one.

Checkpoints hold whole tensors: they are gathered one at a time, and the first process keeps them in
its host's memory while it writes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError
from unrolled.nn.layer import Layer
from unrolled.training.parallel import ProcessGroup
from unrolled.training.precision import ComputeDevice
from unrolled.training.settings import TrainingConfig


def is_sharded(settings: TrainingConfig, world: ProcessGroup) -> bool:
    """Say whether weights are divided: one process by itself has all of them."""
    return settings.shard and world.size > 1


def check_shard(settings: TrainingConfig) -> None:
    """Refuse what cannot be divided.

    Raises:
        UsageError: the optimizer needs whole matrices.
    """
    if settings.shard and settings.optimizer == "adafactor":
        raise UsageError(
            "training.shard=true goes without training.optimizer=adafactor, whose averages "
            "over rows and columns need whole matrices; choose adamw, sgd or muon"
        )


def shard(model: nn.Module, compute_device: ComputeDevice, world: ProcessGroup) -> None:
    """Divide the weights of a model among all processes, in place, unit by unit.

    Whole weights stay where the model was built; a device holds one whole unit at a time.
    Under bf16 the units are gathered in bf16, in which their products are computed in any case, so
    that losses are those of one process; gradients are summed in fp32.
    """
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    # importing it takes longer than a small training
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        FSDPModule,
        MixedPrecisionPolicy,
        fully_shard,
    )

    mesh = init_device_mesh(compute_device.device.type, (world.size,))
    policy = MixedPrecisionPolicy()
    if compute_device.precision == "bf16":
        policy = MixedPrecisionPolicy(
            torch.bfloat16, torch.float32, cast_forward_inputs=False
        )
    for layer in list(model.modules()):
        if isinstance(layer, Layer):
            for unit in layer.shard_units():
                fully_shard(unit, mesh=mesh, mp_policy=policy)
    # objectives read the output weights after the model's forward pass
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # sums, which the loop divides by what was scored
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@contextlib.contextmanager
def gathered_outside_units(model: nn.Module) -> Iterator[None]:
    """Gather, for a block without gradients, what stands in no unit; afterwards it is given up.

    Otherwise weights that change next would not be seen.
    """
    sharded: Any = model
    sharded.unshard()
    try:
        yield
    finally:
        sharded.reshard()


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, as a view: all of it if not divided."""
    part = getattr(tensor, "_local_tensor", tensor)
    return part


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that is divided as a whole one, in all processes; others as they are."""
    divided: Any = tensor
    if hasattr(divided, "full_tensor"):
        return divided.full_tensor()
    return tensor


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Gather tensors one after another, in all processes; those that ``keep`` get them, on the CPU.

    The others get none.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if keep:
            kept[name] = gathered.cpu()
    return kept


def like(reference: Tensor, tensor: Tensor) -> Tensor:
    """Return a copy of a whole tensor on the device of another, divided as that one is."""
    copy = tensor.to(reference.device, copy=True)
    divided: Any = reference
    if not hasattr(divided, "full_tensor"):
        return copy
    from torch.distributed.tensor import distribute_tensor

    # all processes have the whole of it: nothing is sent
    parts = distribute_tensor(
        copy, divided.device_mesh, divided.placements, src_data_rank=None
    )
    # a part is a view, which would keep the whole
    return parts.clone()


def like_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of weights, divided as those of a model are.

    Raises:
        KeyError: the model has no such weight.
    """
    references = model.state_dict()
    return {name: like(references[name], weight) for name, weight in weights.items()}
