"""Gradients are the same however they are asked for: once, to be differentiated again, or batched.

The layers run in fp32, so that the native core is what is asked. Two orders of summation over some
ten steps of numbers of size 1 differ by some 1e-6; a gradient counted twice differs by its size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unrolled import ops
from unrolled.nn import Layer, RecurrentDecoder, State, build_decoder, build_layer
from unrolled.nn.build import LayerConfig, settings_of
from unrolled.nn.softmax import head_cross_entropy, linear_cross_entropy

from .variants import CAUSAL, EVERY, D

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
DECODERS = ("additive", "multiplicative", "none")


class Call(NamedTuple):
    """One call of the layer: its steps, and what it reads of the calls before."""

    steps: int
    feeds: bool  # reads what the last call said
    carries: bool  # begins from the state of the last call
    bends: bool  # a nonlinearity stands between


calls = st.lists(
    st.builds(Call, st.integers(1, 3), st.booleans(), st.booleans(), st.booleans()),
    min_size=2,
    max_size=4,
)


def single(name: str) -> Layer:
    """Return a variant in fp32 whose every part matters."""
    layer = EVERY[name]().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return layer


def chained(layer: Layer, plan: list[Call], first: State | None, x: Tensor) -> Tensor:
    """Run the layer several times, each call fed by or begun from the one before, as planned."""
    state = first
    said = x
    total = x.new_zeros(())
    for call in plan:
        read = x[:, : call.steps]
        if call.feeds and layer.output_size:
            wide = said[:, :1].repeat(1, call.steps, -(-D // said.shape[2]))
            read = read + wide[:, :, :D]
        read = read.tanh() if call.bends else read
        begun = state if call.carries and layer.causal else first
        said, state = layer.unroll(read, begun)
        total = total + said.square().sum()
    return total


def gradients(total: Tensor, layer: Layer, create_graph: bool) -> tuple[Tensor, ...]:
    weights = list(layer.parameters())
    return torch.autograd.grad(
        total,
        weights,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


@pytest.mark.parametrize("name", [name for name in EVERY if name != "none-identity"])
@settings(deadline=None, max_examples=12)
@given(plan=calls, seed=st.integers(0, 99))
def test_first_gradients_do_not_depend_on_create_graph(
    name: str, plan: list[Call], seed: int
) -> None:
    torch.manual_seed(seed)
    layer = single(name)
    x = torch.randn(2, 3, D)
    once = gradients(chained(layer, plan, None, x), layer, False)
    again = gradients(chained(layer, plan, None, x), layer, True)
    torch.testing.assert_close(again, once, **NEAR)


@pytest.mark.parametrize("attention", DECODERS)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@settings(deadline=None, max_examples=8)
@given(plan=calls, seed=st.integers(0, 99))
def test_first_gradients_of_a_decoder_do_not_depend_on_create_graph(
    cell: str, attention: str, plan: list[Call], seed: int
) -> None:
    torch.manual_seed(seed)
    config = LayerConfig(hidden=6)
    encoder = build_layer("gru", settings_of("gru", config), D)
    decoder = build_decoder(cell, config, D, encoder, attention)
    assert isinstance(decoder, RecurrentDecoder)
    source = torch.randn(2, 4, D)
    lengths = torch.tensor([4, 2])
    x = torch.randn(2, 3, D)

    def total() -> Tensor:
        begun = decoder.attend(encoder.read(source, lengths), lengths)
        return chained(decoder, plan, begun, x)

    once = gradients(total(), decoder, False)
    again = gradients(total(), decoder, True)
    torch.testing.assert_close(again, once, **NEAR)
    mine = torch.autograd.grad(total(), list(encoder.parameters()))
    twice = torch.autograd.grad(total(), list(encoder.parameters()), create_graph=True)
    torch.testing.assert_close(twice, mine, **NEAR)


RECURRENT = [name for name in CAUSAL if name.startswith(("rnn", "gru", "lstm"))]


@pytest.mark.parametrize("name", RECURRENT)
def test_second_derivatives_over_two_calls_equal_the_reference(name: str) -> None:
    layer = single(name)
    x = torch.randn(2, 3, D)
    plan = [Call(3, False, False, False), Call(2, True, True, True)]

    def second() -> tuple[Tensor, ...]:
        first = gradients(chained(layer, plan, None, x), layer, True)
        return gradients(
            sum((g.square().sum() for g in first), x.new_zeros(())), layer, False
        )

    fast = second()
    with ops.use("reference"):
        expected = second()
    scale = max(part.abs().max().item() for part in expected)
    torch.testing.assert_close(fast, expected, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("name", RECURRENT)
def test_hooks_of_a_state_run_once(name: str) -> None:
    layer = single(name)
    x = torch.randn(2, 4, D)
    seen = []
    _, state = layer.unroll(x[:, :2])
    state.h.register_hook(seen.append)  # type: ignore[attr-defined]
    state.h.retain_grad()  # type: ignore[attr-defined]
    y, _ = layer.unroll(x[:, 2:], state)
    torch.autograd.grad(
        y.sum(), list(layer.parameters()), create_graph=True, allow_unused=True
    )
    assert len(seen) == 1


@pytest.mark.parametrize("name", RECURRENT)
def test_batched_gradients_equal_single_ones(name: str) -> None:
    layer = single(name)
    x = torch.randn(1, 3, D)

    def twice(x: Tensor) -> Tensor:
        y, state = layer.unroll(x)
        wide = torch.cat([y, y], 2)[:, :, :D]
        return layer.unroll(wide.tanh(), state)[0]

    jacobian = torch.autograd.functional.jacobian
    expected = jacobian(twice, x)
    batched = jacobian(twice, x, vectorize=True)
    torch.testing.assert_close(batched, expected, **NEAR)


@pytest.mark.parametrize("name", RECURRENT)
def test_an_inner_loop_of_meta_learning_equals_the_reference(name: str) -> None:
    layer = single(name)
    x = torch.randn(2, 3, D)
    begun = dict(layer.named_parameters())

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, weights, (x,))[0].square().mean()

    def learned(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weight_gradients = torch.autograd.grad(
            loss(weights), list(weights.values()), create_graph=True
        )
        return {
            name: w - 0.3 * g
            for (name, w), g in zip(weights.items(), weight_gradients, strict=True)
        }

    def outer() -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(learned(learned(begun))), list(begun.values()))

    fast = outer()
    with ops.use("reference"):
        torch.testing.assert_close(fast, outer(), **NEAR)


TRANSFORMS = {
    "grad": lambda f: torch.func.grad(f),
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "vjp": lambda f: lambda x: torch.func.vjp(f, x)[1](torch.ones(()))[0],
    "hessian": lambda f: torch.func.hessian(f),
    "jacfwd": lambda f: torch.func.jacfwd(f),
    "vmap": lambda f: torch.func.vmap(lambda x: f(x[None])),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "name", ["rnn", "gru-2", "lstm", "lstm-projected", "attention", "none"]
)
def test_transforms_inside_compiled_code_equal_those_outside(
    name: str, transform: str
) -> None:
    layer = single(name)
    x = torch.randn(2, 3, D)
    transformed: Any = TRANSFORMS[transform](
        lambda x: layer.unroll(x)[0].square().sum()
    )
    torch._dynamo.reset()
    compiled = torch.compile(transformed, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), transformed(x), **NEAR)


LOSSES: dict[str, Any] = {
    "linear": lambda x, w, b, t: linear_cross_entropy(x, w, b, t, 0.1),
    "ignored": lambda x, w, b, t: linear_cross_entropy(x, w, b, t.where(t > 2, -100)),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_second_derivatives_of_the_loss_equal_torchs_or_are_refused(kind: str) -> None:
    w = torch.randn(9, 5, dtype=torch.float64)
    b = torch.randn(9, dtype=torch.float64)
    x = torch.randn(6, 5, dtype=torch.float64)
    t = torch.randint(9, (6,))

    def expected(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        targets, smoothing = (
            (t, 0.1) if kind == "linear" else (t.where(t > 2, -100), 0.0)
        )
        return torch.nn.functional.cross_entropy(
            x @ w.T + b, targets, reduction="sum", label_smoothing=smoothing
        )

    def mine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        loss: Tensor = LOSSES[kind](x, w, b, t)
        return loss

    inputs = [part.clone().requires_grad_() for part in (x, w, b)]
    first = torch.autograd.grad(mine(*inputs), inputs, create_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(expected(*inputs), inputs))
    for variable in inputs:
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(
                first[0].sum() + first[1].sum(), variable, retain_graph=True
            )
    # a loss weight, of which 1 is a value like any other
    for value in (1.0, 1.5):
        scale = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (gradients,) = torch.autograd.grad(
            scale * mine(*inputs), inputs[0], create_graph=True, retain_graph=True
        )
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(gradients.square().sum(), scale)
    torch.testing.assert_close(
        torch.func.hessian(mine, (0, 1, 2))(x, w, b),
        torch.func.hessian(expected, (0, 1, 2))(x, w, b),
    )
    tangents = torch.func.jvp(mine, (x, w, b), (x, w, b))[1]
    torch.testing.assert_close(
        tangents, torch.func.jvp(expected, (x, w, b), (x, w, b))[1]
    )


def test_a_head_that_is_no_plain_linear_layer_is_called() -> None:
    head = torch.nn.Linear(5, 9)
    x = torch.randn(6, 5)
    t = torch.randint(9, (6,))
    plain = head_cross_entropy(head, x, t)
    expected = torch.nn.functional.cross_entropy(head(x), t, reduction="sum")
    torch.testing.assert_close(plain, expected)
    head.register_forward_hook(lambda module, inputs, output: output * 3)
    hooked = torch.nn.functional.cross_entropy(head(x), t, reduction="sum")
    assert not torch.allclose(hooked, expected)
    torch.testing.assert_close(head_cross_entropy(head, x, t), hooked)
