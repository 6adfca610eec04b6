"""Losses of preferences and rewards, by cases worked out by hand and by a known optimum."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unrolled.core.errors import UserError
from unrolled.data.batches import IGNORED, Batch
from unrolled.models import LanguageModel
from unrolled.nn import LayerConfig, TokenEmbedding, build_layer
from unrolled.nn.state import pack, unpack
from unrolled.scores.answers import pass_at
from unrolled.training.advantages import (
    generalised_advantages,
    group_advantages,
    leave_one_out,
    whitened,
)
from unrolled.training.alignment import AlignConfig
from unrolled.training.policies import (
    SILENT,
    Drawn,
    PolicyObjective,
    Rollout,
    clipped_loss,
    divergence,
    log_probabilities,
    preference_loss,
    prefers,
    ranks,
    token_scores,
    value_loss,
)

EXACT = {"atol": 1e-6, "rtol": 1e-6}  # rounding of fp32


def model_of(
    layer: str = "gru", vocabulary: int = 5, valued: bool = False
) -> LanguageModel:
    torch.manual_seed(1)
    built = build_layer(layer, LayerConfig(hidden=8), 8)
    embedding = TokenEmbedding(vocabulary, 8)
    return LanguageModel(embedding, built, vocabulary, valued=valued)


# ---------------------------------------------------------------------- preferences


def test_dpo_is_the_log_odds_of_the_gain() -> None:
    loss = preference_loss(
        torch.tensor([-1.0, -3.0]),
        torch.tensor([-2.0, -1.0]),
        torch.tensor([-1.5, -2.0]),
        torch.tensor([-1.0, -2.0]),
        beta=0.5,
    )
    # gains of the better answer 0.5, -1; of the other -1, 1
    expected = [math.log(1 + math.exp(-0.5 * 1.5)), math.log(1 + math.exp(0.5 * 2))]
    torch.testing.assert_close(loss, torch.tensor(expected), **EXACT)


def test_smoothing_takes_a_share_of_pairs_the_other_way_round() -> None:
    margin = torch.tensor([2.0])
    zero = torch.zeros(1)
    smooth = preference_loss(margin, zero, zero, zero, 0.5, smoothing=0.2)
    right = preference_loss(margin, zero, zero, zero, 0.5)
    wrong = preference_loss(zero, margin, zero, zero, 0.5)
    torch.testing.assert_close(smooth, 0.8 * right + 0.2 * wrong, **EXACT)


def test_ipo_draws_the_gain_to_half_the_inverse_of_beta() -> None:
    zero = torch.zeros(1)
    at_rest = preference_loss(torch.tensor([5.0]), zero, zero, zero, 0.1, "ipo")
    torch.testing.assert_close(at_rest, zero)
    away = preference_loss(torch.tensor([2.0]), zero, zero, zero, 0.1, "ipo")
    torch.testing.assert_close(away, torch.tensor([9.0]))


def pair_batch() -> Batch:
    inputs = torch.tensor([[1, 2, 3], [1, 2, 4]])
    targets = torch.tensor([[IGNORED, 3, 0], [IGNORED, 4, IGNORED]])
    before = torch.tensor([[-3.0, 2.0], [-2.0, 1.0]])
    return Batch(inputs, torch.tensor([3, 3]), targets, np.arange(2), rewards=before)


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_the_objective_of_pairs_is_their_loss(method: str) -> None:
    model = model_of()
    batch = pair_batch()
    loss = prefers(AlignConfig(method=method, beta=0.3))(model, batch, None)
    logits, _ = model(batch.inputs)
    shares = logits.log_softmax(-1)
    chosen = shares[0, 1, 3] + shares[0, 2, 0]
    rejected = shares[1, 1, 4]
    before = torch.tensor([-3.0, -2.0])
    if method == "ipo":
        chosen = chosen / 2
        before = before / torch.tensor([2.0, 1.0])
    expected = preference_loss(
        chosen[None], rejected[None], before[:1], before[1:], 0.3, method
    )
    torch.testing.assert_close(loss.sum, expected.sum(), **EXACT)
    assert int(loss.count) == 1


def test_answers_that_are_ranked_learn_by_bradley_and_terry() -> None:
    model = model_of(valued=True)
    nn.init.normal_(model.value.weight)
    batch = replace(pair_batch(), targets=None, lengths=torch.tensor([3, 2]))
    loss = ranks()(model, batch, None)
    read = model.layer.read(model.embedding(batch.inputs))
    worths = model.value(torch.stack([read[0, 2], read[1, 1]]))[:, 0]
    expected = torch.log1p(torch.exp(worths[1] - worths[0]))
    torch.testing.assert_close(loss.sum, expected, **EXACT)
    loss.sum.backward()
    assert model.embedding.weight.grad is not None


# ---------------------------------------------------------------------- rewards


def test_advantages_of_a_group_are_from_its_mean() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    plain = group_advantages(rewards, 4, scaled=False)
    torch.testing.assert_close(plain[:4], torch.tensor([0.75, -0.25, -0.25, -0.25]))
    assert not plain[4:].any()
    scaled = group_advantages(rewards, 4, scaled=True)
    torch.testing.assert_close(scaled[:4], plain[:4] / (0.5 + 1e-4), **EXACT)


def test_one_is_left_out_of_its_own_comparison() -> None:
    advantages = leave_one_out(torch.tensor([3.0, 0.0, 6.0]), 3)
    torch.testing.assert_close(advantages, torch.tensor([0.0, -4.5, 4.5]))


def test_generalised_advantages_are_those_of_the_paper() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0, 9.0]])
    values = torch.tensor([[0.5, 0.25, 0.75, 7.0]])
    written = torch.tensor([[True, True, True, False]])
    gamma, trace = 0.9, 0.8
    deltas = [0.9 * 0.25 - 0.5, 0.9 * 0.75 - 0.25, 1 - 0.75]
    last = deltas[2]
    middle = deltas[1] + gamma * trace * last
    first = deltas[0] + gamma * trace * middle
    advantages = generalised_advantages(rewards, values, written, gamma, trace)
    torch.testing.assert_close(
        advantages, torch.tensor([[first, middle, last, 0.0]]), **EXACT
    )


def test_ratios_are_clipped_where_they_have_earned_enough() -> None:
    logs = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, clipped = clipped_loss(logs, torch.zeros(4), advantages, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-1.2, 1.5, -0.5, 0.8]), **EXACT)
    assert clipped.tolist() == [True, False, False, True]


def test_values_are_held_near_what_they_were() -> None:
    loss = value_loss(
        torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([3.0]), 0.5
    )
    torch.testing.assert_close(loss, torch.tensor([0.5 * 1.5**2]))


def test_the_divergence_is_never_negative_and_true_on_average() -> None:
    torch.manual_seed(0)
    p = torch.randn(7).log_softmax(0)
    q = torch.randn(7).log_softmax(0)
    estimates = divergence(p, q)
    assert bool((estimates >= 0).all())
    truth = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * estimates).sum(), truth, **EXACT)


def test_what_is_whitened_has_mean_0_and_deviation_1() -> None:
    values = torch.tensor([[1.0, 5.0, 100.0], [3.0, 7.0, 2.0]])
    written = torch.tensor([[True, True, False], [True, True, True]])
    white = whitened(values, written)
    torch.testing.assert_close(white[written].mean(), torch.tensor(0.0), **EXACT)
    torch.testing.assert_close(white[written].std(), torch.tensor(1.0), **EXACT)
    assert white[0, 2] == 0


def test_the_chance_of_a_right_attempt_is_counted_without_bias() -> None:
    assert pass_at([1, 0, 4], 4, 1) == pytest.approx((0.25 + 0 + 1) / 3)
    assert pass_at([1, 0, 4], 4, 4) == pytest.approx((1 + 0 + 1) / 3)
    assert pass_at([2], 4, 2) == pytest.approx(1 - 1 / 6)


def test_banned_tokens_have_no_share_and_no_gradient() -> None:
    model = model_of()
    inputs = torch.tensor([[1, 2]])
    batch = Batch(inputs, None, torch.tensor([[3, 4]]), np.arange(1))
    scores = token_scores(model, batch, banned=(0, 1), temperature=0.5)
    logits, _ = model(inputs)
    allowed = (logits / 0.5)[..., 2:].log_softmax(-1)
    expected = torch.stack([allowed[0, 0, 1], allowed[0, 1, 2]])
    torch.testing.assert_close(scores.logs, expected, **EXACT)
    entropies = -(allowed.exp() * allowed).sum(-1)[0]
    torch.testing.assert_close(scores.entropies, entropies, **EXACT)
    (scores.logs.sum() + scores.entropies.sum()).backward()
    assert bool(torch.isfinite(model.head.weight.grad).all())
    assert not model.head.weight.grad[:2].any()


# ---------------------------------------------------------------------- a bandit


class Bandit(nn.Module):
    """A model that chooses one of some arms, whatever it has read."""

    def __init__(self, arms: int) -> None:
        super().__init__()
        self.head = nn.Linear(1, arms)
        self.value = nn.Linear(1, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def read_documents(self, tokens: Tensor, *others: Any) -> tuple[Tensor, None]:
        return torch.ones(*tokens.shape, 1), None

    def read(self, inputs: Tensor) -> Tensor:
        return self.read_documents(inputs)[0]


WORTHS = torch.tensor([0.1, 0.9, 0.3])


def draw(model: nn.Module, batch: Batch, seed: int) -> Drawn:
    """Draw 64 arms."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.zeros(64, 1, dtype=torch.int64)
    shares = model.head(torch.ones(64, 1)).log_softmax(-1)
    arms = torch.multinomial(shares.exp(), 1, generator=generator)
    logs = shares.gather(1, arms)
    even = torch.full_like(logs, -math.log(len(WORTHS)))
    return Drawn(inputs, arms, logs, even, WORTHS[arms[:, 0]], 8)


