"""Updates of the small Transformer: our loop beside a plain one around torch.nn.Transformer.

Shapes: S pairs, M source steps, T target steps, V outputs, W width.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.layers import common
from benchmarks.layers.child import Trained
from benchmarks.layers.common import Options
from unrolled.data.batches import IGNORED, PAD, Batch, collate
from unrolled.models import Unaligned
from unrolled.nn import Attention, TokenEmbedding
from unrolled.nn.positions import sinusoid
from unrolled.nn.transformer import Block
from unrolled.tasks.base import score_batches
from unrolled.text.tokenizers import BOS
from unrolled.training import optimizers
from unrolled.training.objectives import shifted
from unrolled.training.schedules import factor

RECIPE = "multi30k-en-de"
VOCABULARY = 8000
TOKENS = 4096
WARMUP = 200
LONGEST = 512
TURN = 30  # updates
WIDTHS = (12, 14, 12, 10, 10, 10)
Scorer = Callable[[Batch, Tensor], Tensor]


class Plain(nn.Module):
    """torch.nn.Transformer with embeddings, positions and output weights, all as in a model."""

    def __init__(
        self, model: Unaligned, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        encoder = cast(Attention, model.encoder)
        decoder = cast(Attention, model.decoder)
        first = cast(Block, encoder.blocks[0])
        width = encoder.output_size
        heads = first.attention.heads
        options: dict[str, Any] = {"batch_first": True, "norm_first": first.norm_first}
        sizes = width, heads, first.feedforward.out.in_features, dropout
        encoder_layer = nn.TransformerEncoderLayer(*sizes, **options)
        decoder_layer = nn.TransformerDecoderLayer(*sizes, **options)
        self.inner = nn.Transformer(
            width,
            heads,
            custom_encoder=nn.TransformerEncoder(
                encoder_layer,
                len(encoder.blocks),
                nn.LayerNorm(width),
                enable_nested_tensor=False,
            ),
            custom_decoder=nn.TransformerDecoder(
                decoder_layer, len(decoder.blocks), nn.LayerNorm(width)
            ),
            **options,
        )
        source = cast(TokenEmbedding, model.source)
        self.scale = source.scale
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Embedding(source.size, width, PAD)
        self.head = nn.Linear(width, source.size)
        self.head.weight = self.embedding.weight
        self.register_buffer("places", sinusoid(torch.arange(LONGEST)[None], width)[0])
        self._take(model)
        for layer in (*self.inner.encoder.layers, *self.inner.decoder.layers):
            layer.dropout = nn.Identity()  # ours has none inside of the feed-forward
            layer.self_attn.dropout = attention_dropout
            if hasattr(layer, "multihead_attn"):
                layer.multihead_attn.dropout = attention_dropout

    @torch.no_grad()
    def _take(self, model: Unaligned) -> None:
        """Copy the weights of a model."""
        self.embedding.weight.copy_(model.target.weight)
        self.head.bias.copy_(model.head.bias)
        for mine, theirs in (
            (self.inner.encoder, model.encoder),
            (self.inner.decoder, model.decoder),
        ):
            _copy(mine.norm, theirs.norm)
            for layer, block in zip(mine.layers, theirs.blocks, strict=True):
                norms = [block.attention_norm, block.feedforward_norm]
                _copy_attention(layer.self_attn, block.attention)
                if block.cross is not None:
                    _copy_attention(layer.multihead_attn, block.cross)
                    norms.insert(1, block.cross_norm)
                for number, norm in enumerate(norms, 1):
                    _copy(getattr(layer, f"norm{number}"), norm)
                _copy(layer.linear1, block.feedforward.up)
                _copy(layer.linear2, block.feedforward.out)

    def _placed(self, tokens: Tensor) -> Tensor:
        vectors = self.embedding(tokens) * self.scale
        return self.dropout(vectors + self.places[: tokens.shape[1]])

    def forward(self, source: Tensor, inputs: Tensor) -> Tensor:
        """Return scores (S, T, V) of sources (S, M) and the tokens before each (S, T)."""
        ahead = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1])
        padding = source == PAD
        read = self.inner(
            self._placed(source),
            self._placed(inputs),
            tgt_mask=ahead,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.head(read)


def _copy(mine: Any, theirs: Any) -> None:
    mine.weight.copy_(theirs.weight)
    mine.bias.copy_(theirs.bias)


def _copy_attention(mine: Any, theirs: Any) -> None:
    parts = theirs.query, theirs.key, theirs.value
    mine.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    mine.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    _copy(mine.out_proj, theirs.out)


class PlainLoop:
    """The loop that people write: the batches, schedule and optimizer of a training of ours."""

    def __init__(self, beside: Trained, low: bool) -> None:
        recipe = beside.plan.recipe
        attention = recipe.model.attention_dropout
        dropout = recipe.model.dropout
        self.model = Plain(
            cast(Unaligned, beside.plan.model),
            dropout,
            dropout if attention is None else attention,
        )
        self.settings = recipe.training
        self.low = low
        self.made = 0
        self.source = beside.trainer.job.source
        self.optimizer = optimizers.build_optimizer(self.model, self.settings)

    def steps(self, count: int) -> dict[str, Any]:
        """Make updates; see ``Trained.steps``."""
        settings = self.settings
        tokens = 0
        began = time.perf_counter()
        self.model.train()
        for _ in range(count):
            epoch, index = divmod(self.made, self.source.length(0))
            batch = self.source.batch(epoch, index)
            rate = settings.learning_rate * factor(settings, self.made, 0.0, 0)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            low = (
                torch.autocast("cpu", torch.bfloat16)
                if self.low
                else contextlib.nullcontext()
            )
            targets = cast(Tensor, batch.targets)
            with low:
                scores = self.model(batch.inputs, shifted(targets, BOS))
                loss = F.cross_entropy(
                    scores.flatten(0, 1).float(),
                    targets.flatten(),
                    ignore_index=IGNORED,
                    label_smoothing=settings.label_smoothing,
                )
            loss.backward()
            nn.utils.clip_grad_norm_(
                self.model.parameters(), settings.clip or float("inf")
            )
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            tokens += batch.steps
            self.made += 1
        return {"tokens": tokens, "seconds": time.perf_counter() - began}


@torch.no_grad()
def dev_loss(model: nn.Module, score: Scorer, examples: Any, batches: int) -> float:
    """Return the mean cross entropy of target tokens in nats, in fp32, over some batches."""
    model.eval()
    total = 0.0
    count = 0
    for rows in score_batches(examples.reach, TOKENS)[-batches:]:
        batch = collate(examples, rows)
        targets = cast(Tensor, batch.targets)
        scores = score(batch, shifted(targets, BOS)).flatten(0, 1)
        total += float(F.cross_entropy(scores, targets.flatten(), reduction="sum"))
        count += int((targets != IGNORED).sum())
    model.train()
    return total / count


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Take turns of some updates each, and compare the losses after as many updates."""
    turn = 4 if options.quick else TURN
    with tempfile.TemporaryDirectory(prefix="unrolled-training-") as name:
        ours = {}
        for precision in ("bf16", "fp32"):
            changes = {
                "data.vocabulary": VOCABULARY,
                "training.precision": precision,
                "training.batch_tokens": TOKENS,
                "training.warmup_steps": WARMUP,
                # the plain model has none there
                "model.embedding_dropout": 0.0,
                "model.head_dropout": 0.0,
                "training.threads": torch.get_num_threads(),
                "training.max_minutes": None,
                "training.max_steps": 10**6,
            }
            ours[f"ours {precision}"] = Trained(RECIPE, changes, Path(name) / precision)
        first = ours["ours fp32"]
        dev = ours["ours fp32"].plan.prepared.dev
        plain = {
            f"plain {kind}": PlainLoop(first, kind == "bf16")
            for kind in ("fp32", "bf16")
        }
        scorers: dict[str, tuple[nn.Module, Scorer]] = {
            who: (trained.plan.model, _scorer(trained.plan.model))
            for who, trained in ours.items()
        }
        for who, baseline in plain.items():
            scorers[who] = (
                baseline.model,
                lambda b, before, m=baseline.model: m(b.inputs, before),
            )

        def losses() -> dict[str, float]:
            some = 4 if options.quick else 10**6
            return {who: dev_loss(*scorers[who], dev, some) for who in scorers}

        curve = [losses()]
        _same_start(curve[0])
        speeds: dict[str, list[float]] = {who: [] for who in (*ours, *plain)}
        loops: dict[str, Trained | PlainLoop] = {**ours, **plain}
        for loop in loops.values():
            loop.steps(1)
        for _ in range(options.repeats):
            for who, loop in loops.items():
                time.sleep(common.REST)
                report = loop.steps(turn)
                speeds[who].append(report["tokens"] / report["seconds"])
            curve.append(losses())
        for trained in ours.values():
            trained.log.close()
    return _table(speeds, curve, turn, first)


