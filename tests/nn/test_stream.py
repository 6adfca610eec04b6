"""A stream says what the layer's steps say, from weights that stay as they were packed.

``native`` tests need the compiled core and are left out without it; every other test holds for both
paths, and finds out by ``stream.native`` which of them it looked at.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.nn.variants import BOTH_WAYS, CAUSAL, D, build, tensors
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import unrolled
from unrolled import ops
from unrolled.decoding.generate import generate
from unrolled.decoding.sampling import Sampling
from unrolled.models import Aligned, LanguageModel, ManyToOne
from unrolled.models.language import Streamed
from unrolled.nn import GRU, LSTM, RNN, Layer, Pooling, TokenEmbedding
from unrolled.nn.stream import Stream
from unrolled.ops import native
from unrolled.ops.reference import PLAIN, STEPS, Weights, from_hidden, from_input

V = 11
UNIT = 2.0**-24  # what fp32 rounds by, relative
SLOW = {"layer_norm", "zoneout", "proj_size"}
CELLS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}


def core() -> bool:
    """Say whether the native core is there, whatever it says about that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return native.available()


@pytest.fixture(autouse=True)
def quiet() -> None:
    core()  # the one warning about a missing library is not what these tests are about


@pytest.fixture
def needs_core() -> None:
    if not core():
        pytest.skip("the native core is not installed")


def float32(name: str) -> Layer:
    return build(name).float()


@pytest.fixture(params=native.LEVELS)
def level(request: pytest.FixtureRequest, needs_core: None) -> Iterator[str]:
    """Run a test at every instruction level there is."""
    if request.param not in native.levels():
        pytest.skip(f"this processor has no {request.param}")
    before = native.level()
    native.set_level(request.param)
    yield request.param
    native.set_level(before)


def language(cell: str = "gru", tie: bool = True, **extras: Any) -> LanguageModel:
    layer = CELLS[cell](6, 6 if tie else 9, 2, **extras)
    model = LanguageModel(TokenEmbedding(V, 6), layer, V, dropout=0.5, tie=tie)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.6)
    return model


def streamed(stream: Stream, steps: Tensor) -> Tensor:
    """Return what a stream says to steps (T, B, .)."""
    return torch.stack([stream.step(x).clone() for x in steps])


def slip(precision: str, x: Tensor, w: Tensor) -> Tensor:
    """Bound the error of each number of x w^T, x (B, K), w (N, K).

    A sum of K products and a bias is off by at most K + 1 roundings of the sum of their magnitudes.
    bf16 rounds each factor by 2^-8 of itself; 8 bits round it by half a step, which is 1/127 of the
    largest in its row, or by a whole one where 7 bits must do.
    """
    x = x.abs()
    w = w.abs()
    bound = (x.shape[1] + 3) * UNIT * (x @ w.T + 1)
    if precision == "bf16":
        bound += 2.01 * 2**-8 * (x @ w.T)
    if precision == "int8":
        step_x = x.amax(1, keepdim=True) / 127
        step_w = w.amax(1) / 127
        bound += step_x * w.sum(1) + step_w * x.sum(1, keepdim=True)
        bound += x.shape[1] * step_x * step_w
    return bound


@torch.no_grad()
def exactly(
    layer: Any, index: int, x: Tensor, state: tuple[Tensor, ...], precision: str
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return what a step of one layer gives in fp64, and how far from it a kernel may be."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [getattr(layer, f"{name}_l{index}", None) for name in names]
    parts: Any = [None if part is None else part.double() for part in weights]
    w = Weights(*parts)
    h = state[0]
    after, _ = STEPS[layer.cell](from_input(layer.cell, x, w), state, w, PLAIN)
    gates = (slip(precision, x, w.ih) + slip(precision, h, w.hh)).unflatten(
        1, (layer.gates, -1)
    )
    # by what a gate's error is multiplied: a gradient (1/4 or 1) times what the gate lets through
    if layer.cell == "gru":
        inner = from_hidden("gru", h, w, PLAIN)[:, -h.shape[1] :]
        factors = [inner.abs() / 4, torch.tensor(0.5), torch.tensor(1.0)]
    elif layer.cell == "lstm":
        factors = [
            torch.tensor(0.25),
            state[1].abs() / 4,
            torch.tensor(1.0),
            torch.tensor(0.25),
        ]
    else:
        factors = [torch.tensor(1.0)]
    error = sum(
        (f * g for f, g in zip(factors, gates.unbind(1), strict=True)),
        torch.tensor(0.0),
    )
    # the polynomials of the gates are right to a few roundings
    return after, error + 16 * UNIT * (1 + after[-1].abs())


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CAUSAL)
def test_in_another_precision_the_layer_steps_itself(name: str, rows: int) -> None:
    layer = build(name)
    stream = layer.stream(rows)
    state = layer.initial_state(rows)
    assert not stream.native
    for x in torch.randn(
        12, rows, D, dtype=stream.input.dtype
    ):  # without weights it is fp32
        with torch.no_grad():
            expected, state = layer.step(x, state)
        assert torch.equal(stream.step(x), expected)
    for ours, theirs in zip(tensors(stream.state), tensors(state), strict=True):
        assert torch.equal(ours, theirs)
    assert stream.explain().startswith("torch")


