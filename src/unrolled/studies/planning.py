"""The runs of a comparison with the width and the time that each has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from unrolled.core.errors import UsageError, UserError
from unrolled.core.files import read_json, write_json
from unrolled.core.plugins import LOADED
from unrolled.core.words import counted, option
from unrolled.studies.running import BASELINE_JOB, Result, WorkerJob, run_workers
from unrolled.studies.settings import STUDY, StudySettings
from unrolled.studies.sizes import check_sized, with_equal_sizes
from unrolled.studies.trials import LIMIT, Trial
from unrolled.studies.worker import WorkerRequest
from unrolled.training.progress import duration

SLACK = (
    1.2  # of the time that a run takes beside its training, for those that take longer
)
BASELINES = 0.1  # of the budget, which simple methods may take
UNBOUND = 60.0  # seconds for them without a budget
LEAST = 1.0  # seconds of training that are worth a run
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PlannedStudy:
    """A study whose runs are known: with widths and times."""

    settings: StudySettings
    folder: Path
    trials: list[Trial]
    minutes: float | None = None
    overhead: float | None = None
    notes: list[str] = field(default_factory=list)

    def job(self, trial: Trial) -> WorkerJob:
        """Return what a worker does for a run."""
        changes = dict(trial.changes)
        if self.minutes is not None:
            changes["training.max_minutes"] = self.minutes
        limits = self.settings.vary.get(LIMIT)
        request = WorkerRequest(
            self.settings.target,
            changes,
            str(self.folder / "runs" / trial.name),
            tuple(LOADED),
            {LIMIT: max(limits)} if limits else None,
        )
        return WorkerJob(trial.name, request, self.folder / "done")

    def baselines(self) -> WorkerJob:
        """Return what a worker does for simple methods on the rows of the first run."""
        budget = self.settings.budget
        request = replace(
            self.job(self.trials[0]).request,
            score_on=None,
            baselines=UNBOUND if budget is None else BASELINES * budget,
        )
        return WorkerJob(BASELINE_JOB, request, self.folder / "done")


def plan_study(settings: StudySettings, folder: Path, say: Say) -> PlannedStudy:
    """Return the study with the width and the time of each run, as it was begun or measured now.

    Raises:
        UserError: data or keys are wrong, or the budget is too small.
    """
    trials = settings.study.trials()
    path = folder / STUDY
    if path.exists():
        saved = read_json(path)
        widths = saved["changes"]
        trials = [trial.with_changes(widths.get(trial.name, {})) for trial in trials]
        return PlannedStudy(
            settings,
            folder,
            trials,
            saved["minutes"],
            saved["overhead"],
            saved["notes"],
        )
    _check_limits(settings)
    notes: list[str] = []
    if settings.params is not None:
        check_sized(trials)
        trials, notes = with_equal_sizes(settings.target, trials, settings.params)
    planned = PlannedStudy(settings, folder, trials, notes=notes)
    if settings.budget is not None:
        planned = _divided(planned, settings.budget, say)
    plain = settings.study.trials()
    more = {
        trial.name: {
            key: value
            for key, value in trial.changes.items()
            if before.changes.get(key) != value
        }
        for trial, before in zip(trials, plain, strict=True)
    }
    document = {
        "settings": asdict(settings),
        "changes": more,
        "minutes": planned.minutes,
        "overhead": planned.overhead,
        "notes": notes,
    }
    write_json(path, document)
    return planned


def _check_limits(settings: StudySettings) -> None:
    """Refuse varied limits of data whose held-out part would not be the same rows."""
    limits = settings.vary.get(LIMIT)
    if not limits:
        return
    from unrolled.data.sources import Table
    from unrolled.fields.series import Series
    from unrolled.runs.prepare import held_out
    from unrolled.runs.recipes import requested

    changes = {**settings.changes, LIMIT: max(limits)}
    recipe = requested(settings.target, changes)
    rows = held_out(recipe)
    if recipe.data.dev is None and (
        not isinstance(rows, Table) or isinstance(rows, Series)
    ):
        raise UsageError(
            f"{LIMIT} can be varied where rows are held out by their hash; of this data the end is "
            "held out: give data.dev=FILE"
        )


def _divided(planned: PlannedStudy, budget: float, say: Say) -> PlannedStudy:
    """Return a study whose runs have an equal time, after measuring what else a run takes.

    Raises:
        UserError: what is measured cannot be trained, or the budget leaves nothing to train.
    """
    settings = planned.settings
    count = len(planned.trials)
    if budget * settings.at_once < count * LEAST:
        raise _too_small(budget, count, count * LEAST / settings.at_once)
    began = time.monotonic()
    overhead = _measured(planned)
    left = budget - (time.monotonic() - began)
    rounds = math.ceil(count / settings.at_once)
    beside = rounds * SLACK * overhead + BASELINES * budget / settings.at_once
    seconds = (left - beside) / rounds
    if seconds < LEAST:
        kept = 1 - BASELINES / settings.at_once
        needed = (budget - left + rounds * (SLACK * overhead + LEAST)) / kept
        raise _too_small(budget, count, needed)
    say(
        f"{counted(count, 'run')}, {settings.at_once} at a time: each is trained for "
        f"{duration(seconds)}; to start and score one takes {duration(overhead)} more"
    )
    return PlannedStudy(
        settings, planned.folder, planned.trials, seconds / 60, overhead, planned.notes
    )


def _too_small(budget: float, count: int, needed: float) -> UsageError:
    minutes = math.ceil(needed / 60 * 10) / 10
    return UsageError(
        f"{option('budget')} {duration(budget)} is too small for an update of each of "
        f"{counted(count, 'run')}, which takes {minutes:g}m at least; give more, or fewer layers, "
        "values or seeds"
    )


def _measured(planned: PlannedStudy) -> float:
    """Return the seconds that a run takes beside its training: one of a step, as many at once."""
    walls: list[float] = []

    def report(job: WorkerJob, result: Result) -> None:
        if "error" in result:
            raise as_error(result)
        walls.append(time.monotonic() - began)

    planned.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".measured-", dir=planned.folder) as home:
        jobs = []
        for trial in planned.trials[: planned.settings.at_once]:
            changes = {**trial.changes, "training.max_steps": 1}
            request = replace(
                planned.job(trial).request,
                changes=changes,
                folder=str(Path(home) / trial.name),
            )
            jobs.append(WorkerJob(trial.name, request, Path(home) / "done"))
        began = time.monotonic()
        run_workers(jobs, len(jobs), report)
    return max(walls)


def as_error(result: Result) -> UserError:
    error = UserError(result["error"])
    if result["exit_code"] == UsageError.exit_code:
        error = UsageError(result["error"])
    return error
