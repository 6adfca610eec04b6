"""Optimizers over two groups of weights: matrices, which decay, and the rest, which do not."""

from __future__ import annotations

import torch
from torch import nn

from unrolled.training.settings import TrainingConfig


def build_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov momentum.

    Biases, norms and embeddings of any rank below two are left out of the weight decay.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=1e-8,
        # one pass over memory instead of a dozen
        fused=all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained),
    )
