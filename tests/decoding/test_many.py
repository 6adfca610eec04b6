"""Many texts at once: each as it is by itself, with the probabilities of a full pass."""

from __future__ import annotations

import pytest
import torch

from unrolled.data.batches import IGNORED, Batch
from unrolled.decoding.many import padded, write_many
from unrolled.decoding.sampling import Sampling
from unrolled.models import LanguageModel
from unrolled.nn import LayerConfig, TokenEmbedding, build_layer
from unrolled.tasks.chat_scores import rollout_tensors
from unrolled.training.policies import log_probabilities

VOCABULARY = 12
END = 3
BANNED = (0, 1)
PROMPTS = [
    [3, 4, 5],
    [3, 6],
    [3, 4, 5, 6, 7, 8],
    [3],
    [3, 9, 9, 9],
    [3, 10],
    [3, 11, 4],
]


def model_of(layer: str) -> LanguageModel:
    torch.manual_seed(0)
    config = LayerConfig(hidden=16, layers=2)
    if layer == "attention":
        config = config.changed(context=32, heads=2)
    built = build_layer(layer, config, 16)
    return LanguageModel(TokenEmbedding(VOCABULARY, 16), built, VOCABULARY).eval()


@pytest.mark.parametrize("layer", ["rnn", "gru", "lstm", "mingru", "attention"])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_log_probabilities_are_those_of_a_full_pass(
    layer: str, temperature: float
) -> None:
    model = model_of(layer)
    sampling = Sampling(temperature=temperature)
    written = write_many(model, PROMPTS, 9, sampling, END, BANNED, seed=5)
    inputs, targets, logs = rollout_tensors(PROMPTS, written, END)
    batch = Batch(inputs, None, targets, torch.arange(len(PROMPTS)).numpy())
    with torch.no_grad():
        full = log_probabilities(model, batch, BANNED, temperature or 1.0)
    # the native step adds in another order than the full pass
    torch.testing.assert_close(logs, full, atol=2e-5, rtol=0)
    assert all(not set(text.tokens) & {*BANNED, END} for text in written)
    assert all(text.ended or len(text.tokens) == 9 for text in written)


@pytest.mark.parametrize("layer", ["lstm", "attention"])
def test_greedy_texts_do_not_depend_on_those_beside_them(layer: str) -> None:
    model = model_of(layer)
    greedy = Sampling(temperature=0.0)
    together = write_many(model, PROMPTS, 9, greedy, END, BANNED)
    apart = [
        write_many(model, [prompt], 9, greedy, END, BANNED)[0] for prompt in PROMPTS
    ]
    in_threes = write_many(model, PROMPTS, 9, greedy, END, BANNED, rows=3)
    for row, text in enumerate(apart):
        assert together[row].tokens == text.tokens == in_threes[row].tokens
        assert together[row].ended == text.ended


def test_a_text_ends_where_the_context_does() -> None:
    model = model_of("attention")
    long = [3] * 30
    (text,) = write_many(model, [long], 9, Sampling(), 0, seed=1)
    assert len(text.tokens) <= 2


def test_equal_seeds_draw_equal_texts() -> None:
    model = model_of("gru")
    first, again, other = (
        write_many(model, PROMPTS, 9, Sampling(), END, BANNED, seed=seed)
        for seed in (1, 1, 2)
    )
    assert [text.tokens for text in first] == [text.tokens for text in again]
    assert [text.tokens for text in first] != [text.tokens for text in other]


def test_padding_stands_at_the_right() -> None:
    ids, lengths = padded([[1, 2], [3]], IGNORED)
    assert ids.tolist() == [[1, 2], [3, IGNORED]]
    assert lengths.tolist() == [2, 1]
