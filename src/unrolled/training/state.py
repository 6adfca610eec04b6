"""What a training changes, and the checkpoint that holds all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from unrolled.nn.state import State, pack, unpack
from unrolled.training import optimizers, parallel, sharding
from unrolled.training.averaging import Average, Weights
from unrolled.training.checkpoints import Checkpoint, under
from unrolled.training.freezing import Unfreezing
from unrolled.training.guards import Guard
from unrolled.training.job import Position, TrainingJob
from unrolled.training.losses import pack_losses, unpack_losses
from unrolled.training.objectives import Loss

Tensors = dict[str, Tensor]


class TrainingState:
    """The mutable part of a run: weights, optimizer, average, carried state, guard, position.

    After ``restore`` of what ``to_checkpoint`` returned, the next step is the one that would have
    come, bit for bit.

    Attributes:
        unfreezing: which weights are trained when.
        carry: what the last window handed to the next one, of the rows that this process reads.
        has_own_rows: whether these are rows of its own; where there are fewer rows than processes
            the others read along, and what they carry counts for nothing.
        pending: the losses since the last report.
        best: the weights with the best dev score, None before the first evaluation.
    """

    def __init__(self, job: TrainingJob) -> None:
        model = job.model
        settings = job.settings
        self.job = job
        self.position = Position()
        depths = job.depths
        self.unfreezing = Unfreezing(model, depths, settings)
        self.optimizer = optimizers.build_optimizer(model, settings, depths)
        self.average = Average(model, settings)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.guard = Guard()
        self.carry: State | None = None
        self.has_own_rows = True
        self.pending: list[Loss] = []
        self.best: Weights | None = None

    def is_finite(self) -> bool:
        """Whether every weight is finite; asked before anything is kept."""
        weights = [parameter.detach() for parameter in self.parameters]
        # one number, and one wait for the device: the norm is finite where all of them are
        norm = torch.nn.utils.get_total_norm(weights)
        return math.isfinite(float(sharding.whole(norm)))

    def own_tensors(self) -> Tensors:
        """Return what is of this process alone: random states, and the state it carries."""
        device = self.job.compute_device.device
        tensors = {"random.cpu": torch.get_rng_state()}
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        if self.carry is not None and self.has_own_rows:
            carry = pack(self.carry)
            for name, tensor in carry.items():
                tensors[f"carry.{name}"] = tensor.cpu()
        return tensors

    def to_checkpoint(self, owned: Sequence[Tensors]) -> Checkpoint:
        """Return all of the state; where weights are divided, all processes must come here.

        Only what the first one returns is whole then.

        Args:
            owned: the ``own_tensors`` of each process, in their order.
        """
        job = self.job
        slots, groups = optimizers.to_tensors(self.optimizer)
        tensors = under("model", job.model.state_dict())
        tensors |= under("optimizer", slots)
        tensors |= under("average", self.average.to_tensors())
        tensors |= parallel.merged(owned)
        tensors |= under("best", self.best or {})
        if self.pending:
            tensors |= under("pending", pack_losses(self.pending))
        if job.sharded:
            tensors = sharding.whole_tensors(tensors, job.world.first)
        values: dict[str, Any] = {
            "position": asdict(self.position),
            "groups": groups,
            "guard": asdict(self.guard),
            "processes": job.world.size,
            "begun": job.begun,
        }
        return Checkpoint(self.position.step, tensors, values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint holds."""
        job = self.job
        weights = checkpoint.group("model")
        best = checkpoint.group("best")
        if job.sharded:
            weights = sharding.like_weights(job.model, weights)
            best = sharding.like_weights(job.model, best)
        job.model.load_state_dict(weights)
        values = checkpoint.state
        self.position = Position(**values["position"])
        # a checkpoint of before the guards has none
        new_guard = {"good": self.position.step}
        self.guard = Guard(**values.get("guard", new_guard))
        slots = checkpoint.group("optimizer")
        optimizers.from_tensors(self.optimizer, slots, values["groups"])
        self.average.from_tensors(checkpoint.group("average"))
        self._restore_own(checkpoint)
        self.best = best or None
        self.pending = unpack_losses(checkpoint.group("pending"))

    def _restore_own(self, checkpoint: Checkpoint) -> None:
        """Take up the random states of this process and its rows of the carried state."""
        job = self.job
        world = job.world
        device = job.compute_device.device
        random = checkpoint.group("random")
        states = parallel.random_states(random, world.rank)
        if world.rank and "cpu" not in states:
            # fewer processes trained before
            parallel.seeded(job.seed, world.rank, checkpoint.step)
        else:
            torch.set_rng_state(states["cpu"])
        if "cuda" in states and device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
        carried = checkpoint.group("carry")
        self.carry = None
        self.has_own_rows = True
        if not carried:
            return
        here = {name: tensor.to(device) for name, tensor in carried.items()}
        carry = unpack(here)
        self.has_own_rows = world.rank < carry.rows
        if world.size > 1:
            rows = torch.arange(carry.rows, device=device)
            own_rows = rows[world.part(carry.rows)]
            carry = carry.reorder(own_rows)
        self.carry = carry
