"""One update of the weights: gradients of some batches, added up, looked at and taken."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unrolled.data.examples import Ints
from unrolled.nn.state import State
from unrolled.training import optimizers, parallel, sharding
from unrolled.training.execution import CompiledObjective
from unrolled.training.job import TrainingJob
from unrolled.training.losses import on_host
from unrolled.training.objectives import Loss
from unrolled.training.state import TrainingState


@dataclass(slots=True)
class Accumulated:
    """What the backward passes of a step leave beside the gradients.

    Attributes:
        carry: the state to go on from if the step is not made.
        losses: of each batch, without their graphs.
        rows: those that this process read for itself.
        tokens: how many they have.
    """

    carry: State | None
    losses: list[Loss] = field(default_factory=list)
    rows: list[Ints] = field(default_factory=list)
    tokens: int = 0


class Updater:
    """Makes the updates of a training."""

    def __init__(self, job: TrainingJob, state: TrainingState) -> None:
        self.job = job
        self.state = state
        self.objective = job.objective
        if job.settings.compile:
            device = job.compute_device.device
            self.objective = CompiledObjective(job.objective, device, job.progress.say)

    def accumulate(self, indices: range) -> Accumulated:
        """Add up the gradients of batches of the epoch, with the state carried through them."""
        job = self.job
        state = self.state
        epoch = state.position.epoch
        accumulated = Accumulated(state.carry)
        for index in indices:
            batch, state.has_own_rows = job.world.shard(job.source, epoch, index)
            if batch.restart:
                accumulated.carry = None  # the state of another part of the text
            if state.has_own_rows:
                # counted on the host, where it is no wait for the device
                accumulated.tokens += batch.steps
                accumulated.rows.append(batch.rows)
            batch = batch.to(job.compute_device.device)
            with job.compute_device.autocast():
                loss = self.objective(job.model, batch, state.carry)
            if not state.has_own_rows:
                loss = parallel.for_nothing(loss)
            loss.sum.backward()
            state.carry = loss.carry
            accumulated.losses.append(detached(loss))
        return accumulated

    def update(self, losses: list[Loss]) -> str:
        """Divide the summed gradients by the global count, clip them and move the weights.

        Loss and norm are looked at before the weights move: one wait for the device a step.

        Returns:
            Why the weights were left as they are, else an empty text.
        """
        state = self.state
        settings = self.job.settings
        sums = [loss.sum for loss in losses]
        count = sum(loss.count for loss in losses[1:]) + losses[0].count
        # weights of labels may count less than 1, and nothing scored is no update
        scale: Tensor | float
        if self.job.compute_device.device.type == "cpu":
            scale = 1.0 / (float(count) or 1.0)
        else:
            # a number on the host is a wait for the device, and one a step is enough
            scale = 1.0 / torch.where(count > 0, count, 1)
        gradients = [p.grad for p in state.parameters if p.grad is not None]
        torch._foreach_mul_(list(map(sharding.own_part, gradients)), scale)
        if settings.clip is not None:
            norm = nn.utils.clip_grad_norm_(state.parameters, settings.clip)
        else:
            norm = nn.utils.get_total_norm(gradients)
        norm = sharding.whole(norm)
        *host_sums, host_norm, host_scale = on_host(*sums, norm, scale)
        mean_loss = host_scale * sum(host_sums)
        reason = state.guard.reason_to_skip(mean_loss, host_norm, settings.spike)
        if reason:
            state.guard.skip()
        else:
            state.guard.made(mean_loss)
            optimizers.update(state.optimizer)
            state.average.after_step()
        state.optimizer.zero_grad(set_to_none=True)
        return reason


def detached(loss: Loss) -> Loss:
    """Return a loss without its graph, and without the state, which is carried elsewhere."""
    logs = {
        name: (total.detach(), count.detach())
        for name, (total, count) in loss.logs.items()
    }
    return Loss(loss.sum.detach(), loss.count.detach(), None, logs)
