"""Sums of losses: as numbers, as means to log, as tensors of a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.training.objectives import Loss


def waited(*values: Tensor | float) -> list[float]:
    """Return tensors as numbers, after one wait for the device they are on."""
    if all(isinstance(value, float) or value.is_cpu for value in values):
        return [float(value) for value in values]
    return torch.stack(
        [torch.as_tensor(value).detach().float() for value in values]
    ).tolist()


def mean_logs(losses: list[Loss]) -> dict[str, float]:
    """Return the mean loss, and the mean of everything else that the objective logs."""
    sums: dict[str, list[float]] = {}
    for part in losses:
        for name, (total, count) in {
            "loss": (part.sum, part.count),
            **part.logs,
        }.items():
            both = sums.setdefault(name, [0.0, 0.0])
            both[0] += float(total)
            both[1] += float(count)
    return {name: total / (count or 1.0) for name, (total, count) in sums.items()}


def pack_losses(losses: list[Loss]) -> dict[str, Tensor]:
    """Return losses as tensors (N, 2) of sums and counts: row i of each is that of losses[i]."""
    names = {name for part in losses for name in part.logs}
    none = (torch.zeros(()), torch.zeros(()))

    def column(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        where = losses[0].sum.device
        numbers = [each.to(where, torch.float64) for pair in pairs for each in pair]
        return torch.stack(numbers).view(-1, 2)

    packed = {"": column([(part.sum, part.count) for part in losses])}
    return packed | {
        name: column([part.logs.get(name, none) for part in losses]) for name in names
    }


def unpack_losses(tensors: dict[str, Tensor]) -> list[Loss]:
    """Return the losses that ``pack_losses`` wrote."""
    named = {name: rows for name, rows in tensors.items() if name}
    return [
        Loss(
            row[0],
            row[1],
            None,
            {name: (rows[i][0], rows[i][1]) for name, rows in named.items()},
        )
        for i, row in enumerate(tensors.get("", []))
    ]
