"""``unrolled recall``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Layers = Annotated[
    str | None, typer.Option(help="Layers, parted by commas; by default all.")
]
Tasks = Annotated[
    str | None,
    typer.Option(help="delay, copying, parentheses, adding; by default all."),
]
Delays = Annotated[
    str | None,
    typer.Option(help="Steps, ascending; by default 10,30,100,300,1000."),
]
Minutes = Annotated[float, typer.Option(help="Time for all of it.")]
Updates = Annotated[int, typer.Option(help="The most updates of one training.")]
Seed = Annotated[int, typer.Option(help="Of the first weights and all sequences.")]
Threads = Annotated[
    int, typer.Option(help="CPU threads; models of this size gain nothing from more.")
]
Folder = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="FOLDER", help="Where results are kept."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def recall(
    layers: Layers = None,
    tasks: Tasks = None,
    delays: Delays = None,
    minutes: Minutes = 30.0,
    updates: Updates = 20_000,
    seed: Seed = 0,
    threads: Threads = 1,
    folder: Folder = Path("runs/recall"),
    as_json: AsJson = False,
) -> None:
    """Measure how far back each layer remembers, and what its state and its steps cost.

    Generated tasks are learnt at growing delays by models of equal size. Each result is kept in
    FOLDER as soon as it is known: after a stop the same command goes on.

    Examples:

      unrolled recall

      unrolled recall --layers rnn,lstm,gru --tasks delay --delays 10,100 --minutes 2
    """
    from unrolled.core.files import expanded, write_text
    from unrolled.core.terminal import json_line, note, out
    from unrolled.core.words import path_word
    from unrolled.studies.recall import PAGE, RecallPlan, study
    from unrolled.studies.recall_page import curves, notes, page, text_lines

    changes: dict[str, Any] = {
        "layers": _words(layers, str),
        "tasks": _words(tasks, str),
        "delays": _words(delays, _steps),
    }
    given = {name: value for name, value in changes.items() if value is not None}
    plan = RecallPlan(
        minutes=minutes, seed=seed, updates=updates, threads=threads, **given
    )
    kept = expanded(folder)
    results = study(plan, kept, note)
    write_text(kept / PAGE, page(results))
    if as_json:
        out(json_line(results))
        return
    for measured in curves(results):
        out("\n".join(text_lines(measured.table())) + "\n")
    for sentence in notes(results):
        out(str(sentence))
    out(f"page: {path_word(kept / PAGE)}")


def _words(text: str | None, read: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """Return what stands between commas; None where nothing was given."""
    if text is None:
        return None
    return tuple(read(word.strip()) for word in text.split(",") if word.strip())


def _steps(word: str) -> int:
    from unrolled.core.errors import UsageError, shown

    try:
        return int(word)
    except ValueError:
        raise UsageError(
            f"--delays: {shown(word)} is no number of steps; write --delays 10,100"
        ) from None
