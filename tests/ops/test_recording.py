"""What is recorded of layers equals equations written out here, and what is held stays so."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from unrolled import nn
from unrolled.ops.recording import LONG, SPANS, Hold, Recorder

STEPS = 7


def lstm_by_hand(
    layer: torch.nn.LSTM,
    x: Tensor,
    forget: float | None = None,
    unit: int | None = None,
) -> dict[str, Tensor]:
    """Gates and states of a one-layer LSTM (T, H), in float64; a gate or a unit of h held."""
    size = layer.hidden_size
    h = torch.zeros(size, dtype=torch.float64)
    c = torch.zeros(size, dtype=torch.float64)
    seen: dict[str, list[Tensor]] = {}
    for step in x:
        summed = layer.weight_ih_l0 @ step + layer.bias_ih_l0
        summed = summed + layer.weight_hh_l0 @ h + layer.bias_hh_l0
        i, f, g, o = summed.chunk(4)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        if forget is not None:
            f = torch.full_like(f, forget)
        c = f * c + i * g
        h = o * c.tanh()
        if unit is not None:
            h = h.clone()
            h[unit] = 0.25
        gates = {"input": i, "forget": f, "candidate": g, "output": o, "c": c, "h": h}
        for name, value in gates.items():
            seen.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in seen.items()}


def recorded(recorder: Recorder, name: str) -> Tensor:
    return torch.cat([step[name] for step in recorder.layers[0].steps])


@pytest.mark.parametrize(
    ("holds", "options"),
    [
        ((), {}),
        ((Hold("forget", 0.0),), {"forget": 0.0}),
        ((Hold("h", 0.25, unit=2),), {"unit": 2}),
        ((Hold("h", 0.25, unit=2), Hold("forget", 1.0)), {"unit": 2, "forget": 1.0}),
    ],
)
def test_gates_of_an_lstm_are_those_of_a_loop_by_hand(
    holds: tuple[Hold, ...], options: dict[str, float]
) -> None:
    torch.manual_seed(1)
    layer = nn.LSTM(3, 5).double()
    x = torch.randn(1, STEPS, 3, dtype=torch.float64)
    expected = lstm_by_hand(layer, x[0], **options)  # type: ignore[arg-type]
    with Recorder(layer.observed("layer"), holds) as recorder:
        y = layer.read(x, [STEPS])
    for name, values in expected.items():
        # float64 on both sides: rounding alone
        torch.testing.assert_close(recorded(recorder, name), values, rtol=0, atol=1e-12)
    torch.testing.assert_close(y[0], expected["h"], rtol=0, atol=1e-12)
    assert recorder.layers[0].applied == set(holds)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.MinGRU])
def test_recording_changes_no_output(kind: type[nn.LSTM]) -> None:
    torch.manual_seed(1)
    layer = kind(3, 5, num_layers=2, bidirectional=True)
    x = torch.randn(2, STEPS, 3)
    lengths = [STEPS, 4]
    plain = layer.read(x, lengths)
    with Recorder(layer.observed("layer")) as recorder:
        seen = layer.read(x, lengths)
    # the native core and the equations differ in the last bits
    torch.testing.assert_close(seen, plain, rtol=1e-5, atol=1e-6)
    names = [(record.name, record.backward) for record in recorder.layers]
    assert names == [
        ("layer 1", False),
        ("layer 1", True),
        ("layer 2", False),
        ("layer 2", True),
    ]
    assert all(len(record.steps) == STEPS for record in recorder.layers)


def test_steps_are_recorded_as_whole_passes_are() -> None:
    torch.manual_seed(1)
    layer = nn.GRU(3, 5, num_layers=2)
    x = torch.randn(1, STEPS, 3)
    with Recorder(layer.observed("layer")) as whole:
        layer.read(x)
    state = layer.initial_state(1)
    with Recorder(layer.observed("layer")) as stepped:
        for step in x.unbind(1):
            _, state = layer.step(step, state)
    for record, other in zip(whole.layers, stepped.layers, strict=True):
        for step, other_step in zip(record.steps, other.steps, strict=True):
            assert step.keys() == other_step.keys()
            torch.testing.assert_close(step["h"], other_step["h"])


def test_gradients_of_recorded_states_are_those_of_all_that_follows() -> None:
    torch.manual_seed(1)
    layer = nn.LSTM(3, 5).double()
    x = torch.randn(1, STEPS, 3, dtype=torch.float64)
    with Recorder(layer.observed("layer")) as recorder:
        y = layer.read(x, [STEPS])
    states = [step["h"] for step in recorder.layers[0].steps]
    gradients = torch.autograd.grad(y[0, -1].sum(), states)
    # by hand: the last h as a function of the h of a step, c kept as it was
    for at in range(STEPS - 1):
        c = recorder.layers[0].steps[at]["c"][0].detach()

        def rest(h: Tensor, c: Tensor = c, at: int = at) -> Tensor:
            for step in x[0, at + 1 :]:
                summed = layer.weight_ih_l0 @ step + layer.bias_ih_l0
                summed = summed + layer.weight_hh_l0 @ h + layer.bias_hh_l0
                i, f, g, o = summed.chunk(4)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            return h.sum()

        expected = torch.func.grad(rest)(states[at][0].detach())
        torch.testing.assert_close(gradients[at][0], expected, rtol=0, atol=1e-12)


def test_attention_weights_are_softmax_of_products() -> None:
    torch.manual_seed(1)
    layer = nn.Attention(4, 8, layers=2, heads=2, positions="learned", context=STEPS)
    layer = layer.double()
    x = torch.randn(1, STEPS, 4, dtype=torch.float64)
    plain = layer.read(x)
    with Recorder(layer.observed("layer")) as recorder:
        y = layer.read(x)
    torch.testing.assert_close(y, plain, rtol=0, atol=1e-12)
    seen = {
        record.name: record.weights[0] for record in recorder.layers if record.weights
    }
    assert list(seen) == ["layer 1", "layer 2"]
    for weights in seen.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, STEPS).double())
        assert (weights.triu(1) == 0).all()
    block = layer.blocks[0]
    positions = layer.position_table(torch.arange(STEPS))  # type: ignore[misc]
    normed = block.attention_norm(layer.project(x) + positions)
    q, k = (
        product(normed)[0].unflatten(1, (2, 4)).transpose(0, 1)
        for product in (block.attention.query, block.attention.key)
    )
    scores = q @ k.transpose(1, 2) / 2.0
    masked = scores.masked_fill(torch.ones(STEPS, STEPS).triu(1).bool(), -torch.inf)
    expected = masked.softmax(-1)
    torch.testing.assert_close(seen["layer 1"][0], expected, rtol=0, atol=1e-12)


def test_weights_over_many_steps_are_recorded_by_spans() -> None:
    torch.manual_seed(1)
    layer = nn.Attention(4, 8, layers=1, heads=2)
    x = torch.randn(1, LONG + 50, 4)
    with torch.no_grad(), Recorder(layer.observed("layer")) as recorder:
        layer.read(x)
    record = next(record for record in recorder.layers if record.weights)
    weights = torch.cat(record.weights, 2)
    assert record.span == -(-(LONG + 50) // SPANS)
    assert weights.shape[2] == LONG + 50
    assert weights.shape[3] <= SPANS
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, LONG + 50))


def test_only_the_block_and_its_thread_are_recorded() -> None:
    layer = nn.GRU(3, 5)
    x = torch.randn(1, STEPS, 3)
    with Recorder(layer.observed("layer")) as recorder:
        other = threading.Thread(target=lambda: layer.read(x))
        other.start()
        other.join()
    layer.read(x)
    assert recorder.layers == []


def test_a_unit_that_is_not_there_is_an_error() -> None:
    layer = nn.GRU(3, 5)
    with (
        pytest.raises(IndexError, match=r"unit 9 of reset in layer 1: it has 5 units"),
        Recorder(layer.observed("layer"), [Hold("reset", 0.0, unit=9)]),
    ):
        layer.read(torch.randn(1, STEPS, 3))
