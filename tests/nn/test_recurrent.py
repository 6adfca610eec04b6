"""RNN, LSTM and GRU against torch.nn, with copied weights.

fp64: the two differ by the order of sums alone, so 1e-12 tells any wrong equation.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from unrolled import nn, ops

TIGHT = {"rtol": 0, "atol": 1e-12}
D = 5
H = 7
B = 4
T = 6

CASES: list[tuple[str, dict[str, Any]]] = [
    (cell, {"num_layers": layers, "bidirectional": both, "bias": bias, **more})
    for cell, more in (
        ("RNN", {}),
        ("RNN", {"nonlinearity": "relu"}),
        ("LSTM", {}),
        ("LSTM", {"proj_size": 3}),
        ("GRU", {}),
    )
    for layers, both, bias in ((1, False, True), (2, True, True), (2, False, False))
]
cases = pytest.mark.parametrize(("cell", "options"), CASES)


def pair(cell: str, **options: Any) -> tuple[Any, Any]:
    """Return our module and torch's with the same weights, fp64."""
    ours = getattr(nn, cell)(D, H, dtype=torch.float64, **options)
    theirs = getattr(torch.nn, cell)(D, H, dtype=torch.float64, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def parts(state: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)


def initial(theirs: Any, rows: int | None = B) -> Any:
    """Return random initial states that want gradients."""
    directions = theirs.num_layers * (2 if theirs.bidirectional else 1)
    middle = () if rows is None else (rows,)
    h = (
        torch.randn(directions, *middle, theirs.proj_size or H)
        .double()
        .requires_grad_()
    )
    c = torch.randn(directions, *middle, H).double().requires_grad_()
    return (h, c) if theirs.mode == "LSTM" else h


def compare(ours: Any, theirs: Any, x: Any, data: Tensor, hx: Any, **more: Any) -> None:
    """Compare outputs, final states and every gradient under random cotangents."""
    results = []
    for module, extra in ((ours, more), (theirs, {})):
        torch.manual_seed(5)
        y, state = module(x, hx, **extra)
        y = y.data if isinstance(y, PackedSequence) else y
        outputs = [y, *parts(state)]
        total = sum((o * torch.randn(o.shape, dtype=o.dtype)).sum() for o in outputs)
        inputs = [data, *(parts(hx) if hx is not None else []), *module.parameters()]
        # the graph that packed x is shared
        results.append((outputs, torch.autograd.grad(total, inputs, retain_graph=True)))
    torch.testing.assert_close(results[0], results[1], **TIGHT)


@cases
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("mode", ["fast", "reference"])
def test_equals_torch(
    cell: str, options: dict[str, Any], batch_first: bool, mode: str
) -> None:
    ours, theirs = pair(cell, batch_first=batch_first, **options)
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    with ops.use(mode):
        x = x if batch_first else x.transpose(0, 1)
        compare(ours, theirs, x, x, initial(theirs))
        compare(ours, theirs, x, x, None)


@cases
@pytest.mark.parametrize("mode", ["fast", "reference"])
def test_equals_torch_packed(cell: str, options: dict[str, Any], mode: str) -> None:
    ours, theirs = pair(cell, **options)
    x = torch.randn(T, B, D, dtype=torch.float64, requires_grad=True)
    with ops.use(mode):
        for lengths, is_sorted in (([3, 6, 1, 3], False), ([6, 4, 4, 1], True)):
            packed = pack_padded_sequence(
                x, torch.tensor(lengths), enforce_sorted=is_sorted
            )
            compare(ours, theirs, packed, x, initial(theirs))
            y, _ = ours(packed)
            expected, _ = theirs(packed)
            for got, reference in zip(y[1:], expected[1:], strict=True):
                assert (got is None and reference is None) or torch.equal(
                    got, reference
                )


@cases
def test_equals_torch_on_one_sequence(cell: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(cell, **options)
    x = torch.randn(T, D, dtype=torch.float64, requires_grad=True)
    compare(ours, theirs, x, x, initial(theirs, None))
    compare(ours, theirs, x, x, None)


@cases
def test_lengths_equal_packing(cell: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(cell, batch_first=True, **options)
    lengths = torch.tensor([3, 6, 1, 3])
    x = torch.randn(B, T, D, dtype=torch.float64)
    hx = initial(theirs)
    y, state = ours(x, hx, lengths=lengths)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, last = theirs(packed, hx)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)
    torch.testing.assert_close((y, parts(state)), (expected, parts(last)), **TIGHT)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_same_seed_same_weights_as_torch(cell: str) -> None:
    torch.manual_seed(1)
    ours = getattr(nn, cell)(3, 4, 2, bidirectional=True)
    torch.manual_seed(1)
    theirs = getattr(torch.nn, cell)(3, 4, 2, bidirectional=True)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    listed = zip(ours.all_weights, theirs.all_weights, strict=True)
    assert all(len(a) == len(b) for a, b in listed)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_positional_arguments_as_torch(cell: str) -> None:
    more = ("relu",) if cell == "RNN" else ()
    ours = getattr(nn, cell)(3, 4, 2, *more, False, True, 0.5, True)
    theirs = getattr(torch.nn, cell)(3, 4, 2, *more, False, True, 0.5, True)
    for name in (
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "hidden_size",
    ):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("ragged", [False, True])
def test_dropout_between_layers(
    cell: str, ragged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair(cell, num_layers=2, dropout=0.4, batch_first=True)
    x = torch.randn(B, T, D, dtype=torch.float64)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], **TIGHT)
    mask = (torch.rand(B, T, H) < 0.6).double() / 0.6
    # what is drawn depends on the order in memory, which is the kernels' own: draw it here
    dropped = lambda y, p, training: y * mask if training and p == 0.4 else y  # noqa: E731
    monkeypatch.setattr("unrolled.nn.recurrent.F.dropout", dropped)
    ours.train()
    lengths = torch.tensor([6, 2, 4, 0]) if ragged else None
    below, above = (
        getattr(nn, cell)(D if not k else H, H, dtype=x.dtype) for k in (0, 1)
    )
    weights = ours.state_dict()
    below.load_state_dict({k: v for k, v in weights.items() if k.endswith("l0")})
    above.load_state_dict(
        {k[:-1] + "0": v for k, v in weights.items() if k.endswith("l1")}
    )
    expected = above.read(below.read(x, lengths) * mask, lengths)
    for mode in ("fast", "reference"):
        with ops.use(mode):
            torch.testing.assert_close(ours(x, lengths=lengths)[0], expected, **TIGHT)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_torch_weights_of_fp32(cell: str) -> None:
    """fp32 sums of 7 + 5 products of size 1 are off by some 1e-7."""
    theirs = getattr(torch.nn, cell)(D, H, 2)
    ours = getattr(nn, cell)(D, H, 2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, D)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("ragged", [False, True])
def test_autocast_keeps_the_state_in_fp32(cell: str, ragged: bool) -> None:
    """bf16 has 8 bits: products are off by 2^-9, which T steps add up to a few hundredths."""
    layer = getattr(nn, cell)(D, 32, 2, bidirectional=True)
    x = torch.randn(B, T, D, requires_grad=True)
    lengths = torch.tensor([6, 2, 4, 0]) if ragged else None
    expected, last = layer.unroll(x, None, lengths)
    exact = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer.unroll(x, None, lengths)
        with torch.no_grad():
            quiet, _ = layer.unroll(x, None, lengths)
    assert all(part.dtype == torch.float32 for part in state.to_tensors().values())
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.05)
    torch.testing.assert_close(quiet.float(), expected, rtol=0, atol=0.05)
    torch.testing.assert_close(state.h, last.h, rtol=0, atol=0.05)
    gradients = torch.autograd.grad(y.float().square().sum(), list(layer.parameters()))
    for got, reference in zip(gradients, exact, strict=True):
        assert got.dtype == torch.float32
        assert (got - reference).norm() < 0.05 * reference.norm() + 1e-3


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("RNN", {}),
        ("RNN", {"nonlinearity": "relu"}),
        ("LSTM", {}),
        ("LSTM", {"proj_size": 3}),
        ("GRU", {}),
        *(
            (cell, {"layer_norm": True, "zoneout": 0.2})
            for cell in ("RNN", "LSTM", "GRU")
        ),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_autocast_steps_keep_the_state_in_fp32(
    cell: str, options: dict[str, Any], mode: str
) -> None:
    """Tolerance as above."""
    layer = getattr(nn, cell)(D, H, 2, **options).eval()
    x = torch.randn(2, B, D)
    start = layer.initial_state(B)
    _, expected = layer.step(x[1], layer.step(x[0], start)[1])
    with ops.use(mode), torch.autocast("cpu", torch.bfloat16):
        _, state = layer.step(x[1], layer.step(x[0], start)[1])
    for got, reference in zip(
        state.to_tensors().values(), expected.to_tensors().values(), strict=True
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, reference, rtol=0, atol=0.05)


