"""The product of a linear layer, natively and by torch.

Tolerances as at the head of test_kernel: a few times what torch's own product is off in the same
precision, and one unit of it for each of K terms.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled import ops
from unrolled.ops import native

pytestmark = pytest.mark.usefixtures("core")
SHAPES = [
    ((5, 7), 3),
    ((2, 3, 33), 17),
    ((4,), 6),
    ((1, 1), 1),
    ((40, 64), 130),
    ((2, 0), 3),
]


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(3)
    cotangent = torch.randn(y.shape).to(y.dtype)
    return [y, *torch.autograd.grad(y, inputs, cotangent)]


@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("low", [False, True])
def test_equals_torch(
    shape: tuple[int, ...], outputs: int, biased: bool, low: bool
) -> None:
    sizes = [shape, (outputs, shape[-1]), *([(outputs,)] if biased else [])]
    inputs = [torch.randn(size, requires_grad=True) for size in sizes]
    exact = gradients(F.linear(*(p.double() for p in inputs)), inputs)
    before = native.count("matmul")
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        rough = gradients(F.linear(*inputs), inputs)
        with ops.use("fast"):
            got = gradients(ops.linear(*inputs), inputs)
    assert native.count("matmul") - before == (3 if 0 not in shape else 0)
    for a, e, r in zip(got, exact, rough, strict=True):
        assert (a.shape, a.dtype) == (r.shape, r.dtype)
        if a.numel():
            measure = (r.double() - e).abs().max()
            floor = (2**-8 if low else 2**-24) * max(shape) * (1 + e.abs().max())
            assert (a.double() - e).abs().max() <= 4 * measure + floor


def test_gaps_in_memory_and_gradients_that_are_one_number() -> None:
    x = torch.randn(6, 10)[:, ::2].requires_grad_()
    weight = torch.randn(5, 4).t().requires_grad_()
    expected = torch.autograd.grad(F.linear(x, weight).sum(), [x, weight])
    with ops.use("fast"):
        got = torch.autograd.grad(ops.linear(x, weight).sum(), [x, weight])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_second_derivatives_and_batched_ones() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    weight = torch.randn(2, 4, requires_grad=True)
    results = []
    for mode in ("auto", "fast"):
        with ops.use(mode):
            y = ops.linear(x, weight)
            (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
            second = torch.autograd.grad(
                first.square().sum(), [x, weight], retain_graph=True
            )
            many = torch.eye(6).view(6, 3, 2)
            (batched,) = torch.autograd.grad(y, x, many, is_grads_batched=True)
        results.append((first, *second, batched))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_everything_else_is_torchs() -> None:
    before = native.count("matmul")
    x = torch.randn(2, 4)
    weight = torch.randn(3, 4)
    ops.linear(x, weight)
    with ops.use("fast"):
        ops.linear(x.double(), weight.double())
        torch.func.vmap(lambda row: ops.linear(row, weight))(x)
        with torch.autocast("cpu", torch.float16):
            assert ops.linear(x, weight).dtype == torch.float16
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            ops.linear(x, weight[:, :3])
        with pytest.raises(RuntimeError):
            ops.linear(x, weight, torch.randn(2))
    assert native.count("matmul") == before
