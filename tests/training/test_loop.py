"""One loop: the updates of a plain loop, and the same bits after any stop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau

from unrolled.core.errors import UserError
from unrolled.data.batches import IGNORED, Batch, BatchSource, Buckets, Lanes, Windows
from unrolled.data.examples import Examples, Ragged
from unrolled.models import Aligned, LanguageModel, ManyToOne
from unrolled.nn import LAYERS, LayerConfig, Pooling, State, TokenEmbedding, build_layer
from unrolled.training import checkpoints
from unrolled.training.averaging import Weights
from unrolled.training.job import Position, TrainingJob
from unrolled.training.loop import Trainer, fit
from unrolled.training.objectives import (
    Loss,
    Objective,
    classes,
    cross_entropy,
    next_token,
)
from unrolled.training.planning import planned_steps
from unrolled.training.precision import ComputeDevice
from unrolled.training.progress import Progress, read_metrics
from unrolled.training.settings import TrainingConfig

CPU = ComputeDevice(torch.device("cpu"), "fp32", "for tests")
Evaluate = Callable[[nn.Module], dict[str, float]]


@dataclass
class Kept:
    """The weights that the loop handed out, in order."""

    weights: list[Weights] = field(default_factory=list)

    def __call__(self, weights: Weights) -> None:
        self.weights.append({name: value.clone() for name, value in weights.items()})


def job(
    folder: Path,
    model: nn.Module,
    source: BatchSource,
    objective: Objective,
    evaluate: Evaluate | None = None,
    **settings: Any,
) -> TrainingJob:
    config = {"warmup_steps": 0, "schedule": "constant", "log_every": 1} | settings
    return TrainingJob(
        model,
        objective,
        source,
        TrainingConfig.read(config),
        CPU,
        0,
        folder / "checkpoints",
        "score",
        True,
        evaluate,
        Kept(),
        Progress(quiet=True),
    )


def texts(count: int, seed: int = 0) -> Examples:
    """Return random texts, with a label for each."""
    generator = np.random.default_rng(seed)
    rows = [
        generator.integers(1, 9, generator.integers(1, 8)).tolist()
        for _ in range(count)
    ]
    labels = np.array([sum(row) % 3 for row in rows], dtype=np.int64)
    return Examples(np.arange(count), sequences=Ragged.of(rows), targets=labels)


def tagged(count: int) -> Examples:
    examples = texts(count)
    assert examples.sequences is not None
    rows = np.split(examples.sequences.flat % 3, examples.sequences.offsets[1:-1])
    return replace(examples, targets=Ragged.of([row.tolist() for row in rows]))


def classifier(seed: int = 0, dropout: float = 0.0) -> ManyToOne:
    torch.manual_seed(seed)
    layer = build_layer("gru", LayerConfig(hidden=5, output_dropout=dropout), 4)
    embedding = TokenEmbedding(9, 4, padding=0, dropout=dropout)
    return ManyToOne(embedding, layer, Pooling("mean", 5), 3, dropout)


def tagger() -> Aligned:
    torch.manual_seed(0)
    layer = build_layer("lstm", LayerConfig(hidden=5), 4)
    return Aligned(TokenEmbedding(9, 4, padding=0), layer, 3)


def language(name: str, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"heads": 2, "context": 7} if name == "attention" else {}
    layer = build_layer(
        name, LayerConfig(hidden=8, layers=2, dropout=0.2, **options), 8
    )
    return LanguageModel(TokenEmbedding(9, 8, dropout=0.2), layer, 9, 0.2, tie=True)


def stream(name: str, reset: float = 0.0) -> Lanes | Windows:
    tokens = np.random.default_rng(0).integers(1, 9, 230).astype(np.int32)
    if name == "attention":
        return Windows(tokens, 4, 7, 3, 0)
    return Lanes(tokens, 4, 7, 3, 0, reset)


class Slices:
    """Consecutive rows of all examples in their order, whatever the epoch."""

    def __init__(self, examples: Examples, rows: int) -> None:
        self.all = Buckets(examples, len(examples), None, 0).batch(0, 0)
        self.rows = rows

    def length(self, epoch: int) -> int:
        return -(-len(self.all.rows) // self.rows)

    def batch(self, epoch: int, index: int) -> Batch:
        part = slice(index * self.rows, (index + 1) * self.rows)
        whole = self.all
        assert whole.lengths is not None
        assert whole.targets is not None
        return Batch(
            whole.inputs[part],
            whole.lengths[part],
            whole.targets[part],
            whole.rows[part],
        )


# the updates of a plain loop


def plain_optimizer(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    groups = [
        {
            "params": [p for p in model.parameters() if p.dim() > 1],
            "weight_decay": 0.01,
        },
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_updates_are_those_of_a_plain_loop_bit_for_bit(
    tmp_path: Path, accumulate: int
) -> None:
    source = Buckets(texts(80), 4, None, seed=1)
    ours = classifier(dropout=0.3)
    theirs = classifier(dropout=0.3)
    torch.manual_seed(5)
    fit(
        job(
            tmp_path,
            ours,
            source,
            classes(),
            max_steps=5,
            accumulate=accumulate,
            clip=0.5,
            learning_rate=0.01,
        ),
        resume=False,
    )

    torch.manual_seed(5)
    optimizer = plain_optimizer(theirs.train(), 0.01)
    batches = iter(source.batch(0, i) for i in range(source.length(0)))
    for _ in range(5):
        count = 0
        for _ in range(accumulate):
            batch = next(batches)
            logits = theirs(batch.inputs, batch.lengths)
            F.cross_entropy(logits, batch.targets, reduction="sum").backward()
            count += len(logits)
        for parameter in theirs.parameters():
            assert parameter.grad is not None
            parameter.grad *= 1 / count
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        assert norm > 0.01
        optimizer.step()
        optimizer.zero_grad()
    assert same(ours, theirs)
    assert not same(ours, classifier())


def test_a_language_model_is_trained_by_truncated_back_propagation(
    tmp_path: Path,
) -> None:
    source = stream("lstm")
    ours = language("lstm")
    theirs = language("lstm")
    count = source.length(0) + 3  # into the second epoch, where the state starts afresh
    torch.manual_seed(5)
    fit(
        job(tmp_path, ours, source, next_token(), max_steps=count, clip=None),
        resume=False,
    )

    torch.manual_seed(5)
    optimizer = plain_optimizer(theirs.train(), 2e-3)
    state: Any = None
    for step in range(count):
        epoch, index = divmod(step, source.length(0))
        batch = source.batch(epoch, index)
        logits, state = theirs(batch.inputs, None if index == 0 else state)
        state = state.detach()
        loss = F.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
        )  # type: ignore[union-attr]
        optimizer.zero_grad()
        loss.backward()
        for parameter in theirs.parameters():
            assert parameter.grad is not None
            parameter.grad *= 1 / batch.inputs.numel()
        optimizer.step()
    assert same(ours, theirs)


def test_two_batches_of_four_are_one_of_eight(tmp_path: Path) -> None:
    examples = tagged(24)
    # rows of unlike lengths: means of means would weigh their steps unlike
    lengths = examples.lengths.reshape(-1, 4).sum(1)
    assert len(set(lengths.tolist())) > 3
    runs = []
    for rows, accumulate in ((4, 2), (8, 1)):
        model = tagger().double()
        training_job = job(
            tmp_path / str(rows),
            model,
            Slices(examples, rows),
            classes(),
            max_steps=6,
            accumulate=accumulate,
            optimizer="sgd",
            learning_rate=0.5,
        )
        fit(training_job, resume=False)
        runs.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    # fp64, summed in another order
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-10, atol=1e-12)
    assert not torch.equal(
        runs[0], torch.cat([p.flatten() for p in tagger().parameters()])
    )


def test_the_gradient_is_that_of_the_mean_over_every_scored_step(
    tmp_path: Path,
) -> None:
    examples = tagged(10)
    model = tagger().double()
    other = tagger().double()
    training_job = job(
        tmp_path,
        model,
        Slices(examples, 4),
        classes(),
        max_steps=1,
        accumulate=3,
        optimizer="sgd",
        momentum=0,
        learning_rate=1.0,
        weight_decay=0,
        clip=None,
    )
    fit(training_job, resume=False)
    whole = Slices(examples, 10).batch(0, 0)
    assert whole.targets is not None
    logits = other(whole.inputs, whole.lengths)
    F.cross_entropy(
        logits.flatten(0, 1), whole.targets.flatten(), ignore_index=IGNORED
    ).backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert theirs.grad is not None
        # the loss is summed in fp32, whatever the model computes in
        torch.testing.assert_close(
            ours.detach(), theirs.detach() - theirs.grad, rtol=1e-6, atol=1e-7
        )


def test_weights_that_count_less_than_one_are_divided_by_too(tmp_path: Path) -> None:
    examples = tagged(10)
    model = tagger().double()
    other = tagger().double()
    weights = torch.tensor([0.003, 0.001, 0.002][: model.head.out_features])
    training_job = job(
        tmp_path,
        model,
        Slices(examples, 10),
        classes(weights=weights),
        max_steps=1,
        optimizer="sgd",
        momentum=0,
        learning_rate=1.0,
        weight_decay=0,
        clip=None,
    )
    fit(training_job, resume=False)
    whole = Slices(examples, 10).batch(0, 0)
    assert whole.targets is not None
    logits = other(whole.inputs, whole.lengths)
    F.cross_entropy(
        logits.flatten(0, 1),
        whole.targets.flatten(),
        weights.double(),
        ignore_index=IGNORED,
    ).backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert theirs.grad is not None
        # the loss is summed in fp32, whatever the model computes in
        torch.testing.assert_close(
            ours.detach(), theirs.detach() - theirs.grad, rtol=1e-5, atol=1e-6
        )


def test_an_epoch_ends_with_the_batches_that_are_left(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Recorded(Slices):
        def batch(self, epoch: int, index: int) -> Batch:
            seen.append((epoch, index))
            return super().batch(epoch, index)

    source = Recorded(texts(20), 4)  # five batches: steps of 2, 2 and 1
    at = fit(
        job(tmp_path, classifier(), source, classes(), max_epochs=2, accumulate=2),
        False,
    )
    assert seen == [(epoch, index) for epoch in (0, 1) for index in range(5)]
    assert (at.step, at.epoch, at.index) == (6, 1, 5)
    assert at.tokens == 2 * int(texts(20).lengths.sum())


def test_the_smaller_limit_bounds_a_run() -> None:
    source = Slices(texts(20), 4)

    def planned(**values: Any) -> int | None:
        return planned_steps(TrainingConfig.read(values), source)

    assert planned(max_epochs=3) == 15
    assert planned(max_epochs=3, accumulate=2) == 9
    assert planned(max_epochs=3, max_steps=4) == 4
    assert planned(max_epochs=3, max_steps=99) == 15
    assert planned(max_minutes=1) is None


def test_the_time_limit_ends_a_run_and_moves_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unrolled.training import loop

    clock = iter(range(10_000))  # the loop reads the clock once a step: a second each
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(40), 4),
        classes(),
        max_minutes=0.2,
        max_steps=1000,
        schedule="linear",
        final_share=0,
        learning_rate=1.0,
        optimizer="sgd",
    )
    at = fit(training_job, resume=False)
    assert (at.step, at.seconds, at.stopped) == (12, 12.0, "limit")
    rates = [line["learning_rate"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([1 - s / 12 for s in range(12)], rel=1e-12)


# evaluation: best, patience, plateau, averages


class Script:
    """Dev scores that were written beforehand; notes how the model was when asked."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores
        self.calls = 0
        self.seen: list[Tensor] = []

    def __call__(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        self.seen.append(next(model.parameters()).detach().clone())
        self.calls += 1
        return {"score": self.scores[self.calls - 1], "other": 0.5}


@pytest.mark.parametrize("higher", [True, False])
def test_early_stopping_keeps_the_best(tmp_path: Path, higher: bool) -> None:
    scores = [0.1, 0.3, 0.3, 0.5, 0.4, 0.5, 0.2, 0.9]
    script = Script(scores if higher else [-s for s in scores])
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(40), 4),
        classes(),
        script,
        max_steps=99,
        evaluate_every=2,
        patience=3,
    )
    training_job = replace(training_job, higher=higher)
    at = fit(training_job, resume=False)
    # equal is no progress: best at the fourth, then three without
    assert (at.step, at.best_step, abs(at.best or 0)) == (14, 8, 0.5)
    assert at.stopped == "no progress in 3 evaluations"
    assert at.best_scores["other"] == 0.5
    kept = training_job.keep_best
    assert isinstance(kept, Kept)
    assert len(kept.weights) == 3
    assert torch.equal(kept.weights[-1]["embedding.weight"], script.seen[3])
    assert training_job.model.training