def _scorer(model: Any) -> Scorer:
    return lambda batch, before: model(batch.inputs, batch.lengths, before)


def _same_start(losses: dict[str, float]) -> None:
    """Refuse unless all begin as the same model."""
    values = list(losses.values())
    if not max(values) - min(values) < 1e-4 * max(values):
        common.refuse(f"the models differ before the first update: {losses}")


def _table(
    speeds: dict[str, list[float]],
    curve: list[dict[str, float]],
    turn: int,
    first: Trained,
) -> dict[str, Any]:
    """Print and return tokens a second, ratios to both plain loops, and the losses."""
    common.line(WIDTHS, "loop", "tokens/s", "of fp32", "of bf16", "loss", "")
    # a turn's tokens are those of the same batches, so speeds divide as times do
    shares: dict[str, dict[str, float]] = {}
    middle = common.medians(speeds)
    for who in speeds:
        shares[who] = {
            beside: common.ratio(speeds, who, beside)
            for beside in ("plain fp32", "plain bf16")
        }
        common.line(
            WIDTHS,
            who,
            f"{middle[who]:,.0f}",
            *(f"{ratio:.2f}" for ratio in shares[who].values()),
            f"{curve[-1][who]:.3f}",
            "",
        )
    print("dev loss after updates (fp32, label smoothing left out)")
    for number, losses in enumerate(curve):
        made = number * turn + (1 if number else 0)
        print(
            f"{made:>6}  "
            + "  ".join(f"{who} {loss:.4f}" for who, loss in losses.items())
        )
    return {
        "parameters": sum(p.numel() for p in first.plan.model.parameters()),
        "batch_tokens": TOKENS,
        "updates_a_turn": turn,
        "tokens_a_second": middle,
        "turns": speeds,
        "ratio": shares,
        "dev_loss": curve,
    }