@pytest.mark.parametrize("precision", ["float32", "bf16", "int8"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    "name", [n for n in CAUSAL if n.startswith(("rnn", "gru", "lstm"))]
)
def test_every_native_step_is_near_the_exact_one(
    name: str, rows: int, precision: str, level: str
) -> None:
    layer: Any = float32(name)
    if any(getattr(layer, option) for option in SLOW) or (layer.last_size and rows > 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not layer.stream(rows, precision).native
        return
    stream = layer.stream(rows, precision)
    before = native.count("step")
    assert stream.native
    for x in torch.randn(12, rows, D):
        old = [part.double() for part in tensors(stream.state)]  # copies
        y = stream.step(x).double()
        read = x.double()
        new = [part.double() for part in tensors(stream.state)]
        for index in range(layer.num_layers):
            size = getattr(layer, f"weight_hh_l{index}").shape[1]
            earlier, ours = (
                tuple(p[index, :, :size] for p in parts) for parts in (old, new)
            )
            after, error = exactly(layer, index, read, earlier, precision)
            for part, right in zip(ours, after, strict=True):
                assert ((part - right).abs() <= error).all()
            # each layer is judged by what it was given, so that errors do not add up
            said = ours[0].float()
            read = (said + read.float() if layer.residual and index else said).double()
        assert torch.equal(y, read)
    assert native.count("step") - before == 12


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", [(1, 1), (3, 16), (17, 65), (64, 128)])
def test_native_steps_are_the_bits_of_reading_at_once(
    cell: str, size: tuple[int, int], level: str
) -> None:
    layer = CELLS[cell](*size, 2).eval()
    x = torch.randn(3, 9, size[0])
    forward = native.count("forward")
    with torch.no_grad():
        y, state = layer.unroll(x)
    assert native.count("forward") > forward
    stream = layer.stream(3)
    assert torch.equal(streamed(stream, x.transpose(0, 1)).transpose(0, 1), y)
    for ours, theirs in zip(tensors(stream.state), tensors(state), strict=True):
        assert torch.equal(ours, theirs)
    # a row's bits do not depend on the batch
    alone = layer.stream(1)
    assert torch.equal(streamed(alone, x[1:2].transpose(0, 1))[:, 0], y[1])


class Dispatched(TorchDispatchMode):
    """Notes every operation that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_native_step_runs_no_operation_of_torch(needs_core: None) -> None:
    stream = GRU(D, 7).stream()
    x = torch.randn(1, D)
    with Dispatched() as ran:
        stream.step(x)
        stream.step()
    assert ran.names == []


@pytest.mark.parametrize("name", ["none", "gru-2", "lstm", "attention"])
def test_every_step_returns_the_same_tensor(name: str) -> None:
    stream = float32(name).stream(2)
    first = stream.step(torch.randn(2, D))
    address = first.data_ptr()
    numbers = first.clone()
    second = stream.step(torch.randn(2, D))
    assert second is first is stream.output
    assert first.data_ptr() == address
    assert not torch.equal(first, numbers)


@pytest.mark.parametrize("name", ["none", "gru-2", "lstm", "attention"])
def test_a_step_without_argument_reads_the_input(name: str) -> None:
    layer = float32(name)
    first = layer.stream(2)
    second = layer.stream(2)
    x = torch.randn(2, D)
    second.input.copy_(x)
    assert torch.equal(first.step(x), second.step())


@pytest.mark.parametrize("name", ["rnn", "gru-2", "lstm-2", "attention"])
def test_an_input_with_gaps_is_read_right(name: str) -> None:
    layer = float32(name)
    x = torch.randn(2, 2 * D)
    whole = layer.stream(2)
    gaps = layer.stream(2)
    for read in (x[:, ::2], torch.randn(D, 2).T):
        expected = whole.step(read.contiguous())
        torch.testing.assert_close(gaps.step(read), expected, rtol=1e-5, atol=1e-5)


WRONG: dict[str, Any] = {
    "fewer rows": torch.zeros(1, D),
    "more rows": torch.zeros(3, D),
    "fewer features": torch.zeros(2, D - 1),
    "as many numbers": torch.zeros(D, 2),
    "one row alone": torch.zeros(D),
    "a sequence": torch.zeros(2, 1, D),
    "nothing": torch.zeros(0, D),
    "fp64": torch.zeros(2, D, dtype=torch.float64),
    "integers": torch.zeros(2, D, dtype=torch.int64),
    "elsewhere": torch.zeros(2, D, device="meta"),
    "numpy": torch.zeros(2, D).numpy(),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["gru-2", "attention"])
def test_what_does_not_fit_is_refused_and_nothing_is_read(
    name: str, wrong: str
) -> None:
    stream = float32(name).stream(2)
    before = stream.step(torch.randn(2, D)).clone()
    state = [part.clone() for part in tensors(stream.state)]
    with pytest.raises(
        ValueError, match=r"expected x of shape \(2, 5\), torch.float32, on cpu"
    ):
        stream.step(WRONG[wrong])
    assert torch.equal(stream.output, before)
    for ours, theirs in zip(tensors(stream.state), state, strict=True):
        assert torch.equal(ours, theirs)


def by_data(layer: nn.Module) -> None:
    for weight in layer.parameters():
        weight.data.mul_(0.5)


def by_numpy(layer: nn.Module) -> None:
    for weight in layer.parameters():
        weight.detach().numpy()[:] *= 0.5


def by_optimizer(layer: nn.Module) -> None:
    for weight in layer.parameters():
        weight.grad = weight.detach() / 2
    torch.optim.SGD(layer.parameters(), lr=1.0).step()


def by_loading(layer: nn.Module) -> None:
    layer.load_state_dict({name: w / 2 for name, w in layer.state_dict().items()})


def by_replacing(layer: nn.Module) -> None:
    for weight in layer.parameters():
        weight.data = weight.detach() / 2


@pytest.mark.parametrize(
    "change", [by_data, by_numpy, by_optimizer, by_loading, by_replacing]
)
@pytest.mark.parametrize("name", ["none", "rnn", "gru-2", "lstm-2", "attention"])
def test_changed_weights_are_seen_after_refresh_alone(name: str, change: Any) -> None:
    layer = float32(name)
    x = torch.randn(6, 2, D)
    stream = layer.stream(2)
    old = streamed(stream, x)
    change(layer)
    stream.reset()
    assert torch.equal(streamed(stream, x), old)
    stream.refresh()
    stream.reset()
    new = streamed(stream, x)
    assert torch.equal(new, streamed(layer.stream(2), x))
    assert not torch.allclose(new, old, rtol=0.01)


@pytest.mark.parametrize("tie", [False, True])
def test_refresh_takes_a_models_embedding_and_head(tie: bool) -> None:
    model = language(tie=tie).eval()
    ids = torch.randint(V, (6, 2))
    stream = model.stream(2)
    old = streamed(stream, ids)
    for part in (model.embedding, model.head):
        by_data(part)
        stream.reset()
        assert torch.equal(streamed(stream, ids), old)
    stream.refresh()
    stream.reset()
    assert torch.equal(streamed(stream, ids), streamed(model.stream(2), ids))
    assert not torch.allclose(stream.output, old[-1], rtol=0.01)


def test_refresh_refuses_weights_of_another_shape(needs_core: None) -> None:
    layer: Any = GRU(D, 7)
    stream = layer.stream()
    x = torch.randn(1, D)
    expected = streamed(stream, x[None])
    layer.weight_ih_l0 = nn.Parameter(torch.zeros(3, D))
    with pytest.raises(ValueError, match="make another stream"):
        stream.refresh()
    stream.reset()
    assert torch.equal(streamed(stream, x[None]), expected)


@pytest.mark.parametrize("name", CAUSAL)
def test_rows_are_reset_alone_or_together(name: str) -> None:
    layer = float32(name)
    x = torch.randn(8, 4, D)
    stream = layer.stream(4)
    through = layer.stream(4)
    fresh = streamed(layer.stream(4), x[4:])
    unbroken = streamed(through, x)[4:]
    for rows in (
        [1, 3],
        torch.tensor([1, 3]),
        torch.tensor([False, True, False, True]),
    ):
        stream.reset()
        streamed(stream, x[:4])
        stream.reset(rows)
        outputs = streamed(stream, x[4:])
        # a cache that begins elsewhere is summed in another order
        torch.testing.assert_close(
            outputs[:, [1, 3]], fresh[:, [1, 3]], rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            outputs[:, [0, 2]], unbroken[:, [0, 2]], rtol=1e-5, atol=1e-5
        )
    with pytest.raises(IndexError):
        stream.reset([4])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", CAUSAL)
def test_a_stream_goes_on_from_a_state_that_was_read_at_once(name: str) -> None:
    layer = float32(name)
    x = torch.randn(3, 9, D)
    with torch.no_grad():
        y, _ = layer.unroll(x)
        _, state = layer.unroll(x[:, :6])
    stream = layer.stream(3)
    kept = [part.clone() for part in tensors(state)]
    for _ in range(2):
        stream.state = state
        outputs = streamed(stream, x[:, 6:].transpose(0, 1)).transpose(0, 1)
        torch.testing.assert_close(outputs, y[:, 6:], rtol=1e-5, atol=1e-5)
    # what was given was copied
    for ours, theirs in zip(tensors(state), kept, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["gru-2", "lstm-extras", "attention"])
def test_a_state_that_was_given_may_change_afterwards(name: str) -> None:
    layer = float32(name)
    x = torch.randn(2, 6, D)
    with torch.no_grad():
        _, state = layer.unroll(x)
    stream = layer.stream(2)
    other = layer.stream(2)
    stream.load(state)
    other.load(state)
    for part in tensors(state):
        part.zero_()
    assert torch.equal(stream.step(x[:, 0]), other.step(x[:, 0]))
    other.load(state)
    assert not torch.equal(stream.step(x[:, 0]), other.step(x[:, 0]))


def test_a_native_state_lies_in_the_streams_own_memory(needs_core: None) -> None:
    layer = LSTM(D, 7, 2)
    ones = torch.ones(2, D)
    stream = layer.stream(2)
    state: Any = stream.state
    stream.step(torch.randn(2, D))
    assert stream.state is state
    assert torch.equal(state.h[-1], stream.output)
    state.h.zero_()
    state.c.zero_()
    assert torch.equal(stream.step(ones), layer.stream(2).step(ones))


@pytest.mark.parametrize("name", ["gru-2", "lstm", "attention"])
def test_another_layers_state_is_refused(name: str) -> None:
    stream = float32(name).stream(2)
    with pytest.raises(ValueError, match="state"):
        stream.load(float32("none").initial_state(2))
    with pytest.raises(ValueError, match="rows"):
        stream.load(float32(name).initial_state(3))


def test_a_state_of_other_sizes_is_refused(needs_core: None) -> None:
    stream = GRU(D, 7).stream(2)
    for other in (GRU(D, 8), GRU(D, 7, 2), LSTM(D, 7)):
        with pytest.raises(ValueError, match="expected a state of shapes"):
            stream.load(other.initial_state(2))


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_layer_that_reads_both_ways_has_no_stream(name: str) -> None:
    with pytest.raises(ValueError, match="bidirectional=False"):
        float32(name).stream()


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"precision": "fp16"}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        GRU(D, 7).stream(**wrong)


def test_a_precision_that_cannot_be_had_is_said_so() -> None:
    with pytest.warns(UserWarning, match="int8.*zoneout"):
        stream = GRU(D, 7, zoneout=0.1).stream(precision="int8")
    assert "zoneout" in stream.explain()


@pytest.mark.parametrize(
    "extras", [{"dropout": 0.5}, {"input_dropout": 0.5, "weight_drop": 0.5}]
)
@pytest.mark.parametrize("zoneout", [0.0, 0.3])
def test_a_stream_evaluates_while_its_layer_trains(extras: Any, zoneout: float) -> None:
    layer = GRU(D, 7, 2, zoneout=zoneout, **extras).train()
    x = torch.randn(5, 2, D)
    stream = layer.stream(2)
    outputs = streamed(stream, x)
    assert layer.training
    with torch.no_grad():
        expected = layer.eval().unroll(x.transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)


def test_the_reference_can_be_chosen() -> None:
    with ops.use("reference"):
        stream = GRU(D, 7).stream()
    assert not stream.native
    assert "reference" in stream.explain()


def test_nothing_is_recorded_for_a_gradient() -> None:
    for stream in (GRU(D, 7).stream(), GRU(D, 7, layer_norm=True).stream()):
        y = stream.step(torch.randn(1, D, requires_grad=True))
        assert not y.requires_grad
        assert all(part.requires_grad is False for part in tensors(stream.state))


@pytest.mark.parametrize("extras", [{}, {"layer_norm": True}])
def test_a_stream_made_in_inference_mode_works_outside(extras: Any) -> None:
    layer = GRU(D, 7, **extras)
    x = torch.randn(3, 1, D)
    with torch.inference_mode():
        stream = layer.stream()
        first = streamed(stream, x).clone()
    stream.reset()
    stream.refresh()
    assert torch.equal(streamed(stream, x), first)


def test_a_stream_can_be_neither_copied_nor_resized(needs_core: None) -> None:
    stream: Any = LSTM(D, 7).stream()
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(stream)
    for tensor in (stream.input, stream.output, stream.state.h, stream.state.c):
        with pytest.raises(RuntimeError, match="not resizable"):
            tensor.resize_(1000, 1000)


def test_a_step_keeps_its_stream_alive() -> None:
    layer = GRU(D, 7)
    x = torch.randn(4, 1, D)
    step = layer.stream().step
    again = [
        layer.stream() for _ in range(20)
    ]  # memory that was freed would be taken again
    assert torch.equal(torch.stack([step(s).clone() for s in x]), streamed(again[0], x))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tie", [False, True])
def test_a_language_model_reads_ids_and_gives_scores(cell: str, tie: bool) -> None:
    model = language(cell, tie).eval()
    ids = torch.randint(V, (3, 9))
    with torch.no_grad():
        scores, _ = model(ids)
    stream = model.train().stream(3)
    assert stream.native == core()
    outputs = streamed(stream, ids.T).transpose(0, 1)
    torch.testing.assert_close(outputs, scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [[-1, 0], [0, V], [2**40, 0], [0, -(2**62)]])
def test_ids_outside_the_vocabulary_are_refused(wrong: list[int]) -> None:
    stream = language().stream(2)
    stream.step(torch.tensor([1, 2]))
    state = [part.clone() for part in tensors(stream.state)]
    with pytest.raises((ValueError, IndexError)):
        stream.step(torch.tensor(wrong))
    for ours, theirs in zip(tensors(stream.state), state, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="int64"):
        stream.step(torch.tensor([1, 2], dtype=torch.int32))


def test_the_bytes_of_a_step_are_those_of_the_weights(needs_core: None) -> None:
    model = LanguageModel(TokenEmbedding(V, 64), LSTM(64, 64, 2), 64)
    read = sum(
        w.numel() for part in (model.layer, model.head) for w in part.parameters()
    )
    slow = LanguageModel(TokenEmbedding(V, 64), LSTM(64, 64, 2, layer_norm=True), 64)
    gains = 2 * (2 * 256 + 2 * 64)
    assert slow.stream().bytes == 4 * (read + gains)
    sizes = [model.stream(precision=precision).bytes for precision in native.PRECISIONS]
    # biases and scales are a few per cent, and packing fills the last tiles up
    for size, bits in zip(sizes, (32, 16, 8), strict=True):
        assert 0.9 < size / (bits / 8 * read) < 1.3


def test_models_that_answer_at_each_step_have_streams() -> None:
    x = torch.randn(2, 6, D)
    tagger = Aligned(nn.Identity(), GRU(D, 7), 3).eval()
    tags = streamed(tagger.stream(2), x.transpose(0, 1)).transpose(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(tags, tagger(x), rtol=1e-5, atol=1e-5)
    layer = LSTM(D, 7)
    model = ManyToOne(nn.Identity(), layer, Pooling("last", 7), 2).eval()
    answers = streamed(model.stream(2), x.transpose(0, 1))
    for step in range(6):
        with torch.no_grad():
            expected = model(x[:, : step + 1])
        torch.testing.assert_close(answers[step], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="'mean'"):
        ManyToOne(nn.Identity(), layer, Pooling("mean", 7), 2).stream()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_is_the_same_through_a_stream(cell: str, temperature: float) -> None:
    model = language(cell).eval()
    sampling = Sampling(temperature=temperature)
    stepper = model.stepper()
    before = native.count("step") if core() else 0
    assert isinstance(stepper, Streamed) == core()
    made = [
        list(generate(predictor, [3, 1, 4], 40, sampling, seed=5))
        for predictor in (model, stepper)
    ]
    assert made[0] == made[1]
    if core():
        assert native.count("step") - before == 39


def test_a_model_without_native_step_steps_itself() -> None:
    model = language(layer_norm=True).eval()
    assert model.stepper() is model
    for other in (language().double().eval(), language().train()):
        assert other.stepper() is other


def test_a_trained_model_writes_through_a_stream(
    home: SimpleNamespace, needs_core: None
) -> None:
    run = unrolled.load(home.runs["language"])
    before = native.count("step")
    text = run.generate("row ", 12, temperature=0)
    assert native.count("step") > before
    with ops.use("reference"):
        assert run.generate("row ", 12, temperature=0) == text