def test_a_stopped_run_that_is_resumed_stays_stopped(tmp_path: Path) -> None:
    def run(script: Script, resume: bool) -> Position:
        return fit(
            job(
                tmp_path,
                classifier(),
                Slices(texts(40), 4),
                classes(),
                script,
                max_steps=99,
                evaluate_every=2,
                patience=2,
            ),
            resume,
        )

    first = run(Script([0.5, 0.4, 0.3]), resume=False)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    # were it to go on, it would find something better
    again = run(Script([0.9, 0.9, 0.9]), resume=True)
    assert again == first
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files


def test_evaluations_come_at_each_epoch_and_at_the_end(tmp_path: Path) -> None:
    script = Script([0.1] * 9)
    fit(
        job(
            tmp_path,
            classifier(),
            Slices(texts(20), 4),
            classes(),
            script,
            max_steps=12,
        ),
        False,
    )
    lines = [x for x in read_metrics(tmp_path / "metrics.jsonl") if x["kind"] == "dev"]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert lines[0]["score"] == 0.1


def test_nothing_is_scored_while_the_first_epochs_pretrain(tmp_path: Path) -> None:
    script = Script([0.1] * 9)
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(20), 4),
        classes(),
        script,
        max_steps=14,
        evaluate_every=3,
        pretrain_epochs=1,
    )
    fit(training_job, resume=False)
    lines = [x for x in read_metrics(tmp_path / "metrics.jsonl") if x["kind"] == "dev"]
    # an epoch is five steps
    assert [line["step"] for line in lines] == [6, 9, 12, 14]


