"""A run over characters of Shakespeare, scored as nanoGPT does: by random blocks of the last tenth.

``python -m benchmarks blocks RUN``. A block is as long as the model's context and begins with
nothing before it; the loss is the mean over 200 batches of 64 blocks, the default of its
``estimate_loss``. Beside it stands the loss over the whole part, each character once.
"""

from __future__ import annotations

import gzip
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import unrolled

BATCHES = 200
BATCH = 64
SEED = 1337


@torch.inference_mode()
def run(arguments: list[str]) -> dict[str, Any]:
    """Score; ``arguments`` hold the run's folder."""
    (folder,) = arguments
    loaded = unrolled.load(folder, device="cpu")
    model: Any = loaded.model
    path = resources.files("unrolled") / "recipes" / "data" / "shakespeare.txt.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    held_out = text[int(len(text) * 0.9) :]
    ids = torch.tensor(loaded.task.tokenizer.encode(held_out))
    draw = np.random.default_rng(SEED)
    context = model.context or 256
    losses: list[float] = []
    for _ in range(BATCHES):
        begins = torch.from_numpy(draw.integers(0, len(ids) - context - 1, BATCH))
        rows = ids[begins[:, None] + torch.arange(context + 1)]
        with loaded.predictor.compute_device.autocast():
            scores, _ = model(rows[:, :-1])
        loss = F.cross_entropy(scores.flatten(0, 1).float(), rows[:, 1:].flatten())
        losses.append(float(loss))
    mean = float(np.mean(losses))
    error = float(np.std(losses) / len(losses) ** 0.5)
    whole = loaded.result["scores"]["loss"]
    print(
        f"random blocks of {context}: {mean:.4f} +- {error:.4f}; the whole part: {whole:.4f}"
    )
    return {"context": context, "blocks": mean, "error": error, "whole": whole}
