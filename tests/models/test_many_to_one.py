"""Many to one: what stands at padding, and who else is in the batch, changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrolled.models import ManyToOne
from unrolled.nn import (
    LAYERS,
    LayerConfig,
    NGrams,
    Pooling,
    TokenEmbedding,
    build_layer,
)

V = 9
LENGTHS = [4, 7, 1, 3]
POOLINGS = ("last", "mean", "max", "attention", "mean-max")
BOTH = [
    (name, both)
    for name in LAYERS
    for both in (False, True)
    if not (both and name == "none")
]


def build(name: str, both: bool, pooling: str) -> ManyToOne:
    torch.manual_seed(0)
    settings = {"heads": 3} if name == "attention" else {}
    layer = build_layer(name, LayerConfig(hidden=6, bidirectional=both, **settings), 5)
    pool = Pooling(pooling, layer.output_size, layer.reverse_size)
    return ManyToOne(TokenEmbedding(V, 5, padding=0), layer, pool, 3).double().eval()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(1, V, (4, 7)), torch.tensor(LENGTHS)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("name", "both"), BOTH)
def test_padding_and_neighbours_change_nothing(
    name: str, both: bool, pooling: str
) -> None:
    model = build(name, both, pooling)
    tokens, lengths = batch()
    together = model(tokens, lengths)
    weights = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3)
    (together * weights).sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for row, length in enumerate(LENGTHS):
        alone = model(tokens[row : row + 1, :length], None)
        # fp64 sums in another order
        torch.testing.assert_close(
            together[row : row + 1], alone, rtol=1e-10, atol=1e-12
        )
        (alone * weights[row]).sum().backward()
    single = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(single) == len(grads) > 2
    for alone_gradient, gradient in zip(single, grads, strict=True):
        torch.testing.assert_close(alone_gradient, gradient, rtol=1e-9, atol=1e-11)


def test_the_head_is_fed_by_the_pooling() -> None:
    model = build("gru", True, "mean-max")
    assert (model.pooling.output_size, model.head.in_features) == (24, 24)
    tokens, lengths = batch()
    steps = model.layer.unroll(model.embedding(tokens), None, lengths)[0]
    expected = torch.stack(
        [
            torch.cat([steps[i, :n].mean(0), steps[i, :n].amax(0)])
            for i, n in enumerate(lengths.tolist())
        ]
    )
    torch.testing.assert_close(
        model(tokens, lengths), model.head(expected), rtol=1e-10, atol=1e-12
    )


def test_dropout_is_before_the_head_and_off_when_scoring() -> None:
    torch.manual_seed(0)
    layer = build_layer("gru", LayerConfig(hidden=6), 5)
    model = ManyToOne(TokenEmbedding(V, 5), layer, Pooling("mean", 6), 3, dropout=0.5)
    tokens, lengths = batch()
    assert not torch.equal(model(tokens, lengths), model(tokens, lengths))
    model.eval()
    assert torch.equal(model(tokens, lengths), model(tokens, lengths))


def recovering(name: str, both: bool) -> ManyToOne:
    torch.manual_seed(0)
    settings = {"heads": 3} if name == "attention" else {}
    layer = build_layer(name, LayerConfig(hidden=6, bidirectional=both, **settings), 5)
    pool = Pooling("mean", layer.output_size, layer.reverse_size)
    model = (
        ManyToOne(TokenEmbedding(V, 5), layer, pool, 3, pretrain=True).double().eval()
    )
    assert model.recovery is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    ("name", "both"),
    [(n, b) for n, b in BOTH if not (b and n == "attention")],
)
def test_a_token_is_guessed_from_its_neighbours_alone(name: str, both: bool) -> None:
    model = recovering(name, both)
    candidates = torch.arange(V)
    tokens, lengths = batch()
    scores = model.recover(tokens, lengths, candidates)
    assert scores.shape == (sum(LENGTHS), V)
    index = 2 + LENGTHS[0]  # the third token of the second row
    changed = tokens.clone()
    changed[1, 2] = (changed[1, 2] + 3) % V
    again = model.recover(changed, lengths, candidates)
    torch.testing.assert_close(again[index], scores[index], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(again[index + 1], scores[index + 1])
    assert torch.allclose(again[index - 1], scores[index - 1]) == (not both)
    # another row, and what stands at padding, are not read either
    torch.testing.assert_close(
        again[: LENGTHS[0]], scores[: LENGTHS[0]], rtol=1e-12, atol=1e-12
    )
    junk = tokens.clone()
    junk[0, LENGTHS[0] :] = 5
    torch.testing.assert_close(
        model.recover(junk, lengths, candidates), scores, rtol=1e-12, atol=1e-12
    )


def test_a_layer_whose_directions_are_mixed_cannot_recover() -> None:
    with pytest.raises(ValueError, match=r"directions are told apart"):
        recovering("attention", True)


def test_ngrams_of_characters_are_added_to_what_the_layer_says() -> None:
    torch.manual_seed(2)
    ngrams = NGrams(2, 3, buckets=50).double()
    torch.nn.init.normal_(ngrams.weight)
    plain = build("gru", True, "mean")
    both = (
        ManyToOne(plain.embedding, plain.layer, plain.pooling, 3, ngrams=ngrams)
        .double()
        .eval()
    )
    both.head = plain.head
    tokens, lengths = batch()
    characters = torch.randint(0, 60_000, (4, 11))
    counts = torch.tensor([11, 3, 0, 5])
    outputs = both(tokens, lengths, characters, counts)
    expected = plain(tokens, lengths) + ngrams(characters, counts)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)


def test_a_stream_of_steps_leaves_no_other_columns_out() -> None:
    layer = build_layer("gru", LayerConfig(hidden=6), 5)
    pool = Pooling("last", layer.output_size)
    columns = build_layer("none", LayerConfig(hidden=4), 2)
    model = ManyToOne(
        TokenEmbedding(V, 5, padding=0), layer, pool, 3, columns=columns, features=2
    )
    with pytest.raises(ValueError, match="got pooling 'last' and other columns"):
        model.eval().stream()


def test_other_columns_change_the_answer_of_their_own_row_alone() -> None:
    torch.manual_seed(0)
    layer = build_layer("gru", LayerConfig(hidden=6), 5)
    pool = Pooling("mean", layer.output_size)
    columns = build_layer("none", LayerConfig(hidden=4), 2)
    ngrams = NGrams(2, 3, 64)
    model = (
        ManyToOne(
            TokenEmbedding(V, 5, padding=0),
            layer,
            pool,
            3,
            ngrams=ngrams,
            columns=columns,
            features=2,
        )
        .double()
        .eval()
    )
    tokens, lengths = batch()
    codes = torch.randint(97, 123, (4, 8))
    beside = (codes, torch.tensor([8, 3, 5, 8]))
    features = torch.randn(4, 2, dtype=torch.float64)
    before = model(tokens, lengths, features, *beside)
    features[2] += 1
    after = model(tokens, lengths, features, *beside)
    changed = (after != before).any(1)
    assert changed.tolist() == [False, False, True, False]
