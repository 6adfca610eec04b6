"""Averages equal their closed forms, and the live weights always come back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from unrolled.training.averaging import Average, snapshot
from unrolled.training.settings import TrainingConfig


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    layers[1].bias.requires_grad_(False)
    return layers


def settings(kind: str, decay: float = 0.5, last: int = 3) -> TrainingConfig:
    return TrainingConfig.read(
        {"average": kind, "ema_decay": decay, "average_last": last}
    )


@torch.no_grad()
def move(layers: nn.Module, seed: int) -> list[Tensor]:
    """Change the trained weights at random and return a copy of them."""
    torch.manual_seed(seed)
    for parameter in layers.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter))
    return [p.clone() for p in layers.parameters() if p.requires_grad]


def test_ema_equals_its_closed_form() -> None:
    layers = model()
    average = Average(layers, settings("ema", decay=0.4))
    history = [[p.detach().clone() for p in layers.parameters() if p.requires_grad]]
    for step in range(1, 13):
        history.append(move(layers, step))
        average.after_step()
    # the weight of snapshot i: what its step took in, times what later steps kept of it
    kept = [min(0.4, (1 + t) / (10 + t)) for t in range(1, 13)]
    factors = [
        (1.0 if i == 0 else 1 - kept[i - 1]) * math.prod(kept[i:]) for i in range(13)
    ]
    assert sum(factors) == pytest.approx(1, abs=1e-12)
    assert kept[0] == 2 / 11  # held down at first ...
    assert kept[-1] == 0.4  # ... and not for long
    averaged = average.weights()
    assert averaged is not None
    for slot, value in enumerate(averaged):
        expected = sum(
            factor * weights[slot]
            for factor, weights in zip(factors, history, strict=True)
        )
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_the_average_of_the_last_evaluations() -> None:
    layers = model()
    average = Average(layers, settings("last", last=3))
    assert average.weights() is None
    history = []
    for step in range(1, 6):
        history.append(move(layers, step))
        average.after_step()
        average.before_evaluation()
        averaged = average.weights()
        recent = history[-3:]
        assert averaged is not None
        for slot, value in enumerate(averaged):
            expected = sum(w[slot] for w in recent) / len(recent)
            torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", ["none", "ema", "last"])
@pytest.mark.parametrize("fail", [False, True])
def test_the_live_weights_come_back_bit_for_bit(kind: str, fail: bool) -> None:
    layers = model()
    average = Average(layers, settings(kind))
    for step in range(3):
        move(layers, step)
        average.after_step()
        average.before_evaluation()
    live = snapshot(layers)
    expected = average.weights()
    with torch.no_grad():
        try:
            with average.applied():
                inside = snapshot(layers)
                if fail:
                    raise InterruptedError
        except InterruptedError:
            assert fail
    after = snapshot(layers)
    assert all(torch.equal(live[name], after[name]) for name in live)
    if kind == "none":
        assert expected is None
        assert all(torch.equal(live[name], inside[name]) for name in live)
        return
    assert expected is not None
    trained = [name for name, p in layers.named_parameters() if p.requires_grad]
    for name, value in zip(trained, expected, strict=True):
        assert torch.equal(inside[name], value)
        assert not torch.equal(inside[name], live[name])
    assert torch.equal(inside["1.bias"], live["1.bias"])


@pytest.mark.parametrize("kind", ["none", "ema", "last"])
@pytest.mark.parametrize("steps", [0, 1, 12])
def test_saved_and_read_it_goes_on_alike(kind: str, steps: int) -> None:
    layers = model()
    # eleven snapshots: the order of slots is that of numbers, not of letters
    average = Average(layers, settings(kind, last=11))
    for step in range(steps):
        move(layers, step)
        average.after_step()
        average.before_evaluation()
    saved = {name: value.clone() for name, value in average.to_tensors().items()}
    other = Average(layers, settings(kind, last=11))
    other.from_tensors(saved)
    for averager in (average, other):
        averager.after_step()
        averager.before_evaluation()
    assert other.to_tensors().keys() == average.to_tensors().keys()
    for name, value in average.to_tensors().items():
        assert torch.equal(value, other.to_tensors()[name])


def test_what_was_read_is_not_shared_with_the_file() -> None:
    layers = model()
    average = Average(layers, settings("ema"))
    average.after_step()
    saved = {name: value.clone() for name, value in average.to_tensors().items()}
    kept = {name: value.clone() for name, value in saved.items()}
    average.from_tensors(saved)
    move(layers, 1)
    average.after_step()
    assert all(torch.equal(saved[name], kept[name]) for name in saved)


def test_a_snapshot_is_a_copy() -> None:
    layers = model()
    taken = snapshot(layers)
    before = taken["0.weight"].clone()
    move(layers, 1)
    assert torch.equal(taken["0.weight"], before)
    assert set(taken) == set(layers.state_dict())
    assert not any(value.requires_grad for value in taken.values())


def nt_asgd() -> TrainingConfig:
    return TrainingConfig.read({"average": "asgd", "average_after": 2})


def test_asgd_is_the_mean_since_the_dev_score_stagnated() -> None:
    layers = model()
    average = Average(layers, nt_asgd())
    kept = []
    # from the fourth score on: worse than the best of all but the last two
    for step, score in enumerate([-3.0, -2.0, -1.0, -1.5, -2.5, -1.2, -0.9]):
        weights = move(layers, step)
        average.after_step()
        if average.mean:
            kept.append(weights)
        began = average.weights() is not None
        assert began == (step >= 5)
        average.after_evaluation(score)
    averaged = average.weights()
    assert averaged is not None
    assert len(kept) == 2
    for slot, value in enumerate(averaged):
        expected = (kept[0][slot] + kept[1][slot]) / 2
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stop", [2, 5, 6])
def test_asgd_goes_on_from_what_was_saved(stop: int) -> None:
    def run(stopped: bool) -> list[Tensor]:
        layers = model()
        average = Average(layers, nt_asgd())
        for step, score in enumerate([-3.0, -2.0, -1.0, -1.5, -2.5, -1.2, -0.9, -0.8]):
            move(layers, step)
            average.after_step()
            average.after_evaluation(score)
            if stopped and step == stop:
                saved = average.to_tensors()
                average = Average(layers, nt_asgd())
                average.from_tensors(saved)
        averaged = average.weights()
        assert averaged is not None
        return averaged

    for value, other in zip(run(False), run(True), strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("kind", ["ema", "last", "asgd"])
def test_what_batch_norms_keep_is_averaged_with_the_weights(kind: str) -> None:
    norm = nn.BatchNorm2d(2).double()
    frozen = nn.BatchNorm2d(2).double().requires_grad_(False)
    layers = nn.Sequential(norm, frozen)
    average = Average(layers, settings(kind, decay=0.4))
    if kind == "asgd":
        # from the second of two equal scores on
        for _ in range(average.patience + 2):
            average.after_evaluation(0.0)
        average.after_evaluation(-1.0)
    means: list[Tensor] = [norm.running_mean.clone()]
    for step in range(4):
        torch.manual_seed(step)
        layers(torch.randn(3, 2, 4, 4, dtype=torch.float64) + step)
        average.after_step()
        average.before_evaluation()
        means.append(norm.running_mean.clone())
    if kind == "ema":
        expected = means[0]
        for step, mean in enumerate(means[1:], 1):
            decay = min(0.4, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * mean
    else:
        taken = means[-3:] if kind == "last" else means[1:]
        expected = torch.stack(taken).mean(0)
    live = norm.running_mean.clone()
    of_frozen = frozen.running_mean.clone()
    saved = average.to_tensors()
    again = Average(layers, settings(kind, decay=0.4))
    again.from_tensors(saved)
    for kept in (average, again):
        with kept.applied():
            torch.testing.assert_close(
                norm.running_mean, expected, rtol=1e-12, atol=1e-12
            )
            assert torch.equal(frozen.running_mean, of_frozen)
        assert torch.equal(norm.running_mean, live)
