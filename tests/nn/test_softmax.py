"""The fused loss equals torch's cross entropy, and the sampled one estimates it without bias."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from unrolled.nn import softmax
from unrolled.nn.softmax import linear_cross_entropy, sampled_cross_entropy

N = 13
D = 6
V = 29


def given(kind: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((N, D), (V, D), (V,))
    x, weight, bias = (
        torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes
    )
    targets = torch.randint(V, (N,), generator=generator)
    targets[[0, 5, 12]] = -100
    first, second, third = (
        part.to(kind).requires_grad_() for part in (x, weight, bias)
    )
    return first, second, third, targets


def plain(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float
) -> Tensor:
    logits = F.linear(x, weight, bias)
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


@pytest.fixture(params=["whole", "parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows at once, or four at once of which two are normalised together."""
    if request.param == "parts":
        monkeypatch.setattr(softmax, "SCORES", 4 * V)
        monkeypatch.setattr(softmax, "CACHED", 2 * V)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fused_equals_cross_entropy(smoothing: float) -> None:
    x, weight, bias, targets = given()
    ours = linear_cross_entropy(x, weight, bias, targets, smoothing)
    theirs = plain(x, weight, bias, targets, smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    for factor in (1.0, 0.3):  # a gradient of 1 takes a short cut
        gradients = torch.autograd.grad(
            factor * ours, (x, weight, bias), retain_graph=True
        )
        expected = torch.autograd.grad(
            factor * theirs, (x, weight, bias), retain_graph=True
        )
        for gradient, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_equal_differences(smoothing: float) -> None:
    *weights, targets = given()
    assert torch.autograd.gradcheck(
        lambda x, w, b: linear_cross_entropy(x, w, b, targets, smoothing), weights
    )


@pytest.mark.usefixtures("parts")
def test_bf16_products_stay_within_their_rounding() -> None:
    x, weight, bias, targets = given(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, weight, bias, targets)
    assert loss.dtype == torch.float32
    loss.backward()
    exact = [part.detach().double().requires_grad_() for part in (x, weight, bias)]
    true = plain(*exact, targets, 0.0)  # type: ignore[call-arg]
    true.backward()
    real = (targets != -100).double()[:, None]
    with torch.no_grad():
        a, w, b = exact
        # x, weight and their product are each rounded by at most 2**-9 of themselves
        unit = 2.0**-9
        off = 3.01 * unit * (a.abs() @ w.abs().T).amax(1, keepdim=True)
        # a loss is a difference of two scores (log-sum-exp moves no more than its largest)
        assert abs(float(loss.detach() - true.detach())) <= float(
            (2 * off * real).sum()
        )
        # every probability moves by the factor exp(+-2 off); one more rounding each for the
        # gradients, the other factor, and the product
        law = torch.softmax(F.linear(a, w, b), 1) * real
        moved = law * (torch.exp(2 * off) - 1) + 3.1 * unit * (
            law + real * F.one_hot(targets.clamp(min=0), V)
        )
        bounds = (moved @ w.abs(), moved.T @ a.abs(), moved.sum(0))
        for part, other, bound in zip((x, weight, bias), exact, bounds, strict=True):
            assert part.grad is not None
            assert other.grad is not None
            assert part.grad.dtype == torch.float32
            assert ((part.grad - other.grad).abs() <= bound + 1e-6).all()


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation made."""

    size = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else (out,)
        sizes = [part.numel() for part in made if isinstance(part, Tensor)]
        self.size = max([self.size, *sizes])
        return out


def test_scores_are_never_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "SCORES", 5 * V)
    x, weight, bias, targets = given()
    with Largest() as ours:
        linear_cross_entropy(x, weight, bias, targets).backward()
    with Largest() as theirs:
        plain(x, weight, bias, targets, 0.0).backward()
    assert theirs.size == N * V
    assert ours.size == max(5 * V, V * D)


def test_nothing_to_score_is_zero_with_zero_gradients() -> None:
    x, weight, bias, targets = given()
    for rows in (N, 0):
        loss = linear_cross_entropy(
            x[:rows], weight, bias, torch.full_like(targets, -100)[:rows]
        )
        loss.backward()
        assert float(loss.detach()) == 0
        for part in (x, weight, bias):
            assert part.grad is not None
            assert not part.grad.any()


def test_without_gradients() -> None:
    x, weight, bias, targets = given()
    with torch.no_grad():
        loss = linear_cross_entropy(x, weight, bias, targets)
    assert not loss.requires_grad
    torch.testing.assert_close(
        loss, plain(x, weight, bias, targets, 0.0), rtol=1e-13, atol=0
    )


def test_as_many_candidates_as_classes_is_exact() -> None:
    x, weight, bias, targets = given()
    ours = sampled_cross_entropy(x, weight, bias, targets, V)
    torch.testing.assert_close(
        ours, plain(x, weight, bias, targets, 0.0), rtol=1e-13, atol=0
    )


def test_candidates_and_targets_that_are_all_classes_are_exact() -> None:
    # the most frequent half and the targets leave no class to draw
    _, weight, bias, _ = given()
    rows = torch.randn(V, D, dtype=weight.dtype)
    targets = torch.arange(V)
    ours = sampled_cross_entropy(rows, weight, bias, targets, V - 1)
    torch.testing.assert_close(
        ours, plain(rows, weight, bias, targets, 0.0), rtol=1e-13, atol=0
    )


def test_the_sample_estimates_the_normaliser_without_bias() -> None:
    x, weight, bias, _ = (part.detach() for part in given())
    targets = torch.full((N,), -100)
    # one of the frequent classes, one of the others
    targets[3] = 2
    targets[7] = 20
    torch.manual_seed(0)
    single = targets.clone()
    single[7] = -100
    scores = F.linear(x, weight, bias)
    draws = torch.stack(
        [sampled_cross_entropy(x, weight, bias, single, 8) for _ in range(1500)]
    )
    # the loss of a single row is log Z - score
    estimates = torch.exp(draws + scores[3, 2])
    true = torch.exp(scores[3]).sum()
    error = estimates.std() / math.sqrt(len(estimates))
    assert error < 0.03 * true
    assert abs(estimates.mean() - true) < 4 * error


def test_the_sample_holds_the_frequent_classes_and_every_target() -> None:
    x, weight, bias, targets = given()
    torch.manual_seed(0)
    sampled_cross_entropy(x, weight, bias, targets, 8).backward()
    assert weight.grad is not None
    touched = set(weight.grad.abs().sum(1).nonzero()[:, 0].tolist())
    sure = {0, 1, 2, 3} | {t for t in targets.tolist() if t >= 0}
    assert sure <= touched
    assert len(touched) == len(sure) + 4
