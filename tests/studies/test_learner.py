"""One model of a study: equal sizes, equal bits, and sequences that were never trained on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unrolled.data.batches import IGNORED
from unrolled.nn.build import LAYERS
from unrolled.studies import learner
from unrolled.studies.memory_tasks import TASKS
from unrolled.studies.speed import measure


@pytest.mark.parametrize("name", TASKS)
def test_models_are_as_large_as_they_may_be(name: str) -> None:
    task = TASKS[name]
    for layer in LAYERS:
        width = learner.fitting_width(task, layer)
        size = learner.count_parameters(learner.build_model(task, layer, width))
        wider = learner.build_model(task, layer, width + learner.STEP)
        assert 0.7 * learner.PARAMETERS < size <= learner.PARAMETERS
        assert learner.count_parameters(wider) > learner.PARAMETERS


@pytest.mark.parametrize("layer", ["gru", "attention"])
def test_a_short_delay_is_learnt_and_equal_seeds_give_equal_bits(layer: str) -> None:
    task = TASKS["delay"]
    outcome, weights = learner.learn(task, layer, 3, 0, 400, math.inf)
    assert outcome.stopped == "solved"
    assert outcome.accuracy > 0.95
    again, same = learner.learn(task, layer, 3, 0, 400, math.inf)
    assert (again.accuracy, again.updates) == (outcome.accuracy, outcome.updates)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    _, other = learner.learn(task, layer, 3, 1, 25, math.inf)
    assert any(not torch.equal(weights[name], other[name]) for name in weights)
    # what was learnt is where the next delay begins
    longer, _ = learner.learn(task, layer, 6, 0, 25, math.inf, weights)
    fresh, _ = learner.learn(task, layer, 6, 0, 25, math.inf)
    assert longer.accuracy > fresh.accuracy


def test_without_memory_the_delay_is_chance() -> None:
    outcome, _ = learner.learn(TASKS["delay"], "none", 3, 0, 100, math.inf)
    assert outcome.stopped == "updates"
    assert outcome.accuracy < 0.3


def test_time_ends_a_training_after_one_update_at_least() -> None:
    outcome, _ = learner.learn(TASKS["adding"], "rnn", 5, 0, 100, 0.0)
    assert outcome.updates == 1
    assert outcome.stopped == "time"


def test_scored_sequences_are_none_of_those_trained_on_or_checked() -> None:
    task = TASKS["delay"]
    delay = 30
    source = learner.Generated(task, delay, 0)
    seen = {
        tuple(row)
        for index in range(50)
        for row in source.batch(0, index).inputs.tolist()
    }
    for stream in (learner.CHECK, learner.SCORE):
        fresh = task.batch(learner.ROWS, delay, 0, stream, delay, 0)
        assert not seen & {tuple(row) for row in fresh.inputs.tolist()}


class Says(nn.Module):
    """A model that says what it was made with."""

    def __init__(self, outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs: torch.Tensor, lengths: None) -> torch.Tensor:
        return self.outputs


def test_accuracy_counts_scored_steps_and_sums_within_bounds() -> None:
    batch = TASKS["copying"].batch(4, 2, 0)
    assert batch.targets is not None
    right = nn.functional.one_hot(batch.targets.clamp(min=0), 8).float()
    assert learner.accuracy(Says(right), batch) == 1.0
    wrong = right.clone()
    wrong[0, -1] = wrong[0, -1].roll(1)
    scored = int((batch.targets != IGNORED).sum())
    assert learner.accuracy(Says(wrong), batch) == pytest.approx(1 - 1 / scored)
    sums = TASKS["adding"].batch(4, 5, 0)
    assert sums.targets is not None
    off = torch.tensor([0.039, -0.039, 0.041, -0.041])
    assert learner.accuracy(Says((sums.targets + off)[:, None]), sums) == 0.5


@pytest.mark.parametrize(
    ("layer", "grows"), [("none", 0.0), ("gru", 1.0), ("lstm", 1.0), ("attention", 5.0)]
)
def test_state_bytes_follow_from_the_layer(layer: str, grows: float) -> None:
    short = measure(layer, 4)
    long = measure(layer, 20)
    width = learner.fitting_width(TASKS["delay"], layer)
    # fp32: h; h and c; keys and values of two blocks at each of four steps
    per = {"none": 0, "gru": 1, "lstm": 2, "attention": 2 * 2 * 4}[layer]
    assert short.state_bytes == 4 * width * per
    assert long.state_bytes == grows * short.state_bytes
    assert min(long.step_seconds, long.training_seconds) > 0
