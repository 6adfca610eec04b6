"""Aligned: scores at every real step, whatever stands at padding or beside."""

from __future__ import annotations

import pytest
import torch

from unrolled.models import Aligned
from unrolled.nn import LAYERS, LayerConfig, TokenEmbedding, build_layer

LENGTHS = [4, 7, 1, 3]
BOTH = [(name, both) for name in LAYERS for both in (False, True) if not (both and name == "none")]


@pytest.mark.parametrize(("name", "both"), BOTH)
def test_padding_and_neighbours_change_nothing(name: str, both: bool) -> None:
    torch.manual_seed(0)
    told = {"heads": 3} if name == "attention" else {}
    layer = build_layer(name, LayerConfig(hidden=6, bidirectional=both, **told), 5)
    model = Aligned(TokenEmbedding(9, 5, padding=0), layer, 3).double().eval()
    tokens = torch.randint(1, 9, (4, 7))
    together = model(tokens, torch.tensor(LENGTHS))
    assert together.shape == (4, 7, 3)
    for row, length in enumerate(LENGTHS):
        alone = model(tokens[row : row + 1, :length])
        # fp64 sums in another order
        torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-10, atol=1e-12)


def test_scores_are_the_heads_of_the_layers_steps() -> None:
    torch.manual_seed(0)
    layer = build_layer("lstm", LayerConfig(hidden=6), 5)
    model = Aligned(TokenEmbedding(9, 5), layer, 3).eval()
    tokens = torch.randint(9, (2, 7))
    assert torch.equal(model(tokens), model.head(layer.unroll(model.embedding(tokens))[0]))


def test_dropout_is_off_when_scoring() -> None:
    torch.manual_seed(0)
    layer = build_layer("gru", LayerConfig(hidden=6), 5)
    model = Aligned(TokenEmbedding(9, 5), layer, 3, dropout=0.5)
    tokens = torch.randint(9, (2, 7))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
