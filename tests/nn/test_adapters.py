"""Adapters of low rank: one product beside its plain formulas in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled import ops
from unrolled.nn.adapters import AdaptedLinear, LowRank

INPUTS = 5
OUTPUTS = 6
RANK = 2
SCALE = 1.7
CLOSE: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-10}  # fp64, sums in another order
ROUNDED: dict[str, Any] = {"atol": 2e-5, "rtol": 2e-5}  # fp32
FORMS = ["linear", "biased", "lengths", "lengths-biased"]


def drawn(low_rank: LowRank) -> LowRank:
    """Return an adapter that says something."""
    with torch.no_grad():
        for weight in low_rank.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return low_rank


def plain_weight(
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    parts: int,
    magnitude: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return W + s B A of each part, its rows of the lengths m, in fp64."""
    rows: list[Tensor] = []
    for part in range(parts):
        height = len(up) // parts
        b = up[part * height :][:height]
        a = down[part * RANK :][:RANK]
        rows.append(b @ a)
    whole = weight + SCALE * torch.cat(rows)
    if magnitude is None:
        return whole
    if lengths is None:
        lengths = whole.square().sum(1).sqrt()
    return whole * (magnitude / lengths).unsqueeze(1)


def adapted_linear(
    form: str, parts: int, dtype: torch.dtype = torch.float64
) -> AdaptedLinear:
    linear = nn.Linear(INPUTS, OUTPUTS, "biased" in form, dtype=dtype)
    linear.requires_grad_(False)
    low_rank = LowRank(linear.weight, RANK, SCALE, parts, "lengths" in form)
    return AdaptedLinear(linear, drawn(low_rank))


def by_formulas(adapted: AdaptedLinear, x: Tensor, weights: Tensor) -> list[Tensor]:
    """Return the outputs, and the gradients of x, A, B and m, in fp64."""
    low_rank = adapted.low_rank
    parts = [x, low_rank.down, low_rank.up]
    if low_rank.magnitude is not None:
        parts.append(low_rank.magnitude)
    leaves = [part.detach().double().requires_grad_() for part in parts]
    frozen = adapted.weight.detach().double()
    _, down, up, *magnitude = leaves
    whole = plain_weight(frozen, down, up, low_rank.parts)
    if magnitude:
        # the lengths are no function of A and B for the gradient
        lengths = whole.detach().square().sum(1).sqrt()
        whole = whole * (magnitude[0] / lengths).unsqueeze(1)
    y = leaves[0] @ whole.T
    if adapted.bias is not None:
        y = y + adapted.bias.double()
    return [y, *torch.autograd.grad((y * weights.double()).sum(), leaves)]


# ---------------------------------------------------------------------- one product


