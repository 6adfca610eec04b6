"""``compare``: layers side by side on a person's own data, at equal time or equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unrolled.core.errors import UsageError
from unrolled.core.files import path_of, read_json
from unrolled.core.locks import locked
from unrolled.core.terminal import note
from unrolled.core.words import counted, option
from unrolled.runs.keys import flat
from unrolled.studies import page
from unrolled.studies.findings import Findings, gather
from unrolled.studies.planning import (
    PlannedStudy,
    Say,
    as_error,
    plan_study,
)
from unrolled.studies.running import BASELINE_JOB, Result, WorkerJob, run_workers
from unrolled.studies.settings import default_folder, read_settings, refuse_other
from unrolled.training.progress import duration


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
    settings = read_settings(
        str(target), flat(changes), layers, vary or {}, seeds, budget, params, at_once
    )
    folder = default_folder(settings)
    if out is not None:
        folder = path_of(out, option("out"))
    refuse_other(folder, settings)
    with locked(folder):
        planned = plan_study(settings, folder, say)
        try:
            results = _run(planned, say)
        except (KeyboardInterrupt, SystemExit):
            say(f"stopped; the same command goes on with what is in {folder}")
            raise
        made = {**_described(planned), "folder": str(folder)}
        findings = gather(planned.trials, results, made)
        page.write(findings, folder, lang)
    return findings


def _run(planned: PlannedStudy, say: Say) -> dict[str, Result]:
    """Train what is not trained yet, and return the results by the names of the runs."""
    jobs = {trial.name: planned.job(trial) for trial in planned.trials}
    count = len(jobs)
    if not planned.settings.vary:
        # last: they fill the time of a core that has no run left
        jobs[BASELINE_JOB] = planned.baselines()
    results = {name: result for name, job in jobs.items() if (result := _done(job))}
    trained = len(results.keys() - {BASELINE_JOB})
    if trained:
        say(f"{trained} of {counted(count, 'run')} are there already")

    def report(job: WorkerJob, result: Result) -> None:
        results[job.name] = result
        position = f"{len(results.keys() - {BASELINE_JOB})}/{count}"
        if "error" in result:
            if result["exit_code"] == UsageError.exit_code:
                raise as_error(result)
            say(f"{position} {job.name}: {result['error']}")
        elif job.name != BASELINE_JOB:
            say(
                f"{position} {job.name}: {result['metric']} {result['score']:.4f}, trained "
                f"{result['steps']:,} steps in {duration(result['seconds'])}"
            )

    waiting = [job for name, job in jobs.items() if name not in results]
    run_workers(waiting, planned.settings.at_once, report)
    if all("error" in results[trial.name] for trial in planned.trials):
        raise as_error(results[planned.trials[0].name])
    return results


def _done(job: WorkerJob) -> Result | None:
    """Return the result of a job that was done before."""
    with suppress(OSError, ValueError):
        result = read_json(job.result_path)
        if "error" not in result:
            return result
    return None


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
