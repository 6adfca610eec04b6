"""``unrolled doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from unrolled.checks import Finding

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_DATA_OR_RUN",
            help="What `train` takes, or the folder of a run.",
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the recipe to change."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document.")
    ] = False,
) -> None:
    """Check data and model before training, or a run after it; exit code 1 on a problem.

    Examples:

      unrolled doctor reviews.csv layer=lstm

      unrolled doctor runs/reviews --json
    """
    import time

    from unrolled.checks import CHECKS, ask, examine
    from unrolled.core.terminal import clean, json_line, out
    from unrolled.runs.keys import parse

    began = time.monotonic()
    context = examine(target, parse(changes or []))
    size = sum(p.numel() for p in context.model.parameters())
    state = "as trained" if context.trained else "as drawn, before training"
    say = (lambda *words: None) if as_json else console().print
    say(clean(context.plan.prepared.lines[0]))
    say(f"model: layer={context.plan.recipe.layer}, {size:,} parameters, {state}\n")
    findings = []
    for finding in ask(CHECKS, context):
        findings.append(finding)
        say(line(finding))
    counts = {status: sum(f.status == status for f in findings) for status in STYLES}
    seconds = round(time.monotonic() - began, 1)
    counted = ", ".join(f"{count} {status}" for status, count in counts.items())
    say(f"\n{len(findings)} checks in {seconds:g} s: {counted}")
    if as_json:
        head = {
            "target": target,
            "trained": context.trained,
            "seconds": seconds,
            **counts,
        }
        out(json_line({**head, "checks": [f.as_dict() for f in findings]}))
    raise typer.Exit(1 if counts["problem"] else 0)


def console() -> Any:
    """Return where the findings are shown, colours in a terminal alone."""
    from rich.console import Console

    return Console(highlight=False, markup=False)


def line(finding: Finding) -> Any:
    """Return a finding as a row of aligned columns; a fault says where and what to do, too."""
    from rich.table import Table
    from rich.text import Text

    from unrolled.core.terminal import clean

    row = Table.grid(padding=(0, 2))
    row.add_column(width=max(map(len, STYLES)))
    row.add_column(width=23)
    row.add_column(overflow="fold")
    body = Text(clean(finding.message))
    if finding.status != "ok":
        body.append(
            "".join(f"\n{clean(text)}" for text in (finding.where,) if text), "dim"
        )
        body.append(
            "".join(f"\n-> {clean(text)}" for text in (finding.advice,) if text)
        )
    row.add_row(Text(finding.status, STYLES[finding.status]), finding.name, body)
    return row
