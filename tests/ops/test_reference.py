"""The equations: gradients against finite differences, second ones too, and torch.func.

Tolerances are gradcheck's own for fp64.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled import nn, ops
from unrolled.ops import recurrent as table
from unrolled.ops import reference
from unrolled.ops.reference import Extras, Weights

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}
every = pytest.mark.parametrize("cell", GATES)
D = 2
H = 3


def inputs(cell: str, rows: int = 2, steps: int = 3) -> list[Tensor]:
    """Return x, h, perhaps c, and weights with biases, all wanting gradients."""
    wide = GATES[cell] * H
    shapes = [(rows, steps, D), (rows, H), *([(rows, H)] if cell == "lstm" else [])]
    shapes += [(wide, D), (wide, H), (wide,), (wide,)]
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]


def run(
    cell: str, *tensors: Tensor, fast: bool = False, **options: object
) -> tuple[Tensor, ...]:
    x, *rest = tensors
    count = 2 if cell == "lstm" else 1
    state = tuple(rest[:count])
    w = Weights(*rest[count:])
    if fast:
        y, state = table.unroll(cell, x, state, w, **options)
    else:
        y, state, _ = reference.unroll(cell, x, state, w, **options)
    return y, *state


@every
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_gradients(cell: str, reverse: bool, ragged: bool, fast: bool) -> None:
    lengths = torch.tensor([3, 1]) if ragged else None
    options = {"reverse": reverse, "lengths": lengths, "fast": fast}
    assert torch.autograd.gradcheck(lambda *t: run(cell, *t, **options), inputs(cell))


@every
@pytest.mark.parametrize("fast", [False, True])
def test_second_derivatives(cell: str, fast: bool) -> None:
    """Through the fast path too, where they come from the equations."""
    tensors = inputs(cell, 1, 2)
    assert torch.autograd.gradgradcheck(lambda *t: run(cell, *t, fast=fast), tensors)


@every
def test_extras_have_gradients(cell: str) -> None:
    wide = GATES[cell] * H
    mask = torch.tensor([[2.0, 0.0, 2.0], [0.0, 2.0, 2.0]], dtype=torch.float64)
    extras = Extras(zoneout=0.3, recurrent_mask=mask)
    norms = [
        torch.rand(wide, dtype=torch.float64, requires_grad=True) for _ in range(2)
    ]
    if cell == "lstm":
        norms += [
            torch.rand(H, dtype=torch.float64, requires_grad=True) for _ in range(2)
        ]

    def normed(*tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(norms)
        return run(cell, *tensors[:-count], None, *tensors[-count:], extras=extras)

    assert torch.autograd.gradcheck(normed, [*inputs(cell), *norms])


@every
def test_fast_equals_reference_through_nothing_and_one_step(cell: str) -> None:
    for steps in (0, 1, 5):
        tensors = inputs(cell, 3, steps)
        lengths = torch.tensor([min(steps, 1), 0, steps])
        for options in (
            {},
            {"lengths": lengths},
            {"lengths": lengths, "reverse": True},
        ):
            expected = run(cell, *tensors, **options)
            got = run(cell, *tensors, fast=True, **options)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@every
def test_the_fast_path_runs(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kept = table._call
    monkeypatch.setattr(
        table, "_call", lambda *args: calls.append(args[0]) or kept(*args)
    )
    monkeypatch.setattr(reference, "unroll", None)
    run(cell, *inputs(cell), fast=True)
    assert calls == [cell]


@every
def test_gradients_twice_over_one_graph(cell: str) -> None:
    tensors = inputs(cell)
    y = run(cell, *tensors, fast=True)[0].sum()
    first = torch.autograd.grad(y, tensors, retain_graph=True, allow_unused=True)
    torch.testing.assert_close(
        torch.autograd.grad(y, tensors, allow_unused=True), first
    )


@every
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_cuda_autocast_is_in_the_precision_that_was_asked_for(
    cell: str, low: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """The casts, tried without a GPU: the same calls on the CPU, with CUDA's autocast set."""
    before = torch.get_autocast_dtype("cuda")
    request.addfinalizer(lambda: torch.set_autocast_dtype("cuda", before))
    request.addfinalizer(lambda: torch.set_autocast_enabled("cuda", False))
    x, *rest = (part.detach().float().requires_grad_() for part in inputs(cell))
    count = 2 if cell == "lstm" else 1
    state = tuple(rest[:count])
    w = Weights(*rest[count:])
    expected = table._call(cell, x, state, w)
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", low)
    got = table._on_cuda(cell, x, state, w)
    assert torch.is_autocast_enabled("cuda")
    assert all(part.dtype == low for part in got)
    # 8 bits: three steps of products that are off by 2^-9
    torch.testing.assert_close(
        [g.float() for g in got], list(expected), rtol=0.02, atol=0.05
    )
    gradients = torch.autograd.grad(got[0].sum(), [x, *rest[count:]])
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    double = [part.double() for part in (x, *rest)]
    wide = table._on_cuda(
        cell, double[0], tuple(double[1 : count + 1]), Weights(*double[count + 1 :])
    )
    assert all(part.dtype == torch.float64 for part in wide)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every