def test_pretraining_has_a_schedule_of_its_own(tmp_path: Path) -> None:
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(20), 4),
        classes(),
        None,
        max_steps=15,
        log_every=1,
        pretrain_epochs=1,
        schedule="linear",
        warmup_steps=0,
        final_share=0.0,
        learning_rate=0.1,
    )
    fit(training_job, resume=False)
    lines = [
        x for x in read_metrics(tmp_path / "metrics.jsonl") if x["kind"] == "train"
    ]
    # an epoch is five steps: one line falls over them, another over the ten that follow
    expected = [0.1 * (1 - n / 5) for n in range(5)] + [
        0.1 * (1 - n / 10) for n in range(10)
    ]
    assert [x["learning_rate"] for x in lines] == pytest.approx(expected, rel=1e-12)


def test_plateau_cuts_when_torch_would(tmp_path: Path) -> None:
    scores = [0.5, 0.5, 0.4, 0.4, 0.6, 0.1, 0.1, 0.1, 0.1, 0.7, 0.1, 0.1]
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(40), 4),
        classes(),
        Script(scores),
        max_steps=12,
        evaluate_every=1,
        schedule="plateau",
        plateau_patience=1,
        plateau_factor=0.3,
        learning_rate=0.1,
    )
    at = fit(training_job, resume=False)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = ReduceLROnPlateau(optimizer, "max", factor=0.3, patience=1, threshold=0)
    expected = []
    for score in scores:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(score)
    lines = [
        x for x in read_metrics(tmp_path / "metrics.jsonl") if x["kind"] == "train"
    ]
    assert [x["learning_rate"] for x in lines] == pytest.approx(expected, rel=1e-12)
    assert at.cuts == 4


