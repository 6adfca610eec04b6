"""Averages of the weights, which generalise better than the last step's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unrolled.training.settings import TrainingConfig

Weights = dict[str, Tensor]


def snapshot(model: nn.Module) -> Weights:
    """Return a copy of the model's weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class Average:
    """No average, an exponential one (Polyak and Juditsky 1992), or that of the last k snapshots.

    ``ema`` follows every step; its early decay is held down, (1 + t) / (10 + t), so that the
    random start is forgotten quickly. ``last`` takes a snapshot at each evaluation. ``asgd`` is
    the mean over all steps since the dev score stopped to improve (NT-ASGD, Merity et al. 2018,
    algorithm 1).
    """

    def __init__(self, model: nn.Module, settings: TrainingConfig) -> None:
        self.kind = settings.average
        self.decay = settings.ema_decay
        self.size = settings.average_last
        self.live = [p for p in model.parameters() if p.requires_grad]
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.steps = 0
        self.mean = (
            [p.detach().clone() for p in self.live] if self.kind == "ema" else []
        )
        self.history: list[list[Tensor]] = []
        self.patience = settings.average_after
        self.scores = list[float]()

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the weights after an update."""
        if not self.mean:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        if self.kind == "asgd":
            decay = 1 - 1 / self.steps
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def before_evaluation(self) -> None:
        """Take a snapshot, when the average is over the last evaluations."""
        if self.kind == "last":
            self.history = [*self.history, [p.detach().clone() for p in self.live]][
                -self.size :
            ]

    def after_evaluation(self, score: float) -> None:
        """Take in the dev score, greater being better, and begin to average where it stagnates."""
        if self.kind != "asgd" or self.mean:
            return
        if len(self.scores) > self.patience and score < max(
            self.scores[: -self.patience]
        ):
            self.mean = [p.detach().clone() for p in self.live]
        self.scores.append(score)

    def weights(self) -> list[Tensor] | None:
        """Return the averaged weights, or None where there is nothing to average."""
        if self.kind in ("ema", "asgd") and self.steps:
            return self.mean
        if self.kind == "last" and self.history:
            return [
                torch.stack(column).mean(0)
                for column in zip(*self.history, strict=True)
            ]
        return None

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Run a block with the averaged weights in the model; afterwards the live ones return."""
        mean = self.weights()
        if mean is None:
            yield
            return
        kept = [p.detach().clone() for p in self.live]
        self._put(mean)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.live, values, strict=True):
            parameter.copy_(value)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all that the next step depends on."""
        tensors = {"steps": torch.tensor(self.steps)}
        if self.scores:
            tensors["scores"] = torch.tensor(self.scores, dtype=torch.float64)
        for slot, values in enumerate([self.mean] if self.mean else self.history):
            tensors |= {
                f"{slot}.{n}": v for n, v in zip(self.names, values, strict=True)
            }
        return tensors

    @torch.no_grad()
    def from_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up what ``to_tensors`` gave."""
        self.steps = int(tensors["steps"])
        self.scores = tensors["scores"].tolist() if "scores" in tensors else []
        slots = sorted({int(key.split(".", 1)[0]) for key in tensors if "." in key})
        live = list(zip(self.names, self.live, strict=True))
        read = [
            [tensors[f"{slot}.{n}"].to(p.device, copy=True) for n, p in live]
            for slot in slots
        ]
        if self.kind in ("ema", "asgd"):
            self.mean = read[0] if read else []
        else:
            self.history = read