def test_cuda_kernels_run_in_bf16_without_a_warning(cell: str) -> None:
    x, *rest = (part.detach().float().cuda().requires_grad_() for part in inputs(cell))
    with torch.autocast("cuda", torch.bfloat16):
        y, *state = run(cell, x, *rest, fast=True)
    assert y.dtype == torch.bfloat16
    assert all(part.dtype == torch.float32 for part in state)
    torch.autograd.grad(y.float().sum(), [x, *rest], allow_unused=True)


@every
def test_trace_holds_every_gate(cell: str) -> None:
    tensors = inputs(cell)
    x, *rest = tensors
    count = 2 if cell == "lstm" else 1
    lengths = torch.tensor([3, 1])
    y, _, trace = reference.unroll(
        cell, x, tuple(rest[:count]), Weights(*rest[count:]), lengths
    )
    names = {
        "rnn_tanh": {"candidate", "h"},
        "rnn_relu": {"candidate", "h"},
        "lstm": {"input", "forget", "candidate", "output", "c", "h"},
        "gru": {"reset", "update", "candidate", "h"},
    }
    assert trace.keys() == names[cell]
    assert all(
        part.shape == (2, 3, H) and not part[1, 1:].any() for part in trace.values()
    )
    torch.testing.assert_close(trace["h"], y)
    if cell == "gru":
        before = torch.cat([rest[0][:, None], y[:, :-1]], 1)
        again = (1 - trace["update"]) * trace["candidate"] + trace["update"] * before
        torch.testing.assert_close(again[0], y[0])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_gradients_of_each_sample_with_vmap(kind: str) -> None:
    layer = getattr(nn, kind)(D, H, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(4, 5, D, dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in layer.named_parameters()}

    def loss(values: dict[str, Tensor], row: Tensor) -> Tensor:
        y, _ = torch.func.functional_call(layer, values, (row,))
        return y.square().sum()

    for mode in ("auto", "reference"):
        with ops.use(mode):
            gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(
                weights, x
            )
        for row in range(4):
            layer.zero_grad()
            layer(x[row])[0].square().sum().backward()
            for name, weight in layer.named_parameters():
                torch.testing.assert_close(
                    gradients[name][row], weight.grad, rtol=0, atol=1e-12
                )


def test_use_is_a_call_and_a_block() -> None:
    ops.use("reference")
    assert ops.mode() == "reference"
    with ops.use("fast"):
        assert ops.mode() == "fast"
        with pytest.raises(KeyError), ops.use("auto"):
            raise KeyError
        assert ops.mode() == "fast"
    assert ops.mode() == "reference"
    with pytest.raises(
        ValueError, match="expected a mode out of auto, fast, reference"
    ):
        ops.use("slow")


def test_attention_equals_torch() -> None:
    q = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    k, v = (
        torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    out, weights = reference.attention(q, k, v)
    wide_k = k.repeat_interleave(2, 1)
    wide_v = v.repeat_interleave(2, 1)
    expected = F.scaled_dot_product_attention(q, wide_k, wide_v, is_causal=True)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        weights.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64)
    )
    assert not weights.triu(1).any()
    # the last two queries alone, against all keys
    late, _ = reference.attention(q[:, :, 3:], k, v)
    torch.testing.assert_close(late, out[:, :, 3:], rtol=0, atol=1e-13)
    small = [t[:1, :, :2, :2].detach().requires_grad_() for t in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *t: reference.attention(*t)[0], small)
    assert torch.autograd.gradgradcheck(lambda *t: reference.attention(*t)[0], small)
    with pytest.raises(ValueError, match="multiple of key-value heads, got 4 and 3"):
        reference.attention(q, torch.cat([k, k[:, :1]], 1), v)
