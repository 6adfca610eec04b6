"""The model of the unaligned pattern from a recipe, and its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unrolled.core.errors import UsageError
from unrolled.data.batches import Batch, collate
from unrolled.data.examples import Examples, Ragged
from unrolled.nn import TokenEmbedding
from unrolled.runs.keys import deep
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.unaligned import assemble, target_loss
from unrolled.training.objectives import shifted
from unrolled.training.precision import choose


def recipe(**keys: Any) -> Recipe:
    return Recipe.read(deep({"model.hidden": 8, **keys}))


def built(config: Recipe, outputs: int = 9) -> Any:
    return assemble(config, TokenEmbedding(12, 8), TokenEmbedding(20, 8), outputs, 6, 7)


def test_each_side_has_the_layer_and_the_reach_it_is_told() -> None:
    model = built(
        recipe(
            **{
                "layer": "attention",
                "model.bidirectional": True,
                "model.layers": 2,
                "model.heads": 2,
                "model.decoder_layers": 3,
                "data.max_tokens": 6,
            }
        )
    )
    assert (model.encoder.causal, model.limit) == (False, 6)
    assert (model.decoder.causal, model.longest) == (True, 7)
    assert [len(side.blocks) for side in (model.encoder, model.decoder)] == [2, 3]
    mixed = built(
        recipe(layer="lstm", **{"model.bidirectional": True, "model.decoder": "gru"})
    )
    assert (type(mixed.encoder).__name__, type(mixed.decoder.layer).__name__) == (
        "LSTM",
        "GRU",
    )


def test_what_does_not_go_together_is_told() -> None:
    # a table that knows more tokens than are written cannot be the output weights
    with pytest.raises(UsageError, match=r"model\.tie needs a target embedding"):
        built(recipe(layer="gru", **{"model.tie": True}))
    with pytest.raises(UsageError, match="needs a model that attends to its source"):
        built(
            recipe(
                layer="gru",
                **{"decoding.coverage_penalty": 0.2, "model.attention": "none"},
            )
        )
    with pytest.raises(
        UsageError, match=r"writes 4 tokens .* may have 7: raise model.context"
    ):
        built(
            recipe(
                layer="gru",
                **{"model.decoder": "attention", "model.heads": 2, "model.context": 4},
            )
        )
    with pytest.raises(UsageError, match="carries no state"):
        built(recipe(layer="gru", **{"model.decoder": "none"}))
    with pytest.raises(UsageError, match="use layer=attention"):
        built(recipe(layer="gru", **{"model.decoder": "transformer", "model.heads": 2}))
    with pytest.raises(
        UsageError, match="gru and attention have no setting 'projection'"
    ):
        built(
            recipe(layer="gru", **{"model.decoder": "attention", "model.projection": 4})
        )


@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_is_the_mean_over_tokens_of_all_batches(bias: bool) -> None:
    torch.manual_seed(0)
    model = built(recipe(layer="gru", **{"model.head_bias": bias})).eval()
    drawn = np.random.default_rng(0)
    sources = [drawn.integers(4, 12, n).tolist() for n in (3, 6, 1, 5)]
    targets = [drawn.integers(4, 9, n).tolist() for n in (7, 2, 4, 1)]
    examples = Examples(np.arange(4), Ragged.of(sources), targets=Ragged.of(targets))

    def before(batch: Batch) -> torch.Tensor:
        assert batch.targets is not None
        return shifted(batch.targets, 2)

    total = 0.0
    for row in range(4):
        batch = collate(examples, np.array([row]))
        with torch.no_grad():
            scores = model(batch.inputs, batch.lengths, before(batch))
        total += float(
            F.cross_entropy(scores[0], torch.tensor(targets[row]), reduction="sum")
        )
    assert target_loss(model, examples, choose("cpu", "fp32"), before) == pytest.approx(
        total / 14
    )
