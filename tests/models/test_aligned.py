"""Aligned: scores at every real step, whatever stands at padding or beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from unrolled.data.batches import collate
from unrolled.data.examples import Examples, Ragged, Spellings
from unrolled.models import Aligned
from unrolled.nn import LAYERS, LayerConfig, SpelledWords, TokenEmbedding, build_layer

LENGTHS = [4, 7, 1, 3]
BOTH = [
    (name, both)
    for name in LAYERS
    for both in (False, True)
    if not (both and name == "none")
]


@pytest.mark.parametrize(("name", "both"), BOTH)
def test_padding_and_neighbours_change_nothing(name: str, both: bool) -> None:
    torch.manual_seed(0)
    settings = {"heads": 3} if name == "attention" else {}
    layer = build_layer(name, LayerConfig(hidden=6, bidirectional=both, **settings), 5)
    model = Aligned(TokenEmbedding(9, 5, padding=0), layer, 3).double().eval()
    tokens = torch.randint(1, 9, (4, 7))
    together = model(tokens, torch.tensor(LENGTHS))
    assert together.shape == (4, 7, 3)
    for row, length in enumerate(LENGTHS):
        alone = model(tokens[row : row + 1, :length])
        # fp64 sums in another order
        torch.testing.assert_close(
            together[row, :length], alone[0], rtol=1e-10, atol=1e-12
        )


def test_scores_are_the_heads_of_the_layers_steps() -> None:
    torch.manual_seed(0)
    layer = build_layer("lstm", LayerConfig(hidden=6), 5)
    model = Aligned(TokenEmbedding(9, 5), layer, 3).eval()
    tokens = torch.randint(9, (2, 7))
    assert torch.equal(
        model(tokens), model.head(layer.unroll(model.embedding(tokens))[0])
    )


def test_dropout_is_off_when_scoring() -> None:
    torch.manual_seed(0)
    layer = build_layer("gru", LayerConfig(hidden=6), 5)
    model = Aligned(TokenEmbedding(9, 5), layer, 3, dropout=0.5)
    tokens = torch.randint(9, (2, 7))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def spelled(ngrams: int = 0) -> tuple[Aligned, list[list[int]], Spellings]:
    """Return a model that spells, rows of places, and the seven words they stand for."""
    torch.manual_seed(0)
    embedding = SpelledWords(TokenEmbedding(9, 5), 11, 4, ngrams)
    model = Aligned(
        embedding, build_layer("gru", LayerConfig(hidden=6), embedding.width), 3
    )
    draw = np.random.default_rng(0)
    pieces = [draw.integers(4, 11, size).tolist() for size in (3, 1, 9, 2, 2, 5, 1)]
    words = Spellings(draw.integers(1, 9, 7), Ragged.of(pieces))
    return model.double().eval(), [[0, 3, 2, 2], [6], [5, 1, 0, 4, 4, 0, 3]], words


@pytest.mark.parametrize("ngrams", [0, 3])
def test_words_are_spelt_alike_beside_whatever_stands_in_the_batch(ngrams: int) -> None:
    model, rows, words = spelled(ngrams)
    if ngrams:
        nn.init.normal_(model.embedding.ngrams.weight)  # type: ignore[union-attr, arg-type]
    examples = Examples(np.arange(3), Ragged.of(rows), spellings=words)
    batch = collate(examples, np.arange(3))
    together = model(batch.inputs, batch.lengths, *batch.extra)
    for number, row in enumerate(rows):
        alone = collate(examples, np.array([number]))
        scores = model(alone.inputs, alone.lengths, *alone.extra)
        # fp64 sums in another order
        torch.testing.assert_close(
            together[number, : len(row)], scores[0], rtol=1e-10, atol=1e-12
        )


def test_a_spelt_word_is_its_vector_and_both_ends_of_an_lstm() -> None:
    model, rows, words = spelled()
    embedding = model.embedding
    assert isinstance(embedding, SpelledWords)
    assert embedding.width == 5 + 2 * 4
    batch = collate(
        Examples(np.arange(3), Ragged.of(rows), spellings=words), np.arange(3)
    )
    vectors = embedding(batch.inputs, *batch.extra)
    lstm = nn.LSTM(4, 4, bidirectional=True, batch_first=True).double()
    lstm.load_state_dict(embedding.layer.state_dict())
    for number, row in enumerate(rows):
        for step, word in enumerate(row):
            ids = words.pieces.take(np.array([word]), 0)[0]
            _, (ends, _) = lstm(embedding.pieces.weight[ids])
            own = embedding.words.weight[words.ids[word]]
            expected = torch.cat([own, ends[0, 0], ends[1, 0]])
            torch.testing.assert_close(
                vectors[number, step], expected, rtol=1e-10, atol=1e-12
            )


def test_ngrams_of_a_word_stand_behind_its_spelling() -> None:
    model, rows, words = spelled(3)
    embedding = model.embedding
    assert isinstance(embedding, SpelledWords)
    assert embedding.ngrams is not None
    nn.init.normal_(embedding.ngrams.weight)
    batch = collate(
        Examples(np.arange(3), Ragged.of(rows), spellings=words), np.arange(3)
    )
    vectors = embedding(batch.inputs, *batch.extra)
    assert vectors.shape[2] == embedding.width == 5 + 3 * 4
    pieces, count = words.pieces.take(np.array([rows[0][2]]), 0)
    expected = embedding.ngrams(pieces, count)[0]
    torch.testing.assert_close(vectors[0, 2, -4:], expected, rtol=1e-10, atol=1e-12)
