"""Rows of several documents give the numbers of each document read by itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.nn.variants import CAUSAL, EVERY, D, build
from torch import Tensor

from unrolled.models import LanguageModel
from unrolled.nn import Attention, Layer, State, TokenEmbedding
from unrolled.nn.recurrent import Recurrent
from unrolled.ops import native, use

CUTS = torch.zeros(3, 20, dtype=torch.bool)
CUTS[0, [0, 1, 5, 19]] = True
CUTS[1, [3, 4, 17]] = True  # the first step of a row is a start, said or not


def documents(row: int) -> list[tuple[int, int]]:
    inner = [step for step in range(1, 20) if CUTS[row, step]]
    cuts = [0, *inner, 20]
    return list(itertools.pairwise(cuts))


def alone(
    layer: Layer, x: Tensor, state: State | None = None
) -> tuple[Tensor, list[State]]:
    """Return the outputs of each document read by itself, and the state after each row's last."""
    rows = []
    after = []
    for row in range(3):
        parts = []
        own = None if state is None else state.reorder(torch.tensor([row]))
        for first, last in documents(row):
            y, new = layer.unroll(x[row : row + 1, first:last], own)
            own = None
            parts.append(y)
        rows.append(torch.cat(parts, 1))
        after.append(new)
    return torch.cat(rows), after


def gradients(y: Tensor, x: Tensor, layer: Layer) -> list[Tensor]:
    weights = [x, *(p for p in layer.parameters() if p.requires_grad)]
    loss = (y.sin() * y).sum()
    every = torch.autograd.grad(loss, weights, allow_unused=True)
    return [gradient for gradient in every if gradient is not None]


@pytest.mark.parametrize("name", EVERY)
def test_documents_are_read_as_by_themselves(name: str) -> None:
    torch.manual_seed(1)
    layer = build(name)
    x = torch.randn(3, 20, D, dtype=torch.float64, requires_grad=True)
    expected, _ = alone(layer, x)
    expected_gradients = gradients(expected, x, layer)
    outputs = [layer.read_documents(x, CUTS), layer.unroll_documents(x, CUTS)[0]]
    for y in outputs:
        # fp64; sums of the weights' gradients in another order
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
        for ours, theirs in zip(
            gradients(y, x, layer), expected_gradients, strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_first_document_of_a_row_goes_on_from_the_state(name: str) -> None:
    torch.manual_seed(2)
    layer = build(name)
    with torch.no_grad():
        _, state = layer.unroll(torch.randn(3, 4, D, dtype=torch.float64))
        x = torch.randn(3, 20, D, dtype=torch.float64)
        y, after = layer.unroll_documents(x, CUTS, state)
        expected, states = alone(layer, x, state)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for row, own in enumerate(states):
        ours = after.reorder(torch.tensor([row])).to_tensors()
        for key, values in own.to_tensors().items():
            torch.testing.assert_close(ours[key], values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["lstm-2", "gru-extras", "attention", "mingru"])
def test_hooks_run_and_change_nothing(name: str) -> None:
    torch.manual_seed(3)
    layer = build(name)
    x = torch.randn(3, 20, D, dtype=torch.float64)
    expected = layer.read_documents(x, CUTS)
    calls: list[int] = []
    layer.register_forward_hook(lambda *given: calls.append(1))
    # the usual path, document by document
    torch.testing.assert_close(
        layer.read_documents(x, CUTS), expected, rtol=0, atol=1e-12
    )
    assert calls


@pytest.mark.skipif(not native.available(), reason="the native core is not in use")
@pytest.mark.parametrize("name", ["lstm-2", "gru", "rnn"])
def test_recurrent_layers_read_packed_steps_in_the_core(name: str) -> None:
    torch.manual_seed(4)
    layer = build(name).float()
    assert isinstance(layer, Recurrent)
    x = torch.randn(3, 20, D)
    before = native.count("forward")
    fast = layer.read_documents(x, CUTS)
    # one call a stacked layer, and none for each length
    assert native.count("forward") == before + len(layer.all_weights)
    with use("reference"):
        slow = layer.read_documents(x, CUTS)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["attention", "lstm", "gru-extras"])
def test_no_document_sees_another(name: str) -> None:
    torch.manual_seed(5)
    layer = build(name)
    x = torch.randn(3, 20, D, dtype=torch.float64, requires_grad=True)
    y = layer.read_documents(x, CUTS)
    (gradient,) = torch.autograd.grad(y[0, 6:19].square().sum(), x)
    assert gradient[0, 5:19].abs().min() > 0
    gradient[0, 5:19] = 0
    assert not gradient.any()


def test_learned_positions_reach_as_far_as_a_document() -> None:
    layer = Attention(D, 12, 1, 2, positions="learned", context=14)
    x = torch.randn(3, 20, D)
    starts = CUTS.clone()
    starts[:, 10] = True
    starts[2, 18] = True
    assert layer.read_documents(x, starts).shape == (3, 20, 12)
    with pytest.raises(ValueError, match="at most 14 positions"):
        layer.read_documents(x, CUTS)


@pytest.mark.parametrize("name", ["attention", "lstm", "none"])
def test_a_language_model_reads_documents(name: str) -> None:
    torch.manual_seed(6)
    layer = build(name)
    model = LanguageModel(TokenEmbedding(9, D), layer, 9).double().eval()
    tokens = torch.randint(9, (3, 20))
    read, state = model.read_documents(tokens, CUTS, None, carry=False)
    assert state is None
    for row in range(3):
        for first, last in documents(row):
            scores, _ = model(tokens[row : row + 1, first:last])
            ours = model.head(read[row, first:last])
            torch.testing.assert_close(ours, scores[0], rtol=0, atol=1e-12)