def test_variational_masks_are_the_same_at_every_step() -> None:
    layer = nn.GRU(D, H, input_dropout=0.5, output_dropout=0.5).train()
    x = torch.ones(2, 9, D)
    y, _ = layer.unroll(x)
    dropped = y == 0
    assert dropped.any()
    assert not dropped.all()
    assert (dropped == dropped[:, :1]).all()
    assert layer.input_dropout(x).unique().tolist() == [0.0, 2.0]
    with ops.use("fast"):
        layer.unroll(x)


def test_dropout_between_layers_may_be_one_mask_a_sequence() -> None:
    layer = nn.RNN(4, 4, 2, "relu", bias=False, between_dropout=0.5)
    below = nn.RNN(4, 4, 1, "relu", bias=False)
    with torch.no_grad():
        # the second layer says what it reads
        layer.weight_ih_l1.copy_(torch.eye(4))
        layer.weight_hh_l1.zero_()
        for name, weight in below.named_parameters():
            weight.copy_(layer.get_parameter(name).abs_())
    x = torch.rand(3, 6, 4) + 0.1
    y = layer.unroll(x)[0]
    said = below.unroll(x)[0]
    masks = y / said
    assert torch.equal(masks == 0, (masks == 0)[:, :1].expand_as(masks))
    torch.testing.assert_close(masks, torch.where(masks == 0, 0.0, 2.0))
    assert 0 < int((masks[:, 0] == 0).sum()) < 12
    torch.testing.assert_close(layer.eval().unroll(x)[0], said)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_narrower_last_layer_equals_torchs_layers_in_a_row(cell: str) -> None:
    kind, theirs = {"lstm": (nn.LSTM, torch.nn.LSTM), "gru": (nn.GRU, torch.nn.GRU)}[
        cell
    ]
    layer = kind(5, 7, 3, last_size=4).double()
    first = theirs(5, 7, 2, batch_first=True).double()
    last = theirs(7, 4, batch_first=True).double()
    with torch.no_grad():
        for name, weight in first.named_parameters():
            weight.copy_(layer.get_parameter(name))
        for name, weight in last.named_parameters():
            weight.copy_(layer.get_parameter(name.replace("_l0", "_l2")))
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    y, state = layer.unroll(x)
    said, end = last(first(x)[0])
    torch.testing.assert_close(y, said, rtol=1e-12, atol=1e-12)
    h = end[0] if cell == "lstm" else end
    torch.testing.assert_close(state.h[2, :, :4], h[0], rtol=1e-12, atol=1e-12)
    assert state.h.shape == (3, 2, 7)
    assert not state.h[2, :, 4:].any()
    # reading on is as reading at once
    half, state = layer.unroll(x[:, :3])
    rest, _ = layer.unroll(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([half, rest], 1), y, rtol=1e-12, atol=1e-12)


