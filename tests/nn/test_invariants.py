"""What must hold for every layer in every variant.

All numbers are fp64, where the paths differ by the order of sums alone: 1e-12 is some thousand
units in the last place of numbers of size 1, and any error in an equation is far above it.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor

from unrolled.nn import Layer, State, pack, unpack

from .variants import BOTH_WAYS, CAUSAL, EVERY, D, build, tensors

TIGHT = {"rtol": 0, "atol": 1e-12}

every = pytest.mark.parametrize("name", EVERY)
causal = pytest.mark.parametrize("name", CAUSAL)


def sequence(rows: int = 3, steps: int = 6, *, grad: bool = False) -> Tensor:
    return torch.randn(rows, steps, D, dtype=torch.float64, requires_grad=grad)


def same(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, **TIGHT)


def same_state(got: State, expected: State) -> None:
    """Compare what counts of two states: of a cache only what each row has read."""
    mine = got.to_tensors()
    other = expected.to_tensors()
    assert mine.keys() == other.keys()
    if "lengths" in mine:
        assert mine["lengths"].tolist() == other["lengths"].tolist()
        for row, length in enumerate(mine["lengths"].tolist()):
            for part in ("keys", "values"):
                same(mine[part][:, row, :, :length], other[part][:, row, :, :length])
    else:
        same(mine, other)


def gradients(
    layer: Layer, outputs: list[Tensor], inputs: list[Tensor]
) -> list[Tensor]:
    """Return gradients of all weights and inputs under random cotangents."""
    torch.manual_seed(99)
    # not randn_like, which draws in the order of memory: equal tensors may differ in strides
    total = sum(
        (out * torch.randn(out.shape, dtype=out.dtype)).sum() for out in outputs
    )
    variables = [*layer.parameters(), *inputs]
    results = torch.autograd.grad(
        total, variables, allow_unused=True, materialize_grads=True
    )
    return list(results)


@every
@pytest.mark.parametrize("lengths", [None, [6, 2, 4]])
def test_read_equals_unroll(name: str, lengths: list[int] | None) -> None:
    layer = build(name)
    x = sequence()
    ragged = None if lengths is None else torch.tensor(lengths)
    y, state = layer.unroll(x, None, ragged)
    assert y.shape == (3, 6, layer.output_size)
    assert state.rows == 3
    same(layer.read(x, ragged), y)


@causal
@pytest.mark.parametrize("grad", [False, True])
def test_steps_equal_the_full_pass(name: str, grad: bool) -> None:
    layer = build(name)
    x = sequence()
    with torch.set_grad_enabled(grad):
        y, last = layer.unroll(x)
        state: State = layer.initial_state(3)
        for t in range(6):
            out, state = layer.step(x[:, t], state)
            same(out, y[:, t])
    same_state(state, last)


@causal
@pytest.mark.parametrize("grad", [False, True])
def test_chunks_equal_the_full_pass(name: str, grad: bool) -> None:
    layer = build(name)
    x = sequence(steps=7)
    with torch.set_grad_enabled(grad):
        y, last = layer.unroll(x)
        state: State | None = None
        for start, end in ((0, 3), (3, 4), (4, 7)):
            out, state = layer.unroll(x[:, start:end], state)
            same(out, y[:, start:end])
    assert state is not None
    same_state(state, last)


@causal
def test_gradients_flow_through_a_state_as_through_the_full_pass(name: str) -> None:
    layer = build(name)
    x = sequence(grad=True)
    whole = gradients(layer, [layer.unroll(x)[0]], [x])
    first, state = layer.unroll(x[:, :2])
    second, state = layer.unroll(x[:, 2:5], state)
    third, _ = layer.step(x[:, 5], state)
    same(gradients(layer, [torch.cat([first, second, third[:, None]], 1)], [x]), whole)


@causal
def test_ragged_chunks_equal_each_row_alone(name: str) -> None:
    layer = build(name)
    x = sequence(steps=7)
    first = [3, 0, 2]
    second = [1, 4, 0]
    _, state = layer.unroll(x[:, :3], None, torch.tensor(first))
    y, state = layer.unroll(x[:, 3:], state, torch.tensor(second))
    for row, (a, b) in enumerate(zip(first, second, strict=True)):
        alone = torch.cat([x[row, :a], x[row, 3 : 3 + b]])[None]
        expected, last = layer.unroll(alone)
        same(y[row, :b], expected[0, a:])
        same_state(state.reorder(torch.tensor([row])), last)
        assert not y[row, b:].any()


@every
@pytest.mark.parametrize("garbage", [1e30, -7.0])
def test_padding_changes_nothing(name: str, garbage: float) -> None:
    layer = build(name)
    lengths = [4, 1, 0, 6]
    x = sequence(4)
    expected_y = []
    expected_gradients = []
    for row, length in enumerate(lengths):
        alone = x[row : row + 1, :length].clone().requires_grad_()
        if length:
            out, last = layer.unroll(alone)
            expected_y.append(out[0])
            expected_gradients.append((alone, out, last))
    padded = x.clone()
    for row, length in enumerate(lengths):
        padded[row, length:] = garbage
    padded.requires_grad_()
    y, state = layer.unroll(padded, None, torch.tensor(lengths))
    live = [row for row, length in enumerate(lengths) if length]
    for row, expected in zip(live, expected_y, strict=True):
        same(y[row, : lengths[row]], expected)
        assert not y[row, lengths[row] :].any()
    for row, (_, _, last) in zip(live, expected_gradients, strict=True):
        same_state(state.reorder(torch.tensor([row])), last)
    cot = torch.randn_like(y)
    ours = torch.autograd.grad(
        (y * cot).sum(),
        [padded, *layer.parameters()],
        allow_unused=True,
        materialize_grads=True,
    )
    total = sum(
        (out[0] * cot[row, : lengths[row]]).sum()
        for row, (_, out, _) in zip(live, expected_gradients, strict=True)
    )
    inputs = [alone for alone, _, _ in expected_gradients]
    theirs = torch.autograd.grad(
        total, [*inputs, *layer.parameters()], allow_unused=True, materialize_grads=True
    )
    for row, gradient in zip(live, theirs[: len(live)], strict=True):
        same(ours[0][row, : lengths[row]], gradient[0])
        assert not ours[0][row, lengths[row] :].any()
    same(ours[1:], theirs[len(live) :])


@every
def test_gradients_of_the_final_state_ignore_padding(name: str) -> None:
    layer = build(name)
    lengths = [4, 1, 6]
    if "attention" in name:
        pytest.skip("the cache holds padding too, past each row's length")
    x = sequence(grad=True)
    _, state = layer.unroll(x, None, torch.tensor(lengths))
    if not tensors(state):
        pytest.skip("an empty state has no gradients")
    cots = [torch.randn_like(part) for part in tensors(state)]
    ours = torch.autograd.grad(tensors(state), [x, *layer.parameters()], cots)
    finals = []
    for row, length in enumerate(lengths):
        _, last = layer.unroll(x[row : row + 1, :length])
        finals += [
            (part[:, 0] * cot[:, row]).sum()
            for part, cot in zip(tensors(last), cots, strict=True)
        ]
    same(ours, torch.autograd.grad(sum(finals), [x, *layer.parameters()]))


@causal
def test_no_look_ahead(name: str) -> None:
    layer = build(name)
    x = sequence(grad=True)
    y, _ = layer.unroll(x)
    for t in range(6):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert not gradient[:, t + 1 :].any()
        assert gradient[:, t].any()


@every
def test_batch_of_one_equals_batch_of_many(name: str) -> None:
    layer = build(name)
    x = sequence(5)
    y, _ = layer.unroll(x)
    for row in range(5):
        same(layer.unroll(x[row : row + 1])[0][0], y[row])


@causal
@pytest.mark.parametrize("grad", [False, True])
def test_reorder_and_join(name: str, grad: bool) -> None:
    layer = build(name)
    x = sequence()
    nexts = sequence()
    with torch.set_grad_enabled(grad):
        _, state = layer.unroll(x, None, torch.tensor([6, 3, 1]))
        _, other = layer.unroll(x[:2, :2])
        chosen = torch.tensor([2, 0, 0, 1])
        y, _ = layer.step(nexts[:, 0], state)
        moved, after = layer.step(nexts[chosen, 0], state.reorder(chosen))
        same(moved, y[chosen])
        joined = type(state).join([state, other, after])
        assert joined.rows == 9
        both, _ = layer.step(
            torch.cat([nexts[:, 1], nexts[:2, 1], nexts[chosen, 1]]), joined
        )
        same(both[:3], layer.step(nexts[:, 1], state)[0])
        same(both[3:5], layer.step(nexts[:2, 1], other)[0])
        same(both[5:], layer.step(nexts[chosen, 1], after)[0])
        assert not layer.step(nexts[:0, 0], state.reorder(chosen[:0]))[0].numel()


@causal
def test_a_forked_state_is_safe(name: str) -> None:
    layer = build(name)
    x = sequence(2, 5)
    with torch.no_grad():
        _, state = layer.unroll(x)
        first = sequence(2, 1)[:, 0]
        second = sequence(2, 1)[:, 0]
        a, after_a = layer.step(first, state)
        b, after_b = layer.step(second, state)  # the same state again
        again, _ = layer.step(first, state)
        same(again, a)
        for token, out, after in ((first, a, after_a), (second, b, after_b)):
            more = torch.cat([x, token[:, None], first[:, None]], 1)
            y = layer.read(more)
            same(out, y[:, 5])
            same(layer.step(first, after)[0], y[:, 6])


@causal
def test_state_survives_tensors(name: str) -> None:
    layer = build(name)
    x = sequence()
    _, state = layer.unroll(x, None, torch.tensor([6, 0, 3]))
    stored = pack(state)
    assert all(t.is_contiguous() and not t.requires_grad for t in stored.values())
    back = unpack(stored)
    assert type(back) is type(state)
    assert back.rows == 3
    same(layer.step(x[:, 0], back)[0], layer.step(x[:, 0], state)[0])


@causal
def test_detach_cuts_the_graph(name: str) -> None:
    layer = build(name)
    x = sequence(grad=True)
    _, state = layer.unroll(x)
    cut = state.detach()
    assert not any(part.requires_grad for part in tensors(cut))
    same_state(cut, state)
    after, _ = layer.step(x[:, 0].detach(), cut)
    if after.requires_grad:
        (gradient,) = torch.autograd.grad(
            after.sum(), x, allow_unused=True, materialize_grads=True
        )
        assert not gradient.any()


@every
@pytest.mark.parametrize("steps", [0, 1])
def test_short_sequences(name: str, steps: int) -> None:
    layer = build(name)
    x = sequence(3, steps)
    y, state = layer.unroll(x)
    assert y.shape == (3, steps, layer.output_size)
    assert state.rows == 3
    if not steps:
        same_state(state, layer.initial_state(3))
    y, state = layer.unroll(x, None, torch.zeros(3, dtype=torch.int64))
    assert not y.any()
    same_state(state, layer.initial_state(3))


@every
def test_an_empty_batch_is_no_error(name: str) -> None:
    y, state = build(name).unroll(sequence(0))
    assert y.shape[:2] == (0, 6)
    assert state.rows == 0


@every
def test_copies_and_saved_weights_give_the_same(name: str) -> None:
    layer = build(name)
    x = sequence()
    y = layer.read(x)
    same(copy.deepcopy(layer).read(x), y)
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    same(torch.load(stored, weights_only=False).read(x), y)
    fresh = EVERY[name]().double().eval()
    fresh.load_state_dict(layer.state_dict())
    same(fresh.read(x), y)


@every
def test_training_is_repeatable_and_finite(name: str) -> None:
    layer = build(name).train()
    x = sequence(grad=True)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        y, _ = layer.unroll(x, None, torch.tensor([6, 2, 0]))
        runs.append(gradients(layer, [y], [x]))
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    assert all(gradient.isfinite().all() for gradient in runs[0])


@every
def test_inference_mode_and_then_training(name: str) -> None:
    layer = build(name)
    x = sequence()
    with torch.inference_mode():
        _, state = layer.unroll(x)
    if layer.causal:
        with torch.no_grad():
            y, state = layer.step(x[:, 0], state)
            expected = layer.read(torch.cat([x, x[:, :1]], 1))[:, -1]
        same(y, expected)
    x = sequence(grad=True)
    gradients(layer, [layer.read(x)], [x])


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_no_step_both_ways(name: str) -> None:
    layer = build(name)
    assert not layer.causal
    with pytest.raises(ValueError, match="use unroll, or bidirectional=False"):
        layer.step(sequence()[:, 0], layer.initial_state(3))


@every
def test_wrong_shapes_are_refused(name: str) -> None:
    layer = build(name)
    x = sequence()
    with pytest.raises(
        ValueError, match=r"expected x of shape \(batch, time, 5\), got"
    ):
        layer.unroll(x[:, :, :4])
    with pytest.raises(ValueError, match=r"expected lengths of shape \(3,\)"):
        layer.unroll(x, None, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="expected lengths from 0 to 6"):
        layer.unroll(x, None, torch.tensor([1, 2, 7]))
    with pytest.raises(ValueError, match="expected integer lengths"):
        layer.unroll(x, None, torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(
        ValueError, match="expected a state of 3 rows, as many as x, got 2"
    ):
        layer.unroll(x, layer.initial_state(2))
    if layer.causal:
        with pytest.raises(ValueError, match=r"expected x of shape \(batch, 5\)"):
            layer.step(x, layer.initial_state(3))


@every
def test_a_foreign_state_is_refused(name: str) -> None:
    layer = build(name)
    foreign = build("attention" if name.startswith("none") else "none").initial_state(3)
    with pytest.raises(ValueError, match="initial_state, unroll or step returned"):
        layer.unroll(sequence(), foreign)


@pytest.mark.parametrize(
    "name",
    ["none", "rnn", "lstm-2", "gru", "attention", "attention-grouped", "lstm-both"],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_compile_does_not_break(name: str, ragged: bool) -> None:
    layer = build(name)
    x = sequence(grad=True)
    lengths = torch.tensor([6, 2, 4]) if ragged else None
    torch.compiler.reset()
    compiled = torch.compile(layer.read, backend="eager", fullgraph=True)
    expected = layer.read(x, lengths)
    same(compiled(x, lengths), expected)
    same(
        gradients(layer, [compiled(x, lengths)], [x]), gradients(layer, [expected], [x])
    )
