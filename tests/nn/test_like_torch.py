"""What people do with torch.nn's recurrent layers works on ours, with the same result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import unrolled.nn as ours
from unrolled import ops
from unrolled.nn import Layer, Pooling

from .variants import EVERY, D

KINDS = ("RNN", "GRU", "LSTM")
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # fp32, other orders of summation
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
kinds = pytest.mark.parametrize("kind", KINDS)


def pair(kind: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Return torch's module and ours with the same weights."""
    theirs = getattr(nn, kind)(D, 4, **options)
    mine = getattr(ours, kind)(D, 4, **options)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def weights_gradients(total: Tensor, module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(total, list(module.parameters())))


IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "relu_": torch.relu_,
    "add": lambda y: y.add_(1),
    "mul": lambda y: y.mul_(3),
    "clamp": lambda y: y.clamp_(-0.1, 0.1),
    "part": lambda y: y[:, 0].zero_(),
    "masked": lambda y: y.masked_fill_(y > 0, 0),
}


@kinds
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("change", IN_PLACE)
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_outputs_may_be_changed_in_place(
    kind: str, batch_first: bool, change: str, mode: str
) -> None:
    layer = getattr(ours, kind)(D, 4, batch_first=batch_first)
    x = torch.randn(3, 3, D)

    def gradients(in_place: bool) -> list[Tensor]:
        with ops.use(mode):
            y, state = layer(x)
            ends = state if isinstance(state, tuple) else (state,)
            y, *ends = (part if in_place else part.clone() for part in (y, *ends))
            IN_PLACE[change](y)
            for end in ends:
                end.mul_(2)
            total = y.square().sum() + sum(end.square().sum() for end in ends)
            return weights_gradients(total, layer)

    torch.testing.assert_close(gradients(True), gradients(False), **NEAR)


@kinds
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"layer_norm": True}])
def test_an_output_of_a_step_may_be_changed_in_place(
    kind: str, options: dict[str, Any]
) -> None:
    layer = getattr(ours, kind)(D, 4, **options)
    x = torch.randn(2, 5, D)
    state = layer.initial_state(2)
    rows = []
    for t in range(5):
        y, state = layer.step(x[:, t], state)
        rows.append(y.relu_())
    torch.testing.assert_close(torch.stack(rows, 1), layer.unroll(x)[0].relu(), **NEAR)


@kinds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", IN_PLACE)
def test_outputs_may_be_changed_in_place_in_compiled_code(
    kind: str, change: str
) -> None:
    torch._dynamo.reset()
    layer = getattr(ours, kind)(D, 4, batch_first=True)
    x = torch.randn(3, 3, D)

    def total(x: Tensor) -> Tensor:
        y = layer(x)[0]
        IN_PLACE[change](y)
        return y.square().sum()

    compiled = torch.compile(total, backend="aot_eager")
    got = weights_gradients(compiled(x), layer)
    torch.testing.assert_close(got, weights_gradients(total(x), layer), **NEAR)


@kinds
def test_outputs_changed_between_two_backward_passes(kind: str) -> None:
    layer = getattr(ours, kind)(D, 4)
    x = torch.randn(3, 3, D)
    y, _ = layer(x)
    total = (y * torch.arange(4.0)).sum()
    before = torch.autograd.grad(total, list(layer.parameters()), retain_graph=True)
    with torch.no_grad():
        y.zero_()
    torch.testing.assert_close(weights_gradients(total, layer), list(before), **NEAR)


@kinds
def test_a_checkpoint_of_outputs_changed_in_place(kind: str) -> None:
    layer = getattr(ours, kind)(D, 4)
    x = torch.randn(3, 3, D, requires_grad=True)

    def run(x: Tensor) -> Tensor:
        return torch.relu_(layer(x)[0]) * 2

    plain = weights_gradients(run(x).sum(), layer)
    again = weights_gradients(checkpoint(run, x, use_reentrant=False).sum(), layer)
    torch.testing.assert_close(again, plain, **NEAR)


