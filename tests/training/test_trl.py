"""The losses of preferences and rewards are those of TRL's trainers, where it is installed."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unrolled.data.batches import IGNORED, Batch
from unrolled.models import LanguageModel
from unrolled.nn import LayerConfig, TokenEmbedding, build_layer
from unrolled.training.advantages import group_advantages, leave_one_out
from unrolled.training.alignment import AlignConfig
from unrolled.training.policies import Drawn, PolicyObjective, log_probabilities

trl = pytest.importorskip(
    "trl", reason="TRL is not installed: its trainers are the oracle"
)

PROMPT = 3
MOST = 4
CLOSE = {"atol": 1e-6, "rtol": 1e-5}  # fp32, summed in another order


def model_of() -> LanguageModel:
    torch.manual_seed(3)
    layer = build_layer("gru", LayerConfig(hidden=8), 8)
    return LanguageModel(TokenEmbedding(9, 8), layer, 9)


def texts() -> tuple[Tensor, Tensor, Tensor]:
    """Return ids of prompts and answers (6, 7), which of the answers count, and rewards (6,)."""
    torch.manual_seed(4)
    ids = torch.randint(1, 9, (6, PROMPT + MOST))
    lengths = torch.tensor([4, 2, 3, 1, 4, 3])
    mask = (torch.arange(MOST) < lengths[:, None]).long()
    return ids, mask, torch.tensor([1.0, 0.0, 0.5, 0.2, 0.9, 0.4])


def drawn_of(ids: Tensor, mask: Tensor, rewards: Tensor) -> Drawn:
    inputs = ids[:, :-1]
    targets = torch.full_like(inputs, IGNORED)
    targets[:, PROMPT - 1 :] = torch.where(mask.bool(), ids[:, PROMPT:], IGNORED)
    written = targets != IGNORED
    torch.manual_seed(5)
    noise = torch.randn(2, *inputs.shape) * 0.2
    with torch.no_grad():
        now = log_probabilities(model_of(), Batch(inputs, None, targets, np.arange(6)))
    logs, reference = (torch.where(written, now + part, 0.0) for part in noise)
    return Drawn(inputs, targets, logs, reference, rewards, 3)


def trainer_of(
    loss_type: str, beta: float, now: Tensor, gathered: Any
) -> SimpleNamespace:
    """Return what a trainer's loss asks of its trainer."""
    accelerator = SimpleNamespace(
        gather=gathered,
        gather_for_metrics=gathered,
        reduce=lambda value, reduction: value,
        num_processes=1,
    )
    return SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=accelerator,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        beta=beta,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.2,
        importance_sampling_level="token",
        max_completion_length=MOST,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        tools=None,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **options: (
            now,
            torch.zeros_like(now),
            None,
        ),
    )


@pytest.mark.parametrize(
    ("method", "loss_type", "beta"),
    [
        ("grpo", "grpo", 0.0),
        ("grpo", "grpo", 0.3),
        ("grpo", "dr_grpo", 0.3),
        ("rloo", "", 0.0),
    ],
)
def test_losses_of_rewards_are_those_of_trl(
    method: str, loss_type: str, beta: float
) -> None:
    ids, mask, rewards = texts()
    drawn = drawn_of(ids, mask, rewards)
    settings = AlignConfig(method=method, beta=beta, unbiased=loss_type == "dr_grpo")
    objective = PolicyObjective(settings, lambda model, batch, seed: drawn, MOST, ())
    model = model_of()
    extra = (torch.tensor([0, 1]),)
    batch = Batch(drawn.inputs, None, None, np.arange(6), extra=extra)
    loss = objective(model, batch, None)
    ours = loss.sum / loss.count

    whole = Batch(drawn.inputs, None, drawn.targets, np.arange(6))
    now = log_probabilities(model, whole)[:, PROMPT - 1 :]
    if method == "rloo":
        advantages = leave_one_out(rewards, 3)
        kind = trl.RLOOTrainer
    else:
        advantages = group_advantages(rewards, 3, not settings.unbiased)
        kind = trl.GRPOTrainer
    trainer = trainer_of(loss_type, beta, now, lambda value: value)
    inputs = {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": torch.ones(6, PROMPT, dtype=torch.int64),
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask,
        "advantages": advantages,
        "old_logps": drawn.logs.sum(1),
        "old_per_token_logps": drawn.logs[:, PROMPT - 1 :],
        "ref_per_token_logps": drawn.reference[:, PROMPT - 1 :],
        "num_items_in_batch": mask.sum(),
    }
    theirs = kind._compute_loss(trainer, None, inputs)
    torch.testing.assert_close(ours, theirs, **CLOSE)
