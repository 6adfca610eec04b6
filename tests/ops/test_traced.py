"""The core inside of torch.compile: no break of the graph, the same numbers and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unrolled import nn
from unrolled.ops import native, traced
from unrolled.ops.kernel import GATES

pytestmark = pytest.mark.usefixtures("core")


def parts(cell: str) -> list[Tensor | None]:
    """Return x, weights, biases, h and c that want gradients."""
    wide = GATES[cell] * 4
    shapes = [(2, 3, 5), (wide, 5), (wide, 4), (wide,), (wide,), (2, 4), (2, 4)]
    tensors: list[Any] = [
        torch.randn(shape).div_(2).requires_grad_() for shape in shapes
    ]
    return [*tensors[:6], tensors[6] if cell == "lstm" else None]


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("ragged", [False, True])
def test_operators_keep_torchs_rules(cell: str, ragged: bool) -> None:
    lengths = torch.tensor([1, 3]) if ragged else None
    mask = torch.tensor([[2.0, 0.0, 2.0, 2.0]] * 2)
    given = (*parts(cell), mask, lengths, cell, "float32", ragged)
    torch.library.opcheck(traced.recurrent, (*given, True))
    with torch.no_grad():
        y, _, _, *kept = traced.recurrent(*given, True)
        torch.library.opcheck(traced.recurrent, (*given, False))
    plain = [part.detach() if isinstance(part, Tensor) else part for part in given]
    gradients = (torch.randn_like(y), None, None, y, *kept)
    needed = [part is not None for part in plain[:7]]
    torch.library.opcheck(
        traced.recurrent_backward,
        (*gradients, *plain, needed),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("cell", GATES)
def test_shapes_are_looked_at_before_memory_is(cell: str) -> None:
    given = [part if part is None else part.detach() for part in parts(cell)]
    rest = (None, None, cell, "float32", False)
    y, h, c, *kept = traced.recurrent(*given, *rest, True)
    gradients = [y, h, c if cell == "lstm" else None, y, *kept]
    needed = [part is not None for part in given]
    traced.recurrent_backward(*gradients, *given, *rest, needed)
    for index, part in enumerate([*gradients, *given]):
        if part is None or not part.numel():
            continue
        wrong = [*gradients, *given]
        for broken in (part[..., :-1].contiguous(), part.double()):
            wrong[index] = broken
            with pytest.raises(
                ValueError, match=rf"expected .* of shape .* for {cell}"
            ):
                traced.recurrent_backward(*wrong, *rest, needed)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_layer_is_one_graph(kind: str) -> None:
    torch.compiler.reset()
    for options in ({}, {"num_layers": 2, "bidirectional": True, "batch_first": True}):
        layer = getattr(nn, kind)(5, 7, **options)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        x = torch.randn(4, 6, 5, requires_grad=True)
        rows = 4 if options else 6
        for lengths in (None, torch.randint(0, 24 // rows + 1, (rows,))):
            results = []
            for run in (layer, compiled):
                before = native.count("forward"), native.count("backward")
                y, state = run(x, lengths=lengths)
                ends = state if isinstance(state, tuple) else (state,)
                total = y.square().sum() + sum(end.sum() for end in ends)
                gradients = torch.autograd.grad(total, [x, *layer.parameters()])
                calls = 4 if options else 1
                assert native.count("forward") == before[0] + calls
                assert native.count("backward") == before[1] + calls
                results.append((y, *ends, *gradients))
            # one core, called alike: sums of gradients over uses of x alone may be in two orders
            torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            assert torch.equal(compiled(x)[0], layer(x)[0])


def test_an_export_holds_torchs_operators_alone() -> None:
    layer = nn.GRU(3, 4).eval()
    x = torch.randn(5, 2, 3)
    program = torch.export.export(layer, (x,))
    assert "unrolled" not in str(program.graph)
    torch.testing.assert_close(
        program.module()(x)[0], layer(x)[0], rtol=1e-5, atol=1e-6
    )


def test_bf16_under_autocast_is_compiled_too() -> None:
    torch.compiler.reset()
    layer = nn.LSTM(5, 7)
    x = torch.randn(4, 6, 5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = compiled(x)[0]
        expected = layer(x)[0]
    assert torch.equal(got, expected)
    assert not torch.equal(expected, layer(x)[0])
