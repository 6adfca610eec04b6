"""Losses are sums with their divisors, equal to formulas written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.data.batches import IGNORED, Batch
from unrolled.models import LanguageModel
from unrolled.nn import LayerConfig, State, TokenEmbedding, build_layer
from unrolled.training.objectives import (
    Loss,
    classes,
    cross_entropy,
    next_token,
    next_word,
    pretrained,
    rewarded,
    shifted,
    values,
)

ROWS = np.arange(2)


def by_hand(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[float, int]:
    """Szegedy et al. 2016, section 7: the target's mass is shared with all classes."""
    total = 0.0
    count = 0
    width = logits.shape[-1]
    for scores, target in zip(
        logits.reshape(-1, width), targets.flatten().tolist(), strict=True
    ):
        if target == IGNORED:
            continue
        law = torch.full((width,), smoothing / width, dtype=torch.float64)
        law[target] += 1 - smoothing
        total -= float((law * scores.double().log_softmax(-1)).sum())
        count += 1
    return total, count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5)
    targets = torch.randint(5, (2, 4))
    targets[1, 2:] = IGNORED
    loss = cross_entropy(logits, targets, smoothing)
    total, count = by_hand(logits, targets, smoothing)
    # a sum of six fp32 terms
    assert float(loss.sum) == pytest.approx(total, rel=1e-6)
    assert int(loss.count) == count == 6


def test_half_precision_scores_are_summed_in_fp32() -> None:
    logits = torch.randn(4000, 3).bfloat16()
    loss = cross_entropy(logits, torch.zeros(4000, dtype=torch.int64), 0.0)
    assert loss.sum.dtype == torch.float32
    expected = F.cross_entropy(
        logits.double(), torch.zeros(4000, dtype=torch.int64), reduction="sum"
    )
    assert float(loss.sum) == pytest.approx(float(expected), rel=1e-5)


