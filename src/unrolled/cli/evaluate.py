"""``unrolled evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A file with the fields of the training data.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="data.text=, data.label=, ... of this file; decoding.beam=, ... of the search.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The file whose lines are the answers to those of DATA.")
    ] = None,
    other: Annotated[
        Path | None,
        typer.Option("--compare", metavar="RUN2", help="Test the difference from another run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score a run on a file.

    Examples:

      unrolled evaluate runs/reviews test.csv --json

      unrolled evaluate runs/multi30k-en-de test.en --target test.de --compare runs/other
    """
    import json

    from unrolled.cli.answering import say
    from unrolled.run import compare, load
    from unrolled.tasks.recipe import parse

    told = parse(changes or [])
    ours = load(run)
    found = ours.evaluation(data, told, say, target)
    scores, notes = found.scores, [*found.notes]
    if other is not None:
        theirs = load(other).evaluation(data, told, say, target)
        notes += compare(ours.task, found, theirs, (str(run), str(other)))
    if as_json:
        print(json.dumps({**scores, "notes": notes} if notes else scores, ensure_ascii=False))
        return
    width = max(map(len, scores))
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:.4f}")
    for note in notes:
        print(note)