def test_recurrent_dropout_is_one_mask_on_the_hidden_vector() -> None:
    layer = nn.RNN(D, H, recurrent_dropout=0.5, nonlinearity="relu").train()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.weight_hh_l0.copy_(torch.eye(H))
    state = nn.RecurrentState(torch.ones(1, 3, H))
    y, _ = layer.unroll(torch.zeros(3, 4, D), state)
    # kept units double at each step, dropped ones are gone from the first
    kept = y[:, 0] > 0
    assert kept.any()
    assert not kept.all()
    expected = kept[:, None] * torch.tensor([2.0, 4.0, 8.0, 16.0])[:, None]
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


def test_zoneout_keeps_old_values_and_evaluates_the_mean() -> None:
    layer = nn.GRU(D, 400, zoneout=0.25)
    x = torch.randn(1, 1, D)
    state = nn.RecurrentState(torch.randn(1, 1, 400))
    plain = nn.GRU(D, 400)
    plain.load_state_dict(layer.state_dict())
    new = plain.unroll(x, state)[0]
    y = layer.train().unroll(x, state)[0]
    kept = (y == state.h[:, 0]).float().mean()
    assert 0.15 < kept < 0.35
    mean = layer.eval().unroll(x, state)[0]
    torch.testing.assert_close(mean, 0.25 * state.h + 0.75 * new)


