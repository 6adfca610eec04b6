"""Runs a training again and again, each in a process of its own that ends by SIGKILL or by itself.

``python killing.py`` reads lines ``{"target", "changes", "folder", "resume", "kill"}``
from standard input and answers each with how its process ended. The processes are forks of this
one, so that torch is imported once. ``kill`` is ``[function, n]``: the process kills itself as it
enters the n-th call of that function, half of whose work may then lie on the disk.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unrolled.core import files
from unrolled.runs.plan import make_plan
from unrolled.training import checkpoints, loop
from unrolled.training.progress import MetricsLog, Progress
from unrolled.training.update import Updater

PLACES: dict[str, tuple[Any, str]] = {
    "backward": (torch.Tensor, "backward"),
    "update": (Updater, "update"),
    "report": (MetricsLog, "add"),
    "save": (checkpoints, "save"),
    "save_tensors": (checkpoints, "save_tensors"),
    "sha256": (checkpoints, "sha256"),
    "sync": (files, "sync"),
    "replace": (Path, "replace"),
    "rename": (Path, "rename"),
    "rmtree": (checkpoints.shutil, "rmtree"),
}


def kill_at(name: str, turn: int, number: int = signal.SIGKILL) -> None:
    """Let the process send itself a signal as it enters the ``turn``-th call, 1 for the first."""
    owner, attribute = PLACES[name]
    real: Callable[..., Any] = getattr(owner, attribute)
    left = turn

    def deadly(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), number)
        return real(*args, **options)

    setattr(owner, attribute, deadly)


def run(request: dict[str, Any]) -> None:
    """Train, to the end or to the kill."""
    out = Path(request["folder"])
    plan = make_plan(request["target"], request["changes"], out, request["resume"])
    if request["kill"]:
        kill_at(*request["kill"])
    loop.fit(plan.job(Progress(quiet=True)), request["resume"])


def main() -> None:
    """Answer each line of standard input with the exit status of the process it asked for."""
    torch.set_num_threads(1)
    # what the first optimizer and the first tokenizer import: once here, not in every fork
    torch.optim.AdamW([torch.zeros(1)])
    import tokenizers  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(json.loads(line))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