class Lookup(nn.Module):
    """Gives back what it was built with, and notes the lengths."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.lengths = torch.tensor([])

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        self.lengths = lengths
        return self.answer


def test_classes_hands_the_lengths_on() -> None:
    model = Lookup(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    lengths = torch.tensor([1, 1])
    batch = Batch(torch.zeros(2, 1), lengths, torch.tensor([0, 1]), ROWS)
    loss = classes(0.2)(model, batch, None)
    assert float(loss.sum) == pytest.approx(
        by_hand(model.answer, batch.targets, 0.2)[0], rel=1e-6
    )  # type: ignore[arg-type]
    assert int(loss.count) == 2
    assert model.lengths is lengths
    assert loss.carry is None


def test_values_is_half_the_squared_error() -> None:
    model = Lookup(torch.tensor([[1.0], [5.0]]))
    batch = Batch(torch.zeros(2, 1), None, torch.tensor([3.0, 4.0]), ROWS)
    loss = values()(model, batch, None)
    assert float(loss.sum) == 0.5 * (4 + 1)
    assert int(loss.count) == 2


def language() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(
        TokenEmbedding(7, 4), build_layer("lstm", LayerConfig(hidden=5), 4), 7
    ).double()


def window(restart: bool) -> Batch:
    torch.manual_seed(1)
    read = torch.randint(7, (2, 6))
    return Batch(read[:, :-1], None, read[:, 1:], ROWS, restart)


def carried(model: LanguageModel) -> State:
    return model(torch.tensor([[1, 2], [3, 4]]))[1]


def test_next_token_goes_on_from_the_carried_state_and_cuts_the_gradient() -> None:
    model = language()
    batch = window(restart=False)
    state = carried(model)
    loss = next_token()(model, batch, state)
    logits, after = model(batch.inputs, state)
    assert batch.targets is not None
    total, count = by_hand(logits.detach().float(), batch.targets, 0.0)
    assert float(loss.sum.detach()) == pytest.approx(total, rel=1e-6)
    assert int(loss.count) == count == 10
    assert loss.carry is not None
    for name, value in loss.carry.to_tensors().items():
        assert torch.equal(value, after.to_tensors()[name])
    assert not loss.carry.h.requires_grad  # type: ignore[attr-defined]


def test_a_restart_forgets_the_state() -> None:
    model = language()
    loss = next_token()(model, window(restart=True), carried(model))
    fresh = next_token()(model, window(restart=True), None)
    assert torch.equal(loss.sum, fresh.sum)
    assert not torch.equal(
        loss.sum, next_token()(model, window(False), carried(model)).sum
    )


def test_independent_windows_carry_nothing() -> None:
    assert next_token(carry_state=False)(language(), window(True), None).carry is None


@pytest.mark.parametrize("name", ["none", "rnn", "lstm", "gru"])
def test_a_row_that_starts_fresh_forgets_its_state_alone(name: str) -> None:
    torch.manual_seed(0)
    layer = build_layer(name, LayerConfig(hidden=5), 4)
    model = LanguageModel(TokenEmbedding(7, 4), layer, 7).double()
    batch = replace(window(restart=False), fresh=torch.tensor([False, True]))
    state = carried(model)
    loss = next_token()(model, batch, state)
    fresh = model(batch.inputs[1:])[0]
    kept = model(batch.inputs[:1], state.reorder(torch.tensor([0])))[0]
    assert batch.targets is not None
    total, count = by_hand(
        torch.cat([kept, fresh]).detach().float(), batch.targets, 0.0
    )
    assert float(loss.sum.detach()) == pytest.approx(total, rel=1e-6)
    assert int(loss.count) == count


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_next_word_equals_next_token(restart: bool, smoothing: float) -> None:
    model = language()
    batch = replace(window(restart), fresh=torch.tensor([False, True]))
    state = carried(model).detach()
    both = []
    for objective in (next_token(smoothing), next_word(smoothing)):
        model.zero_grad()
        loss = objective(model, batch, state)
        loss.sum.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert len(gradients) == len(list(model.parameters()))
        assert loss.carry is not None
        both.append(
            (
                loss.sum.detach(),
                loss.count,
                *gradients,
                *loss.carry.to_tensors().values(),
            )
        )
    for value, other in zip(*both, strict=True):
        # next_token sums in fp32
        torch.testing.assert_close(
            value, other, rtol=1e-5, atol=1e-6, check_dtype=False
        )


def test_next_word_with_every_token_as_a_candidate_and_without_a_carry() -> None:
    model = language()
    batch = window(True)
    loss = next_word(0.0, False, 7)(model, batch, None)
    assert loss.carry is None
    expected = next_word()(model, batch, None)
    assert torch.equal(loss.sum, expected.sum)
    assert int(loss.count) == 10


def test_outputs_and_their_changes_are_penalised() -> None:
    model = language()
    batch = window(True)
    plain = next_word()(model, batch, None)
    loss = next_word(activation=2.0, slowness=0.5)(model, batch, None)
    read = model.read(batch.inputs)[0].detach()
    penalty = 2.0 * (read**2).mean() + 0.5 * ((read[:, 1:] - read[:, :-1]) ** 2).mean()
    # the penalty is taken in fp32
    torch.testing.assert_close(loss.sum, plain.sum + 10 * penalty, rtol=1e-6, atol=0)
    assert torch.equal(loss.logs["nats"][0], plain.sum)
    assert not plain.logs


class Guesses(nn.Module):
    """Scores by the token's number, the same for every place."""

    def recover(self, tokens: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        return (candidates / 10).expand(int(lengths.sum()), -1)


def test_recovery_is_a_softmax_over_the_tokens_of_the_batch_and_a_sample() -> None:
    inputs = torch.tensor([[4, 2, 0], [2, 9, 6]])
    lengths = torch.tensor([2, 3])
    batch = Batch(inputs, lengths, None, ROWS)
    objective = pretrained(classes(), vocabulary=12, samples=0)
    loss = objective(Guesses(), batch, None)
    candidates = torch.tensor([2, 4, 6, 9]) / 10
    truths = torch.tensor([4, 2, 2, 9, 6]) / 10
    expected = -(truths - candidates.exp().sum().log()).sum()
    assert float(loss.sum) == pytest.approx(float(expected), rel=1e-6)
    assert int(loss.count) == 5
    # a sample that holds the whole vocabulary is the whole softmax
    loss = pretrained(classes(), vocabulary=12, samples=2000)(Guesses(), batch, None)
    expected = -(truths - (torch.arange(12) / 10).exp().sum().log()).sum()
    assert float(loss.sum) == pytest.approx(float(expected), rel=1e-6)


def test_batches_with_targets_go_to_the_objective_itself() -> None:
    model = Lookup(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    batch = Batch(torch.zeros(2, 1), torch.tensor([1, 1]), torch.tensor([0, 1]), ROWS)
    loss = pretrained(classes(), vocabulary=12)(model, batch, None)
    assert float(loss.sum) == float(classes()(model, batch, None).sum)


class Writer(nn.Module):
    """Says of each token what stands before it, so that scores can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)

    def read(self, source: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        return self.embedding(inputs)


def test_what_a_model_wrote_counts_by_how_much_more_it_earned() -> None:
    """Rennie et al. 2017, eq. 7 and 8."""
    torch.manual_seed(1)
    model = Writer().double()
    targets = torch.tensor([[3, 4, 1], [2, 1, IGNORED]])
    rewards = torch.tensor([[1.5, 0.5], [0.25, 2.0]])
    ones = torch.ones(2, dtype=torch.int64)
    batch = Batch(torch.zeros(2, 3), ones, targets, ROWS, rewards=rewards)
    plain = rewarded(
        lambda *_: pytest.fail("the batch has rewards"), start=0, unwritten=[0]
    )
    loss = plain(model, batch, None)
    total = torch.zeros(())
    for row, before in enumerate(shifted(targets, 0).tolist()):
        for token, target in zip(before, targets[row].tolist(), strict=True):
            if target == IGNORED:
                continue
            scores = model.head(model.embedding.weight[token])
            probability = scores.exp()[target] / scores.exp()[1:].sum()
            total = total - (rewards[row, 0] - rewards[row, 1]) * probability.log()
    # log-softmax of fp32 scores
    torch.testing.assert_close(loss.sum.double(), total.double(), rtol=1e-5, atol=1e-5)
    assert int(loss.count) == 5
    earned, rows = loss.logs["reward"]
    assert (float(earned), int(rows)) == (1.75, 2)
    # a sequence that earned more becomes likelier, the other less likely
    loss.sum.backward()
    with torch.no_grad():
        model.head.bias -= 0.01 * model.head.bias.grad
    after = plain(model, batch, None).sum
    assert bool(after < loss.sum)


def test_batches_without_rewards_go_to_the_objective_itself() -> None:
    batch = Batch(torch.zeros(2, 3), None, torch.zeros(2, dtype=torch.int64), ROWS)
    seen: list[Batch] = []

    def objective(model: nn.Module, given: Batch, carry: State | None) -> Loss:
        seen.append(given)
        return Loss(torch.zeros(()), torch.ones(()))

    rewarded(objective, start=0, unwritten=[])(nn.Identity(), batch, None)
    assert seen == [batch]