def test_weight_drop_is_drawn_for_each_call_and_runs_fast() -> None:
    layer = nn.LSTM(D, H, weight_drop=0.5).train()
    x = torch.randn(2, T, D)
    with ops.use("fast"):
        first = layer.read(x)
        second = layer.read(x)
        assert not torch.equal(first, second)
        first.sum().backward()
    layer.eval()
    plain = torch.nn.LSTM(D, H, batch_first=True)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.read(x), plain(x)[0])


def test_layer_norm_is_that_of_the_paper() -> None:
    layer = nn.LSTM(D, H, layer_norm=True, dtype=torch.float64)
    x = torch.randn(1, 1, D, dtype=torch.float64)
    normal = torch.nn.functional.layer_norm
    gates = (
        normal(x[0] @ layer.weight_ih_l0.T, (4 * H,))
        + layer.bias_ih_l0
        + layer.bias_hh_l0
    )
    i, _, g, o = gates.chunk(4, 1)
    c = i.sigmoid() * g.tanh()
    h = o.sigmoid() * normal(c, (H,)).tanh()
    torch.testing.assert_close(layer.read(x)[0], h, **TIGHT)


def test_fast_refuses_what_only_the_reference_runs() -> None:
    with (
        ops.use("fast"),
        pytest.raises(ValueError, match="got layer_norm, zoneout; choose"),
    ):
        nn.GRU(D, H, layer_norm=True, zoneout=0.1).read(torch.randn(1, 2, D))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "expected hidden_size of at least 1, got 0"),
        ({"num_layers": 0}, "expected num_layers of at least 1"),
        ({"proj_size": 7}, "expected proj_size from 0"),
        ({"zoneout": 1.5}, "expected zoneout from 0 to 1, got 1.5"),
        ({"dropout": -0.1}, "expected dropout from 0 to 1"),
        ({"input_dropout": 2}, "expected p from 0 to 1"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.LSTM(D, **{"hidden_size": H, **options})


def test_wrong_nonlinearity() -> None:
    with pytest.raises(ValueError, match="'tanh' or 'relu', got 'gelu'"):
        nn.RNN(D, H, nonlinearity="gelu")


def test_wrong_calls() -> None:
    lstm = nn.LSTM(D, H)
    gru = nn.GRU(D, H)
    x = torch.randn(T, B, D)
    h = torch.zeros(1, B, H)
    for layer, args, message in (
        (lstm, (x, h), r"expected a pair \(h, c\)"),
        (gru, (x, (h, h)), "expected one tensor h"),
        (gru, (x, h[0]), "expected an initial state of 3 dimensions"),
        (gru, (x, torch.zeros(2, B, H)), r"expected a state of shapes \[\(1, 4, 7\)\]"),
        (gru, (x[0, 0],), "expected x of 3 dimensions, or 2"),
        (gru, (x[0], None, torch.tensor([1])), "expected no lengths for one sequence"),
        (
            gru,
            (pack_padded_sequence(x, [6] * B), None, torch.tensor([1] * B)),
            "no lengths beside",
        ),
        (lstm, (x, nn.RecurrentState(h)), "expected a state of shapes"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(*args)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_compile_of_the_module(cell: str) -> None:
    torch.compiler.reset()
    layer = getattr(nn, cell)(D, H, 2, batch_first=True)
    x = torch.randn(B, T, D)
    compiled = torch.compile(layer, backend="eager")
    torch.testing.assert_close(compiled(x)[0], layer(x)[0], rtol=1e-5, atol=1e-6)


def test_repr_names_what_is_unusual() -> None:
    shown = repr(nn.GRU(3, 4, num_layers=2, zoneout=0.1))
    assert "3, 4, num_layers=2, zoneout=0.1" in shown
    assert "bias" not in shown
    for cell, layers in itertools.product(("RNN", "LSTM"), (1, 2)):
        assert repr(getattr(nn, cell)(3, 4, layers)).startswith(cell)
