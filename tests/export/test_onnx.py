"""Layers and models as ONNX graphs, run by ONNX Runtime beside ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unrolled.core.errors import UserError
from unrolled.export import export
from unrolled.export.onnx import recurrent
from unrolled.export.onnx.comparing import compare, random_inputs, run_ours
from unrolled.export.onnx.models import Translation, refuse, translate
from unrolled.export.parity import Difference
from unrolled.models import Aligned, LanguageModel, ManyToOne, OneToOne
from unrolled.nn import (
    GRU,
    LSTM,
    NGrams,
    Pooling,
    ScaledNumbers,
    SpelledWords,
    TokenEmbedding,
    build_layer,
)
from unrolled.nn.build import LAYERS, LayerConfig
from unrolled.nn.pooling import KINDS
from unrolled.nn.recurrent import Recurrent

from .conftest import transformer

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# fp32 on both sides, sums ordered otherwise; over 90 steps of wild weights
NEAR = 5e-6
# it has divisors of frequencies, and a factor of what is turned
YARN = {
    "kind": "yarn",
    "factor": 4.0,
    "original_context": 16,
    "beta_fast": 2.0,
    "beta_slow": 0.5,
    "attention_factor": 1.2,
}
BOTH = {"bidirectional": True}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "none": [{}, {"activation": "relu"}, {"activation": "gelu"}],
    "rnn": [{}, BOTH, {"nonlinearity": "relu"}, {"layer_norm": True, "zoneout": 0.2}],
    "gru": [{}, BOTH, {"layer_norm": True, **BOTH}, {"residual": True, "zoneout": 0.1}],
    "lstm": [
        {},
        BOTH,
        {"layer_norm": True, "zoneout": 0.2},
        {"projection": 5, **BOTH},
        {"last": 6, "residual": False},
    ],
    "mingru": [{}, BOTH, {"layer_norm": True, "residual": True}],
    "attention": [
        {},
        BOTH,
        {"positions": "sinusoidal", "norm": "layer", "feedforward": "gelu", **BOTH},
        {
            "positions": "learned",
            "context": 50,
            "feedforward": "gelu-tanh",
            "bias": True,
            "norm": "layer",
        },
        {"norm_first": False, "feedforward": "relu"},
        {"kv_heads": 2, "attention_window": 3, "query_key_norm": True},
        {"attention_window": 3, "head_size": 6, "rotary_base": 50.0, **BOTH},
        {"rotary_scaling": YARN},
    ],
}
CASES = [
    (name, layers, options)
    for name, every in OPTIONS.items()
    for options in every
    for layers in (1, 3)
]


def wild(model: nn.Module) -> nn.Module:
    """Return a model with weights that leave no part without effect, in evaluation mode."""
    torch.manual_seed(5)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.5 if weight.dim() == 1 else 0.3)
    return model.eval()


def opened(model: nn.Module) -> tuple[Translation, Any]:
    refuse(model)
    translation = translate(model)
    proto = translation.graph.model("model")
    pytest.importorskip("onnx").checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return translation, onnxruntime.InferenceSession(proto.SerializeToString(), options)


def difference(model: nn.Module) -> Difference:
    return compare(model, *opened(wild(model)))


def test_every_layer_is_among_the_cases() -> None:
    assert set(OPTIONS) == {"none", "rnn", "lstm", "gru", "mingru", "attention"}
    assert set(OPTIONS) <= set(LAYERS)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
@pytest.mark.parametrize(("name", "layers", "options"), CASES)
def test_every_layer_says_what_ours_says(
    name: str, layers: int, options: dict[str, Any]
) -> None:
    """Of a causal layer every step and the state after it, else what both directions end with."""
    config = LayerConfig(hidden=8, layers=layers, **options)
    layer = build_layer(name, config, 6)
    embedding = TokenEmbedding(20, 6, scale=1.5)
    model: nn.Module
    if layer.causal:
        model = LanguageModel(embedding, layer, 20)
    else:
        pooling = Pooling("last", layer.output_size, layer.reverse_size)
        model = ManyToOne(embedding, layer, pooling, 3)
    compared = difference(model)
    assert compared.largest < NEAR
    assert compared.lengths == (1, layer.context or 90)


def many_to_one(pooling: str, **options: Any) -> ManyToOne:
    layer = GRU(6, 5, bidirectional=True)
    pool = Pooling(pooling, layer.output_size, layer.reverse_size)
    return ManyToOne(TokenEmbedding(20, 6), layer, pool, 3, **options)


def spelled(ngrams: int) -> SpelledWords:
    return SpelledWords(TokenEmbedding(30, 6), 12, 4, ngrams)


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{f"pooling {kind}": lambda kind=kind: many_to_one(kind) for kind in KINDS},
    "columns and n-grams": lambda: many_to_one(
        "mean",
        ngrams=NGrams(4, 3, 2**10),
        columns=build_layer("none", LayerConfig(hidden=4, layers=2), 7),
        features=7,
    ),
    "n-grams of many buckets": lambda: many_to_one("max", ngrams=NGrams(3, 3, 2**19)),
    "numbers at steps": lambda: ManyToOne(
        ScaledNumbers(), LSTM(6, 5), Pooling("last", 5), 1
    ),
    "tags of words": lambda: Aligned(
        TokenEmbedding(20, 6), GRU(6, 5, bidirectional=True), 4
    ),
    "tags and columns": lambda: Aligned(
        TokenEmbedding(20, 6), GRU(9, 5), 4, features=3
    ),
    "tags of spelt words": lambda: Aligned(spelled(0), GRU(14, 5), 4),
    "tags of spelt words, n-grams, columns": lambda: Aligned(
        spelled(3), LSTM(20, 5, bidirectional=True), 4, features=2
    ),
    "labels at steps": lambda: Aligned(ScaledNumbers(), GRU(6, 5), 4),
    "linear": lambda: OneToOne(build_layer("none", LayerConfig(layers=0), 6), 1),
    "a row": lambda: OneToOne(
        build_layer("none", LayerConfig(hidden=9, layers=2), 6), 3
    ),
    "a row, recurrent": lambda: OneToOne(GRU(6, 5), 3),
    "tied": lambda: LanguageModel(TokenEmbedding(20, 5), GRU(5, 5), 20, tie=True),
    "no bias": lambda: LanguageModel(TokenEmbedding(20, 5), GRU(5, 5), 20, bias=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_pattern_says_what_ours_says(name: str) -> None:
    assert difference(MODELS[name]()).largest < NEAR


def test_a_language_model_can_be_read_step_by_step() -> None:
    """The state of one call is that of the next: rows of unequal length, a row without steps."""
    model = wild(LanguageModel(TokenEmbedding(20, 6), LSTM(6, 5, 2), 20))
    _, session = opened(model)
    generator = np.random.default_rng(3)
    tokens = generator.integers(0, 20, (3, 9))
    zeros = np.zeros((2, 3, 5), np.float32)
    state = {"state_h": zeros, "state_c": zeros}
    lengths = np.array([9, 4, 0])
    said = []
    for step in range(9):
        inputs = {"tokens": tokens[:, step : step + 1]}
        inputs["lengths"] = (lengths > step).astype(np.int64)
        logits, *after = session.run(None, {**inputs, **state})
        state = dict(zip(state, after, strict=True))
        said.append(logits[:, 0])
    with torch.no_grad():
        ours, last = model(torch.from_numpy(tokens), None, torch.from_numpy(lengths))
    stepped = np.stack(said, 1)
    for row, length in enumerate(lengths):
        pair = (stepped[row, :length], ours[row, :length].numpy())
        np.testing.assert_allclose(*pair, atol=NEAR)
    np.testing.assert_allclose(state["state_h"], last.h.numpy(), atol=NEAR)
    np.testing.assert_allclose(state["state_c"], last.c.numpy(), atol=NEAR)


def test_padding_is_never_read() -> None:
    model = wild(many_to_one("max", ngrams=NGrams(3, 3, 2**10)))
    translation, session = opened(model)
    inputs = random_inputs(translation.inputs, 4, 7, np.random.default_rng(0))
    (before,) = session.run(None, inputs)
    for ids, counts in (("tokens", "lengths"), ("code_points", "code_point_counts")):
        steps = np.arange(inputs[ids].shape[1])
        padding = steps >= inputs[counts][:, None]
        assert padding.any()
        inputs[ids] = np.where(padding, 1, inputs[ids])
    (after,) = session.run(None, inputs)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(
        after, run_ours(model, translation.inputs, inputs)[0], atol=NEAR
    )


def test_a_wrong_order_of_gates_is_noticed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wild(LanguageModel(TokenEmbedding(20, 6), GRU(6, 5), 20))
    monkeypatch.setitem(recurrent.ORDERS, "gru", (0, 1, 2))

    def write(folder: Path) -> Difference:
        translation, session = opened(model)
        (folder / "model.onnx").write_bytes(b"")
        return compare(model, translation, session)

    with pytest.raises(UserError, match="this onnx model says something else"):
        export("onnx", write, tmp_path / "x", lambda line: None)
    assert not list(tmp_path.iterdir())


class Own(GRU):
    """A layer of one's own."""


def test_what_has_no_counterpart_is_refused_by_name() -> None:
    def model(layer: Recurrent) -> LanguageModel:
        return LanguageModel(TokenEmbedding(20, 6), layer, 20)

    refuse(model(GRU(6, 5)))
    with pytest.raises(UserError, match="has a Own at layer, of which onnx"):
        refuse(model(Own(6, 5)))
    hooked = model(GRU(6, 5))
    hooked.layer.register_forward_hook(lambda *arguments: None)
    with pytest.raises(UserError, match="a GRU with hooks at layer"):
        refuse(hooked)
    normed = model(GRU(6, 5))
    nn.utils.parametrizations.weight_norm(normed.head)
    with pytest.raises(UserError, match="at head"):
        refuse(normed)
    with pytest.raises(UserError, match="power of two"):
        refuse(many_to_one("mean", ngrams=NGrams(2, 3, 1000)))
    with pytest.raises(UserError, match="with ctranslate2"):
        refuse(transformer(20))