class Watching(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


@kinds
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("mode", [Watching, lambda: FlopCounterMode(display=False)])
def test_a_checkpoint_under_a_dispatch_mode(kind: str, inside: bool, mode: Any) -> None:
    layer = getattr(ours, kind)(D, 4)
    x = torch.randn(3, 3, D, requires_grad=True)
    expected = torch.autograd.grad(layer(x)[0].sum(), x)[0]
    with mode():
        y = checkpoint(layer, x, use_reentrant=False)[0]
        if inside:
            y.sum().backward()
    if not inside:
        y.sum().backward()
    torch.testing.assert_close(x.grad, expected, **NEAR)


LENGTHS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "int8": lambda lengths: torch.tensor(lengths, dtype=torch.int8),
    "uint8": lambda lengths: torch.tensor(lengths, dtype=torch.uint8),
    "int16": lambda lengths: torch.tensor(lengths, dtype=torch.int16),
    "int32": lambda lengths: torch.tensor(lengths, dtype=torch.int32),
    "numpy": lambda lengths: torch.tensor(lengths).numpy(),
}


@pytest.mark.parametrize("form", LENGTHS)
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("mode", ["auto", "reference"])
@settings(deadline=None, max_examples=4)
@given(lengths=st.lists(st.integers(0, 5), min_size=2, max_size=2))
def test_lengths_of_any_integers(
    name: str, form: str, mode: str, lengths: list[int]
) -> None:
    layer: Layer = EVERY[name]().eval()
    x = torch.randn(2, 5, D)
    given_lengths = LENGTHS[form](lengths)
    with ops.use(mode):
        expected = layer.unroll(x, None, torch.tensor(lengths))[0]
        torch.testing.assert_close(layer.unroll(x, None, given_lengths)[0], expected)
        torch.testing.assert_close(layer.read(x, given_lengths), expected, **NEAR)
    for kind in ("last", "mean", "max", "attention", "mean-max"):
        pooling = Pooling(kind, layer.output_size, layer.reverse_size)
        pooled = pooling(expected, torch.tensor(lengths))
        torch.testing.assert_close(pooling(expected, given_lengths), pooled)


def test_lengths_that_are_no_integers_are_refused() -> None:
    layer = ours.GRU(D, 4, batch_first=True)
    x = torch.randn(2, 5, D)
    for wrong in ([1.5, 2.0], torch.tensor([True, False])):
        with pytest.raises(ValueError, match="expected integer lengths"):
            layer(x, lengths=wrong)
    with pytest.raises(ValueError, match=r"from 0 to 5.*got 2 to 200"):
        layer(x, lengths=torch.tensor([2, 200], dtype=torch.uint8))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("default", ["float64", "bfloat16", "meta"])
