"""A bad batch costs its step alone, and is told; too many end the run or turn it back."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.test_loop import (
    Crash,
    Slices,
    classifier,
    dev_score,
    job,
    language,
    plain_optimizer,
    same,
    stream,
    texts,
)
from unrolled.core.errors import UserError
from unrolled.data.batches import Batch, BatchSource, Buckets
from unrolled.data.examples import Examples
from unrolled.models import OneToOne
from unrolled.nn import LayerConfig, State, build_layer
from unrolled.training import checkpoints
from unrolled.training.guards import SETTLED, Guard
from unrolled.training.job import TrainingJob
from unrolled.training.loop import Trainer, fit
from unrolled.training.objectives import Loss, Objective, classes, next_token, values
from unrolled.training.progress import MetricsLog, Progress, read_metrics
from unrolled.training.settings import TrainingConfig
from unrolled.training.stopping import Stop

Harm = Callable[[Loss, nn.Module], Loss]


def nan_loss(loss: Loss, model: nn.Module) -> Loss:
    return replace(loss, sum=loss.sum * math.nan)


def inf_loss(loss: Loss, model: nn.Module) -> Loss:
    return replace(loss, sum=loss.sum * math.inf)


def nan_gradient(loss: Loss, model: nn.Module) -> Loss:
    # a finite loss: the root of 0 is 0, its gradient is not a number
    return replace(loss, sum=loss.sum + (next(model.parameters()).sum() * 0).sqrt())


def harmed(
    objective: Objective, harm: Harm, bad: Callable[[Batch, int], bool]
) -> Objective:
    """Return an objective that harms the batches that ``bad(batch, call)`` names, 0 the first."""
    calls = 0

    def either(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        nonlocal calls
        calls += 1
        loss = objective(model, batch, carry)
        return harm(loss, model) if bad(batch, calls - 1) else loss

    return either


def events(folder: Path) -> list[dict[str, Any]]:
    return [
        line
        for line in read_metrics(folder / "metrics.jsonl")
        if line["kind"] == "guard"
    ]


def trained(training_job: TrainingJob) -> Trainer:
    """Return the trainer after a run."""
    training_job.folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(training_job)
    log = MetricsLog(training_job.folder.parent / "metrics.jsonl", 0, tensorboard=False)
    trainer.run(log)
    log.close()
    return trainer


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("harm", [nan_loss, inf_loss, nan_gradient])
def test_a_bad_batch_never_reaches_the_weights(
    tmp_path: Path, harm: Harm, clip: float | None
) -> None:
    source = Buckets(texts(60), 4, None, seed=1)
    bad = (2, 5)
    ours = classifier(dropout=0.3)
    theirs = classifier(dropout=0.3)
    torch.manual_seed(5)
    objective = harmed(classes(), harm, lambda _, call: call in bad)
    training_job = job(
        tmp_path, ours, source, objective, max_steps=8, clip=clip, average="ema"
    )
    at = fit(
        replace(training_job, lines=lambda rows: (rows + 100).tolist()), resume=False
    )

    # a plain loop that leaves those two out
    torch.manual_seed(5)
    optimizer = plain_optimizer(theirs.train(), 2e-3)
    for index in range(8):
        batch = source.batch(0, index)
        logits = theirs(batch.inputs, batch.lengths)
        optimizer.zero_grad()
        F.cross_entropy(logits, batch.targets, reduction="sum").backward()
        for parameter in theirs.parameters():
            assert parameter.grad is not None
            parameter.grad *= 1 / len(logits)
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        if index not in bad:
            optimizer.step()
    assert same(ours, theirs)
    assert at.step == 8
    logged = events(tmp_path)
    what = "gradient" if harm is nan_gradient else "loss"
    for line, index in zip(logged, bad, strict=True):
        rows = source.batch(0, index).rows
        assert line == {
            "step": index + 1,
            "kind": "guard",
            "event": "skipped",
            "epoch": 0,
            "index": index,
            "why": f"the {what} is not finite",
            "rows": rows.tolist(),
            "lines": (rows + 100).tolist(),
        }
    checkpoint, _ = checkpoints.newest(training_job.folder)
    assert checkpoint is not None
    assert all(t.isfinite().all() for t in checkpoint.tensors.values())
    assert checkpoint.state["guard"]["skipped"] == 2
    losses = [
        x["loss"]
        for x in read_metrics(tmp_path / "metrics.jsonl")
        if x["kind"] == "train"
    ]
    assert len(losses) == 6


def test_one_bad_sample_costs_its_batches_only(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 3)).astype(np.float32)
    x[7, 1] = np.nan
    y = np.nan_to_num(x).sum(1)
    source = Buckets(Examples(np.arange(40) + 2, vectors=x, targets=y), 4, None, 0)
    torch.manual_seed(0)
    model = OneToOne(build_layer("none", LayerConfig(layers=0), 3), 1)
    training_job = job(
        tmp_path,
        model,
        source,
        values(),
        max_epochs=6,
        optimizer="sgd",
        learning_rate=0.1,
    )
    fit(training_job, resume=False)
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.head.weight.detach().flatten() == pytest.approx([1, 1, 1], abs=0.05)
    assert [7 in line["rows"] for line in events(tmp_path)] == [True] * 6


def test_accumulated_batches_are_skipped_and_named_together(tmp_path: Path) -> None:
    source = Slices(texts(40), 4)
    objective = harmed(classes(), nan_loss, lambda _, call: call == 3)
    fit(
        job(tmp_path, classifier(), source, objective, max_steps=4, accumulate=2),
        resume=False,
    )
    (line,) = events(tmp_path)
    assert (line["step"], line["index"], line["rows"]) == (
        2,
        2,
        source.all.rows[8:16].tolist(),
    )


def test_a_skipped_window_leaves_the_carried_state_as_it_was(tmp_path: Path) -> None:
    source = stream("lstm")
    model = language("lstm")
    carried = list[Any]()
    plain = next_token()

    def poisoned(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        carried.append(carry)
        loss = plain(model, batch, carry)
        if len(carried) != 3:
            return loss
        assert loss.carry is not None
        sick = {name: t * math.nan for name, t in loss.carry.to_tensors().items()}
        return Loss(
            loss.sum * math.nan, loss.count, type(loss.carry).from_tensors(sick)
        )

    fit(job(tmp_path, model, source, poisoned, max_steps=6), resume=False)
    assert carried[3] is carried[2]
    assert len(events(tmp_path)) == 1


def test_when_every_step_is_skipped_the_run_ends_with_a_clear_error(
    tmp_path: Path,
) -> None:
    objective = harmed(classes(), nan_loss, lambda _, call: True)
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(80), 4),
        objective,
        max_steps=20,
        max_skips=3,
    )
    with pytest.raises(UserError) as caught:
        fit(training_job, resume=False)
    assert str(caught.value).startswith(
        "the loss is not finite at step 4 (skipped steps: 4): "
    )
    assert str(caught.value).endswith("no checkpoint yet")
    assert [line["step"] for line in events(tmp_path)] == [1, 2, 3, 4]
    assert same(training_job.model, classifier())


def test_a_tenth_of_all_steps_is_the_most_that_is_skipped(tmp_path: Path) -> None:
    # every third, so never two in a row
    objective = harmed(classes(), nan_loss, lambda _, call: call % 3 == 2)
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(80), 4),
        objective,
        max_steps=60,
        max_skips=3,
        rollbacks=0,
    )
    with pytest.raises(UserError, match=r"at step 12 \(skipped steps: 4\)"):
        fit(training_job, resume=False)
    guard = Guard(skipped=7)
    assert not guard.spent(70, TrainingConfig(max_skips=3))
    assert guard.spent(69, TrainingConfig(max_skips=3))


def test_too_many_skips_turn_the_run_back_with_half_the_rate(tmp_path: Path) -> None:
    # sick from the 8th batch until the run was turned back to step 6
    objective = harmed(classes(), nan_loss, lambda _, call: 7 <= call < 11)
    training_job = job(
        tmp_path,
        classifier(dropout=0.2),
        Slices(texts(80), 4),
        objective,
        max_steps=12,
        max_skips=3,
        checkpoint_every=3,
        learning_rate=0.1,
    )
    at = fit(training_job, resume=False)
    assert at.step == 12
    lines = read_metrics(tmp_path / "metrics.jsonl")
    (back,) = events(tmp_path)
    skipped = back.pop("skipped")
    assert back == {
        "step": 6,
        "kind": "guard",
        "event": "rollback",
        "why": "the loss is not finite",
        "from": 11,
        "learning_rate_factor": 0.5,
    }
    # what led to it is still known: steps, and the rows they read
    assert [line["step"] for line in skipped] == [8, 9, 10, 11]
    assert all(len(line["rows"]) == 4 for line in skipped)
    rates = {x["step"]: x["learning_rate"] for x in lines if x["kind"] == "train"}
    assert rates == {step: 0.1 if step <= 6 else 0.05 for step in range(1, 13)}
    assert [x["step"] for x in lines if x["kind"] == "train"] == list(range(1, 13))
    checkpoint, _ = checkpoints.newest(training_job.folder)
    assert checkpoint is not None
    assert (
        checkpoint.state["guard"]["rollbacks"],
        checkpoint.state["guard"]["skipped"],
    ) == (
        1,
        0,
    )


def test_after_the_last_return_the_run_ends(tmp_path: Path) -> None:
    objective = harmed(classes(), nan_loss, lambda batch, call: call >= 5)
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(80), 4),
        objective,
        max_steps=20,
        max_skips=1,
        rollbacks=2,
        checkpoint_every=2,
        learning_rate=0.1,
    )
    with pytest.raises(UserError) as caught:
        fit(training_job, resume=False)
    assert "(now 0.025)" in str(caught.value)
    assert str(caught.value).endswith("the last checkpoint is intact")
    assert checkpoints.steps(training_job.folder) == [2, 4]


def test_weights_that_overflow_are_turned_back_before_they_are_kept(
    tmp_path: Path,
) -> None:
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(80), 4),
        classes(),
        max_steps=6,
        checkpoint_every=2,
        log_every=50,
        rollbacks=1,
    )
    trainer = Trainer(training_job)
    seen = list[int]()
    update = trainer.updater.update

    def overflowing(losses: list[Loss]) -> str:
        reason = update(losses)
        seen.append(1)
        if len(seen) == 4:  # the fourth step, and the first after the return
            with torch.no_grad():
                next(training_job.model.parameters()).fill_(math.inf)
        return reason

    trainer.updater.update = overflowing  # type: ignore[method-assign]
    training_job.folder.mkdir(parents=True)
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, tensorboard=False)
    trainer.run(log)
    log.close()
    (line,) = events(tmp_path)
    assert (line["step"], line["from"]) == (2, 4)
    assert line["why"] == "the weights are no longer finite"
    assert all(p.isfinite().all() for p in training_job.model.parameters())


# the same bits after any stop


class Sick(Progress):
    """Batches of which some are no numbers, by their position; stops the run at its n-th batch.

    It is the run's progress too: once told that the run was turned back, it may be healed.
    """

    def __init__(
        self, source: BatchSource, bad: set[tuple[int, int]], turn: int, healed: bool
    ) -> None:
        super().__init__(quiet=True)
        self.source = source
        self.bad = bad
        self.turn = turn
        self.calls = 0
        self.position = (0, 0)
        self.healed = healed

    def length(self, epoch: int) -> int:
        return self.source.length(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        self.calls += 1
        if self.calls == self.turn:
            raise Crash
        self.position = (epoch, index)
        return self.source.batch(epoch, index)

    def objective(self, model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        loss = classes()(model, batch, carry)
        return (
            nan_loss(loss, model)
            if self.position in self.bad and not self.healed
            else loss
        )

    def say(self, text: str) -> None:
        self.healed = self.healed or "back to step" in text


# in the middle of an epoch and at its end; enough in a row to turn the run back
BAD = {
    "skips": {(0, 3), (0, 9), (1, 0), (1, 4)},
    "rollback": {(1, index) for index in (1, 2, 3, 4, 5, 6)},
}


def sick_run(folder: Path, bad: str, turn: int = 0, resume: bool = False) -> None:
    checkpoint, _ = checkpoints.newest(folder / "checkpoints")
    seed = (
        0 if checkpoint is None else 99
    )  # another process: other weights, other random state
    healed = checkpoint is not None and checkpoint.state["guard"]["rollbacks"] > 0
    source = Sick(Slices(texts(40), 4), BAD[bad], turn, healed)
    training_job = job(
        folder,
        classifier(seed, dropout=0.3),
        source,
        source.objective,
        dev_score,
        max_steps=24,
        checkpoint_every=4,
        log_every=3,
        evaluate_every=5,
        max_skips=5,
        average="ema",
        spike=8.0,
        keep=1,
    )
    torch.manual_seed(seed)
    fit(replace(training_job, progress=source), resume)


def left(
    folder: Path,
) -> tuple[dict[str, Tensor], dict[str, Any], list[dict[str, Any]]]:
    checkpoint = checkpoints.load(folder / "checkpoints/step-24")
    checkpoint.state["position"].pop("seconds")
    lines = read_metrics(folder / "metrics.jsonl")
    drop = {"seconds", "tokens_per_second"}
    return (
        checkpoint.tensors,
        checkpoint.state,
        [{k: v for k, v in x.items() if k not in drop} for x in lines],
    )


@pytest.mark.parametrize("bad", BAD)
def test_skips_and_returns_are_the_same_bits_after_any_stop(
    tmp_path: Path, bad: str
) -> None:
    sick_run(tmp_path / "straight", bad)
    tensors, state, lines = left(tmp_path / "straight")
    # six skips in a row turn it back from step 17 to 8: the checkpoints due on the way wait
    assert state["guard"]["skipped"] == (4 if bad == "skips" else 0)
    returns = [line for line in lines if line.get("event") == "rollback"]
    assert [(line["step"], line["from"]) for line in returns] == [(8, 17)] * (
        bad == "rollback"
    )
    for turn in range(4, 34 if bad == "rollback" else 25, 6):
        folder = tmp_path / str(turn)
        with pytest.raises(Crash):
            sick_run(folder, bad, turn)
        sick_run(folder, bad, resume=True)
        others, its_state, its_lines = left(folder)
        assert (state, lines) == (its_state, its_lines)
        assert all(torch.equal(t, others[name]) for name, t in tensors.items())


def stop_at(trainer: Trainer, stop: Stop, last: int) -> None:
    """Let a signal come in the step that makes the ``last``-th."""
    step = trainer.step

    def counted(log: MetricsLog) -> str:
        reason = step(log)
        stop.number = signal.SIGINT if trainer.position.step == last else 0
        return reason

    trainer.step = counted  # type: ignore[method-assign]


def test_where_a_run_was_stopped_does_not_change_where_it_returns_to(
    tmp_path: Path,
) -> None:
    sick_run(tmp_path / "straight", "rollback")
    folder = tmp_path / "stopped"
    source = Sick(Slices(texts(40), 4), BAD["rollback"], 0, False)
    training_job = job(
        folder,
        classifier(0, dropout=0.3),
        source,
        source.objective,
        dev_score,
        max_steps=24,
        checkpoint_every=4,
        log_every=3,
        evaluate_every=5,
        max_skips=5,
        average="ema",
        spike=8.0,
        keep=1,
    )
    torch.manual_seed(0)
    # asked to stop twice, the second time among the skips
    for steps in (9, 14):
        trainer = Trainer(training_job)
        stop = Stop(quiet=True)
        checkpoint, _ = checkpoints.newest(training_job.folder)
        if checkpoint is not None:
            trainer.take_up(checkpoint)
        training_job.folder.mkdir(parents=True, exist_ok=True)
        log = MetricsLog(
            folder / "metrics.jsonl", trainer.position.step, tensorboard=False
        )
        source.turn = 0
        source.calls = 0
        stop_at(trainer, stop, steps)
        trainer.run(log, stop)
        log.close()
        assert (trainer.position.step, trainer.position.stopped) == (steps, "")
    assert checkpoints.steps(training_job.folder) == [8, 14]
    sick_run(folder, "rollback", resume=True)
    (tensors, state, lines) = left(tmp_path / "straight")
    (others, its_state, its_lines) = left(folder)
    assert (state, lines) == (its_state, its_lines)
    assert all(torch.equal(t, others[name]) for name, t in tensors.items())


# spikes


def fired(losses: list[float], k: float) -> list[int]:
    """Return where a guard calls a spike, skipping what it calls."""
    guard = Guard()
    spikes = []
    for index, loss in enumerate(losses):
        if guard.reason_to_skip(loss, 1.0, k):
            guard.skip()
            spikes.append(index)
        else:
            guard.made(loss)
    return spikes


def curve(kind: str, seed: int) -> list[float]:
    """Return 2000 clean losses of a kind."""
    draw = np.random.default_rng(seed)
    t = np.arange(2000)
    clean = {
        "falling": 5 * np.exp(-t / 400) + 1.2 + 0.08 * draw.normal(size=2000),
        "flat": 0.69 + 0.02 * draw.normal(size=2000),
        "plateaus": np.select([t < 600, t < 1200], [3.0, 2.0], 1.0)
        + 0.1 * draw.normal(size=2000),
        "small-batches": 0.5 * draw.gamma(4.0, 0.25, size=2000) + 0.2,
        "learnt-by-heart": 2 * np.exp(-t / 200) * draw.uniform(0.6, 1.4, size=2000),
    }
    return [float(x) for x in clean[kind]]


KINDS = ["falling", "flat", "plateaus", "small-batches", "learnt-by-heart"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_no_false_alarm_on_a_clean_curve(kind: str, seed: int) -> None:
    assert fired(curve(kind, seed), 8.0) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [SETTLED, 500, 1500])
def test_a_tenfold_spike_fires_once_and_the_curve_goes_on(kind: str, at: int) -> None:
    losses = curve(kind, 0)
    losses[at] *= 10
    assert fired(losses, 8.0) == [at]


def test_before_the_mean_has_settled_nothing_is_a_spike() -> None:
    losses = [1.0 + 0.01 * (n % 2) for n in range(200)]
    losses[SETTLED - 1] = 100.0
    assert fired(losses, 6.0) == []
    assert (
        Guard(seen=SETTLED, mean=1.0, variance=1e-4).reason_to_skip(100.0, 1.0, None)
        == ""
    )


def test_the_running_moments_are_those_of_the_sample() -> None:
    losses = np.random.default_rng(0).normal(size=40)
    guard = Guard()
    for loss in losses:
        guard.made(float(loss))
    assert (guard.mean, guard.variance) == (
        pytest.approx(losses.mean()),
        pytest.approx(losses.var()),
    )


def spiked(tmp_path: Path, spike: float | None, objective: Objective) -> Trainer:
    torch.manual_seed(3)
    training_job = job(
        tmp_path,
        classifier(dropout=0.1),
        Buckets(texts(400), 16, None, 0),
        objective,
        max_steps=150,
        learning_rate=0.01,
        spike=spike,
        log_every=50,
    )
    return trained(training_job)


def test_a_clean_training_is_the_same_bits_with_the_policy_as_without(
    tmp_path: Path,
) -> None:
    on = spiked(tmp_path / "on", 6.0, classes())
    off = spiked(tmp_path / "off", None, classes())
    assert on.state.guard.skipped == off.state.guard.skipped == 0
    assert on.state.guard.seen == 150
    assert same(on.job.model, off.job.model)


def test_an_injected_spike_in_a_training_is_skipped_once(tmp_path: Path) -> None:
    def tenfold(loss: Loss, model: nn.Module) -> Loss:
        return replace(loss, sum=loss.sum * 10)

    objective = harmed(classes(), tenfold, lambda _, call: call == 90)
    trainer = spiked(tmp_path, 6.0, objective)
    (line,) = events(tmp_path)
    assert (line["step"], line["why"].split(" (")[0]) == (91, "the loss spikes")
    assert trainer.state.guard.skipped == 1
    assert trainer.position.step == 150
    clean = spiked(tmp_path / "clean", 6.0, classes())
    lines = [
        read_metrics(p / "metrics.jsonl")[-1]["loss"]
        for p in (tmp_path, tmp_path / "clean")
    ]
    assert lines[0] == pytest.approx(lines[1], rel=0.2)
    assert clean.state.guard.skipped == 0


def test_labels_after_pretraining_are_another_loss(tmp_path: Path) -> None:
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(40), 4),
        classes(),
        max_steps=12,
        pretrain_epochs=1,
        spike=6.0,
    )
    assert (
        trained(training_job).state.guard.seen == 2
    )  # ten batches an epoch, the mean begun anew after them
