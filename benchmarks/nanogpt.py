"""A plain-PyTorch equivalent of nanoGPT's CPU setting on tinyshakespeare, the yardstick of speed.

Four pre-norm blocks, four heads, 128 wide, context 64, batch 12, no dropout, no biases, learned
positions, tied embeddings, GELU; AdamW 1e-3 to 1e-4 by cosine, warm-up 100, betas (0.9, 0.99),
weight decay 0.1 on matrices, gradients clipped at 1; 2,000 steps, float32.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTEXT = 64
BATCH = 12
STEPS = 2000
WARMUP = 100


class Block(nn.Module):
    """Causal attention and a feed-forward network, both pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, W) for x (B, T, W)."""
        rows, steps, width = x.shape
        parts = self.qkv(self.norm1(x)).view(
            rows, steps, 3, self.heads, width // self.heads
        )
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(read.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharGPT(nn.Module):
    """The model."""

    def __init__(
        self,
        vocabulary: int,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        context: int = CONTEXT,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                last = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(
                    weight, 0.0, 0.02 / math.sqrt(2 * layers) if last else 0.02
                )

    def forward(self, ids: Tensor) -> Tensor:
        """Return scores (B, T, V) for ids (B, T)."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


@torch.no_grad()
def evaluate(model: CharGPT, data: Tensor) -> float:
    """Return the mean nats a character over all of ``data``, in windows side by side."""
    model.eval()
    total = 0.0
    count = len(data) - 1
    full = count // CONTEXT
    inputs = data[: full * CONTEXT].view(full, CONTEXT)
    targets = data[1 : full * CONTEXT + 1].view(full, CONTEXT)
    for start in range(0, full, 128):
        logits = model(inputs[start : start + 128]).flatten(0, 1)
        labels = targets[start : start + 128].flatten()
        total += F.cross_entropy(logits, labels, reduction="sum").item()
    if count % CONTEXT:
        logits = model(data[full * CONTEXT : count][None])[0]
        total += F.cross_entropy(
            logits, data[full * CONTEXT + 1 :], reduction="sum"
        ).item()
    model.train()
    return total / count


def rate(step: int) -> float:
    """Return the learning rate of a step."""
    if step < WARMUP:
        return 1e-3 * (step + 1) / (WARMUP + 1)
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * progress)) * 9e-4


def train(
    text: Tensor, held_out: Tensor, vocabulary: int, target: float
) -> dict[str, float]:
    """Train until the held-out loss reaches ``target`` or the 2,000 steps are made.

    Evaluations, every 100 steps, are not counted in the seconds, to the favour of this baseline.
    """
    torch.manual_seed(1337)
    model = CharGPT(vocabulary)
    weights = list(model.parameters())
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    span = torch.arange(CONTEXT + 1)
    seconds = 0.0
    loss = math.inf
    for step in range(STEPS):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        rows = text[torch.randint(len(text) - CONTEXT, (BATCH, 1)) + span]
        scores = model(rows[:, :-1]).flatten(0, 1)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(scores, rows[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        seconds += time.perf_counter() - began
        if (step + 1) % 100 == 0:
            loss = evaluate(model, held_out)
            print(
                f"  nanoGPT's setting: step {step + 1}, {seconds:.1f} s, {loss:.4f}",
                flush=True,
            )
            if loss <= target:
                break
    return {"seconds": seconds, "loss": loss, "steps": step + 1}
