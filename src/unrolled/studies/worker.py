"""One run of a study in a process of its own: its memory is its own, and so is its crash.

``python -m unrolled.studies.worker REQUEST RESULT`` reads a request and writes a result, both JSON.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.core.errors import UserError
from unrolled.core.files import read_json, write_json

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """What a worker does.

    Attributes:
        target, changes: what is trained, as for ``train``.
        folder: of the run; one that was begun goes on.
        plugins: files that add layers.
        score_on: keys by which the rows to score are read, where they are not those that the run
            itself held out.
        baselines: seconds that simple methods may take: they are measured, and nothing is trained.
    """

    target: str
    changes: Mapping[str, Any]
    folder: str
    plugins: tuple[str, ...] = ()
    score_on: Mapping[str, Any] | None = None
    baselines: float | None = None


def peak_memory() -> float | None:
    """Return the most megabytes that this process has held at once; None where nobody counts."""
    try:
        for line in STATUS.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        pass
    # on Linux it counts the memory of the parent too, from before the program was started
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 1024


def work(request: WorkerRequest) -> dict[str, Any]:
    """Train the run of a request, or go on with it, and return what a comparison shows of it.

    Of simple methods it returns the scores, and trains nothing.

    Raises:
        UserError: a file, a key or a value is wrong.
        KeyboardInterrupt, SystemExit: a signal came; a checkpoint was written first.
    """
    began = time.monotonic()
    from unrolled.core.plugins import load_plugins
    from unrolled.insight.summary import finish
    from unrolled.runs import folder as runs
    from unrolled.runs.plan import Request
    from unrolled.runs.train import train_request
    from unrolled.training.parallel import joined

    load_plugins(request.plugins)
    if request.baselines is not None:
        return {"baselines": _baselines(request, request.baselines)}
    folder = Path(request.folder)
    resume = runs.is_run(folder)
    with joined() as group:
        planned = Request.read(request.target, request.changes, folder, resume)
        # in a process of their own: what they hold is no memory of the model
        close = functools.partial(finish, baseline_seconds=0.0)
        loaded = train_request(group, planned, print, True, _no_look, close)
    scored = _rescored(request, loaded)
    task = loaded.task
    result = loaded.result
    metric = loaded.recipe.training.metric or task.metric
    return {
        "metric": metric,
        "higher_is_better": task.measures[metric],
        "score": scored["scores"][metric],
        **scored,
        "held_out": result["held_out"],
        "layer": result["layer"],
        "parameters": result["parameters"],
        "steps": result["steps"],
        "seconds": result["seconds"],
        "memory": peak_memory(),
        "wall": time.monotonic() - began,
    }


def _no_look(plan: Any) -> list[str]:
    """Leave out the first look at the data: its warnings belong to `doctor`, and to `train`."""
    return []


def _baselines(request: WorkerRequest, seconds: float) -> list[dict[str, Any]]:
    """Return names and scores of simple methods."""
    from unrolled.runs.prepare import prepare
    from unrolled.runs.recipes import requested
    from unrolled.tasks.baselines import measured

    prepared = prepare(requested(request.target, request.changes))
    methods = prepared.task.baselines(prepared.split)
    done, _ = measured(methods, seconds)
    return [{"name": method.name, "scores": method.scores} for method in done]


def _rescored(request: WorkerRequest, loaded: Any) -> dict[str, Any]:
    """Return scores and how many answers they are of, on the rows that the request names."""
    result = loaded.result
    if request.score_on is None:
        return {
            "scores": result["scores"],
            "scored_answers": result["scored_answers"],
            "scored_rows": result["scored_rows"],
        }
    import torch

    from unrolled.runs.predictor import Predictor
    from unrolled.runs.prepare import held_out
    from unrolled.runs.recipes import requested

    changes = {**request.changes, **request.score_on}
    rows = held_out(requested(request.target, changes))
    predictor = Predictor.of(loaded, loaded.recipe.training.device)
    task = loaded.task
    # a label that the few rows of training lack is an error here, and no row that is left out
    examples, _ = task.encode(rows, "stop")
    with torch.no_grad():
        evaluation = task.evaluate(
            predictor.model, examples, predictor.compute_device, predictor.options
        )
    return {
        "scores": evaluation.scores,
        "scored_answers": examples.answers,
        "scored_rows": len(examples),
    }


def main(request_path: str, result_path: str) -> int:
    """Run a worker, and return its exit code; an error of the user's is written as the result."""
    request = WorkerRequest(**read_json(Path(request_path)))
    try:
        result = work(request)
        code = 0
    except UserError as error:
        result = {"error": str(error)}
        code = error.exit_code
        print(f"unrolled: {error}", file=sys.stderr)
    write_json(Path(result_path), result)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
