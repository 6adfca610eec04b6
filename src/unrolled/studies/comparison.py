"""``compare``: layers side by side on a person's own data, at equal time or equal size."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unrolled.core.errors import UsageError, UserError
from unrolled.core.files import read_json, write_json
from unrolled.core.locks import LOCK, locked
from unrolled.core.plugins import LOADED
from unrolled.core.terminal import note
from unrolled.core.words import counted, option
from unrolled.runs.keys import flat
from unrolled.studies import page
from unrolled.studies.findings import Findings, gather
from unrolled.studies.running import Result, WorkerJob, run_workers
from unrolled.studies.sizes import check_sized, with_equal_sizes
from unrolled.studies.trials import (
    ALL_LAYERS,
    LIMIT,
    Study,
    Trial,
    check_varied,
    read_layers,
)
from unrolled.studies.worker import WorkerRequest
from unrolled.training.progress import duration

STUDY = "study.json"
SLACK = (
    1.2  # of the time that a run takes beside its training, for those that take longer
)
BASELINES = 0.1  # share of the budget that simple methods may take
LEAST = 1.0  # seconds of training that are worth a run
Say = Callable[[str], None]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What a study is begun with, and what a resumed one must have again.

    Attributes:
        target, changes, layers, vary, seeds: see ``Study``.
        budget: seconds for all of it, or None.
        params: parameters of each model, or None.
        at_once: runs that are trained at the same time.
    """

    target: str
    changes: dict[str, Any]
    layers: list[str]
    vary: dict[str, list[Any]]
    seeds: int
    budget: float | None
    params: int | None
    at_once: int

    @property
    def study(self) -> Study:
        """The runs of it."""
        return Study(self.target, self.changes, self.layers, self.vary, self.seeds)


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
            self.baseline_seconds(trial),
        )
        return WorkerJob(trial.name, request, self.folder / "done")

    def baseline_seconds(self, trial: Trial) -> float | None:
        """Return how long simple methods may take: those of the first layer and seed are shown."""
        first = self.trials[0]
        if (trial.layer, trial.seed) != (first.layer, first.seed):
            return None
        budget = self.settings.budget
        return 60.0 if budget is None else BASELINES * budget


def compare(
    target: str | Path,
    *,
    layers: Sequence[str] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    budget: float | None = None,
    params: int | None = None,
    out: str | Path | None = None,
    at_once: int | None = None,
    lang: str = "auto",
    say: Say = note,
    **changes: Any,
) -> Findings:
    """Train layers on the same data and set them side by side; one that was stopped goes on.

    Writes ``compare.html`` and ``compare.json`` into the folder, beside the runs.

    Args:
        target: a recipe's name, a YAML file, a data file or the folder of a run.
        layers: their names; all that ship, or that of the recipe where something is varied.
        vary: several values of dotted keys, such as ``{"data.limit": [100, 1000]}``.
        seeds: runs of each, which draw first weights, the order of the rows, and which are held
            out.
        budget: seconds for all of it; each run is trained for an equal part.
        params: how many parameters each model has; ``model.hidden`` is chosen so.
        out: the folder; ``studies/compare-NAME`` by default.
        at_once: runs that are trained at the same time; by default as the cores allow.
        lang: the language of the page, ``en`` or ``ko``; ``auto`` follows the browser.
        say: takes a line of each run that ended.
        changes: keys of the recipe that all runs have.

    Raises:
        UserError: a name, a key or a value is wrong, the folder holds another study, the budget is
            too small, or no run could be trained.
        KeyboardInterrupt, SystemExit: a signal came; what was trained so far is kept.
    """
    settings = _settings(
        str(target), flat(changes), layers, vary or {}, seeds, budget, params, at_once
    )
    folder = Path(out) if out is not None else _default_folder(settings)
    _refuse_other(folder, settings)
    with locked(folder):
        planned = plan_study(settings, folder, say)
        results = _run(planned, say)
        made = {**_described(planned), "folder": str(folder)}
        findings = gather(planned.trials, results, made)
        page.write(findings, folder, lang)
    return findings


