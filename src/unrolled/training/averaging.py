"""Averages of the weights, which generalise better than the last step's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from unrolled.nn.adapters import is_adapted
from unrolled.training import sharding
from unrolled.training.settings import TrainingConfig

Weights = dict[str, Tensor]
Snapshot = list[Tensor]  # in the order of what is averaged


def snapshot(model: nn.Module) -> Weights:
    """Return a copy of the model's weights and buffers; with adapters, of what is trained alone."""
    weights = model.state_dict(keep_vars=True)
    if is_adapted(model):
        # buffers, such as the statistics of batch norms, change with what is trained
        weights = {
            name: part
            for name, part in weights.items()
            if part.requires_grad or not isinstance(part, nn.Parameter)
        }
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def copied(parameters: Iterable[Tensor]) -> Snapshot:
    """Return copies of parameters, without gradients."""
    return [parameter.detach().clone() for parameter in parameters]


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return what the batch norms of a model that are trained keep of the images they have read."""
    kept: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad:
            for buffer in ("running_mean", "running_var"):
                kept[f"{name}.{buffer}"] = module.get_buffer(buffer)
    return kept


class Average:
    """No average, an exponential one (Polyak and Juditsky 1992), or that of the last k snapshots.

    ``ema`` follows every step; its early decay is held down, (1 + t) / (10 + t), so that the
    random start is forgotten quickly. ``last`` takes a snapshot at each evaluation. ``asgd`` is
    the mean over all steps since the dev score stopped to improve (NT-ASGD, Merity et al. 2018,
    algorithm 1).

    The statistics that batch norms keep are averaged with the weights: those of the last weights
    are not what averaged ones make of an image.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingConfig,
    ) -> None:
        self.kind = settings.average
        self.decay = settings.ema_decay
        self.size = settings.average_last
        self.live: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.live[name] = parameter
        self.live |= statistics(model)
        self.steps = 0
        # empty while there is no average yet
        self.mean: Snapshot = []
        if self.kind == "ema":
            self.mean = copied(self.live.values())
        self.history: list[Snapshot] = []
        self.patience = settings.average_after
        self.scores = list[float]()

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the weights after an update."""
        if not self.mean:
            return
        self.steps += 1
        early_decay = (1 + self.steps) / (10 + self.steps)
        decay = min(self.decay, early_decay)
        if self.kind == "asgd":
            decay = 1 - 1 / self.steps
        # statistics are whole where weights are divided
        live = [sharding.own_part(tensor.detach()) for tensor in self.live.values()]
        means = list(map(sharding.own_part, self.mean))
        torch._foreach_lerp_(means, live, 1 - decay)

    @torch.no_grad()
    def before_evaluation(self) -> None:
        """Take a snapshot, when the average is over the last evaluations."""
        if self.kind == "last":
            self.history.append(copied(self.live.values()))
            del self.history[: -self.size]

    def after_evaluation(self, score: float) -> None:
        """Take in the dev score, greater being better, and begin to average where it stagnates."""
        if self.kind != "asgd" or self.mean:
            return
        earlier = self.scores[: -self.patience]
        if earlier and score < max(earlier):
            self.mean = copied(self.live.values())
        self.scores.append(score)

    def weights(self) -> Snapshot | None:
        """Return the averaged weights, or None where there is nothing to average."""
        if self.kind in ("ema", "asgd") and self.steps:
            return self.mean
        if self.kind == "last" and self.history:
            means: Snapshot = []
            for versions in zip(*self.history, strict=True):
                means.append(torch.stack(versions).mean(0))
            return means
        return None

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Run a block with the averaged weights in the model; afterwards the live ones return."""
        mean = self.weights()
        if mean is None:
            yield
            return
        live = copied(self.live.values())
        self._put(mean)
        try:
            yield
        finally:
            self._put(live)

    @torch.no_grad()
    def _put(self, weights: Snapshot) -> None:
        for parameter, weight in zip(
            self.live.values(),
            weights,
            strict=True,
        ):
            parameter.copy_(weight)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all that the next step depends on."""
        tensors = {"steps": torch.tensor(self.steps)}
        if self.scores:
            tensors["scores"] = torch.tensor(
                self.scores,
                dtype=torch.float64,
            )
        kept = [self.mean] if self.mean else self.history
        for number, weights in enumerate(kept):
            for name, weight in zip(
                self.live,
                weights,
                strict=True,
            ):
                tensors[f"{number}.{name}"] = weight
        return tensors

    @torch.no_grad()
    def from_tensors(
        self,
        tensors: dict[str, Tensor],
    ) -> None:
        """Take up what ``to_tensors`` gave."""
        self.steps = int(tensors["steps"])
        self.scores = []
        if "scores" in tensors:
            self.scores = tensors["scores"].tolist()
        numbers = set[int]()
        for key in tensors:
            prefix, dot, _ = key.partition(".")
            if dot:
                numbers.add(int(prefix))
        kept: list[Snapshot] = []
        for number in sorted(numbers):
            weights: Snapshot = []
            for name, live in self.live.items():
                # earlier checkpoints have no statistics
                weight = tensors.get(
                    f"{number}.{name}",
                    live.detach(),
                )
                weights.append(sharding.like(live, weight))
            kept.append(weights)
        if self.kind in ("ema", "asgd"):
            self.mean = kept[0] if kept else []
        else:
            self.history = kept
