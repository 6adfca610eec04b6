"""The share of the machine's peak that a training used, and what counts as an operation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unrolled.insight import utilization as module
from unrolled.insight.utilization import (
    Utilization,
    closing_line,
    peak_operations,
    rate,
    utilization,
)
from unrolled.models import LanguageModel
from unrolled.nn import LayerConfig, TokenEmbedding, build_layer
from unrolled.ops import use
from unrolled.training.precision import ComputeDevice

FP32 = ComputeDevice(torch.device("cpu"), "fp32", "for tests")


def model(name: str, tie: bool, **options: object) -> LanguageModel:
    config = LayerConfig.read({"hidden": 16, "layers": 2, **options})
    return LanguageModel(
        TokenEmbedding(40, 16), build_layer(name, config, 16), 40, tie=tie
    )


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention", {"heads": 2, "kv_heads": 1}),
        (
            "attention",
            {"heads": 2, "positions": "learned", "context": 8, "feedforward": "gelu"},
        ),
        ("attention", {"heads": 4, "head_size": 6}),
        ("lstm", {}),
        ("gru", {}),
    ],
)
def test_operations_are_those_that_a_counter_sees(
    name: str, options: dict[str, object], tie: bool
) -> None:
    rows = 3
    steps = 8
    built = model(name, tie, **options)
    tokens = torch.randint(40, (rows, steps))
    # the reference runs on products that the counter knows, with the whole square of attention
    with use("reference"), FlopCounterMode(display=False) as counter:
        built(tokens)[0].sum().backward()
    expected = built.operations_per_token(steps) * rows * steps
    # no gradient is wanted of the state before the first step
    for weight_name, weight in built.named_parameters():
        if "weight_hh" in weight_name:
            expected -= 2 * weight.numel() * rows
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9)


def test_a_window_of_attention_bounds_what_is_mixed() -> None:
    built = model("attention", True, heads=2, attention_window=4)
    assert built.operations_per_token(8) == built.operations_per_token(4)
    assert built.operations_per_token(2) < built.operations_per_token(4)


def metrics(folder: Path, speeds: list[float]) -> None:
    lines = [
        {"step": step, "kind": "train", "tokens_per_second": speed}
        for step, speed in enumerate(speeds, 1)
    ]
    lines.append({"step": len(speeds), "kind": "dev", "loss": 1.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def test_the_median_speed_over_the_peak_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "peak_operations", lambda device: 5e9)
    metrics(tmp_path, [1.0, 2000.0, 3000.0])
    used = utilization(tmp_path, 1e6, FP32, processes=2)
    assert used == Utilization(2000.0, 2e9, 1e10)
    assert used.fraction == 0.2
    assert closing_line(used.as_dict()) == (
        "2,000 tokens a second, 2 GFLOP/s: 20.0% of 10 GFLOP/s, what products reach on this "
        "machine"
    )
    assert utilization(tmp_path, None, FP32, 1) is None
    metrics(tmp_path, [])
    assert utilization(tmp_path, 1e6, FP32, 1) is None
    assert closing_line({}) == ""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_is_measured(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(module, "SECONDS", 1e-3)
    monkeypatch.setattr(module, "WIDTHS", {"cpu": 64})
    device = ComputeDevice(torch.device("cpu"), precision, "for tests")
    # a processor makes more than a million operations a second, and less than a million billions
    assert 1e6 < peak_operations(device) < 1e18


def test_the_peak_is_that_of_drawn_numbers_and_leaves_others_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.Tensor] = []

    def seconds(left: torch.Tensor, right: torch.Tensor) -> float:
        seen.extend([left, right])
        return 1.0

    monkeypatch.setattr(module, "_seconds", seconds)
    monkeypatch.setattr(module, "WIDTHS", {"cpu": 64})
    state = torch.random.get_rng_state()
    assert peak_operations(FP32) == 2 * 64**3
    peak_operations(FP32)
    assert torch.equal(torch.random.get_rng_state(), state)
    left, right, again = seen[0], seen[1], seen[-1]
    assert len(left.unique()) > 4000
    assert not torch.equal(left, right)
    assert torch.equal(right, again)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.345e12, "2.35 TFLOP/s"),
        (1e15, "1 PFLOP/s"),
        (5.5e9, "5.5 GFLOP/s"),
        (3e5, "3e+05 FLOP/s"),
    ],
)
def test_rates_have_the_unit_that_fits(value: float, text: str) -> None:
    assert rate(value) == text
