"""Updates equal the formulas of the papers, and only matrices decay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.test_loop import classifier, job, language, left, same, stream, texts
from unrolled.data.batches import Buckets
from unrolled.models import LanguageModel, ManyToOne
from unrolled.training.loop import fit
from unrolled.training.objectives import classes, next_token
from unrolled.training.optimizers import MuonAndAdamW, build_optimizer
from unrolled.training.settings import TrainingConfig

GRADS = 6


class Two(nn.Module):
    """A matrix, a bias and a frozen matrix."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(
            torch.randn(3, 2, generator=generator, dtype=torch.float64)
        )
        self.bias = nn.Parameter(
            torch.randn(3, generator=generator, dtype=torch.float64)
        )
        self.frozen = nn.Parameter(
            torch.ones(2, 2, dtype=torch.float64), requires_grad=False
        )


def gradients(like: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(like.shape, generator=generator, dtype=like.dtype)
        for _ in range(GRADS)
    ]


def adamw(value: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    """Loshchilov and Hutter 2019, algorithm 2."""
    rate = 0.01
    mean_decay = 0.8
    square_decay = 0.95
    eps = 1e-8
    m = torch.zeros_like(value)
    v = torch.zeros_like(value)
    for t, g in enumerate(grads, 1):
        m = mean_decay * m + (1 - mean_decay) * g
        v = square_decay * v + (1 - square_decay) * g * g
        step = (m / (1 - mean_decay**t)) / ((v / (1 - square_decay**t)).sqrt() + eps)
        value = value - rate * step - rate * decay * value
    return value


def sgd(value: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    """Nesterov momentum as Sutskever et al. 2013 in torch's form, with L2 decay."""
    rate = 0.01
    momentum = 0.7
    speed = torch.zeros_like(value)
    for g in grads:
        g = g + decay * value
        speed = momentum * speed + g
        value = value - rate * (g + momentum * speed)
    return value


def adafactor(value: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    """Shazeer and Stern 2018, algorithms 4 and 5, with the learning rate as the largest step."""
    rows = columns = v = torch.zeros((), dtype=value.dtype)
    for t, g in enumerate(grads, 1):
        kept = 1 - t**-0.8
        rate = min(0.01, t**-0.5) * max(1e-3, value.square().mean().sqrt())
        value = value - 0.01 * decay * value
        if g.dim() == 2:
            rows = kept * rows + (1 - kept) * g.square().sum(1)
            columns = kept * columns + (1 - kept) * g.square().sum(0)
            v = torch.outer(rows, columns) / rows.sum()
        else:
            v = kept * v + (1 - kept) * g.square()
        update = g / v.sqrt()
        value = value - rate * update / max(1.0, update.square().mean().sqrt())
    return value


FORMULAS = [("adamw", adamw), ("sgd", sgd), ("adafactor", adafactor)]


@pytest.mark.parametrize(("kind", "formula"), FORMULAS)
def test_updates_equal_the_formula(kind: str, formula: Callable[..., Tensor]) -> None:
    model = Two()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig.read(
        {
            "optimizer": kind,
            "learning_rate": 0.01,
            "beta1": 0.8,
            "beta2": 0.95,
            "momentum": 0.7,
            "weight_decay": 0.3,
        }
    )
    optimizer = build_optimizer(model, config)
    matrix = gradients(model.matrix, 1)
    bias = gradients(model.bias, 2)
    for matrix_gradient, bias_gradient in zip(matrix, bias, strict=True):
        model.matrix.grad = matrix_gradient.clone()
        model.bias.grad = bias_gradient.clone()
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


def test_muon_turns_momentum_into_a_rotation() -> None:
    model = classifier()
    config = TrainingConfig(
        optimizer="muon", learning_rate=0.01, momentum=0.8, weight_decay=0
    )
    optimizer = build_optimizer(model, config)
    weight = model.layer.get_parameter("weight_hh_l0")
    mean = torch.zeros_like(weight)
    for grad in gradients(weight, 3):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight.grad = grad.clone()
        before = weight.detach().clone()
        optimizer.step()
        # Nesterov momentum, then the nearest orthogonal matrix, times 0.2 sqrt(larger side)
        mean = 0.8 * mean + 0.2 * grad
        left_, _, right = torch.linalg.svd(0.2 * grad + 0.8 * mean, full_matrices=False)
        moved = (before - weight.detach()) / (0.01 * 0.2 * max(weight.shape) ** 0.5)
        turned = left_.T @ moved @ right.T
        # five steps of Newton-Schulz in bf16 leave singular values between 0.5 and 1.5
        assert ((turned.diagonal() > 0.5) & (turned.diagonal() < 1.5)).all()
        assert (turned - turned.diagonal().diag()).abs().max() < 0.05


def newton_schulz(matrix: Tensor) -> Tensor:
    """Jordan et al. 2024: five steps of an odd polynomial that draw singular values towards 1."""
    x = matrix.double()
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(12, 12), (8, 24), (24, 8)])
def test_muons_updates_are_those_of_its_paper_in_fp64(shape: tuple[int, int]) -> None:
    rate = 0.01
    decay = 0.1
    momentum = 0.9
    weight = nn.Parameter(
        torch.randn(shape, generator=torch.Generator().manual_seed(0))
    )
    settings = TrainingConfig(
        optimizer="muon", learning_rate=rate, momentum=momentum, weight_decay=decay
    )
    group = {"params": [weight], "weight_decay": decay}
    optimizer = MuonAndAdamW([group], [], settings)
    mean = torch.zeros(shape, dtype=torch.float64)
    # scaled to the size of AdamW's updates (Liu et al. 2025, section 2.2)
    size = rate * 0.2 * max(shape) ** 0.5
    for grad in gradients(weight, 4):
        weight.grad = grad.clone()
        before = weight.detach().double()
        optimizer.step()
        mean = momentum * mean + (1 - momentum) * grad
        step = newton_schulz((1 - momentum) * grad + momentum * mean)
        value = before * (1 - rate * decay) - size * step
        # torch's products are bf16, whose 8 bits round by 0.4%, fifteen of them one after another
        error = (weight.detach() - value).norm() / (size * step.norm())
        assert error < 0.025


@pytest.mark.parametrize("build", [classifier, lambda: language("attention")])
def test_muon_leaves_embeddings_output_weights_and_vectors_to_adamw(
    build: Callable[[], ManyToOne | LanguageModel],
) -> None:
    model = build()
    groups = build_optimizer(model, TrainingConfig(optimizer="muon")).param_groups
    by_muon = {
        id(p) for group in groups if "ns_steps" in group for p in group["params"]
    }
    names = {name for name, p in model.named_parameters() if id(p) in by_muon}
    matrices = {
        n
        for n, p in model.named_parameters()
        if p.dim() == 2 and n.startswith("layer.")
    }
    assert names == matrices
    assert names
    assert sum(len(group["params"]) for group in groups) == len(
        list(model.parameters())
    )


def test_muon_of_a_model_without_inner_matrices_is_adamw() -> None:
    by_muon = Two()
    by_adamw = Two()
    for model, kind in ((by_muon, "muon"), (by_adamw, "adamw")):
        optimizer = build_optimizer(model, TrainingConfig.read({"optimizer": kind}))
        model.matrix.grad = gradients(model.matrix, 1)[0]
        model.bias.grad = gradients(model.bias, 2)[0]
        optimizer.step()
    assert same(by_muon, by_adamw)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "adafactor", "muon"])
