"""Optimizers over two groups of weights: matrices, which decay, and the rest, which do not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unrolled.nn.layer import Layer
from unrolled.training.settings import TrainingConfig

Groups = list[dict[str, Any]]


def build_optimizer(
    model: nn.Module, settings: TrainingConfig
) -> torch.optim.Optimizer:
    """Return the optimizer that a recipe names.

    AdamW (Loshchilov and Hutter 2019); SGD with Nesterov momentum; Adafactor (Shazeer and Stern
    2018), whose learning rate is a share of a weight matrix's own size; Muon (Jordan et al. 2024,
    scaled to AdamW's learning rates as in Liu et al. 2025) for the matrices of layers, with AdamW
    for embeddings, output weights and the rest.

    Biases, norms and embeddings of any rank below two are left out of the weight decay.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    rate = settings.learning_rate
    decay = settings.weight_decay
    if settings.optimizer == "muon":
        inner = _inner_matrices(model)
        rest = [p for p in trained if id(p) not in inner]
        hidden = [
            {"params": [p for p in trained if id(p) in inner], "weight_decay": decay}
        ]
        return MuonAndAdamW(hidden, _groups(rest, decay), settings)
    groups = _groups(trained, decay)
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(
            groups, lr=rate, momentum=momentum, nesterov=momentum > 0
        )
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate)
    return _adamw(groups, settings)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon over some groups of weights and AdamW over others, as one optimizer.

    Either works on its part of this one's groups and state, so that both are saved as one.
    """

    def __init__(self, hidden: Groups, rest: Groups, settings: TrainingConfig) -> None:
        self.muon = None
        self.adamw = None
        groups: Groups = []
        if any(group["params"] for group in hidden):
            self.muon = torch.optim.Muon(
                hidden,
                lr=settings.learning_rate,
                momentum=settings.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
            groups += self.muon.param_groups
        if rest:
            self.adamw = _adamw(rest, settings)
            groups += self.adamw.param_groups
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one update; a closure is not called."""
        both: list[tuple[torch.optim.Optimizer | None, bool]]
        both = [(self.muon, True), (self.adamw, False)]
        for inner, own in both:
            if inner is not None:
                # anew each time: loading a state replaces both
                inner.state = self.state
                inner.param_groups = [
                    g for g in self.param_groups if ("ns_steps" in g) == own
                ]
                inner.step()


def to_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Groups]:
    """Return what an optimizer keeps of each weight, as ``NUMBER.NAME``, and its settings."""
    told = optimizer.state_dict()
    tensors = {
        f"{number}.{name}": value
        for number, slots in told["state"].items()
        for name, value in slots.items()
        if value is not None
    }
    kept = [{k: v for k, v in g.items() if k != "params"} for g in told["param_groups"]]
    return tensors, kept


def from_tensors(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], kept: Groups
) -> None:
    """Give an optimizer what ``to_tensors`` returned."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        slots.setdefault(int(number), {})[name] = value
    saved = optimizer.state_dict()["param_groups"]
    groups = [
        {**now, **then, "params": now["params"]}
        for now, then in zip(saved, kept, strict=True)
    ]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _groups(parameters: list[nn.Parameter], decay: float) -> Groups:
    groups: Groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adamw(groups: Groups, settings: TrainingConfig) -> torch.optim.AdamW:
    params = [p for group in groups for p in group["params"]]
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=1e-8,
        # one pass over memory instead of a dozen
        fused=all(
            p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in params
        ),
    )


def _inner_matrices(model: nn.Module) -> set[int]:
    """Return the ids of the matrices of layers, tables of positions left out."""
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    tables = [
        m for layer in layers for m in layer.modules() if isinstance(m, nn.Embedding)
    ]
    left_out = {id(p) for table in tables for p in table.parameters()}
    inside = [p for layer in layers for p in layer.parameters() if p.dim() == 2]
    return {id(p) for p in inside} - left_out
