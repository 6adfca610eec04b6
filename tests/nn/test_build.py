"""From a word and settings to a layer, and every way to get it wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from unrolled import nn
from unrolled.core.errors import UsageError
from unrolled.nn import LAYERS, LayerConfig, build_layer

SETTINGS: dict[str, Any] = {
    "hidden": 8,
    "layers": 2,
    "bidirectional": True,
    "dropout": 0.1,
    "input_dropout": 0.2,
    "output_dropout": 0.3,
    "recurrent_dropout": 0.4,
    "weight_drop": 0.5,
    "zoneout": 0.6,
    "between_dropout": 0.7,
    "last": 3,
    "layer_norm": True,
    "residual": True,
    "orthogonal": True,
    "nonlinearity": "relu",
    "projection": 3,
    "activation": "relu",
    "heads": 2,
    "kv_heads": 1,
    "positions": "learned",
    "norm": "layer",
    "norm_first": False,
    "feedforward": "gelu",
    "feedforward_size": 5,
    "context": 9,
    "attention_dropout": 0.6,
    "bias": True,
    "first": "xavier",
    "norm_eps": 1e-3,
    "rotary_base": 500.0,
    "rotary_scaling": {"kind": "linear", "factor": 2.0},
    "head_size": 6,
    "attention_window": 2,
    "query_key_norm": True,
    "attention_bias": "inputs",
}


@pytest.mark.parametrize("name", LAYERS)
def test_defaults_build(name: str) -> None:
    layer = build_layer(name, LayerConfig(), 5)
    assert (layer.input_size, layer.output_size, layer.causal) == (5, 128, True)
    assert layer.read(torch.randn(2, 3, 5)).shape == (2, 3, 128)


@pytest.mark.parametrize("name", LAYERS)
def test_every_setting_of_a_layer_reaches_it(name: str) -> None:
    # a narrower last layer goes without most others; it has a test of its own
    config = LayerConfig(**{key: SETTINGS[key] for key in LAYERS[name].uses - {"last"}})
    layer = build_layer(name, config, 5)
    y = layer.read(torch.randn(2, 3, 5))
    assert y.shape == (2, 3, layer.output_size)
    for key in LAYERS[name].uses - {
        "hidden",
        "layers",
        "bidirectional",
        "dropout",
        "last",
    }:
        assert repr_of(
            build_layer(name, config.changed(**{key: default(key, name)}), 5)
        ) != (repr_of(layer)), key


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_the_last_layer_may_be_narrower(name: str) -> None:
    layer = build_layer(name, LayerConfig(hidden=8, layers=2, last=3), 5)
    assert layer.read(torch.randn(2, 4, 5)).shape == (2, 4, 3)
    for options in ({"bidirectional": True}, {"residual": True}, {"last": 9}):
        config = LayerConfig(**{"hidden": 8, "layers": 2, "last": 3} | options)
        with pytest.raises(UsageError, match="expected last_size up to hidden_size 8"):
            build_layer(name, config, 5)


def default(key: str, name: str) -> Any:
    # learned positions would not build without a context
    return (
        10 if (key, name) == ("context", "attention") else getattr(LayerConfig(), key)
    )


def repr_of(layer: nn.Layer) -> str:
    """Say all that tells two layers apart."""
    own = {
        k: v for k, v in vars(layer).items() if isinstance(v, int | float | str | bool)
    }
    blocks = [vars(block).get("norm_first") for block in layer.modules()]
    return (
        f"{layer} {own} {blocks}"
        + str(vars(layer).get("variant"))
        + str([tuple(p.shape) for p in layer.parameters()])
        + str([(vars(m).get("gated"), vars(m).get("dropout")) for m in layer.modules()])
    )


def test_the_settings_are_those_of_some_layer() -> None:
    assert (
        set().union(*(kind.uses for kind in LAYERS.values()))
        == set(LayerConfig.model_fields)
        == set(SETTINGS)
    )


@pytest.mark.parametrize("name", LAYERS)
def test_a_foreign_setting_is_refused(name: str) -> None:
    for key in set(SETTINGS) - LAYERS[name].uses:
        with pytest.raises(UsageError, match=f"layer {name} has no setting '{key}'"):
            build_layer(name, LayerConfig(**{key: SETTINGS[key]}), 5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transformer", {}, "there is no layer 'transformer'; use layer=attention"),
        ("gpt", {}, "there is no layer 'gpt'; use layer=attention"),
        ("lstn", {}, "there is no layer 'lstn'; did you mean 'lstm'?"),
        (
            "zzz",
            {},
            "there is no layer 'zzz'; known: none, rnn, lstm, gru, mingru, attention",
        ),
        ("gru", {"layers": 0}, "layer gru needs layers of at least 1, got 0"),
        ("lstm", {"projection": 200}, "layer lstm: expected proj_size from 0"),
        (
            "attention",
            {"heads": 3},
            "layer attention: expected hidden to be a multiple of heads",
        ),
        (
            "attention",
            {"positions": "learned"},
            "layer attention: expected context with learned",
        ),
        (
            "attention",
            {"rotary_scaling": {"kind": "factors", "factors": [1.0, 2.0]}},
            "layer attention: expected 16 factors of rotary_scaling",
        ),
        (
            "gru",
            {"heads": 8},
            "layer gru has no setting 'heads' (got 8); it belongs to layer atten",
        ),
    ],
)
def test_mistakes(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_layer(name, LayerConfig(**options), 5)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2


def test_values_are_checked() -> None:
    with pytest.raises(UsageError, match="unknown key 'hiden'; did you mean 'hidden'"):
        LayerConfig.read({"hiden": 3})
    with pytest.raises(UsageError, match=r"dropout=1\.5"):
        LayerConfig.read({"dropout": 1.5})


def test_public_names_exist() -> None:
    assert all(hasattr(nn, name) for name in nn.__all__)
    assert nn.__all__ == sorted(
        nn.__all__, key=lambda n: (not n.isupper(), n.islower(), n)
    )


def test_importing_nn_loads_nothing_of_ours_but_ops_and_core() -> None:
    code = (
        "import sys, unrolled.nn; "
        "print({n.split('.')[1] for n in sys.modules if 'unrolled.' in n})"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert eval(process.stdout) <= {"nn", "ops", "core", "_version"}