def test_scores_and_best_weights_are_those_of_the_average(tmp_path: Path) -> None:
    script = Script([0.1, 0.2])
    model = classifier()
    training_job = job(
        tmp_path,
        model,
        Slices(texts(40), 4),
        classes(),
        script,
        max_steps=8,
        evaluate_every=4,
        average="ema",
        ema_decay=0.9,
    )
    history: list[Tensor] = [model.embedding.weight.detach().clone()]
    trainer = Trainer(training_job)
    update = trainer.updater.update

    def noted(losses: list[Loss]) -> str:
        reason = update(losses)
        history.append(model.embedding.weight.detach().clone())
        return reason

    trainer.updater.update = noted  # type: ignore[method-assign]
    from unrolled.training.progress import MetricsLog

    training_job.folder.mkdir(parents=True)
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, tensorboard=False)
    trainer.run(log)
    log.close()
    mean = history[0].double()
    for step, weight in enumerate(history[1:], 1):
        kept = min(0.9, (1 + step) / (10 + step))
        mean = kept * mean + (1 - kept) * weight.double()
        if step % 4 == 0:
            # eight fp32 roundings
            torch.testing.assert_close(
                script.seen[step // 4 - 1].double(), mean, rtol=1e-6, atol=1e-7
            )
    assert torch.equal(model.embedding.weight, history[-1])
    kept_best = training_job.keep_best
    assert isinstance(kept_best, Kept)
    assert torch.equal(kept_best.weights[-1]["embedding.weight"], script.seen[-1])


def test_without_a_dev_score_the_last_weights_are_kept(tmp_path: Path) -> None:
    training_job = job(
        tmp_path, classifier(), Slices(texts(40), 4), classes(), max_steps=3
    )
    fit(training_job, resume=False)
    assert isinstance(training_job.keep_best, Kept)
    (kept,) = training_job.keep_best.weights
    assert all(
        torch.equal(kept[n], v) for n, v in training_job.model.state_dict().items()
    )


# losses that are not finite


def breaking(step: int, value: float) -> Objective:
    """Return an objective whose loss is multiplied by ``value`` at one update."""
    calls = 0

    def objective(model: nn.Module, batch: Batch, carry: State | None) -> Loss:
        nonlocal calls
        calls += 1
        loss = classes()(model, batch, carry)
        return replace(loss, sum=loss.sum * value) if calls == step else loss

    return objective


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"log_every": 50},
        {"log_every": 50, "clip": None},
        {"log_every": 50, "evaluate_every": 7},  # the checkpoint comes first
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_kept(
    tmp_path: Path, value: float, settings: dict[str, Any]
) -> None:
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(80), 4),
        breaking(5, value),
        Script([0.1] * 20),
        max_steps=20,
        keep=1,
        learning_rate=0.01,
        max_skips=0,
        rollbacks=0,
        **{"checkpoint_every": 2, "evaluate_every": 3, **settings},
    )
    with pytest.raises(UserError) as caught:
        fit(training_job, resume=False)
    message = str(caught.value)
    assert "the loss is not finite at step 5 (skipped steps: 1)" in message
    assert "lower training.learning_rate (now 0.01) or training.clip" in message
    assert "\n" not in message
    # what the message promises: the last checkpoint and the best weights are intact
    checkpoint, passed_over = checkpoints.newest(training_job.folder)
    assert passed_over == []
    assert checkpoint is not None
    assert checkpoint.step == 4
    numbers = [t for t in checkpoint.tensors.values() if t.is_floating_point()]
    assert isinstance(training_job.keep_best, Kept)
    for tensor in numbers + [
        t for w in training_job.keep_best.weights for t in w.values()
    ]:
        assert tensor.isfinite().all()
    # and the run can go on from there
    healthy = replace(training_job, objective=classes(), evaluate=Script([0.1] * 20))
    assert fit(healthy, resume=True).step == 20


