"""minGRU is what its paper says, runs wherever a GRU does, and one's own cells do too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from unrolled import ops
from unrolled.nn import (
    LAYERS,
    LayerConfig,
    MinGRU,
    add_cell,
    build_decoder,
    build_layer,
)
from unrolled.ops.reference import PLAIN, STEPS, Extras, Weights, from_hidden


def closed_form(layer: MinGRU, x: Tensor) -> Tensor:
    """Return h of all steps as a sum over those before: no recurrence is run.

    h_t = sum over s of z_s c_s times the product of (1 - z) from s + 1 to t (Feng et al. 2024,
    section 2.2, the parallel scan of v_t = a_t v_(t-1) + b_t).
    """
    gates = torch.nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
    update, candidate = gates.chunk(2, -1)
    update = update.sigmoid()
    kept = (1 - update).log().cumsum(1)  # log of the product from the first step
    decay = (kept[:, :, None] - kept[:, None]).exp()  # (B, t, s, H)
    past = torch.ones(x.shape[1], x.shape[1]).tril().bool()[None, :, :, None]
    return (decay.where(past, 0) * (update * candidate)[:, None]).sum(2)


def test_it_equals_the_closed_form_of_the_paper() -> None:
    layer = MinGRU(5, 7).double()
    x = torch.randn(3, 9, 5, dtype=torch.float64)
    got = layer.unroll(x)[0]
    expected = closed_form(layer, x)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    weights = list(layer.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(got.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
    )


def test_no_gate_sees_the_old_state() -> None:
    layer = MinGRU(5, 7)
    assert sorted(name for name, _ in layer.named_parameters()) == [
        "bias_ih_l0",
        "weight_ih_l0",
    ]
    assert layer.weight_ih_l0.shape == (14, 5)
    for option in ("weight_drop", "recurrent_dropout", "orthogonal"):
        with pytest.raises(ValueError, match="no recurrent weights"):
            MinGRU(5, 7, **{option: 0.5})
    assert "weight_drop" not in LAYERS["mingru"].uses
    assert "reference" in layer.explain()
    with ops.use("fast"), pytest.raises(ValueError, match="mingru"):
        layer.unroll(torch.randn(1, 2, 5))


def leaky(
    a: Tensor, state: tuple[Tensor, ...], w: Weights, extras: Extras = PLAIN
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """A leaky integrator: h' = h / 2 + tanh(W x + U h) / 2."""
    (h,) = state
    new = h / 2 + (a + from_hidden("leaky", h, w, extras)).tanh() / 2
    return (new,), {"h": new}


@pytest.fixture
def own() -> Iterator[str]:
    add_cell("leaky", leaky, 1)
    yield "leaky"
    del LAYERS["leaky"], STEPS["leaky"]


def test_a_cell_of_ones_own_is_a_layer_like_any_other(own: str) -> None:
    layer = build_layer(own, LayerConfig(hidden=6, layers=2, bidirectional=True), 5)
    y, _ = layer.unroll(torch.randn(2, 4, 5), None, torch.tensor([4, 2]))
    assert y.shape == (2, 4, 12)
    assert not y[1, 2:].any()
    encoder = build_layer(own, LayerConfig(hidden=6), 5)
    decoder = build_decoder(own, LayerConfig(hidden=6), 5, encoder)
    state = decoder.attend(encoder.read(torch.randn(2, 3, 5)), [3, 1])
    x = torch.randn(2, 4, 5)
    whole, _ = decoder.unroll(x, state)
    first, _ = decoder.step(x[:, 0], state)
    torch.testing.assert_close(first, whole[:, 0])


@pytest.mark.parametrize(
    ("name", "gates"), [("gru", 1), ("lstm", 4), ("a b", 1), ("other", 0)]
)
def test_a_name_that_is_taken_or_none_is_refused(name: str, gates: int) -> None:
    before = set(LAYERS)
    with pytest.raises(ValueError, match="expected a name"):
        add_cell(name, leaky, gates)
    assert set(LAYERS) == before
