"""By how much what a model wrote earned more than expected: advantages, as functions.

Legend: N texts, T tokens, G texts of a prompt, which stand in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-12  # of means in fp64


def group_advantages(rewards: Tensor, group: int, scaled: bool) -> Tensor:
    """Return by how much each reward (N,) is above the mean of its group of G in a row.

    ``scaled`` divides by the standard deviation of the group (Shao et al. 2024, section 4.1.2).
    """
    rows = rewards.view(-1, group)
    advantages = rows - rows.mean(1, keepdim=True)
    if scaled:
        # of a sample: N - 1
        deviation = rows.std(1, keepdim=True) if group > 1 else torch.zeros_like(rows)
        advantages = advantages / (deviation + 1e-4)
    return advantages.flatten()


def branch_advantages(
    rewards: Tensor, targets: Tensor, group: int, scaled: bool
) -> Tensor:
    """Return at each token (N, T) by how much it changed what the texts of its group earn.

    What a beginning is worth is the mean reward of the texts of the group that have it, as
    Kazemnejad et al. 2024 (section 4) estimate it by texts that they draw for it; a token's
    advantage is what the beginning is worth with it, less what it is worth without. So tokens that
    all texts share get none, and the sum over a text is ``group_advantages``.

    Args:
        rewards: (N,).
        targets: tokens (N, T), IGNORED where none was written; those of a group begin side by side.
        group: G.
        scaled: see ``group_advantages``.
    """
    count, steps = targets.shape
    earned = rewards.double()
    node = torch.arange(count, device=rewards.device) // group
    worth = _means(earned, node)
    advantages = torch.zeros(
        count,
        steps,
        dtype=earned.dtype,
        device=rewards.device,
    )
    for step in range(steps):
        pairs = torch.stack([node, targets[:, step]], 1)
        _, node = pairs.unique(dim=0, return_inverse=True)
        after = _means(earned, node)
        advantages[:, step] = after - worth
        worth = after
    # means of equal rewards differ in their last digits
    advantages[advantages.abs() < ROUNDING] = 0
    if scaled and group > 1:
        deviation = earned.view(-1, group).std(1, keepdim=True) + 1e-4
        advantages = advantages / deviation.repeat_interleave(group, 0)
    return advantages.to(rewards.dtype)


def _means(values: Tensor, parts: Tensor) -> Tensor:
    """Return for each of N values the mean of those of its part (N,)."""
    sums = torch.zeros_like(values).index_add(
        0,
        parts,
        values,
    )
    sizes = torch.zeros_like(values).index_add(
        0,
        parts,
        torch.ones_like(values),
    )
    return (sums / sizes)[parts]


def leave_one_out(rewards: Tensor, group: int) -> Tensor:
    """Return each reward (N,) less the mean of the others of its group (Ahmadian et al. 2024)."""
    rows = rewards.view(-1, group)
    others = (rows.sum(1, keepdim=True) - rows) / max(1, group - 1)
    return (rows - others).flatten()


def generalised_advantages(
    rewards: Tensor, values: Tensor, written: Tensor, discount: float, trace: float
) -> Tensor:
    """Return the advantage of each token (N, T), by Schulman et al. 2016, equation 16.

    Args:
        rewards: that each token earns (N, T).
        values: what was expected before it (N, T).
        written: which tokens count (N, T); those of a text stand side by side.
        discount: gamma.
        trace: lambda.
    """
    advantages = torch.zeros_like(rewards)
    following = rewards.new_zeros(len(rewards))
    expected = rewards.new_zeros(len(rewards))
    for step in range(rewards.shape[1] - 1, -1, -1):
        counts = written[:, step]
        error = rewards[:, step] + discount * expected - values[:, step]
        advantage = error + discount * trace * following
        following = torch.where(counts, advantage, following)
        expected = torch.where(
            counts,
            values[:, step],
            expected,
        )
        advantages[:, step] = torch.where(counts, advantage, 0.0)
    return advantages


def whitened(values: Tensor, written: Tensor) -> Tensor:
    """Return values (N, T) less their mean, over their deviation, among those that were written."""
    known = values[written]
    deviation = known.std() if len(known) > 1 else known.new_tensor(0.0)
    return torch.where(
        written,
        (values - known.mean()) / (deviation + 1e-8),
        0.0,
    )
