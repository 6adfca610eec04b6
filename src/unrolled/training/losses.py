"""Sums of losses: as numbers, as means to log, as tensors of a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.training.objectives import Logs, Loss


def on_host(*values: Tensor | float) -> list[float]:
    """Return tensors as numbers, after one wait for the device they are on."""
    if all(isinstance(value, float) or value.is_cpu for value in values):
        return [float(value) for value in values]
    tensors = [torch.as_tensor(value).detach().float() for value in values]
    return torch.stack(tensors).tolist()


def mean_logs(losses: list[Loss]) -> dict[str, float]:
    """Return the mean loss, and the mean of everything else that the objective logs."""
    sums: dict[str, list[float]] = {}
    for loss in losses:
        logs = {"loss": (loss.sum, loss.count), **loss.logs}
        for name, (total, count) in logs.items():
            both = sums.setdefault(name, [0.0, 0.0])
            both[0] += float(total)
            both[1] += float(count)
    return {name: total / (count or 1.0) for name, (total, count) in sums.items()}


def pack_losses(losses: list[Loss]) -> dict[str, Tensor]:
    """Return losses as tensors (N, 2) of sums and counts: row i of each is that of losses[i]."""
    names = set[str]()
    for loss in losses:
        names |= loss.logs.keys()
    device = losses[0].sum.device
    # of a loss that does not log what others do
    nothing = (torch.zeros(()), torch.zeros(()))

    def column(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        numbers: list[Tensor] = []
        for total, count in pairs:
            numbers.append(total.to(device, torch.float64))
            numbers.append(count.to(device, torch.float64))
        return torch.stack(numbers).view(-1, 2)

    packed = {"": column([(loss.sum, loss.count) for loss in losses])}
    for name in names:
        packed[name] = column([loss.logs.get(name, nothing) for loss in losses])
    return packed


def unpack_losses(tensors: dict[str, Tensor]) -> list[Loss]:
    """Return the losses that ``pack_losses`` wrote."""
    logged = {name: rows for name, rows in tensors.items() if name}
    losses: list[Loss] = []
    for index, (total, count) in enumerate(tensors.get("", [])):
        logs: Logs = {}
        for name, rows in logged.items():
            logs[name] = (rows[index][0], rows[index][1])
        losses.append(Loss(total, count, None, logs))
    return losses
