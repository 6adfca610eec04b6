"""What tokens earn at which answers to a prompt part, by cases worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from training.test_policies import Bandit, settings_of
from unrolled.data.batches import IGNORED, Batch
from unrolled.training.advantages import branch_advantages, group_advantages
from unrolled.training.policies import Drawn, PolicyObjective

EXACT: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}  # rounding of fp32
NONE = IGNORED
# of two prompts three answers; the first prompt is a token longer than the other
BRANCHES = torch.tensor(
    [
        [NONE, NONE, 1, 2, 3, 0],
        [NONE, NONE, 1, 2, 0, NONE],
        [NONE, NONE, 1, 4, 0, NONE],
        [NONE, 1, 2, 2, 0, NONE],
        [NONE, 1, 5, 0, NONE, NONE],
        [NONE, 1, 2, 2, 0, NONE],
    ]
)
EARNED = torch.tensor([3.0, 0.0, 6.0, 2.0, 5.0, 5.0])


def test_tokens_at_which_answers_part_earn_what_their_way_did() -> None:
    advantages = branch_advantages(EARNED, BRANCHES, 3, scaled=False)
    # of the first prompt: 3 on average; 1.5 of those that say 2, and 6 of the other
    first = [[0, 0, 0, -1.5, 1.5, 0], [0, 0, 0, -1.5, -1.5, 0], [0, 0, 0, 3, 0, 0]]
    # of the second: 4 on average; 3.5 of the equal answers, which earned 2 and 5
    equal = [0, 0, -0.5, 0, 0, 0]
    second = [equal, [0, 0, 1, 0, 0, 0], equal]
    expected = torch.tensor([*first, *second], dtype=torch.float32)
    torch.testing.assert_close(advantages, expected, **EXACT)
    scaled = branch_advantages(EARNED, BRANCHES, 3, scaled=True)
    deviations = torch.tensor([3.0] * 3 + [math.sqrt(3)] * 3)[:, None] + 1e-4
    torch.testing.assert_close(scaled, expected / deviations, **EXACT)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("group", [1, 2, 5])
def test_what_branches_earn_adds_up_to_what_texts_do(group: int, scaled: bool) -> None:
    torch.manual_seed(4)
    rows = group * 6
    prompts = torch.full((rows, 2), IGNORED)
    shared = torch.full((rows, 1), 7)
    # the last tells all texts apart
    own = torch.arange(rows)[:, None]
    targets = torch.cat([prompts, shared, torch.randint(0, 3, (rows, 4)), own], 1)
    rewards = torch.randn(rows)
    advantages = branch_advantages(rewards, targets, group, scaled)
    sums = group_advantages(rewards, group, scaled)
    torch.testing.assert_close(advantages.sum(1), sums, **EXACT)
    torch.testing.assert_close(advantages[:, :3], torch.zeros(rows, 3), **EXACT)
    # groups know nothing of each other
    alone = branch_advantages(rewards[:group], targets[:group], group, scaled)
    torch.testing.assert_close(advantages[:group], alone, **EXACT)


def test_a_training_may_credit_branches() -> None:
    inputs = BRANCHES.clamp(min=0)
    logs = torch.zeros(BRANCHES.shape)

    def drawn(model: nn.Module, batch: Batch, seed: int) -> Drawn:
        return Drawn(inputs, BRANCHES, logs, logs, EARNED, 3)

    batch = Batch(inputs, None, None, np.arange(1), extra=(torch.tensor([0, 1]),))
    expected = branch_advantages(EARNED, BRANCHES, 3, scaled=False)
    for credit in ("branch", "text"):
        settings = settings_of("grpo", credit=credit, unbiased=True)
        objective = PolicyObjective(settings, drawn, 6, ())
        advantages = objective.roll_out(Bandit(6), batch, 1, None).advantages
        assert not advantages[BRANCHES == IGNORED].any()
        same = torch.allclose(advantages, expected)
        assert same is (credit == "branch")
