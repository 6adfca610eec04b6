"""The one training loop: batches in, updates, evaluations and checkpoints out.

It knows no architecture and no task: the model is any module, the objective returns a summed loss
and its divisor, and the dev scores come from a function that is passed in.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from unrolled.core.errors import UserError, is_out_of_memory
from unrolled.core.words import option
from unrolled.data.examples import Ints
from unrolled.training import checkpoints, parallel, sharding
from unrolled.training.averaging import Weights, snapshot
from unrolled.training.checkpoints import Checkpoint
from unrolled.training.job import Position, Scores, TrainingJob
from unrolled.training.losses import mean_logs
from unrolled.training.memory import freed_memory_kept
from unrolled.training.parallel import StepReport
from unrolled.training.planning import plan_steps
from unrolled.training.progress import MetricsLog, SilentLog
from unrolled.training.schedules import factor
from unrolled.training.state import TrainingState
from unrolled.training.stopping import Stop
from unrolled.training.update import Updater


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
    run_folder = job.folder.parent
    run_folder.mkdir(parents=True, exist_ok=True)
    world.broadcast_weights(job.model)
    if job.sharded:
        sharding.shard(job.model, job.compute_device, world)
    trainer = Trainer(job)
    checkpoint = newest_checkpoint(job) if resume else None
    world.require_same_step(checkpoint.step if checkpoint else 0, job.folder)
    if checkpoint is not None:
        trainer.take_up(checkpoint)
    log: MetricsLog = SilentLog()
    if world.first:
        step = trainer.position.step
        log = MetricsLog(run_folder / "metrics.jsonl", step, job.settings.tensorboard)
    try:
        with Stop(job.progress.quiet) as stop, freed_memory_kept():
            run_in_memory(trainer, log, stop)
            world.barrier()  # for what the first one still writes
            stop.number = stop.number or trainer.step_report.signal
            stop.end(trainer.position.step, run_folder)
    finally:
        log.close()
    return trainer.position


def newest_checkpoint(job: TrainingJob) -> Checkpoint | None:
    """Return the checkpoint to go on from, None where there is none at all.

    Raises:
        UserError: there are some, and none of them is whole.
    """
    checkpoint, passed_over = checkpoints.newest(job.folder)
    for sentence in passed_over:
        job.progress.say(sentence)
    if passed_over and checkpoint is None:
        raise UserError(
            f"{job.folder}: no checkpoint is whole; begin anew with another {option('out')}"
        )
    return checkpoint


def run_in_memory(trainer: Trainer, log: MetricsLog, stop: Stop) -> None:
    """Run the updates. Raises UserError: a batch takes more memory than there is."""
    try:
        trainer.run(log, stop)
    except (MemoryError, RuntimeError) as error:
        if parallel.is_lost(error):
            raise parallel.lost(error) from error
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory after step {trainer.position.step}; lower training.batch_size, "
            "training.window or model.hidden"
        ) from None


class Trainer:
    """Runs one training: what is due after which step, and what is logged, kept and undone.

    Attributes:
        state: what the training changes.
        updater: makes the updates.
        plan: the limits of the run.
        step_report: what all processes know after the last step.
        saved: the step of the last checkpoint of this run, -1 before there is one.
        reported: tokens and seconds at the last report, from which the speed is counted.
    """

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.state = TrainingState(job)
        self.updater = Updater(job, self.state)
        self.plan = plan_steps(job.settings, job.source)
        self.step_report = StepReport(0, 0.0, 0)
        self.saved = -1
        self.reported = (0, 0.0)
        self.stop: Stop | None = None
        self.began = 0.0
        parallel.seeded(job.seed, job.world.rank, 0)

    @property
    def position(self) -> Position:
        """Where the run stands; another object after a checkpoint was restored."""
        return self.state.position

    def run(self, log: MetricsLog, stop: Stop | None = None) -> None:
        """Make updates until a limit is reached, or a signal asks for the end."""
        job = self.job
        self.stop = stop
        self.began = time.monotonic() - self.position.seconds
        self.reported = (self.position.tokens, self.position.seconds)
        if self.position.stopped == "limit":
            # a larger limit goes on; early stopping stays what it was
            self.position.stopped = ""
        job.model.train()
        while not self.is_over():
            self.refuse_lost()
            if self.position.index >= job.source.length(self.position.epoch):
                self.position.epoch += 1
                self.position.index = 0
            reason = self.step(log)
            self.position.seconds = (
                self.step_report.seconds if job.world.grouped else self.clock()
            )
            self.after_step(reason, log)
        if self.is_at_limit():
            self.position.stopped = self.position.stopped or "limit"
        if self.position.stopped and self.state.best is None:
            # nothing was measured: the last weights are what is kept
            with self.state.average.applied():
                self.keep(snapshot(job.model))
        # a signal may come where the weights were not looked at yet
        if self.saved != self.position.step and self.state.is_finite():
            self.save()

    def is_over(self) -> bool:
        """Whether early stopping, a limit or a signal ends the run."""
        return bool(self.position.stopped or self.is_at_limit() or self.signal())

    def is_at_limit(self) -> bool:
        """Whether a limit of steps or time is reached."""
        return self.plan.progress(self.position) >= 1

    def signal(self) -> int:
        """Return the signal that ends the run; of several processes all must know of it."""
        if self.job.world.grouped:
            return self.step_report.signal
        return self.stop.number if self.stop else 0

    def clock(self) -> float:
        """Return the seconds of the run, by this process's own clock."""
        return time.monotonic() - self.began

    def refuse_lost(self) -> None:
        """Raise UserError where the folder was removed, or begun anew, under this training."""
        if self.job.world.first and not self.job.still_ours():
            raise UserError(
                f"{self.job.folder.parent} was removed or begun anew while it was trained; nothing "
                "more is written there"
            )

    def step(self, log: MetricsLog) -> str:
        """Make one update from ``accumulate`` batches, fewer at the end of an epoch.

        Returns:
            Why the run cannot go on like this, else an empty text.
        """
        job = self.job
        state = self.state
        position = state.position
        self.set_learning_rate()
        if position.step == self.plan.pretraining:
            state.guard.forget()
        length = job.source.length(position.epoch)
        state.unfreezing.follow(position, length)
        end = min(position.index + job.settings.accumulate, length)
        accumulated = self.updater.accumulate(range(position.index, end))
        seconds = self.clock() if job.world.grouped else position.seconds
        signal = self.stop.number if self.stop else 0
        own_report = StepReport(accumulated.tokens, seconds, signal)
        losses, self.step_report = job.world.exchange(
            accumulated.losses,
            # the others' are summed in the backward pass
            [] if job.sharded else state.parameters,
            own_report,
        )
        position.tokens += self.step_report.tokens
        reason = self.updater.update(losses)
        if reason:
            state.carry = accumulated.carry
            self.note_skipped(log, reason, job.world.gather(accumulated.rows))
        else:
            state.pending += losses
        position.index = end
        position.step += 1
        position.epoch_ended = end >= length
        if reason and state.guard.spent(position.step, job.settings):
            return reason
        return ""

    def set_learning_rate(self) -> None:
        """Give the optimizer the learning rate of the step that comes."""
        settings = self.job.settings
        made, progress = self.plan.phase_progress(self.position)
        scheduled = factor(settings, made, progress, self.position.cuts)
        rate = settings.learning_rate * scheduled
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate * self.state.guard.rate * group["rate_factor"]

    def after_step(self, reason: str, log: MetricsLog) -> None:
        """Report, score and save what is due, or go back where the run cannot go on.

        Args:
            reason: why it cannot, empty where it can.
            log: takes what is reported.
        """
        settings = self.job.settings
        guard = self.state.guard
        position = self.position
        is_last = self.is_at_limit()
        report_due = position.step % settings.log_every == 0 or is_last
        evaluation_due = self.evaluation_due() or is_last
        save_due = guard.checkpoint_due(position.step, settings.checkpoint_every)
        anything_due = report_due or evaluation_due or save_due
        # the weights are looked at before anything is kept of them
        if not reason and anything_due and not self.state.is_finite():
            reason = "the weights are no longer finite"
        if reason:
            self.go_back(reason, log)
            self.reported = (self.position.tokens, self.clock())
            return
        if report_due:
            self.report(log, *self.reported)
            self.reported = (position.tokens, position.seconds)
        if evaluation_due:
            self.evaluate(log)
        if save_due:
            guard.good = position.step
            self.save()

    def note_skipped(
        self, log: MetricsLog, reason: str, rows_by_process: list[list[Ints]]
    ) -> None:
        """Log a step that was skipped, and which rows it had read, in all processes."""
        position = self.position
        rows = np.empty(0, np.int64)
        for rows_of_batches in rows_by_process:
            rows = np.concatenate([rows, *rows_of_batches])
        line: dict[str, Any] = {
            "step": position.step + 1,
            "kind": "guard",
            "event": "skipped",
            "why": reason,
            "epoch": position.epoch,
            "index": position.index,
            "rows": rows.tolist(),
        }
        if self.job.lines is not None:
            line["lines"] = self.job.lines(rows)
        log.write(line)
        self.job.progress.say(
            f"step {position.step + 1}  skipped: {reason} (its rows stand in metrics.jsonl)"
        )

    def go_back(self, reason: str, log: MetricsLog) -> None:
        """Take up the last checkpoint again, with a lower learning rate.

        Raises:
            UserError: there is none, or this was done as often as it may be.
        """
        job = self.job
        guard = self.state.guard
        left_step = self.position.step
        message = f"{reason} at step {left_step} (skipped steps: {guard.skipped})"
        rollbacks = guard.rollbacks + 1
        if rollbacks > job.settings.rollbacks or guard.good < 0:
            rate = job.settings.learning_rate * guard.rate
            intact = "the last checkpoint is intact"
            kept = intact if self.saved >= 0 else "no checkpoint yet"
            raise UserError(
                f"{message}: lower training.learning_rate (now {rate:g}) or training.clip, or look "
                f"at the rows that metrics.jsonl names; {kept}"
            )
        self.state.optimizer.zero_grad(set_to_none=True)
        self.restore(checkpoints.load(job.folder / f"step-{guard.good}"))
        # of the state that was restored: that of before is gone
        guard = self.state.guard
        guard.rollbacks = rollbacks
        if job.world.first:
            # what a signal wrote since then is of the course that was left
            checkpoints.drop(job.folder, guard.good)
        dropped = log.rewind(self.position.step)
        line: dict[str, Any] = {
            "step": self.position.step,
            "kind": "guard",
            "event": "rollback",
            "why": reason,
            "from": left_step,
            "learning_rate_factor": guard.rate,
            # which rows were skipped stays known
            "skipped": [line for line in dropped if line["kind"] == "guard"],
        }
        log.write(line)
        job.progress.say(
            f"{message}: back to step {self.position.step}, with {guard.rate:g} of the learning "
            "rate"
        )

    def report(self, log: MetricsLog, tokens: int, seconds: float) -> None:
        """Log mean loss and speed since the last report, which was at these tokens and seconds."""
        pending = self.state.pending
        if not pending:
            return  # every step since was skipped
        self.state.pending = []
        position = self.position
        means = mean_logs(pending)
        tokens_since = position.tokens - tokens
        speed = tokens_since / max(1e-9, position.seconds - seconds)
        values = {
            **means,
            "learning_rate": max(
                group["lr"] for group in self.state.optimizer.param_groups
            ),
            "tokens_per_second": speed,
            "seconds": position.seconds,
        }
        log.add(position.step, "train", values)
        done = self.plan.progress(position)
        left = position.seconds * (1 - done) / done if done else None
        self.job.progress.update(position.step, done, means["loss"], speed, left)

    def evaluation_due(self) -> bool:
        """Whether an evaluation is due at this step."""
        settings = self.job.settings
        position = self.position
        if position.epoch < settings.pretrain_epochs:
            return False
        if settings.evaluate_every is not None:
            return position.step % settings.evaluate_every == 0
        return position.index >= self.job.source.length(position.epoch)

    def evaluate(self, log: MetricsLog) -> None:
        """Score the dev part; keep the best weights, count patience, cut the plateau's rate."""
        job = self.job
        position = self.position
        settings = job.settings
        average = self.state.average
        average.before_evaluation()
        if job.evaluate is None:
            return
        job.model.eval()
        with average.applied(), torch.no_grad(), job.compute_device.autocast():
            position.scores = job.world.broadcast(self.score())
            self.take_scores(position.scores)
        job.model.train()
        score = position.scores[job.metric]
        average.after_evaluation(score if job.higher else -score)
        log.add(position.step, "dev", {**position.scores, "seconds": position.seconds})
        listed = [f"{name} {value:.4f}" for name, value in position.scores.items()]
        job.progress.say(f"step {position.step}  dev: {'  '.join(listed)}")
        is_plateau = settings.schedule == "plateau"
        if is_plateau and position.cut_stale > settings.plateau_patience:
            position.cuts += 1
            position.cut_stale = 0
        goal = settings.stop_at
        if goal is not None and (score >= goal if job.higher else score <= goal):
            position.stopped = f"{job.metric} {score:.4f} is as good as was asked for"
        if settings.patience is not None and position.stale >= settings.patience:
            position.stopped = f"no progress in {settings.patience} evaluations"

    def score(self) -> Scores:
        """Score the dev part: in the first process, in all where each has a part of the weights."""
        job = self.job
        assert job.evaluate is not None
        if job.sharded:
            with sharding.gathered_outside_units(job.model):
                return job.evaluate(job.model)
        return job.evaluate(job.model) if job.world.first else {}

    def take_scores(self, scores: Scores) -> None:
        """Keep the weights, the averaged ones where there are any, if the scores are the best.

        Raises:
            UserError: a score is not finite.
        """
        job = self.job
        position = self.position
        if not all(map(math.isfinite, scores.values())):
            raise UserError(
                f"a dev score is no longer finite at step {position.step}: lower "
                "training.learning_rate or training.clip; the last checkpoint is intact"
            )
        score = scores[job.metric]
        best = position.best
        if best is None or (score > best if job.higher else score < best):
            position.best = score
            position.best_step = position.step
            position.best_scores = scores
            position.stale = 0
            position.cut_stale = 0
            self.state.best = snapshot(job.model)
            self.keep(self.state.best)
        else:
            position.stale += 1
            position.cut_stale += 1

    def keep(self, weights: Weights) -> None:
        """Hand out the best weights, once."""
        self.refuse_lost()
        if self.job.sharded:
            weights = sharding.whole_tensors(weights, self.job.world.first)
        if self.job.world.first:
            self.job.keep_best(weights)

    def save(self) -> None:
        """Write a checkpoint, with what is of each process."""
        self.refuse_lost()
        job = self.job
        state = self.state
        owned = job.world.gather(state.own_tensors())
        if job.sharded or job.world.first:
            checkpoint = state.to_checkpoint(owned)
        if job.world.first:
            keep = job.settings.keep
            checkpoints.save(job.folder, checkpoint, keep, state.guard.good)
        self.saved = self.position.step

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
        self.state.restore(checkpoint)
        if self.state.best is not None:
            self.keep(self.state.best)
        self.saved = self.position.step
