"""Images: training beside a plain torch loop with the same network, and frames labelled live.

``python -m benchmarks images [train | live]``. Images are drawn at random; the loop is what one
writes by hand: fp32, and with channels last, too in bf16 where the processor has it. Training
takes turns with it in one process, on the same threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.data.batches import Batch
from unrolled.data.examples import Examples, Images
from unrolled.data.image_batches import ImageBatches
from unrolled.fields.clips import Clips
from unrolled.models import Aligned, OneToOne
from unrolled.nn import build_layer
from unrolled.nn.build import LayerConfig
from unrolled.nn.image_encoder import PooledImages
from unrolled.nn.image_settings import EncoderConfig, build_encoder
from unrolled.runs.live_frames import LiveFrames
from unrolled.training.objectives import classes
from unrolled.training.precision import choose

IMAGES = 256
BATCH = 32
SIDE = 128
LABELS = 10
REPEATS = 5
FRAMES = 60
LIVE_SIDE = 224


class PlainNetwork(nn.Module):
    """The small residual network, as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        layers: list[nn.Module] = [
            nn.Conv2d(3, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        ]
        size = 32
        for number, width in enumerate(widths):
            layers.append(PlainBlock(size, width, 2 if number else 1))
            size = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(size, LABELS)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (B, C) of images (B, 3, H, W)."""
        return self.head(self.layers(images).mean((2, 3)))


class PlainBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.beside: nn.Module = nn.Identity()
        if stride > 1 or inputs != width:
            self.beside = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H', W') of (B, C', H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.beside(x))


def drawn() -> Examples:
    """Return images and labels drawn at random."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=np.uint8)
    labels = generator.integers(0, LABELS, IMAGES)
    rows = np.arange(IMAGES)
    return Examples(rows, images=Images(pixels, rows), targets=labels)


def training_of(half: bool) -> Callable[[Batch], None]:
    """Return a step of ours: our network, batches and objective."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(size=SIDE))
    pooled = PooledImages(encoder, SIDE, SIDE, 128)
    layer = build_layer("none", LayerConfig(layers=0), 128)
    model = OneToOne(layer, LABELS, embedding=pooled).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    objective = classes()

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = objective(model, batch, None)
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_of(half: bool, channels_last: bool) -> Callable[[Batch], None]:
    """Return a step of the loop that one writes by hand."""
    torch.manual_seed(0)
    model = PlainNetwork().train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(batch: Batch) -> None:
        images = batch.inputs.float() / 255
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model(images), batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training() -> dict[str, float]:
    """Return images a second of each way, which take turns; the first round warms up."""
    source = ImageBatches(drawn(), BATCH, 0)
    steps = {
        "loop fp32": plain_of(False, False),
        "loop fp32, channels last": plain_of(False, True),
        "unrolled fp32": training_of(False),
    }
    # without instructions for it a product takes a hundred times as long
    if choose("cpu", "auto").precision == "bf16":
        steps["loop bf16, channels last"] = plain_of(True, True)
        steps["unrolled bf16"] = training_of(True)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(REPEATS + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            for index in range(source.length(repeat)):
                step(source.batch(repeat, index))
            if repeat:
                times[name].append(time.perf_counter() - began)
    speeds = {name: IMAGES / statistics.median(taken) for name, taken in times.items()}
    for name, speed in speeds.items():
        print(f"{name:<26} {speed:8.1f} images/s", flush=True)
    return speeds


def live() -> dict[str, float]:
    """Return frames a second that Lite0 and a GRU label as they come, on one thread."""
    torch.set_num_threads(1)
    settings = EncoderConfig(network="lite0", size=LIVE_SIDE)
    pooled = PooledImages(build_encoder(settings), LIVE_SIDE, LIVE_SIDE, 128)
    layer = build_layer("gru", LayerConfig(hidden=128), 128)
    model = Aligned(pooled, layer, LABELS).eval()
    task = SimpleNamespace(
        name="label-frames",
        clips=Clips("frames", LIVE_SIDE, LIVE_SIDE, 3),
        class_names=tuple(map(str, range(LABELS))),
    )
    predictor: Any = SimpleNamespace(task=task, model=model)
    labels = LiveFrames(predictor)
    generator = np.random.default_rng(0)
    shape = (LIVE_SIDE, LIVE_SIDE, 3)
    for _ in range(FRAMES):
        labels.push(generator.integers(0, 256, shape, dtype=np.uint8))
    rate = 1 / labels.latency
    print(f"live, Lite0 at {LIVE_SIDE} and a GRU: {rate:.1f} frames/s on one thread")
    return {"frames_per_second": rate, "latency": labels.latency}


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure; ``arguments`` may name what alone is wanted."""
    results: dict[str, Any] = {"threads": torch.get_num_threads()}
    if arguments != ["live"]:
        results["training"] = training()
    if arguments != ["train"]:
        results["live"] = live()
    return results