def settings_of(method: str, **keys: Any) -> AlignConfig:
    return AlignConfig(method=method, beta=0.0, **keys)


def learnt(settings: AlignConfig, steps: int = 150) -> Bandit:
    model = Bandit(len(WORTHS))
    objective = PolicyObjective(settings, draw, 1, ())
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    times = settings.passes * settings.parts
    carry = None
    for step in range(steps):
        extra = torch.tensor([step % times, step // times])
        batch = Batch(torch.zeros(1, 1), None, None, np.arange(1), extra=(extra,))
        loss = objective(model, batch, carry)
        carry = loss.carry
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("method", ["ppo", "grpo", "rloo"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_the_best_arm_of_a_bandit_is_found(method: str, unbiased: bool) -> None:
    model = learnt(settings_of(method, unbiased=unbiased, passes=2, parts=2))
    shares = model.head(torch.ones(1)).softmax(-1)
    assert shares[1].item() > 0.9


def test_a_dear_divergence_keeps_the_arms_even() -> None:
    for method in ("ppo", "grpo", "rloo"):
        settings = settings_of(method).changed(beta=100.0)
        shares = learnt(settings, 40).head(torch.ones(1)).softmax(-1)
        assert shares.max().item() < 0.6


def test_kl_is_adapted_to_its_target() -> None:
    batch = Batch(
        torch.zeros(1, 1), None, None, np.arange(1), extra=(torch.tensor([0, 1]),)
    )
    weights = []
    for target in (1e-3, 1e3):
        model = Bandit(len(WORTHS))
        with torch.no_grad():
            model.head.bias[1] = 3.0
        settings = AlignConfig(method="ppo", beta=0.5, kl_target=target)
        objective = PolicyObjective(settings, draw, 1, ())
        carry = objective(model, batch, None).carry
        assert isinstance(carry, Rollout)
        weights.append(float(carry.weights[0]))
    assert weights == pytest.approx([0.5 * 1.02, 0.5 * 0.98])


def test_values_learn_and_the_layer_learns_nothing_by_them() -> None:
    model = model_of(valued=True)
    read = model.layer.read(model.embedding(torch.tensor([[1, 2]])))
    value = model.value(read.detach())
    value.sum().backward()
    assert model.value.weight.grad is not None
    assert model.embedding.weight.grad is None


def test_rollouts_are_saved_whole() -> None:
    batch = Batch(
        torch.zeros(1, 1), None, None, np.arange(1), extra=(torch.tensor([0, 1]),)
    )
    objective = PolicyObjective(settings_of("ppo", passes=2), draw, 1, ())
    rollout = objective(Bandit(len(WORTHS)), batch, None).carry
    assert isinstance(rollout, Rollout)
    again = unpack(pack(rollout))
    for name, tensor in rollout.to_tensors().items():
        assert torch.equal(tensor, again.to_tensors()[name])


def test_rewards_that_are_no_numbers_or_tell_nothing_end_a_training() -> None:
    batch = Batch(
        torch.zeros(1, 1), None, None, np.arange(1), extra=(torch.tensor([0, 1]),)
    )

    def objective_of(rewards: Tensor) -> PolicyObjective:
        def judged(model: nn.Module, batch: Batch, seed: int) -> Drawn:
            return replace(draw(model, batch, seed), rewards=rewards)

        return PolicyObjective(settings_of("grpo"), judged, 1, ())

    model = Bandit(len(WORTHS))
    with pytest.raises(UserError, match="a reward is not finite"):
        objective_of(torch.full((64,), math.nan))(model, batch, None)
    same = objective_of(torch.zeros(64))
    carry = None
    for _ in range(SILENT - 1):
        carry = same(model, batch, carry).carry
    with pytest.raises(UserError, match="earned 0: there is nothing to learn from"):
        same(model, batch, carry)


def test_log_probabilities_stand_where_their_tokens_do() -> None:
    model = model_of()
    batch = pair_batch()
    logs = log_probabilities(model, batch)
    assert (logs != 0).tolist() == [[False, True, True], [False, True, False]]