@pytest.mark.parametrize("mode", ["auto", "reference"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outputs_and_gradients_are_those_of_the_formulas(
    dtype: torch.dtype, form: str, parts: int, mode: str
) -> None:
    ops.use(mode)
    adapted = adapted_linear(form, parts, dtype)
    x = torch.randn(3, 4, INPUTS, dtype=dtype, requires_grad=True)
    weights = torch.randn(3, 4, OUTPUTS, dtype=dtype)
    expected = by_formulas(adapted, x, weights)
    y = adapted(x)
    learnt = [adapted.low_rank.down, adapted.low_rank.up]
    if adapted.low_rank.magnitude is not None:
        learnt.append(adapted.low_rank.magnitude)
    gradients = torch.autograd.grad((y * weights).sum(), [x, *learnt])
    near = CLOSE if dtype == torch.float64 else ROUNDED
    for ours, truth in zip((y, *gradients), expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, truth.to(dtype), **near)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_a_weight_with_its_change_is_that_of_the_formulas(
    magnitudes: bool, parts: int
) -> None:
    weight = torch.randn(OUTPUTS, INPUTS, dtype=torch.float64)
    low_rank = drawn(LowRank(weight, RANK, SCALE, parts, magnitudes))
    expected = plain_weight(
        weight, low_rank.down, low_rank.up, parts, low_rank.magnitude
    )
    torch.testing.assert_close(low_rank(weight), expected, **CLOSE)
    if magnitudes:
        assert low_rank.magnitude is not None
        gains = low_rank.gains(weight)
        lengths = plain_weight(weight, low_rank.down, low_rank.up, parts).norm(dim=1)
        torch.testing.assert_close(gains, low_rank.magnitude / lengths, **CLOSE)


def test_the_gradient_of_a_recurrent_weight_holds_the_lengths_constant() -> None:
    weight = torch.randn(OUTPUTS, INPUTS, dtype=torch.float64)
    low_rank = drawn(LowRank(weight, RANK, SCALE, magnitudes=True))
    weights = torch.randn(OUTPUTS, INPUTS, dtype=torch.float64)
    learnt = list(low_rank.parameters())
    ours = torch.autograd.grad((low_rank(weight) * weights).sum(), learnt)
    parts = [low_rank.get_parameter(name) for name in ("down", "up", "magnitude")]
    down, up, magnitude = (part.detach().clone().requires_grad_() for part in parts)
    lengths = plain_weight(weight, down, up, 1).norm(dim=1)
    held = plain_weight(weight, down, up, 1, magnitude, lengths.detach())
    theirs = torch.autograd.grad((held * weights).sum(), [down, up, magnitude])
    for mine, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, truth, **CLOSE)
    free = plain_weight(weight, down, up, 1, magnitude, lengths)
    moving = torch.autograd.grad((free * weights).sum(), [down])[0]
    assert not torch.allclose(ours[0], moving)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_functions_are_those_of_autograd(form: str) -> None:
    adapted = adapted_linear(form, 1)
    x = torch.randn(3, INPUTS, dtype=torch.float64)
    names = {name: part.detach() for name, part in adapted.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(adapted, weights, (x,))
        return y.square().sum()

    by_function = torch.func.grad(loss)(names)
    adapted(x).square().sum().backward()
    for name, weight in adapted.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(by_function[name], weight.grad, **CLOSE)


def test_what_is_read_needs_no_gradient_and_may_be_of_any_shape() -> None:
    adapted = adapted_linear("biased", 2)
    whole = torch.randn(2, 3, INPUTS, dtype=torch.float64)
    y = adapted(whole)
    y.sum().backward()
    assert adapted.low_rank.up.grad is not None
    torch.testing.assert_close(adapted(whole[0, 1]), y[0, 1], **CLOSE)
    turned = whole.transpose(0, 1)
    torch.testing.assert_close(adapted(turned), y.transpose(0, 1), **CLOSE)
    assert adapted(whole[:0]).shape == (0, 3, OUTPUTS)


@pytest.mark.parametrize("form", FORMS)
def test_low_precision_is_chosen_as_of_a_linear_layer(form: str) -> None:
    adapted = adapted_linear(form, 2, torch.float32)
    x = torch.randn(4, INPUTS)
    with torch.autocast("cpu", torch.bfloat16):
        y = adapted(x)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), adapted(x), atol=0.1, rtol=0.05)
    assert adapted.low_rank.down.grad is not None
    assert adapted.low_rank.down.grad.dtype == torch.float32


def test_dropout_is_on_what_the_adapter_reads_while_it_learns() -> None:
    linear = nn.Linear(INPUTS, OUTPUTS, dtype=torch.float64).requires_grad_(False)
    low_rank = drawn(LowRank(linear.weight, RANK, SCALE))
    adapted = AdaptedLinear(linear, low_rank, dropout=0.5)
    x = torch.randn(2, INPUTS, dtype=torch.float64)
    still = adapted.eval()(x)
    assert torch.equal(adapted(x), still)
    adapted.train()
    torch.manual_seed(3)
    said = adapted(x)
    torch.manual_seed(3)
    read = nn.functional.dropout(x, 0.5)
    assert (read == 0).any()
    change = read @ low_rank.down.T @ low_rank.up.T
    torch.testing.assert_close(said, linear(x) + SCALE * change, **CLOSE)
    merged_linear = adapted.merged()
    torch.testing.assert_close(merged_linear(x), still, **CLOSE)
