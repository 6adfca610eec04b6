"""Updates equal the formulas of the papers, and only matrices decay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unrolled.training.optimizers import build_optimizer
from unrolled.training.settings import TrainingConfig

GRADS = 6


class Two(nn.Module):
    """A matrix, a bias and a frozen matrix."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(2, 2, dtype=torch.float64), requires_grad=False)


def gradients(like: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(like.shape, generator=generator, dtype=like.dtype) for _ in range(GRADS)]


def adamw(value: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    """Loshchilov and Hutter 2019, algorithm 2."""
    rate, one, two, eps = 0.01, 0.8, 0.95, 1e-8
    m, v = torch.zeros_like(value), torch.zeros_like(value)
    for t, g in enumerate(grads, 1):
        m, v = one * m + (1 - one) * g, two * v + (1 - two) * g * g
        step = (m / (1 - one**t)) / ((v / (1 - two**t)).sqrt() + eps)
        value = value - rate * step - rate * decay * value
    return value


def sgd(value: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    """Nesterov momentum as Sutskever et al. 2013 in torch's form, with L2 decay."""
    rate, momentum, speed = 0.01, 0.7, torch.zeros_like(value)
    for g in grads:
        g = g + decay * value
        speed = momentum * speed + g
        value = value - rate * (g + momentum * speed)
    return value


@pytest.mark.parametrize(("kind", "formula"), [("adamw", adamw), ("sgd", sgd)])
def test_updates_equal_the_formula(kind: str, formula: Callable[..., Tensor]) -> None:
    model = Two()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told = TrainingConfig.read(
        {
            "optimizer": kind, "learning_rate": 0.01, "beta1": 0.8, "beta2": 0.95,
            "momentum": 0.7, "weight_decay": 0.3,
        }
    )  # fmt: skip
    optimizer = build_optimizer(model, told)
    matrix, bias = gradients(model.matrix, 1), gradients(model.bias, 2)
    for one, two in zip(matrix, bias, strict=True):
        model.matrix.grad, model.bias.grad = one.clone(), two.clone()
        optimizer.step()
    # fp64, six updates
    close = {"rtol": 1e-12, "atol": 1e-14}
    expected = formula(before["matrix"], matrix, 0.3)
    torch.testing.assert_close(model.matrix.detach(), expected, **close)
    expected = formula(before["bias"], bias, 0.0)
    torch.testing.assert_close(model.bias.detach(), expected, **close)
    assert torch.equal(model.frozen, before["frozen"])


def test_sgd_without_momentum() -> None:
    model = Two()
    before = model.bias.detach().clone()
    optimizer = build_optimizer(
        model, TrainingConfig(optimizer="sgd", momentum=0, learning_rate=0.5)
    )
    model.bias.grad = torch.ones_like(model.bias)
    optimizer.step()
    torch.testing.assert_close(model.bias.detach(), before - 0.5, rtol=1e-15, atol=0)


def test_a_model_without_matrices_has_no_empty_group() -> None:
    model = Two()
    model.matrix.requires_grad_(False)
    groups = build_optimizer(model, TrainingConfig()).param_groups
    assert [len(group["params"]) for group in groups] == [1]
    assert groups[0]["weight_decay"] == 0.0