@pytest.mark.parametrize("scene", ["rows", "text"])
def test_every_optimizer_goes_on_with_the_same_bits(
    tmp_path: Path, kind: str, scene: str
) -> None:
    def run(folder: Path, seed: int, steps: int, resume: bool) -> None:
        model = (
            classifier(seed, 0.2) if scene == "rows" else language("attention", seed)
        )
        source = (
            Buckets(texts(40), 4, None, 2) if scene == "rows" else stream("attention")
        )
        objective = classes() if scene == "rows" else next_token(carry_state=False)
        training_job = job(
            folder,
            model,
            source,
            objective,
            optimizer=kind,
            max_steps=steps,
            learning_rate=0.01,
            weight_decay=0.1,
        )
        torch.manual_seed(seed)
        fit(training_job, resume)

    run(tmp_path / "straight", 0, 16, resume=False)
    run(tmp_path / "stopped", 0, 7, resume=False)
    run(tmp_path / "stopped", 90, 16, resume=True)
    (tensors, state, lines), (others, its_state, its_lines) = map(
        left, (tmp_path / "straight", tmp_path / "stopped")
    )
    # the rest of a run that had ended is scored and kept once more on the way
    assert (state["groups"], lines) == (its_state["groups"], its_lines)
    assert tensors.keys() == others.keys()
    assert any(name.startswith("optimizer.") for name in tensors)
    assert all(torch.equal(t, others[name]) for name, t in tensors.items())
