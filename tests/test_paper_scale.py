"""docs/paper-scale.md: its tables are those of tools/cost.py, whose formulas count what runs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unrolled.data.batches import Batch
from unrolled.models import Unaligned
from unrolled.nn import LayerConfig, TokenEmbedding, build_decoder, build_layer
from unrolled.training.objectives import seq2seq_loss

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cost() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("cost", ROOT / "tools" / "cost.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def build(width: int, inner: int, layers: int, outputs: int) -> Unaligned:
    options: dict[str, Any] = {
        "hidden": width,
        "layers": layers,
        "heads": 4,
        "feedforward": "relu",
        "norm": "layer",
        "feedforward_size": inner,
        "norm_first": False,
        "positions": "sinusoidal",
        "bias": True,
    }
    config = LayerConfig(**options)
    table = TokenEmbedding(outputs, width)
    encoder = build_layer("attention", config.changed(bidirectional=True), width)
    decoder = build_decoder("attention", config, width, encoder)
    return Unaligned(table, encoder, table, decoder, outputs, tie=True, bias=False)


def sized(cost: Any, source: int, target: int, **changes: Any) -> Any:
    sizes = {
        "name": "small",
        "width": 64,
        "inner": 256,
        "layers": 2,
        "outputs": 500,
        "steps": 1,
        "pairs": 1.0,
        "dropout": False,
        "averaged": 0,
        "shared": True,
    }
    return cost.Model(source=source, target=target, **sizes | changes)


def test_the_page_holds_the_tables_of_the_script(cost: Any) -> None:
    page = cost.PAGE.read_text("utf-8")
    marks = re.findall(r"<!-- cost: ([\w-]+) -->", page)
    assert sorted(marks) == sorted(cost.tables())
    assert cost.filled(page) == page, "run: python tools/cost.py --write"


def test_weights_and_work_are_those_of_the_model(cost: Any) -> None:
    source = 96
    target = 160
    model = build(64, 256, 2, 500)
    dimensions = sized(cost, source, target)
    assert sum(p.numel() for p in model.parameters()) == dimensions.parameters
    ids = torch.randint(4, 500, (1, source + target))
    plain = sdpa_kernel(SDPBackend.MATH)  # whose products the counter sees
    with plain, FlopCounterMode(display=False) as counted:
        scores = model(ids[:, :source], torch.tensor([source]), ids[:, source:])
        forward = counted.get_total_flops()
        scores.sum().backward()
    # it computes the half of the square that the causal mask leaves out
    square = 2 * 64 * target**2 * 2
    assert forward == pytest.approx(
        2 * sum(cost.products(dimensions).values()) + square, rel=1e-6
    )
    assert counted.get_total_flops() == pytest.approx(
        cost.flops(dimensions) + 3 * square, rel=1e-6
    )


def test_activations_are_what_a_step_keeps(cost: Any) -> None:
    # so long that attention is fused, as it is on a GPU
    source = 1024
    target = 1536
    model = build(64, 256, 2, 500)
    dimensions = sized(cost, source, target)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor
        return tensor

    ids = torch.randint(4, 500, (1, source + target))
    batch = Batch(
        ids[:, :source], torch.tensor([source]), ids[:, source:], ids[0].numpy()
    )
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        seq2seq_loss(2)(model, batch, None)
    steps = [t for t in kept.values() if t.numel() >= source * 16]
    byte_count = sum(
        t.untyped_storage().nbytes() for t in steps if t.shape[-2:] != (64, 256)
    )
    gradients = (
        4 * 64 * target
    )  # of what the output weights read, worked out with the loss
    gradients += 4 * 64 * 500  # and of these
    assert byte_count - gradients == pytest.approx(
        cost.activations(dimensions), rel=0.03
    )


def test_with_dropout_a_byte_is_kept_for_each_number(cost: Any) -> None:
    plain, dropped = (sized(cost, 30, 40, dropout=dropout) for dropout in (False, True))
    # two parts of a block of the encoder drop, and three of the decoder
    numbers = 64 * 2 * (2 * 30 + 3 * 40)
    assert cost.activations(dropped) - cost.activations(plain) == numbers


@pytest.mark.parametrize("gated", [False, True])
def test_a_block_of_a_language_model_keeps_what_the_page_counts(
    cost: Any, gated: bool
) -> None:
    steps = 1100  # so that attention is fused
    shape: dict[str, Any] = {"hidden": 64, "heads": 4, "feedforward_size": 256}
    shape |= {"feedforward": "swiglu" if gated else "gelu-tanh"}
    shape |= (
        {"norm": "rms", "kv_heads": 1} if gated else {"norm": "layer", "bias": True}
    )

    if not gated:
        shape |= {"positions": "learned", "context": 2 * steps}

    def kept(layers: int, again: bool) -> float:
        layer = build_layer("attention", LayerConfig(layers=layers, **shape), 64)
        layer.checkpoint_activations = again
        shapes = {p.shape for p in layer.parameters()}
        shapes |= {shape[::-1] for shape in shapes}
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.shape not in shapes:  # weights and their bf16 copies
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
                held.append(tensor)
            return tensor

        held: list[torch.Tensor] = []
        x = torch.randn(1, steps, 64, requires_grad=True)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            layer.read(x)
        return sum(sizes.values()) / steps

    block = kept(2, again=False) - kept(1, again=False)
    assert block == pytest.approx(cost.block_bytes(64, 256, gated), rel=0.02)
    assert kept(2, again=True) - kept(1, again=True) == 4 * 64
