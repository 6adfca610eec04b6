"""The one training loop: batches in, updates, evaluations and checkpoints out.

It knows no architecture and no task: the model is any module, the objective returns a summed loss
and its divisor, and the dev scores come from a function that is passed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.core.errors import UserError
from unrolled.data.batches import Source
from unrolled.data.examples import Ints
from unrolled.nn.state import State, pack, unpack
from unrolled.training import checkpoints
from unrolled.training.averaging import Average, Weights, snapshot
from unrolled.training.checkpoints import Checkpoint, under
from unrolled.training.guards import Guard
from unrolled.training.objectives import Loss, Objective
from unrolled.training.optimizers import build_optimizer
from unrolled.training.precision import Place
from unrolled.training.progress import MetricsLog, Progress
from unrolled.training.schedules import factor
from unrolled.training.settings import TrainingConfig
from unrolled.training.stopping import Stop

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Job:
    """All that a training needs.

    ``evaluate`` scores the model on the dev part (dropout off, averaged weights applied), or is
    None; ``metric`` names the score that chooses the best weights and ``higher`` its direction;
    ``keep_best`` is called with the weights whenever they are the best so far; ``lines`` tells
    where rows of the source stand in their file, where they stand in one.
    """

    model: nn.Module
    objective: Objective
    source: Source
    settings: TrainingConfig
    place: Place
    seed: int
    folder: Path
    metric: str
    higher: bool
    evaluate: Callable[[nn.Module], Scores] | None
    keep_best: Callable[[Weights], None]
    progress: Progress
    lines: Callable[[Ints], list[int]] | None = None


@dataclass(slots=True)
class Position:
    """Where a run stands; all of it is in the checkpoint."""

    step: int = 0
    epoch: int = 0
    index: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    cuts: int = 0
    cut_stale: int = 0
    stopped: str = ""
    scores: Scores = field(default_factory=dict)
    best_scores: Scores = field(default_factory=dict)


def fit(job: Job, resume: bool) -> Position:
    """Train until a limit or early stopping, and return where the run ended.

    With ``resume`` the newest whole checkpoint in the folder is taken up first; a run stopped at
    any point and resumed makes the same updates, bit for bit, as one that was never stopped.

    SIGINT and SIGTERM end it after the step that is being made, with a checkpoint.

    Raises:
        UserError: too many losses are not finite, or the disk refuses a checkpoint.
        Interrupted, Terminated: SIGINT or SIGTERM came; the run can be resumed.
    """
    trainer = Trainer(job)
    start = checkpoints.newest(job.folder) if resume else (None, [])
    for fault in start[1]:
        job.progress.say(fault)
    if start[0] is not None:
        trainer.take_up(start[0])
    log = MetricsLog(job.folder.parent / "metrics.jsonl", trainer.at.step, job.settings.tensorboard)
    try:
        with Stop(job.progress.quiet) as stop:
            trainer.run(log, stop)
            stop.end(trainer.at.step, job.folder.parent)
    finally:
        log.close()
    return trainer.at


class Trainer:
    """The mutable part of a run: weights, optimizer, average, carried state, position."""

    def __init__(self, job: Job) -> None:
        self.job, self.at = job, Position()
        self.optimizer = build_optimizer(job.model, job.settings)
        self.average = Average(job.model, job.settings)
        self.parameters = [p for p in job.model.parameters() if p.requires_grad]
        self.carry: State | None = None
        self.best: Weights | None = None
        self.total = planned_steps(job.settings, job.source)
        self.pretraining = epoch_steps(job.settings, job.source, job.settings.pretrain_epochs)
        self.pending: list[Loss] = []
        self.saved = -1
        self.guard = Guard()

    def run(self, log: MetricsLog, stop: Stop | None = None) -> None:
        """Make updates until a limit is reached, or a signal asks for the end."""
        began, settings = time.monotonic() - self.at.seconds, self.job.settings
        logged = (self.at.tokens, self.at.seconds)
        if self.at.stopped == "limit":
            self.at.stopped = ""  # a larger limit goes on; early stopping stays what it was
        self.job.model.train()
        while not self.at.stopped and self.share() < 1 and not (stop and stop.number):
            if self.at.index >= self.job.source.length(self.at.epoch):
                self.at.epoch, self.at.index = self.at.epoch + 1, 0
            fault = self.step(log)
            self.at.seconds = time.monotonic() - began
            ended = self.share() >= 1
            shown = self.at.step % settings.log_every == 0 or ended
            scored = self.due() or ended
            saved = self.guard.checkpoint_due(self.at.step, settings.checkpoint_every)
            if not fault and (shown or scored or saved) and not self.finite():
                fault = "the weights are no longer finite"
            if fault:
                self.go_back(fault, log)
                logged = (self.at.tokens, time.monotonic() - began)
                continue
            if shown:
                self.report(log, *logged)
                logged = (self.at.tokens, self.at.seconds)
            if scored:
                self.evaluate(log)
            if saved:
                self.guard.good = self.at.step
                self.save()
        if self.share() >= 1:
            self.at.stopped = self.at.stopped or "limit"
        if self.at.stopped and self.best is None:
            # nothing was measured: the last weights are what is kept
            with self.average.applied():
                self.job.keep_best(snapshot(self.job.model))
        # a signal may come where the weights were not looked at yet
        if self.saved != self.at.step and self.finite():
            self.save()

    def share(self) -> float:
        """Return progress through the run: the larger of step share and time share."""
        return max(self.at.step / self.total if self.total else 0.0, self.time_share())

    def pace(self) -> tuple[int, float]:
        """Return steps made and progress within the phase: pre-training ends a schedule too."""
        first = self.pretraining
        if self.at.step < first:
            return self.at.step, self.at.step / first
        if not first or self.total is None or self.total <= first:
            return self.at.step - first, self.share()
        made = self.at.step - first
        return made, max(made / (self.total - first), self.time_share())

    def time_share(self) -> float:
        """Return the share of the time limit that is used up; 0 without one."""
        minutes = self.job.settings.max_minutes
        return self.at.seconds / (60 * minutes) if minutes else 0.0

    def step(self, log: MetricsLog) -> str:
        """Make one update from ``accumulate`` batches, fewer at the end of an epoch.

        Returns:
            Why the run cannot go on like this, else an empty text.
        """
        job, at = self.job, self.at
        rate = job.settings.learning_rate * factor(job.settings, *self.pace(), at.cuts)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.guard.rate
        if at.step == self.pretraining:
            self.guard.forget()
        last = min(at.index + job.settings.accumulate, job.source.length(at.epoch))
        carried, losses, rows = self.carry, list[Loss](), list[Ints]()
        for index in range(at.index, last):
            batch = job.source.batch(at.epoch, index)
            at.tokens += batch.steps  # counted on the host, where it is no wait
            batch = batch.to(job.place.device)
            with job.place.autocast():
                loss = job.objective(job.model, batch, self.carry)
            loss.sum.backward()
            self.carry = loss.carry
            logs = {k: (a.detach(), b.detach()) for k, (a, b) in loss.logs.items()}
            losses.append(Loss(loss.sum.detach(), loss.count.detach(), None, logs))
            rows.append(batch.rows)
        fault = self.update(losses)
        if fault:
            self.carry = carried
            self.note(log, fault, np.concatenate(rows))
        else:
            self.pending += losses
        at.index, at.step = last, at.step + 1
        return fault if fault and self.guard.spent(at.step, job.settings) else ""

    def update(self, losses: list[Loss]) -> str:
        """Divide the summed gradients by the global count, clip them and move the weights.

        Loss and norm are looked at before the weights move: one wait for the device a step.

        Returns:
            Why the weights were left as they are, else an empty text.
        """
        settings, parts = self.job.settings, [part.sum for part in losses]
        count = sum(part.count for part in losses[1:]) + losses[0].count
        here = self.job.place.device.type == "cpu"
        # elsewhere a number on the host is a wait, and one a step is enough; weights of labels may
        # count less than 1, and nothing scored is no update
        share = 1.0 / (float(count) or 1.0) if here else 1.0 / torch.where(count > 0, count, 1)
        grads = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_mul_(grads, share)
        if settings.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        else:
            norm = nn.utils.get_total_norm(grads)
        *sums, length, each = waited(*parts, norm, share)
        loss = each * sum(sums)
        fault = self.guard.fault(loss, length, settings.spike)
        if fault:
            self.guard.skip()
        else:
            self.guard.made(loss)
            self.optimizer.step()
            self.average.after_step()
        self.optimizer.zero_grad(set_to_none=True)
        return fault

    def note(self, log: MetricsLog, fault: str, rows: Ints) -> None:
        """Log a step that was skipped, and which rows it had read."""
        at, lines = self.at, self.job.lines
        told = {"step": at.step + 1, "kind": "guard", "event": "skipped", "why": fault}
        told |= {"epoch": at.epoch, "index": at.index, "rows": rows.tolist()}
        log.write(told | ({"lines": lines(rows)} if lines else {}))
        self.job.progress.say(
            f"step {at.step + 1}  skipped: {fault} (its rows stand in metrics.jsonl)"
        )

    def go_back(self, fault: str, log: MetricsLog) -> None:
        """Take up the last checkpoint again, with a lower learning rate.

        Raises:
            UserError: there is none, or this was done as often as it may be.
        """
        at, settings, made = self.at, self.job.settings, self.guard.rollbacks + 1
        told = f"{fault} at step {at.step} (skipped steps: {self.guard.skipped})"
        if made > settings.rollbacks or self.guard.good < 0:
            kept = "the last checkpoint is intact" if self.saved >= 0 else "no checkpoint yet"
            raise UserError(
                f"{told}: lower training.learning_rate (now "
                f"{settings.learning_rate * self.guard.rate:g}) or training.clip, or look at the "
                f"rows that metrics.jsonl names; {kept}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.restore(checkpoints.load(self.job.folder / f"step-{self.guard.good}"))
        self.guard.rollbacks = made
        # what a signal wrote since then is of the course that was left
        checkpoints.drop(self.job.folder, self.guard.good)
        dropped = log.rewind(self.at.step)
        line = {"step": self.at.step, "kind": "guard", "event": "rollback", "why": fault}
        line |= {"from": at.step, "learning_rate_factor": self.guard.rate}
        # which rows were skipped stays known
        log.write(line | {"skipped": [each for each in dropped if each["kind"] == "guard"]})
        self.job.progress.say(
            f"{told}: back to step {self.at.step}, with {self.guard.rate:g} of the learning rate"
        )

    def report(self, log: MetricsLog, tokens: int, seconds: float) -> None:
        """Log mean loss and speed since the last report."""
        if not self.pending:
            return  # every step since was skipped
        means = mean_logs(self.pending)
        loss = means["loss"]
        self.pending = []
        speed = (self.at.tokens - tokens) / max(1e-9, self.at.seconds - seconds)
        rate = self.optimizer.param_groups[0]["lr"]
        log.add(
            self.at.step,
            "train",
            {
                **means,
                "learning_rate": rate,
                "tokens_per_second": speed,
                "seconds": self.at.seconds,
            },
        )
        share = self.share()
        left = self.at.seconds * (1 - share) / share if share else None
        self.job.progress.update(self.at.step, share, loss, speed, left)

    def finite(self) -> bool:
        """Whether every weight is finite; asked before anything is kept."""
        norms = torch._foreach_norm([p.detach() for p in self.parameters])
        return math.isfinite(float(torch.stack(norms).sum()))

    def due(self) -> bool:
        """Whether an evaluation is due at this step."""
        every = self.job.settings.evaluate_every
        if self.at.epoch < self.job.settings.pretrain_epochs:
            return False
        if every is not None:
            return self.at.step % every == 0
        return self.at.index >= self.job.source.length(self.at.epoch)

    def evaluate(self, log: MetricsLog) -> None:
        """Score the dev part; keep the best weights, count patience, cut the plateau's rate."""
        job, at, settings = self.job, self.at, self.job.settings
        self.average.before_evaluation()
        if job.evaluate is None:
            return
        job.model.eval()
        with self.average.applied(), torch.no_grad(), job.place.autocast():
            at.scores = job.evaluate(job.model)
            if not all(map(math.isfinite, at.scores.values())):
                raise UserError(
                    f"a dev score is no longer finite at step {at.step}: lower "
                    "training.learning_rate or training.clip; the last checkpoint is intact"
                )
            score = at.scores[job.metric]
            if at.best is None or (score > at.best if job.higher else score < at.best):
                at.best, at.best_step, at.best_scores = score, at.step, at.scores
                at.stale, at.cut_stale = 0, 0
                self.best = snapshot(job.model)
                job.keep_best(self.best)
            else:
                at.stale, at.cut_stale = at.stale + 1, at.cut_stale + 1
        job.model.train()
        self.average.after_evaluation(score if job.higher else -score)
        log.add(at.step, "dev", {**at.scores, "seconds": at.seconds})
        shown = "  ".join(f"{name} {value:.4f}" for name, value in at.scores.items())
        job.progress.say(f"step {at.step}  dev: {shown}")
        if settings.schedule == "plateau" and at.cut_stale > settings.plateau_patience:
            at.cuts, at.cut_stale = at.cuts + 1, 0
        if settings.patience is not None and at.stale >= settings.patience:
            at.stopped = f"no progress in {settings.patience} evaluations"

    def save(self) -> None:
        """Write a checkpoint."""
        job = self.job
        tensors = under("model", job.model.state_dict())
        state: dict[str, Any] = {
            "position": {name: getattr(self.at, name) for name in Position.__slots__},
            "groups": [
                {k: v for k, v in group.items() if k != "params"}
                for group in self.optimizer.state_dict()["param_groups"]
            ],
            "guard": asdict(self.guard),
        }
        for number, slots in self.optimizer.state_dict()["state"].items():
            tensors |= under(
                f"optimizer.{number}", {k: v for k, v in slots.items() if v is not None}
            )
        tensors |= under("average", self.average.to_tensors())
        tensors |= under("random", {"cpu": torch.get_rng_state()})
        if job.place.device.type == "cuda":
            tensors |= under("random", {"cuda": torch.cuda.get_rng_state(job.place.device)})
        tensors |= under("carry", pack(self.carry) if self.carry is not None else {})
        tensors |= under("best", self.best or {})
        if self.pending:
            tensors |= under("pending", pack_losses(self.pending))
        told = Checkpoint(self.at.step, tensors, state)
        checkpoints.save(job.folder, told, job.settings.keep, self.guard.good)
        self.saved = self.at.step

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint that another process wrote. Raises UserError: it does not fit."""
        try:
            self.restore(checkpoint)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            path = self.job.folder / f"step-{checkpoint.step}"
            first = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"{path}: this checkpoint does not fit the run ({first}); remove it to go on from "
                "an older one"
            ) from None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint: after it the next step is the one that would have come."""
        job = self.job
        job.model.load_state_dict(checkpoint.group("model"))
        self.at = Position(**checkpoint.state["position"])
        # a checkpoint of before the guards has none
        self.guard = Guard(**checkpoint.state.get("guard", {"good": self.at.step}))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoint.group("optimizer").items():
            number, name = key.split(".", 1)
            slots.setdefault(int(number), {})[name] = value
        saved = self.optimizer.state_dict()["param_groups"]
        groups = [
            {**now, **then, "params": now["params"]}
            for now, then in zip(saved, checkpoint.state["groups"], strict=True)
        ]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.average.from_tensors(checkpoint.group("average"))
        torch.set_rng_state(checkpoint.tensors["random.cpu"])
        if "random.cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["random.cuda"], job.place.device)
        carried = checkpoint.group("carry")
        tensors = {k: v.to(job.place.device) for k, v in carried.items()}
        self.carry = unpack(tensors) if tensors else None
        self.best = checkpoint.group("best") or None
        if self.best is not None:
            job.keep_best(self.best)
        self.pending = unpack_losses(checkpoint.group("pending"))
        self.saved = self.at.step


