"""A training from its plan to its run folder, in one process or several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from unrolled.core.locks import locked
from unrolled.core.terminal import clean
from unrolled.runs import folder as runs
from unrolled.runs.plan import Plan, Request, plan_request
from unrolled.training.job import Position
from unrolled.training.loop import fit
from unrolled.training.parallel import ProcessGroup
from unrolled.training.progress import Progress

Say = Callable[[str], None]


class Speaker:
    """Says lines, and keeps on where they cannot be printed: that ends no training, but is told."""

    def __init__(self, say: Say, silent: bool) -> None:
        self.say = say
        self.silent = silent
        self.failures: list[Exception] = []

    def __call__(self, line: str) -> None:
        """Say a line."""
        if self.silent:
            return
        try:
            self.say(clean(line))
        except (OSError, ValueError) as error:
            if self.say is not print:
                raise  # the caller's own
            self.failures.append(error)


def train_request(
    group: ProcessGroup,
    request: Request,
    say: Say,
    quiet: bool,
    look: Callable[[Plan], list[str]],
    finish: Callable[[Plan, Position, Say], runs.Loaded],
) -> runs.Loaded:
    """Train what was asked for, and return the run.

    Args:
        group: the processes that train it.
        request: the recipe and where its run is kept.
        say: takes each line about data and result.
        quiet: no progress on standard error.
        look: what a first look at the data finds, in lines.
        finish: scores the best weights, writes report and result, and returns the run.

    Raises:
        UserError: the run exists and is not to be resumed, or a file is wrong.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    speaker = Speaker(say, silent=not group.first)
    loaded = _train(group, request, speaker, quiet or not group.first, look, finish)
    if speaker.failures:
        raise speaker.failures[0]
    return loaded


def _train(
    group: ProcessGroup,
    request: Request,
    say: Say,
    quiet: bool,
    look: Callable[[Plan], list[str]],
    finish: Callable[[Plan, Position, Say], runs.Loaded],
) -> runs.Loaded:
    folder = request.folder
    ended = request.finished()
    if ended:
        say(f"{folder} is finished: {ended}")
        return runs.load(folder)
    plan = plan_request(request)
    if plan.finished:
        say(f"{folder} is finished: {plan.finished}")
        return runs.load(folder)
    is_new = group.first and not request.resume
    for line in [*plan.lines(), *(look(plan) if is_new else [])]:
        say(line)
    say("")
    group.barrier()  # all look whether there is a run before the first one begins it
    lock = locked(folder) if group.first else contextlib.nullcontext()
    with lock as held:
        if is_new:
            # begun by another process while this one read the data
            runs.claim(folder)
        with Progress(quiet, unit=plan.prepared.task.read_unit) as progress:
            still_ours = held.is_held if held else lambda: True
            position = fit(plan.job(progress, still_ours), request.resume)
        loaded = finish(plan, position, say) if group.first else None
    # the first one still replaced files, which nobody is to read meanwhile
    group.barrier()
    return loaded or runs.load(folder)
