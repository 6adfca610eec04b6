"""Stretched rotary positions against transformers, and what is refused of their keys."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unrolled.core.errors import UsageError
from unrolled.nn.positions import RotaryFrequencies, rotation
from unrolled.nn.rotary_scaling import RotaryScaling
from unrolled.nn.variant import Variant

LLAMA3: dict[str, Any] = {
    "kind": "llama3",
    "factor": 8.0,
    "original_context": 8192,
    "low_frequency_factor": 1.0,
    "high_frequency_factor": 4.0,
}
YARN: dict[str, Any] = {
    "kind": "yarn",
    "factor": 4.0,
    "original_context": 32768,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 0.1 * math.log(4) + 1,
}
LINEAR: dict[str, Any] = {"kind": "linear", "factor": 2.5}
# keys as transformers has them
THEIRS = {
    "kind": "rope_type",
    "original_context": "original_max_position_embeddings",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
}
# of so many different divisors: 32 pairs of features from a base of 500,000
CASES = {"linear": (LINEAR, 1), "llama3": (LLAMA3, 5), "yarn": (YARN, 10)}


@pytest.mark.parametrize("kind", CASES)
def test_frequencies_are_those_of_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    values, different = CASES[kind]
    table = {THEIRS.get(key, key): value for key, value in values.items()}
    config = transformers.LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        max_position_embeddings=131072,
        rope_parameters={**table, "rope_theta": 5e5},
    )
    expected, gain = rope.ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    scaling = RotaryScaling.read(values)
    variant = Variant(rotary_base=5e5, rotary_scaling=scaling)
    ours = RotaryFrequencies.of(variant, 64)
    assert len(set(ours.divisors)) >= different
    # a last digit of fp32, or two
    torch.testing.assert_close(ours.inverse("cpu"), expected, rtol=3e-7, atol=0)
    assert ours.attention_factor == pytest.approx(gain, rel=1e-12)


def test_llama3_keeps_fast_waves_and_stretches_slow_ones() -> None:
    divisors = RotaryScaling.read(LLAMA3).divisors(64, 5e5)
    for feature, divisor in zip(range(0, 64, 2), divisors, strict=True):
        wave = 2 * math.pi * 5e5 ** (feature / 64)
        if wave < 8192 / 4:
            assert divisor == 1
        elif wave > 8192:
            assert divisor == pytest.approx(8, rel=1e-12)
        else:
            assert 1 < divisor < 8


def test_a_linear_scaling_reads_positions_between_those_it_learnt() -> None:
    scaling = RotaryScaling(kind="linear", factor=2.0)
    stretched = RotaryFrequencies.of(Variant(rotary_scaling=scaling), 8)
    later = rotation(torch.tensor([[2, 14, 60]]), stretched)
    plain = rotation(torch.tensor([[1, 7, 30]]), RotaryFrequencies(8))
    torch.testing.assert_close(later, plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "linear"}, "kind=linear needs also factor"),
        ({"kind": "none", "factor": 2.0}, "kind=none has no factor; leave it out"),
        ({**LINEAR, "beta_fast": 2.0}, "kind=linear has no beta_fast"),
        ({**LLAMA3, "original_context": None}, "kind=llama3 needs also original_cont"),
        ({**LLAMA3, "low_frequency_factor": 4.0}, "high_frequency_factor above low_"),
        ({**YARN, "beta_slow": 33.0}, "beta_fast above beta_slow, got 32 and 33"),
        ({"kind": "factors", "factors": [1.0, 0.0]}, "factors from 0.001 to 1,000,000"),
        ({"kind": "factors", "factors": []}, "factors=.*at least 1 item"),
        ({"kind": "dynamic", "factor": 2.0}, "kind='dynamic': .*'llama3', 'yarn'"),
    ],
)
def test_keys_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RotaryScaling.read(values)