def test_a_dev_score_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(80), 4),
        classes(),
        Script([0.1, math.nan, 0.1]),
        max_steps=9,
        evaluate_every=3,
        checkpoint_every=1,
    )
    with pytest.raises(UserError, match="no longer finite at step 6"):
        fit(training_job, resume=False)
    assert (
        fit(replace(training_job, evaluate=Script([0.3, 0.2])), resume=True).step == 9
    )


# any stop and resume: the same bits


class Crash(BaseException):
    """Ends a run between two batches, as a kill does."""


class Crashing:
    """A source that fails at its n-th batch."""

    def __init__(self, source: BatchSource, turn: int) -> None:
        self.source = source
        self.turn = turn
        self.calls = 0

    def length(self, epoch: int) -> int:
        return self.source.length(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        self.calls += 1
        if self.calls == self.turn:
            raise Crash
        return self.source.batch(epoch, index)


def dev_score(model: nn.Module) -> dict[str, float]:
    """Return a score that moves up and down with the weights."""
    first = next(model.parameters())
    return {"score": float((first.double() * 1000).sin().sum())}


SCENES: dict[
    str, tuple[Callable[[int], nn.Module], Callable[[], BatchSource], Objective, Any]
] = {
    **{
        f"language-{name}": (
            lambda seed, name=name: language(name, seed),
            lambda name=name: stream(name, reset=0.2),
            next_token(carry_state=name != "attention"),
            {"accumulate": 2, "average": "ema", "checkpoint_every": 3, "log_every": 4},
        )
        for name in LAYERS
    },
    "classifier-last": (
        lambda seed: classifier(seed, dropout=0.3),
        lambda: Buckets(texts(34), 4, 20, seed=2),
        classes(0.1),
        {
            "optimizer": "sgd",
            "average": "last",
            "average_last": 3,
            "schedule": "plateau",
            "plateau_patience": 0,
            "checkpoint_every": 2,
            "log_every": 4,
            "patience": 6,
        },
    ),
    "classifier-noam": (
        lambda seed: classifier(seed, dropout=0.3),
        lambda: Buckets(texts(50), 4, None, seed=2),
        classes(),
        {
            "schedule": "noam",
            "warmup_steps": 3,
            "accumulate": 3,
            "checkpoint_every": 1,
            "keep": 1,
        },
    ),
}
STEPS = 16


def start(
    folder: Path, scene: str, seed: int, steps: int, turn: int = 0
) -> TrainingJob:
    build, source, objective, settings = SCENES[scene]
    crashing = Crashing(source(), turn)
    every = {"evaluate_every": 4, "max_steps": steps} | settings
    return job(folder, build(seed), crashing, objective, dev_score, **every)


def left(
    folder: Path,
) -> tuple[dict[str, Tensor], dict[str, Any], list[dict[str, Any]]]:
    """Return all that a finished run left, times aside."""
    last = folder / "checkpoints" / f"step-{STEPS}"
    state = json.loads((last / checkpoints.STATE).read_text())
    state["position"].pop("seconds")
    clocks = {"seconds", "tokens_per_second"}
    lines = [
        {k: v for k, v in line.items() if k not in clocks}
        for line in read_metrics(folder / "metrics.jsonl")
    ]
    return load_file(last / checkpoints.TENSORS), state, lines


def assert_same_end(folder: Path, other: Path) -> None:
    (tensors, state, lines) = left(folder)
    (others, its_state, its_lines) = left(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert state == its_state
    assert lines == its_lines


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a scene that ran without a stop, run once."""
    made: dict[str, Path] = {}

    def get(scene: str) -> Path:
        if scene not in made:
            made[scene] = tmp_path_factory.mktemp(scene)
            torch.manual_seed(1)
            training_job = start(made[scene], scene, 0, STEPS)
            torch.manual_seed(11)
            at = fit(training_job, resume=False)
            assert (at.step, at.stopped) == (STEPS, "limit")
            assert at.epoch > 0, "a run of one epoch would not test the second"
            assert at.best_step > 0
        return made[scene]

    return get


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("turn", [2, 6, 9, 14])
def test_crashed_and_resumed_a_run_ends_with_the_same_bits(
    tmp_path: Path, straight: Callable[[str], Path], scene: str, turn: int
) -> None:
    expected = straight(scene)
    training_job = start(tmp_path, scene, 0, STEPS, turn)
    torch.manual_seed(11)
    with pytest.raises(Crash):
        fit(training_job, resume=False)
    # a second crash soon after, and each time another process: other weights, other random state.
    # Without a checkpoint a run starts anew, and must then start as it did
    for attempt in range(2):
        checkpoint, _ = checkpoints.newest(tmp_path / "checkpoints")
        seed = 0 if checkpoint is None else 90 + attempt
        training_job = start(
            tmp_path, scene, seed, STEPS, turn=3 if attempt == 0 else 0
        )
        torch.manual_seed(11 if checkpoint is None else 90 + attempt)
        if attempt == 0:
            with pytest.raises(Crash):
                fit(training_job, resume=True)
        else:
            fit(training_job, resume=True)
    assert_same_end(tmp_path, expected)
    kept = training_job.keep_best
    assert isinstance(kept, Kept)
    best = {
        k.removeprefix("best."): v
        for k, v in left(expected)[0].items()
        if k.startswith("best.")
    }
    assert all(
        torch.equal(kept.weights[-1][name], value) for name, value in best.items()
    )


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("limit", [4, 12])
def test_a_limit_that_is_raised_goes_on_with_the_same_bits(
    tmp_path: Path, straight: Callable[[str], Path], scene: str, limit: int
) -> None:
    # stops at an evaluation and a log line that come anyway, under schedules without a limit
    expected = straight(scene)
    training_job = start(tmp_path, scene, 0, limit)
    torch.manual_seed(11)
    assert fit(training_job, resume=False).step == limit
    training_job = start(tmp_path, scene, 91, STEPS)
    torch.manual_seed(92)
    fit(training_job, resume=True)
    assert_same_end(tmp_path, expected)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    scene = "classifier-noam"
    fit(start(tmp_path, scene, 0, STEPS), resume=False)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    at = fit(start(tmp_path, scene, 91, STEPS, turn=1), resume=True)
    assert (at.step, at.stopped) == (STEPS, "limit")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files


def test_a_damaged_checkpoint_is_passed_over_and_the_bits_are_the_same(
    tmp_path: Path, straight: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    scene = "language-gru"
    expected = straight(scene)
    torch.manual_seed(1)
    training_job = start(tmp_path, scene, 0, STEPS, turn=20)
    torch.manual_seed(11)
    with pytest.raises(Crash):
        fit(training_job, resume=False)
    steps = checkpoints.steps(tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / f"step-{steps[-1]}"
    data = newest / checkpoints.TENSORS
    data.write_bytes(data.read_bytes()[:-1])
    training_job = replace(start(tmp_path, scene, 91, STEPS), progress=Progress())
    at = fit(training_job, resume=True)
    assert at.step == STEPS
    assert (
        f"{newest} was passed over: tensors.safetensors is cut short"
        in capsys.readouterr().err
    )
    assert_same_end(tmp_path, expected)


def test_a_disk_that_refuses_the_log_or_a_checkpoint_is_a_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_job = job(
        tmp_path,
        classifier(),
        Slices(texts(40), 4),
        classes(),
        max_steps=9,
        checkpoint_every=3,
    )
    real = checkpoints.save_tensors
    calls = list[int]()

    def full(path: Path, tensors: dict[str, Tensor]) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(path, tensors)

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    with pytest.raises(UserError, match=r"step-6: the checkpoint could not be written"):
        fit(training_job, resume=False)
    assert checkpoints.steps(training_job.folder) == [3]
    monkeypatch.undo()
    assert fit(training_job, resume=True).step == 9


def test_the_logged_loss_is_the_mean_over_what_was_read(tmp_path: Path) -> None:
    source = Slices(tagged(40), 4)
    model = tagger()
    training_job = job(
        tmp_path,
        model,
        source,
        classes(),
        max_steps=6,
        log_every=3,
        learning_rate=1e-12,
        weight_decay=0,
    )
    fit(training_job, resume=False)
    # at a rate of nothing the weights stand still
    with torch.no_grad():
        losses = []
        for index in range(6):
            batch = source.batch(0, index)
            assert batch.targets is not None
            loss = cross_entropy(
                tagger()(batch.inputs, batch.lengths), batch.targets, 0.0
            )
            losses.append((float(loss.sum), int(loss.count)))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6]
    for line, part in zip(lines, (losses[:3], losses[3:]), strict=True):
        expected = sum(s for s, _ in part) / sum(c for _, c in part)
        assert line["loss"] == pytest.approx(expected, rel=1e-6)
