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

from unrolled.core.errors import UserError, is_out_of_memory
from unrolled.core.words import option
from unrolled.data.batches import BatchSource
from unrolled.data.examples import Ints
from unrolled.nn.state import State, pack, unpack
from unrolled.training import checkpoints, optimizers, parallel
from unrolled.training.averaging import Average, Weights, snapshot
from unrolled.training.checkpoints import Checkpoint, under
from unrolled.training.guards import Guard
from unrolled.training.losses import mean_logs, pack_losses, unpack_losses, waited
from unrolled.training.objectives import Loss, Objective
from unrolled.training.parallel import ProcessGroup, StepReport
from unrolled.training.precision import ComputeDevice
from unrolled.training.progress import MetricsLog, Progress, SilentLog
from unrolled.training.schedules import factor
from unrolled.training.settings import TrainingConfig
from unrolled.training.stopping import Stop

Scores = dict[str, float]
COUNTED = 1000  # epochs whose batches are counted one by one


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """All that a training needs.

    ``evaluate`` scores the model on the dev part (dropout off, averaged weights applied), or is
    None; ``metric`` names the score that chooses the best weights and ``higher`` its direction;
    ``keep_best`` is called with the weights whenever they are the best so far; ``lines`` tells
    where rows of the source stand in their file, where they stand in one; ``world`` is this process
    among those that train together, of which the first evaluates and writes; ``begun`` are plain
    values that every checkpoint keeps; ``still_ours`` says whether the run's folder is the one that
    the training began in.
    """

    model: nn.Module
    objective: Objective
    source: BatchSource
    settings: TrainingConfig
    place: ComputeDevice
    seed: int
    folder: Path
    metric: str
    higher: bool
    evaluate: Callable[[nn.Module], Scores] | None
    keep_best: Callable[[Weights], None]
    progress: Progress
    lines: Callable[[Ints], list[int]] | None = None
    world: ProcessGroup = field(default_factory=parallel.world)
    begun: dict[str, Any] = field(default_factory=dict)
    still_ours: Callable[[], bool] = lambda: True


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
    epoch_ended: bool = (
        False  # the last batch of this epoch was read, and none of the next
    )


def fit(job: TrainingJob, resume: bool) -> Position:
    """Train until a limit or early stopping, and return where the run ended.

    With ``resume`` the newest whole checkpoint in the folder is taken up first; a run stopped at
    any point and resumed makes the same updates, bit for bit, as one that was never stopped.

    SIGINT and SIGTERM end it after the step that is being made, with a checkpoint; where several
    processes train, all end after the same step.

    Raises:
        UserError: too many losses are not finite, the disk refuses a checkpoint, or another
            process of this training has ended.
        Interrupted, Terminated: SIGINT or SIGTERM came; the run can be resumed.
    """
    world = job.world
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    world.spread_weights(job.model)
    trainer = Trainer(job)
    found, faults = checkpoints.newest(job.folder) if resume else (None, [])
    for fault in faults:
        job.progress.say(fault)
    if faults and found is None:
        raise UserError(
            f"{job.folder}: no checkpoint is whole; begin anew with another {option('out')}"
        )
    world.same(found.step if found else 0, job.folder)
    if found is not None:
        trainer.take_up(found)
    file = job.folder.parent / "metrics.jsonl"
    step = trainer.at.step
    log = (
        MetricsLog(file, step, job.settings.tensorboard) if world.first else SilentLog()
    )
    try:
        with Stop(job.progress.quiet) as stop:
            run_in_memory(trainer, log, stop)
            world.wait()  # for what the first one still writes
            stop.number = stop.number or trainer.told.signal
            stop.end(trainer.at.step, job.folder.parent)
    finally:
        log.close()
    return trainer.at


def run_in_memory(trainer: Trainer, log: MetricsLog, stop: Stop) -> None:
    """Run the updates. Raises UserError: a batch takes more memory than there is."""
    try:
        trainer.run(log, stop)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory after step {trainer.at.step}; lower training.batch_size, "
            "training.window or model.hidden"
        ) from None


