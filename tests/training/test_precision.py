"""Where and in what a model computes."""

from __future__ import annotations

import pytest
import torch

from unrolled.core.errors import UsageError
from unrolled.training import precision
from unrolled.training.precision import ComputeDevice, choose

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(device, "fp32")
    assert str(caught.value) == (
        f"training.device={device}: no such device here; use cpu, or auto to take what there is"
    )


@pytest.mark.parametrize("requested", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_is_taken(requested: str) -> None:
    device = choose("cpu", requested)
    assert device == ComputeDevice(CPU, requested, "as asked")
    assert device.describe() == f"cpu, {requested} (as asked)"


@pytest.mark.parametrize(
    ("flags", "chosen"), [((0, 0), "fp32"), ((1, 0), "bf16"), ((0, 1), "bf16")]
)
def test_auto_asks_the_processor_and_says_why(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(flags[0]))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(flags[1]))
    device = choose("cpu", "auto")
    assert device.precision == chosen
    has = "has bf16" if chosen == "bf16" else "has no bf16"
    assert device.why == f"auto: the processor {has} instructions"


def test_auto_takes_the_cpu_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto", "fp32").device == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision.choose("auto", "fp32").device == torch.device("cuda")


def test_bf16_computes_products_in_bf16_and_keeps_weights_in_fp32() -> None:
    layer = torch.nn.Linear(3, 2)
    x = torch.randn(4, 3)
    with choose("cpu", "bf16").autocast():
        assert layer(x).dtype == torch.bfloat16
    with choose("cpu", "fp32").autocast():
        assert layer(x).dtype == torch.float32
    assert layer.weight.dtype == torch.float32