def _settings(
    target: str,
    changes: dict[str, Any],
    layers: Sequence[str],
    vary: Mapping[str, Sequence[Any]],
    seeds: int,
    budget: float | None,
    params: int | None,
    at_once: int | None,
) -> StudySettings:
    """Return checked settings, with what nobody chose."""
    from unrolled.runs.recipes import requested

    if seeds < 1:
        raise UsageError(f"{option('seeds')} is {seeds}; give 1 or more")
    check_varied(vary, budget is not None)
    recipe = requested(target, changes)
    names = list(layers or ([recipe.layer] if vary else ALL_LAYERS))
    read_layers(names)
    every = {key: list(values) for key, values in vary.items()}
    count = math.prod(map(len, every.values())) * len(names) * seeds
    threads = recipe.training.threads
    at_once = at_once or _at_once(recipe.training.device, threads, count)
    if threads is None:
        threads = max(1, _cores() // at_once)
        changes = {**changes, "training.threads": threads}
    return StudySettings(
        target, changes, names, every, seeds, budget, params, min(at_once, count)
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _at_once(device: str, threads: int | None, count: int) -> int:
    """Return how many runs are trained at the same time: one a core, or one a GPU."""
    import torch

    if device != "cpu" and (device != "auto" or torch.cuda.is_available()):
        return 1
    return max(1, min(count, _cores() // (threads or 1)))


def _default_folder(settings: StudySettings) -> Path:
    from unrolled.runs.recipes import requested

    return Path("studies") / f"compare-{requested(settings.target, {}).name}"


def _refuse_other(folder: Path, settings: StudySettings) -> None:
    """Raise UsageError where a folder holds something that this study is not to go on with."""
    try:
        names = {path.name for path in folder.iterdir()} - {LOCK}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; name a folder") from None
    another = f"choose another {option('out')}"
    if not names:
        return
    if STUDY not in names:
        raise UsageError(f"{folder} holds other files, and no study; {another}")
    before = _spelt(_saved(folder))
    now = _spelt(asdict(settings))
    for key in {**before, **now}:
        was, is_now = (values.get(key, "not given") for values in (before, now))
        if was != is_now:
            raise UsageError(
                f"{folder} holds another study: {key} was {was} and is {is_now}; {another}, or "
                "remove it"
            )


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / STUDY
    try:
        return read_json(path)["settings"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{path}: this file is damaged; remove the folder") from None


def _spelt(settings: Values) -> dict[str, str]:
    """Return settings as people name them, the keys of ``changes`` and ``vary`` among them."""
    spelt: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            keys = {
                f"{name} {key}" if name == "vary" else key: value[key] for key in value
            }
            spelt |= {key: str(inner) for key, inner in keys.items()}
        else:
            spelt[name] = str(value)
    return spelt


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
            raise _as_error(result)
        walls.append(time.monotonic() - began)

    planned.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".measured-", dir=planned.folder) as home:
        jobs = []
        for trial in planned.trials[: planned.settings.at_once]:
            changes = {**trial.changes, "training.max_steps": 1}
            job = planned.job(trial.with_changes(changes))
            request = WorkerRequest(
                **{
                    **asdict(job.request),
                    "changes": changes,
                    "folder": str(Path(home) / trial.name),
                    "baselines": None,
                }
            )
            jobs.append(WorkerJob(trial.name, request, Path(home) / "done"))
        began = time.monotonic()
        run_workers(jobs, len(jobs), report)
    return max(walls)


def _as_error(result: Result) -> UserError:
    error = UserError(result["error"])
    if result["exit_code"] == UsageError.exit_code:
        error = UsageError(result["error"])
    return error


def _run(planned: PlannedStudy, say: Say) -> dict[str, Result]:
    """Train what is not trained yet, and return the results by the names of the runs."""
    jobs = {trial.name: planned.job(trial) for trial in planned.trials}
    results: dict[str, Result] = {}
    for name, job in jobs.items():
        with suppress(OSError, ValueError):
            result = read_json(job.result_path)
            if "error" not in result:
                results[name] = result
    if results:
        say(f"{len(results)} of {counted(len(jobs), 'run')} are there already")

    def report(job: WorkerJob, result: Result) -> None:
        results[job.name] = result
        position = f"{len(results)}/{len(jobs)}"
        if "error" in result:
            if result["exit_code"] == UsageError.exit_code:
                raise _as_error(result)
            say(f"{position} {job.name}: {result['error']}")
            return
        say(
            f"{position} {job.name}: {result['metric']} {result['score']:.4f}, trained "
            f"{result['steps']:,} steps in {duration(result['seconds'])}"
        )

    waiting = [job for name, job in jobs.items() if name not in results]
    run_workers(waiting, planned.settings.at_once, report)
    if all("error" in result for result in results.values()):
        raise _as_error(results[planned.trials[0].name])
    return results


def _described(planned: PlannedStudy) -> dict[str, Any]:
    """Return what a page says of how the runs were made."""
    settings = planned.settings
    return {
        **asdict(settings),
        "name": Path(settings.target).name.partition(".")[0] or settings.target,
        "seconds_each": None if planned.minutes is None else 60 * planned.minutes,
        "overhead": planned.overhead,
        "notes": planned.notes,
    }
