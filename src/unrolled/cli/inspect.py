"""``unrolled inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli.load import Tokenizer
from unrolled.cli.predict import RowsCommand

COMMAND = RowsCommand
PAGE = Path("inside.html")

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Texts or rows, as they are given to predict."
    ),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="The page to write.")]
Holds = Annotated[
    list[str] | None,
    typer.Option(
        "--hold",
        metavar="NAME[:UNIT]=VALUE",
        help="Hold a gate or a unit: forget=0, unit:17=1.0. Repeatable.",
    ),
]
Units = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="Show these units of each layer."),
]
At = Annotated[
    int | None,
    typer.Option(min=1, help="Explain the output of this step, from 1."),
]
Language = Annotated[
    str,
    typer.Option(
        "--lang", help="Language of the page: en, ko, or auto for the browser's."
    ),
]


def inspect(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run, or another program's checkpoint."),
    ],
    inputs: Inputs,
    output: Output = PAGE,
    hold: Holds = None,
    units: Units = None,
    at: At = None,
    tokenizer: Tokenizer = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers, and write no page.")
    ] = False,
    lang: Language = "auto",
) -> None:
    """Look inside a model while it reads your input: one page that opens offline.

    It shows states and gates step by step, where attention looks, which inputs mattered and what
    is forgotten.

    Examples:

      unrolled inspect runs/anthem "동해물과 " "이 기상과 "

      unrolled inspect runs/reviews "what a film" --hold forget=0 -o film.html

      unrolled inspect runs/reviews "what a film" --json
    """
    from unrolled.core.errors import UsageError
    from unrolled.core.files import expanded
    from unrolled.core.terminal import json_line, out
    from unrolled.core.words import counted
    from unrolled.insight.pages import LANGUAGE_CHOICES
    from unrolled.run import load

    if lang not in LANGUAGE_CHOICES:
        raise UsageError(f"--lang {lang}: choose auto, en or ko")
    loaded = load(expanded(run), tokenizer=tokenizer)
    inside = loaded.inspect(
        *inputs, hold=hold or (), units=_numbers(units), at=at, language=lang
    )
    if as_json:
        out(json_line(inside.to_json()))
        return
    path = inside.save(expanded(output))
    size = path.stat().st_size / 1e6
    out(f"{path}: {counted(len(inputs), 'input')}, {size:.2f} MB; open it in a browser")


def _numbers(text: str | None) -> list[int] | None:
    """Return the units of ``--units 3,17``. Raises UsageError: they are no numbers."""
    from unrolled.core.errors import UsageError, shown

    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"--units {shown(text)}: write numbers of units, such as 3,17")
    return [int(word) for word in words]
