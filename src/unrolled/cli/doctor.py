"""``unrolled doctor``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from unrolled.checks import Finding

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
# characters of the first two columns
STATUS = max(map(len, STYLES))
NAME = 23


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
    say = (lambda *words: None) if as_json else printer()
    say(clean(context.plan.prepared.lines[0]))
    say(f"model: layer={context.plan.recipe.layer}, {size:,} parameters, {state}\n")
    findings = []
    for finding in ask(CHECKS, context):
        findings.append(finding)
        say(finding)
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


def printer() -> Callable[[Any], None]:
    """Return what shows texts and findings: in a terminal with colours, and no wider than it is."""
    from unrolled.core.terminal import out

    if not sys.stdout.isatty():
        # a program that reads the lines, or a file, has no width to keep to
        return lambda shown: out(shown if isinstance(shown, str) else plain(shown))
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    return lambda shown: console.print(shown if isinstance(shown, str) else line(shown))


def plain(finding: Finding) -> str:
    """Return a finding as lines of text, however long."""
    from unrolled.core.terminal import clean

    head = f"{finding.status:<{STATUS}}  {finding.name:<{NAME}}  "
    lines = [head + clean(finding.message)]
    if finding.status != "ok":
        indent = " " * len(head)
        lines += [indent + clean(finding.where)] if finding.where else []
        lines += [f"{indent}-> {clean(finding.advice)}"] if finding.advice else []
    return "\n".join(lines)


def line(finding: Finding) -> Any:
    """Return a finding as a row of aligned columns; a fault says where and what to do, too."""
    from rich.table import Table
    from rich.text import Text

    from unrolled.core.terminal import clean

    row = Table.grid(padding=(0, 2))
    row.add_column(width=STATUS)
    row.add_column(width=NAME)
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
