"""``unrolled export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="ctranslate2.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The folder; RUN/export/FORMAT by default."
        ),
    ] = None,
) -> None:
    """Write a run in another program's format, compared with the run before it is kept.

    Example: unrolled export runs/multi30k-en-de --to ctranslate2 -o en-de
    """
    from unrolled.run import load

    load(run, "cpu", result=False).export(to, output)