def waited(*values: Tensor | float) -> list[float]:
    """Return tensors as numbers, after one wait for the device they are on."""
    if all(isinstance(value, float) or value.is_cpu for value in values):
        return [float(value) for value in values]
    return torch.stack([torch.as_tensor(value).detach().float() for value in values]).tolist()


def mean_logs(losses: list[Loss]) -> dict[str, float]:
    """Return the mean loss, and the mean of everything else that the objective logs."""
    sums: dict[str, list[float]] = {}
    for part in losses:
        for name, (total, count) in {"loss": (part.sum, part.count), **part.logs}.items():
            both = sums.setdefault(name, [0.0, 0.0])
            both[0] += float(total)
            both[1] += float(count)
    return {name: total / (count or 1.0) for name, (total, count) in sums.items()}


def pack_losses(losses: list[Loss]) -> dict[str, Tensor]:
    """Return losses that were not logged yet as tensors: row i of each is that of losses[i]."""
    names = {name for part in losses for name in part.logs}
    none = (torch.zeros(()), torch.zeros(()))

    def column(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.stack([torch.stack([a.cpu().double(), b.cpu().double()]) for a, b in pairs])

    packed = {"": column([(part.sum, part.count) for part in losses])}
    return packed | {name: column([part.logs.get(name, none) for part in losses]) for name in names}


def unpack_losses(tensors: dict[str, Tensor]) -> list[Loss]:
    """Return the losses that ``pack_losses`` wrote."""
    named = {name: rows for name, rows in tensors.items() if name}
    return [
        Loss(row[0], row[1], None, {name: (rows[i][0], rows[i][1]) for name, rows in named.items()})
        for i, row in enumerate(tensors.get("", []))
    ]


def planned_steps(settings: TrainingConfig, source: Source) -> int | None:
    """Return the number of steps a run is bounded by, or None when only time bounds it."""
    limits = [settings.max_steps] if settings.max_steps is not None else []
    if settings.max_epochs is not None:
        limits.append(epoch_steps(settings, source, settings.max_epochs))
    return min(limits) if limits else None


def epoch_steps(settings: TrainingConfig, source: Source, epochs: int) -> int:
    """Return the number of steps in the first epochs."""
    return sum(-(-source.length(epoch) // settings.accumulate) for epoch in range(epochs))
