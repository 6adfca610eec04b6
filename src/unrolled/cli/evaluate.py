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
        typer.Argument(metavar="[KEY=VALUE]...", help="data.text=, data.label=, ... of this file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score a run on a file.

    Example: unrolled evaluate runs/reviews test.csv --json
    """
    import json

    from unrolled.cli.answering import say
    from unrolled.run import load
    from unrolled.tasks.recipe import parse

    scores = load(run).evaluation(data, parse(changes or []), say).scores
    if as_json:
        print(json.dumps(scores))
        return
    width = max(map(len, scores))
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:.4f}")
