"""Worker processes: so many at once, each with a log, all ended where the study is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unrolled.core.files import read_json, write_json
from unrolled.core.terminal import clean
from unrolled.studies.worker import WorkerRequest

BASELINE_JOB = "baselines"  # the name of the job that measures simple methods
PAUSE = 0.05  # seconds between looks at the workers
PATIENCE = 60.0  # seconds that a worker has to write its checkpoint
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """A request and where its files are: ``home / NAME.json`` and ``NAME.log``."""

    name: str
    request: WorkerRequest
    home: Path

    @property
    def result_path(self) -> Path:
        """The result that the worker writes at its end."""
        return self.home / f"{self.name}.json"

    @property
    def log_path(self) -> Path:
        """What the worker prints."""
        return self.home / f"{self.name}.log"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker."""
        request_path = self.home / f"{self.name}.request.json"
        self.home.mkdir(parents=True, exist_ok=True)
        write_json(request_path, asdict(self.request))
        self.result_path.unlink(missing_ok=True)
        paths = [str(request_path), str(self.result_path)]
        with self.log_path.open("ab") as log:
            # in a session of its own: a terminal's keys reach the study, which ends its workers
            return subprocess.Popen(
                [sys.executable, "-m", "unrolled.studies.worker", *paths],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def result(self, code: int) -> Result:
        """Return what a worker that ended with ``code`` has written, or how it ended."""
        try:
            return {**read_json(self.result_path), "exit_code": code}
        except (OSError, ValueError):
            return {"error": self._ending(code), "exit_code": code}

    def _ending(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; memory ran out?" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}; see {self.log_path}"
        lines = self.log_path.read_text("utf-8", "replace").strip().splitlines()
        last = f": {clean(lines[-1])}" if lines else ""
        return f"its process ended with exit code {code}{last}; see {self.log_path}"


def run_workers(
    jobs: Sequence[WorkerJob],
    at_once: int,
    report: Callable[[WorkerJob, Result], None],
) -> None:
    """Run workers, and report each as it ends.

    Args:
        jobs: what is done, in this order.
        at_once: how many of them.
        report: called with each result; what it raises ends all.

    Raises:
        KeyboardInterrupt, SystemExit: a signal came; the workers have written their checkpoints.
    """
    waiting = list(jobs)
    active: list[tuple[WorkerJob, subprocess.Popen[bytes]]] = []
    try:
        while waiting or active:
            while waiting and len(active) < at_once:
                job = waiting.pop(0)
                active.append((job, job.start()))
            time.sleep(PAUSE)
            ended = [pair for pair in active if pair[1].poll() is not None]
            active = [pair for pair in active if pair not in ended]
            for job, process in ended:
                report(job, job.result(process.returncode))
    finally:
        _end([process for _, process in active])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End workers in good order: each writes a checkpoint, and is killed where that takes long."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