class Trainer:
    """The mutable part of a run: weights, optimizer, average, carried state, position."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.at = Position()
        self.optimizer = optimizers.build_optimizer(job.model, job.settings)
        self.average = Average(job.model, job.settings)
        self.parameters = [p for p in job.model.parameters() if p.requires_grad]
        self.carry: State | None = None
        self.best: Weights | None = None
        self.total = planned_steps(job.settings, job.source)
        self.pretraining = epoch_steps(
            job.settings, job.source, job.settings.pretrain_epochs
        )
        self.pending: list[Loss] = []
        self.saved = -1
        self.guard = Guard()
        self.stop: Stop | None = None
        self.began = 0.0
        self.told = StepReport(0, 0.0, 0)
        self.counted = True  # whether the rows that are carried are rows of its own
        parallel.seeded(job.seed, job.world.rank, 0)

    def run(self, log: MetricsLog, stop: Stop | None = None) -> None:
        """Make updates until a limit is reached, or a signal asks for the end."""
        settings = self.job.settings
        self.stop = stop
        self.began = time.monotonic() - self.at.seconds
        logged = (self.at.tokens, self.at.seconds)
        if self.at.stopped == "limit":
            self.at.stopped = (
                ""  # a larger limit goes on; early stopping stays what it was
            )
        self.job.model.train()
        while not self.at.stopped and self.share() < 1 and not self.asked():
            self.refuse_lost()
            if self.at.index >= self.job.source.length(self.at.epoch):
                self.at.epoch = self.at.epoch + 1
                self.at.index = 0
            fault = self.step(log)
            self.at.seconds = (
                self.told.seconds if self.job.world.grouped else self.clock()
            )
            ended = self.share() >= 1
            shown = self.at.step % settings.log_every == 0 or ended
            scored = self.due() or ended
            saved = self.guard.checkpoint_due(self.at.step, settings.checkpoint_every)
            if not fault and (shown or scored or saved) and not self.finite():
                fault = "the weights are no longer finite"
            if fault:
                self.go_back(fault, log)
                logged = (self.at.tokens, self.clock())
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
                self.keep(snapshot(self.job.model))
        # a signal may come where the weights were not looked at yet
        if self.saved != self.at.step and self.finite():
            self.save()

    def refuse_lost(self) -> None:
        """Raise UserError where the folder was removed, or begun anew, under this training."""
        if self.job.world.first and not self.job.still_ours():
            raise UserError(
                f"{self.job.folder.parent} was removed or begun anew while it was trained; nothing "
                "more is written there"
            )

    def clock(self) -> float:
        """Return the seconds of the run, by this process's own clock."""
        return time.monotonic() - self.began

    def asked(self) -> int:
        """Return the signal that ends the run; of several processes all must know of it."""
        if self.job.world.grouped:
            return self.told.signal
        return self.stop.number if self.stop else 0

    def keep(self, weights: Weights) -> None:
        """Hand out the best weights, once."""
        self.refuse_lost()
        if self.job.world.first:
            self.job.keep_best(weights)

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
        job = self.job
        at = self.at
        rate = job.settings.learning_rate * factor(job.settings, *self.pace(), at.cuts)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.guard.rate
        if at.step == self.pretraining:
            self.guard.forget()
        last = min(at.index + job.settings.accumulate, job.source.length(at.epoch))
        carried = self.carry
        losses = list[Loss]()
        rows = list[Ints]()
        tokens = 0
        for index in range(at.index, last):
            batch, self.counted = job.world.share(job.source, at.epoch, index)
            if batch.restart:
                carried = None  # the state of another place of the text
            if self.counted:
                tokens += batch.steps  # counted on the host, where it is no wait
                rows.append(batch.rows)
            batch = batch.to(job.place.device)
            with job.place.autocast():
                loss = job.objective(job.model, batch, self.carry)
            loss = loss if self.counted else parallel.for_nothing(loss)
            loss.sum.backward()
            self.carry = loss.carry
            logs = {k: (a.detach(), b.detach()) for k, (a, b) in loss.logs.items()}
            losses.append(Loss(loss.sum.detach(), loss.count.detach(), None, logs))
        seconds = self.clock() if job.world.grouped else at.seconds
        mine = StepReport(tokens, seconds, self.stop.number if self.stop else 0)
        losses, self.told = job.world.exchange(losses, self.parameters, mine)
        at.tokens += self.told.tokens
        fault = self.update(losses)
        if fault:
            self.carry = carried
            self.note(
                log, fault, [each for part in job.world.gather(rows) for each in part]
            )
        else:
            self.pending += losses
        at.index = last
        at.step = at.step + 1
        at.epoch_ended = last >= job.source.length(at.epoch)
        return fault if fault and self.guard.spent(at.step, job.settings) else ""

    def update(self, losses: list[Loss]) -> str:
        """Divide the summed gradients by the global count, clip them and move the weights.

        Loss and norm are looked at before the weights move: one wait for the device a step.

        Returns:
            Why the weights were left as they are, else an empty text.
        """
        settings = self.job.settings
        parts = [part.sum for part in losses]
        count = sum(part.count for part in losses[1:]) + losses[0].count
        here = self.job.place.device.type == "cpu"
        # elsewhere a number on the host is a wait, and one a step is enough; weights of labels may
        # count less than 1, and nothing scored is no update
        share = (
            1.0 / (float(count) or 1.0)
            if here
            else 1.0 / torch.where(count > 0, count, 1)
        )
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

    def note(self, log: MetricsLog, fault: str, read: list[Ints]) -> None:
        """Log a step that was skipped, and which rows it had read, in all processes."""
        at = self.at
        lines = self.job.lines
        rows = np.concatenate([np.empty(0, np.int64), *read])
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
        at = self.at
        settings = self.job.settings
        made = self.guard.rollbacks + 1
        told = f"{fault} at step {at.step} (skipped steps: {self.guard.skipped})"
        if made > settings.rollbacks or self.guard.good < 0:
            kept = (
                "the last checkpoint is intact"
                if self.saved >= 0
                else "no checkpoint yet"
            )
            raise UserError(
                f"{told}: lower training.learning_rate (now "
                f"{settings.learning_rate * self.guard.rate:g}) or training.clip, or look at the "
                f"rows that metrics.jsonl names; {kept}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.restore(checkpoints.load(self.job.folder / f"step-{self.guard.good}"))
        self.guard.rollbacks = made
        if self.job.world.first:
            # what a signal wrote since then is of the course that was left
            checkpoints.drop(self.job.folder, self.guard.good)
        dropped = log.rewind(self.at.step)
        line = {
            "step": self.at.step,
            "kind": "guard",
            "event": "rollback",
            "why": fault,
        }
        line |= {"from": at.step, "learning_rate_factor": self.guard.rate}
        # which rows were skipped stays known
        log.write(
            line | {"skipped": [each for each in dropped if each["kind"] == "guard"]}
        )
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
        job = self.job
        at = self.at
        settings = self.job.settings
        self.average.before_evaluation()
        if job.evaluate is None:
            return
        job.model.eval()
        with self.average.applied(), torch.no_grad(), job.place.autocast():
            at.scores = job.world.spread(
                job.evaluate(job.model) if job.world.first else {}
            )
            if not all(map(math.isfinite, at.scores.values())):
                raise UserError(
                    f"a dev score is no longer finite at step {at.step}: lower "
                    "training.learning_rate or training.clip; the last checkpoint is intact"
                )
            score = at.scores[job.metric]
            if at.best is None or (score > at.best if job.higher else score < at.best):
                at.best = score
                at.best_step = at.step
                at.best_scores = at.scores
                at.stale = 0
                at.cut_stale = 0
                self.best = snapshot(job.model)
                self.keep(self.best)
            else:
                at.stale = at.stale + 1
                at.cut_stale = at.cut_stale + 1
        job.model.train()
        self.average.after_evaluation(score if job.higher else -score)
        log.add(at.step, "dev", {**at.scores, "seconds": at.seconds})
        shown = "  ".join(f"{name} {value:.4f}" for name, value in at.scores.items())
        job.progress.say(f"step {at.step}  dev: {shown}")
        if settings.schedule == "plateau" and at.cut_stale > settings.plateau_patience:
            at.cuts = at.cuts + 1
            at.cut_stale = 0
        if settings.patience is not None and at.stale >= settings.patience:
            at.stopped = f"no progress in {settings.patience} evaluations"

    def own(self) -> dict[str, Tensor]:
        """Return what is of this process alone: random states, and the state it carries."""
        device = self.job.place.device
        tensors = {"random.cpu": torch.get_rng_state()}
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        if self.carry is not None and self.counted:
            tensors |= under("carry", {k: v.cpu() for k, v in pack(self.carry).items()})
        return tensors

    def save(self) -> None:
        """Write a checkpoint, with what is of each process."""
        self.refuse_lost()
        job = self.job
        owned = job.world.gather(self.own())
        if not job.world.first:
            self.saved = self.at.step
            return
        moved, groups = optimizers.to_tensors(self.optimizer)
        tensors = under("model", job.model.state_dict()) | under("optimizer", moved)
        state: dict[str, Any] = {
            "position": {name: getattr(self.at, name) for name in Position.__slots__},
            "groups": groups,
            "guard": asdict(self.guard),
            "processes": job.world.size,
            "begun": job.begun,
        }
        tensors |= under("average", self.average.to_tensors())
        tensors |= parallel.merged(owned)
        tensors |= under("best", self.best or {})
        if self.pending:
            tensors |= under("pending", pack_losses(self.pending))
        told = Checkpoint(self.at.step, tensors, state)
        checkpoints.save(job.folder, told, job.settings.keep, self.guard.good)
        self.saved = self.at.step

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint that another run wrote. Raises UserError: it does not fit."""
        before = checkpoint.state.get("processes", 1)
        now = self.job.world.size
        if before != now:
            self.job.progress.say(
                f"{before} processes trained before, {now} now: the losses will be the same to "
                "rounding where nothing is drawn by chance, not the same bits"
            )
        try:
            self.restore(checkpoint)
        except (
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            OverflowError,
            RuntimeError,
        ) as error:
            if is_out_of_memory(error):
                raise
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
        moved = checkpoint.group("optimizer")
        groups = checkpoint.state["groups"]
        optimizers.from_tensors(self.optimizer, moved, groups)
        self.average.from_tensors(checkpoint.group("average"))
        self.take_own(checkpoint)
        self.best = checkpoint.group("best") or None
        if self.best is not None:
            self.keep(self.best)
        self.pending = unpack_losses(checkpoint.group("pending"))
        self.saved = self.at.step

    def take_own(self, checkpoint: Checkpoint) -> None:
        """Take up the random states of this process and its rows of the carried state."""
        job = self.job
        device = self.job.place.device
        states = parallel.random_states(checkpoint.group("random"), job.world.rank)
        if job.world.rank and "cpu" not in states:  # fewer processes trained before
            parallel.seeded(job.seed, job.world.rank, checkpoint.step)
        else:
            torch.set_rng_state(states["cpu"])
        if "cuda" in states and device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
        tensors = {k: v.to(device) for k, v in checkpoint.group("carry").items()}
        self.carry = unpack(tensors) if tensors else None
        self.counted = self.carry is None or job.world.rank < self.carry.rows
        if self.carry is not None and job.world.size > 1:
            rows = torch.arange(self.carry.rows, device=device)
            self.carry = self.carry.reorder(rows[job.world.part(self.carry.rows)])


def planned_steps(settings: TrainingConfig, source: BatchSource) -> int | None:
    """Return the number of steps a run is bounded by, or None when only time bounds it."""
    limits = [settings.max_steps] if settings.max_steps is not None else []
    epochs = settings.max_epochs
    # an epoch is a step at least: of so many more need not be counted
    if epochs is not None and (
        settings.max_steps is None or epochs < settings.max_steps
    ):
        limits.append(epoch_steps(settings, source, epochs))
    return min(limits) if limits else None


def epoch_steps(settings: TrainingConfig, source: BatchSource, epochs: int) -> int:
    """Return the number of steps in the first epochs.

    Those of more than ``COUNTED`` follow from the first ones: to plan them all may take hours.
    """
    some = min(epochs, COUNTED)
    steps = sum(
        -(-source.length(epoch) // settings.accumulate) for epoch in range(some)
    )
    return steps if some == epochs else steps * epochs // some
