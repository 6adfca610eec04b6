"""Language model: one reading, whether at once, in pieces or step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unrolled.models import LanguageModel
from unrolled.nn import LAYERS, LayerConfig, TokenEmbedding, build_layer
from unrolled.training.averaging import snapshot
from unrolled.training.checkpoints import save_tensors

V = 9


def build(
    name: str, *, tie: bool = False, width: int = 5, hidden: int = 6
) -> LanguageModel:
    torch.manual_seed(0)
    settings = {"heads": 3} if name == "attention" else {}
    layer = build_layer(name, LayerConfig(hidden=hidden, layers=2, **settings), width)
    return LanguageModel(TokenEmbedding(V, width), layer, V, tie=tie).double().eval()


def tokens() -> torch.Tensor:
    return torch.randint(V, (3, 10), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LAYERS)
def test_step_equals_forward(name: str) -> None:
    model = build(name)
    read = tokens()
    whole, end = model(read)
    state = model.layer.initial_state(3)
    for t in range(10):
        scores, state = model.step(read[:, t], state)
        # fp64 sums in another order
        torch.testing.assert_close(scores, whole[:, t], rtol=1e-10, atol=1e-12)
    for key, value in end.to_tensors().items():
        torch.testing.assert_close(
            state.to_tensors()[key], value, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("name", LAYERS)
def test_windows_with_the_state_carried_equal_one_reading(name: str) -> None:
    model = build(name)
    read = tokens()
    whole, _ = model(read)
    state = None
    parts = []
    for part in read.split([1, 4, 5], 1):
        scores, state = model.unroll(part, state)
        parts.append(scores)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_padding_and_neighbours_change_nothing(name: str) -> None:
    model = build(name)
    read = tokens()
    together, state = model(read, None, torch.tensor([10, 4, 1]))
    alone, single = model(read[1:2, :4])
    torch.testing.assert_close(together[1:2, :4], alone, rtol=1e-10, atol=1e-12)
    # the state is that after the last real step: both go on alike
    after, _ = model.step(read[1:2, 5], state.reorder(torch.tensor([1])))
    expected, _ = model.step(read[1:2, 5], single)
    torch.testing.assert_close(after, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_looks_ahead(name: str) -> None:
    model = build(name)
    read = tokens()
    changed = read.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % V
    assert torch.equal(model(read)[0][:, :6], model(changed)[0][:, :6])
    assert not torch.equal(model(read)[0][:, 6:], model(changed)[0][:, 6:])


@pytest.mark.parametrize("name", ["gru", "attention"])
def test_tied_weights_are_one_tensor_also_after_saving_and_loading(
    name: str, tmp_path: Path
) -> None:
    model = build(name, tie=True, width=6)
    assert model.head.weight is model.embedding.weight
    with torch.no_grad():
        model.embedding.weight.add_(1)  # not what a fresh model holds
    untied = sum(p.numel() for p in build(name, width=6).parameters())
    assert sum(p.numel() for p in model.parameters()) == untied - V * 6
    save_tensors(tmp_path / "m", snapshot(model))
    other = build(name, tie=True, width=6)
    other.load_state_dict(load_file(tmp_path / "m"))
    assert other.head.weight is other.embedding.weight
    assert torch.equal(other(tokens())[0], model(tokens())[0])


def test_a_tied_weight_learns_from_both_ends() -> None:
    model = build("gru", tie=True, width=6)
    model(tokens())[0].square().sum().backward()
    tied = model.embedding.weight.grad
    apart = build("gru", width=6)
    apart.load_state_dict(model.state_dict())
    apart(tokens())[0].square().sum().backward()
    assert tied is not None
    assert apart.embedding.weight.grad is not None
    assert apart.head.weight.grad is not None
    torch.testing.assert_close(
        tied, apart.embedding.weight.grad + apart.head.weight.grad
    )


def test_tie_needs_equal_widths_and_says_which() -> None:
    with pytest.raises(ValueError, match=r"the embedding \(5\) as wide .* \(6\); set "):
        build("gru", tie=True)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "attention"])
def test_a_layer_that_reads_both_ways_is_refused(name: str) -> None:
    layer = build_layer(name, LayerConfig(hidden=8, bidirectional=True), 5)
    with pytest.raises(ValueError, match=r"set model.bidirectional=false"):
        LanguageModel(TokenEmbedding(V, 5), layer, V)


def test_context_is_the_layers() -> None:
    assert build("gru").context is None
    layer = build_layer("attention", LayerConfig(hidden=8, context=12), 5)
    assert LanguageModel(TokenEmbedding(V, 5), layer, V).context == 12


def test_dropout_stands_before_the_output_weights_and_is_off_when_scoring() -> None:
    torch.manual_seed(0)
    layer = build_layer("gru", LayerConfig(hidden=6), 5)
    model = LanguageModel(TokenEmbedding(V, 5), layer, V, dropout=0.5)
    assert not torch.equal(model(tokens())[0], model(tokens())[0])
    model.eval()
    assert torch.equal(model(tokens())[0], model(tokens())[0])
