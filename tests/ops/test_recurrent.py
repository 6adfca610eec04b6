"""The table of paths: which one runs, what says so, and that both agree."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from unrolled import nn, ops
from unrolled.ops import kernel, native, reference
from unrolled.ops import recurrent as table
from unrolled.ops.reference import Extras, Weights

pytestmark = pytest.mark.usefixtures("core")


def ran(call: Callable[[], object]) -> int:
    """Return how often the core ran forward during a call."""
    before = native.count("forward")
    call()
    return native.count("forward") - before


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, r"native \(\w+, float32\)"),
        (
            {"weight_drop": 0.5, "recurrent_dropout": 0.5, "dropout": 0.5},
            r"native \(\w+, float32\)",
        ),
        ({"residual": True, "bias": False}, r"native \(\w+, float32\)"),
        ({"dtype": torch.bfloat16}, r"native \(\w+, bf16\)"),
        (
            {"dtype": torch.float64},
            r"torch \(weights in torch.float64; float32 and bf16 are",
        ),
        ({"proj_size": 3, "dtype": torch.float64}, r"torch \(a projection"),
        ({"layer_norm": True}, r"reference \(layer_norm: only the equations have it"),
        (
            {"zoneout": 0.1, "layer_norm": True},
            r"reference \(layer_norm, zoneout: only",
        ),
        (
            {"recurrent_dropout": 0.5, "dtype": torch.float64},
            r"reference \(recurrent_dropout: .*; not native: weights in torch.float64",
        ),
    ],
)
def test_explain_says_what_runs(options: dict[str, Any], path: str) -> None:
    layer = nn.LSTM(5, 5, 2, **options).train()
    lines = layer.explain().splitlines()
    assert len(lines) == 2
    for index, line in enumerate(lines):
        assert re.match(f"layer {index}: {path}", line), line
    x = torch.randn(3, 4, 5).to(layer.weight_ih_l0.dtype)
    runs = 2 if path.startswith("native") else 0
    assert ran(lambda: layer.read(x)) == runs
    with torch.no_grad():
        assert ran(lambda: layer.read(x, torch.tensor([4, 0, 2]))) == runs


def test_explain_draws_nothing_and_names_directions() -> None:
    layer = nn.GRU(2, 3, 1, bidirectional=True, recurrent_dropout=0.5, weight_drop=0.5)
    before = torch.get_rng_state()
    first, second = layer.explain().splitlines()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.startswith("layer 0: native")
    assert second.startswith("layer 0 backward: native")


def test_explain_follows_the_modes() -> None:
    layer = nn.GRU(2, 3)
    x = torch.randn(1, 2, 2)
    with ops.use("reference"):
        assert layer.explain() == (
            "layer 0: reference (ops.use('reference') was chosen; ops.use('auto') ends it)"
        )
        assert not ran(lambda: layer.read(x))
    with ops.use("fast"):
        assert ran(lambda: layer.read(x)) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.explain().endswith("bf16)")
        assert ran(lambda: layer.read(x)) == 1
    with torch.autocast("cpu", torch.float16):
        assert "torch (autocast to torch.float16; bf16 is native)" in layer.explain()
        assert not ran(lambda: layer.read(x))
    with ops.precision("int8"):
        assert layer.explain().endswith("int8)")
    with ops.use("fast"), pytest.raises(ValueError, match="got zoneout; choose"):
        nn.GRU(2, 3, zoneout=0.5).explain()


@pytest.mark.parametrize("low", ["bf16", "int8"])
def test_a_precision_that_the_core_alone_has_is_never_silently_another(
    low: str,
) -> None:
    x = torch.randn(1, 2, 2)
    notice = f"ops.precision('{low}') is ignored, which the native core"
    layer = nn.GRU(2, 3)
    normed = nn.GRU(2, 3, layer_norm=True)
    double = nn.GRU(2, 3).double()
    with torch.no_grad():
        exact = layer.step(x[:, 0], layer.initial_state(1))[0]
    with ops.precision(low), torch.no_grad():
        assert "ignored" not in layer.explain()
        assert ran(lambda: layer.step(x[:, 0], layer.initial_state(1))) == 1
        assert not torch.equal(layer.step(x[:, 0], layer.initial_state(1))[0], exact)
        assert notice in normed.explain()
        assert notice in double.explain()
        with ops.use("reference"):
            assert notice in layer.explain()
        with ops.use("fast"):
            layer.read(x)
            with pytest.raises(ValueError, match="got layer_norm; choose"):
                normed.read(x)
            alone = rf"native core runs, which alone has ops\.precision\('{low}'\), got weights in"
            with pytest.raises(ValueError, match=alone):
                double.read(x.double())
    assert "ignored" not in normed.explain()


def test_what_the_core_cannot_reach_goes_to_torch() -> None:
    layer = nn.GRU(2, 3).eval()
    x = torch.randn(4, 1, 2)
    traced: list[Any] = []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not ran(
            lambda: traced.append(torch.jit.trace(layer, x, check_trace=False))
        )
    torch.testing.assert_close(
        traced[0](2 * x)[0], layer(2 * x)[0], rtol=1e-5, atol=1e-6
    )

    class Mine(torch.Tensor):
        pass

    assert not ran(lambda: layer(x.as_subclass(Mine)))
    with torch.device("meta"):
        far = nn.GRU(2, 3)
    assert "torch (on meta; the native core is for CPUs)" in far.explain()
    mask = torch.ones(1, 3, requires_grad=True)
    w = layer._weights(layer._layer_directions[0])
    extras = table.Extras(recurrent_mask=mask)
    path = table.path("gru", x, torch.zeros(1, 3), w, extras)
    assert path.name == "reference"
    assert "gradients of the mask" in path.why


def test_precision_is_a_call_and_a_block() -> None:
    layer = nn.GRU(40, 30)
    x = torch.randn(2, 5, 40)
    exact = layer.read(x)
    with ops.precision("bf16"):
        assert not torch.equal(layer.read(x), exact)
        with ops.precision("float32"):
            assert torch.equal(layer.read(x), exact)
        assert not torch.equal(layer.read(x), exact)
    assert torch.equal(layer.read(x), exact)
    with torch.autocast("cpu", torch.bfloat16), ops.precision("float32"):
        assert torch.equal(layer.read(x), exact)
    with pytest.raises(
        ValueError, match="expected a precision out of auto, float32, bf16, int8"
    ):
        ops.precision("fp8")


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_weights_in_bf16(kind: str) -> None:
    """Tolerance: the last rounding of y, 2^-9, and a few of the products', of size 1 or less."""
    layer = getattr(nn, kind)(5, 7, 2, dtype=torch.bfloat16)
    wide = getattr(nn, kind)(5, 7, 2)
    wide.load_state_dict(layer.state_dict())
    x = torch.randn(3, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    y, state = layer.unroll(x)
    assert {y.dtype, *(part.dtype for part in state.to_tensors().values())} == {
        torch.bfloat16
    }
    torch.testing.assert_close(y.float(), wide.read(x.float()), rtol=0, atol=0.03)
    gradients = torch.autograd.grad(y.float().sum(), [x, *layer.parameters()])
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
    # torch's own complaint, as without autocast
    with pytest.raises((ValueError, RuntimeError)):
        layer.read(x.float())


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_packed_sequences_are_read_where_they_stand(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = getattr(nn, kind)(
        5, 7, 2, bidirectional=True, recurrent_dropout=0.5, dropout=0.2
    )
    theirs = getattr(torch.nn, kind)(5, 7, 2, bidirectional=True).eval()
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(6, 4, 5, requires_grad=True)
    sequence = pack_padded_sequence(x, torch.tensor([2, 6, 1, 3]), enforce_sorted=False)
    h = torch.randn(4, 4, 7, requires_grad=True)
    hx = (h, torch.randn(4, 4, 7, requires_grad=True)) if kind == "LSTM" else h
    monkeypatch.setattr("unrolled.nn.calling.pad_packed_sequence", None)
    assert ran(lambda: layer.train()(sequence, hx)) == 4
    results = []
    for module in (layer.eval(), theirs):
        y, state = module(sequence, hx)
        assert isinstance(y, PackedSequence)
        ends = state if kind == "LSTM" else (state,)
        total = y.data.sin().sum() + sum(end.sin().sum() for end in ends)
        gradients = torch.autograd.grad(
            total, [x, h, *module.parameters()], retain_graph=True
        )
        results.append((y.data, *ends, *gradients))
    # fp32 sums of some 20 numbers of size 1, through six steps and two layers
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match="expected a state of 4 rows, as many as x, got 3"
    ):
        layer(
            sequence, tuple(part[:, :3] for part in hx) if kind == "LSTM" else h[:, :3]
        )


def test_packed_sequences_are_padded_where_masks_need_rows() -> None:
    layer = nn.GRU(5, 7, output_dropout=0.5).train()
    lengths = torch.tensor([3, 2])
    sequence = pack_padded_sequence(torch.randn(3, 2, 5), lengths)
    y, _ = layer(sequence)
    dropped = torch.nn.utils.rnn.pad_packed_sequence(y)[0] == 0
    assert torch.equal(dropped[0], dropped[1])
    assert dropped[0].any()


def test_one_step_equals_one_of_many() -> None:
    """Steps are torch's cells, which differ by the order of sums: some 1e-7 at this size."""
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        layer = kind(5, 7, 2)
        x = torch.randn(3, 4, 5)
        y = layer.unroll(x)[0]
        state = layer.initial_state(3)
        for t in range(4):
            out, state = layer.step(x[:, t], state)
            torch.testing.assert_close(out, y[:, t], rtol=1e-5, atol=1e-6)
    layer = nn.GRU(5, 7, recurrent_dropout=0.5).train()
    with ops.use("fast"):  # no cell of torch's has this
        assert ran(lambda: layer.step(x[:, 0], layer.initial_state(3))) == 1


def test_without_the_core_torchs_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_library", None)
    monkeypatch.setattr(native, "_missing", "taken away")
    monkeypatch.setattr(kernel, "unroll", None)
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        layer = kind(5, 7)
        x = torch.randn(3, 4, 5)
        assert layer.explain() == "layer 0: torch (taken away)"
        y = layer.read(x, torch.tensor([4, 1, 0]))
        with ops.use("reference"):
            expected = layer.read(x, torch.tensor([4, 1, 0]))
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


def test_a_layout_is_made_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    kept = table.padded
    monkeypatch.setattr(table, "padded", lambda *args: made.append(1) or kept(*args))
    nn.GRU(5, 7, 3, bidirectional=True).read(
        torch.randn(3, 4, 5), torch.tensor([4, 1, 0])
    )
    assert len(made) == 1


def test_float32_beside_other_precisions_is_torchs_to_refuse() -> None:
    w = Weights(*(torch.randn(shape) for shape in ((9, 2), (9, 3), (9,), (9,))))
    x: Tensor = torch.randn(1, 2, 2, dtype=torch.float64)
    path = table.path("gru", x, torch.zeros(1, 3), w)
    assert path.name == "torch"
    assert path.why.startswith(
        "x in torch.float64 and state in torch.float32 beside weights in"
    )


@pytest.mark.parametrize("precision", ["auto", "bf16", "int8"])
@pytest.mark.parametrize(
    "extras", [Extras(), Extras(zoneout=0.1), Extras(recurrent_mask=torch.ones(1, 3))]
)
def test_a_cell_without_a_kernel_runs_on_the_equations_or_is_refused(
    precision: str, extras: Extras, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reference.STEPS, "leaky", reference.STEPS["rnn_tanh"])
    h = torch.zeros(1, 3)
    for cell, gates in (("mingru", 2), ("leaky", 1)):
        w = Weights(torch.randn(gates * 3, 2), torch.randn(gates * 3, 3))
        for x in (torch.randn(1, 2, 2), torch.randn(1, 0, 2)):
            with ops.precision(precision):
                for mode in ("auto", "reference"):
                    with ops.use(mode):
                        path = table.path(cell, x, h, w, extras)
                        said = table.describe(path, w)
                        y, _ = table.unroll(cell, x, (h,), w, extras=extras)
                    assert path.name == "reference"
                    assert said.startswith("reference (")
                    assert y.shape == (1, x.shape[1], 3)
                with ops.use("fast"), pytest.raises(ValueError, match=f"cell {cell}"):
                    table.path(cell, x, h, w, extras)