def test_torchs_defaults_change_nothing(name: str, default: str) -> None:
    layer = EVERY[name]().eval()
    x = torch.randn(2, 5, D)
    lengths = torch.tensor([5, 2])
    stream = layer.stream(2) if layer.causal else None

    def run() -> list[Tensor]:
        y, state = layer.unroll(x, None, lengths)
        results = [y.detach(), *(part.detach() for part in state.to_tensors().values())]
        weights = [*layer.parameters()]
        if weights:
            total = layer.unroll(x)[0].sum()
            results += torch.autograd.grad(
                total, weights, allow_unused=True, materialize_grads=True
            )
        if stream is not None:
            stream.reset()
            results.append(stream.step(x[:, 0]).detach().clone())
            results.append(layer.step(x[:, 0], layer.initial_state(2))[0].detach())
        if isinstance(layer, (ours.RNN, ours.GRU, ours.LSTM)):
            packed = pack_padded_sequence(x, lengths, batch_first=True)
            results.append(layer(packed)[0].data.detach())
        return results

    expected = run()
    if default == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(getattr(torch, default))
    try:
        got = run()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for mine, other in zip(got, expected, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("default", ["float64", "bfloat16", "meta"])
def test_torchs_defaults_change_no_search(default: str) -> None:
    from unrolled.ops.search import top_log_probabilities

    x = torch.randn(6, 5)
    expected = top_log_probabilities(x, 2)
    if default == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(getattr(torch, default))
    try:
        got = top_log_probabilities(x, 2)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(got, expected)


def lazily_negative(x: Tensor) -> Tensor:
    """Return equal numbers whose sign torch keeps apart."""
    negative = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert negative.is_neg()
    return negative


@pytest.mark.parametrize("name", [name for name in EVERY if name != "none-identity"])
def test_lazily_negated_numbers_are_read_with_their_sign(name: str) -> None:
    layer = EVERY[name]().eval()
    x = torch.randn(2, 5, D)
    lengths = torch.tensor([5, 2])
    negative = lazily_negative(x)
    for ragged in (None, lengths):
        y = layer.unroll(x, None, ragged)[0]
        torch.testing.assert_close(layer.unroll(negative, None, ragged)[0], y)
        cotangent = torch.randn_like(y)
        weights = list(layer.parameters())
        expected = torch.autograd.grad(y, weights, cotangent, allow_unused=True)
        again = layer.unroll(negative, None, ragged)[0]
        got = torch.autograd.grad(
            again, weights, lazily_negative(cotangent), allow_unused=True
        )
        torch.testing.assert_close(got, expected, **NEAR)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.data = lazily_negative(weight.data)
        torch.testing.assert_close(
            layer.unroll(x)[0], layer.unroll(negative)[0], **NEAR
        )
        torch.testing.assert_close(
            layer.unroll(x, None, lengths)[0], y.detach(), **NEAR
        )
    if layer.causal:
        stream = layer.stream(2)
        said = layer.step(x[:, 0], layer.initial_state(2))[0]
        torch.testing.assert_close(stream.step(negative[:, 0]), said, **NEAR)
        stream.load(layer.initial_state(2))
        stream.refresh()
        torch.testing.assert_close(stream.step(x[:, 0]), said, **NEAR)


def test_lazily_negated_scores() -> None:
    from unrolled.ops.search import top_log_probabilities

    x = torch.randn(6, 5)
    torch.testing.assert_close(
        top_log_probabilities(lazily_negative(x), 2), top_log_probabilities(x, 2)
    )


@kinds
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
@pytest.mark.parametrize(
    "options", [{"batch_first": True}, {"num_layers": 2, "bidirectional": True}]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_trace_passes_its_check_and_runs_at_other_sizes(
    kind: str, options: dict[str, Any], training: bool
) -> None:
    layer = getattr(ours, kind)(D, 4, **options).train(training)
    traced = torch.jit.trace(layer, torch.randn(2, 3, D))
    x = torch.randn(4, 7, D)
    torch.testing.assert_close(traced(x)[0], layer(x)[0], **NEAR)
    got = weights_gradients(traced(x)[0].square().sum(), layer)
    torch.testing.assert_close(
        got, weights_gradients(layer(x)[0].square().sum(), layer), **NEAR
    )


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_a_trace_that_is_of_one_length_alone_says_so() -> None:
    layer = ours.GRU(D, 4, layer_norm=True)
    with pytest.warns(torch.jit.TracerWarning, match="the trace reads 3 steps"):
        torch.jit.trace(layer, torch.randn(3, 2, D))


@kinds
def test_another_precision_is_refused_by_both_names(kind: str) -> None:
    layer = getattr(ours, kind)(D, 4)
    for x, form in (
        (torch.randn(2, 3, D).double(), "float64"),
        (torch.ones(2, 3, D).int(), "int32"),
    ):
        with pytest.raises(ValueError, match=rf"float32.*{form}.*\.to\("):
            layer(x)
        with pytest.raises(ValueError, match=rf"float32.*{form}.*\.to\("):
            layer.step(x[0], layer.initial_state(3))
    low = torch.bfloat16
    with torch.autocast("cpu", low):
        assert layer(torch.randn(2, 3, D).to(low))[0].shape == (2, 3, 4)


@kinds
def test_errors_show_shapes_as_they_were_given(kind: str) -> None:
    layer = getattr(ours, kind)(D, 4)
    wide = D + 1
    with pytest.raises(
        ValueError, match=rf"\(time, batch, {D}\), got \(7, 3, {wide}\)"
    ):
        layer(torch.randn(7, 3, wide))
    with pytest.raises(ValueError, match=rf"\(time, {D}\), got \(7, {wide}\)"):
        layer(torch.randn(7, wide))
    with pytest.raises(
        ValueError, match=rf"\(batch, time, {D}\), got \(7, 3, {wide}\)"
    ):
        getattr(ours, kind)(D, 4, batch_first=True)(torch.randn(7, 3, wide))
    h = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"shapes \[\(1, 4\).*got \[\(3, 4\)"):
        layer(torch.randn(7, D), (h, h) if kind == "LSTM" else h)


@kinds
def test_dynamic_quantisation_leaves_the_layer_as_it_is(kind: str) -> None:
    import warnings

    from torch.ao.quantization import quantize_dynamic

    model = nn.Sequential(getattr(ours, kind)(D, 4))
    x = torch.randn(2, 3, D)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = quantize_dynamic(model, {nn.LSTM, nn.GRU, nn.Linear})
    torch.testing.assert_close(quantized(x)[0], model(x)[0])


@kinds
def test_mode_is_torchs(kind: str) -> None:
    theirs, mine = pair(kind)
    assert mine.mode == theirs.mode


def test_two_threads_with_two_choices_do_not_meet() -> None:
    layer = ours.GRU(32, 64, batch_first=True).eval()
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        expected = layer(x)[0]
        with ops.precision("int8"):
            low = layer(x)[0]
    turn = threading.Barrier(2)
    wrong = []

    def run(precision: str, output: Tensor) -> None:
        with torch.no_grad():
            for _ in range(20):
                turn.wait()
                with ops.precision(precision):
                    turn.wait()
                    if not torch.equal(layer(x)[0], output):
                        wrong.append(precision)

    other = threading.Thread(target=run, args=("int8", low))
    other.start()
    run("auto", expected)
    other.join()
    assert not wrong


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("options", [{}, {"bias": False}])
@pytest.mark.parametrize("rows", [(3,), ()])
def test_cells_equal_torchs(
    kind: str, options: dict[str, Any], rows: tuple[int, ...]
) -> None:
    theirs = getattr(nn, kind)(D, 4, **options)
    mine = getattr(ours, kind)(D, 4, **options)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(*rows, D)
    h = torch.randn(*rows, 4)
    c = torch.randn(*rows, 4)
    begun = (h, c) if kind == "LSTMCell" else h
    for hx in (None, begun):
        torch.testing.assert_close(mine(x, hx), theirs(x, hx))
        total = torch.stack(tuple(mine(x, hx))).square().sum()
        expected = torch.stack(tuple(theirs(x, hx))).square().sum()
        got = weights_gradients(total, mine)
        reference = weights_gradients(expected, theirs)
        torch.testing.assert_close(got, reference, **NEAR)
    torch.manual_seed(3)
    first = getattr(nn, kind)(D, 4)
    torch.manual_seed(3)
    second = getattr(ours, kind)(D, 4)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_wrong_calls_of_cells() -> None:
    with pytest.raises(
        ValueError, match=rf"\(batch, {D}\) or \({D},\), got \(2, 3, {D}\)"
    ):
        ours.GRUCell(D, 4)(torch.randn(2, 3, D))
    with pytest.raises(
        ValueError, match=r"state of shape \(2, 4\), as x has rows, got \[\(3, 4\)"
    ):
        ours.GRUCell(D, 4)(torch.randn(2, D), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"float32.*float64"):
        ours.LSTMCell(D, 4)(torch.randn(2, D).double())
    with pytest.raises(ValueError, match="hidden_size of at least 1"):
        ours.LSTMCell(D, 0)
    with pytest.raises(ValueError, match="'tanh' or 'relu'"):
        ours.RNNCell(D, 4, nonlinearity="gelu")


def test_a_cell_of_ones_own_runs_on_its_equations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from unrolled.nn.recurrent import Recurrent
    from unrolled.ops import reference

    def leaky(a: Tensor, state: Any, w: Any, extras: Any = reference.PLAIN) -> Any:
        (h,) = state
        h = 0.5 * h + 0.5 * (a + reference.from_hidden("leaky", h, w, extras)).tanh()
        return (h,), {"h": h}

    class Leaky(Recurrent):
        cell = "leaky"
        gates = 1

    monkeypatch.setitem(reference.STEPS, "leaky", leaky)
    layer = Leaky(D, 4, 2, bidirectional=False)
    x = torch.randn(3, 6, D)
    y, state = layer.unroll(x, None, [6, 2, 4])
    h = torch.zeros(2, 4)
    for t in range(2):
        w = [
            getattr(layer, f"{name}_l0")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        a = x[1, t] @ w[0].T + w[2]
        h0 = 0.5 * h[0] + 0.5 * (a + h[0] @ w[1].T + w[3]).tanh()
        w = [
            getattr(layer, f"{name}_l1")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        h1 = 0.5 * h[1] + 0.5 * (h0 @ w[0].T + w[2] + h[1] @ w[1].T + w[3]).tanh()
        h = torch.stack([h0, h1])
        torch.testing.assert_close(y[1, t], h[1], **NEAR)
    torch.testing.assert_close(state.h[:, 1], h, **NEAR)
    assert "cell leaky" in layer.explain()
    stepped, _ = layer.step(x[:, 0], layer.initial_state(3))
    torch.testing.assert_close(stepped, y[:, 0], **NEAR)
    torch.testing.assert_close(layer.stream(3).step(x[:, 0]), stepped, **NEAR)
    assert all(part.abs().sum() > 0 for part in weights_gradients(y.sum(), layer))
    with ops.use("fast"), pytest.raises(ValueError, match="cell leaky"):
        layer.unroll(x)
