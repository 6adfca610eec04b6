"""``unrolled doctor``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unrolled.cli.load import Tokenizer

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
            help="What `train` takes, the folder of a run, or another program's checkpoint.",
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the recipe to change."),
    ] = None,
    tokenizer: Tokenizer = None,
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

    from unrolled.core.errors import UsageError
    from unrolled.core.files import expanded
    from unrolled.core.terminal import json_line, out
    from unrolled.runs.published import is_checkpoint

    began = time.monotonic()
    say = (lambda *words: None) if as_json else printer()
    path = expanded(target)
    is_foreign = is_checkpoint(path)
    if not is_foreign and tokenizer is not None:
        raise UsageError("--tokenizer is for checkpoints of other programs")
    if is_foreign and changes:
        raise UsageError(f"{target} is a checkpoint of another program: leave out keys")
    checked = (
        _of_checkpoint(path, tokenizer)
        if is_foreign
        else _of_training(target, changes, say)
    )
    findings = []
    states = []
    for is_trained, finding in checked:
        findings.append(finding)
        states.append(is_trained)
        say(finding)
    counts = {status: sum(f.status == status for f in findings) for status in STYLES}
    seconds = round(time.monotonic() - began, 1)
    counted = ", ".join(f"{count} {status}" for status, count in counts.items())
    say(f"\n{len(findings)} checks in {seconds:g} s: {counted}")
    if as_json:
        head = {"target": target, "trained": any(states), "seconds": seconds} | counts
        out(json_line({**head, "checks": [f.as_dict() for f in findings]}))
    raise typer.Exit(1 if counts["problem"] else 0)


def _of_checkpoint(
    path: Path, tokenizer: Path | None
) -> Iterator[tuple[bool, Finding]]:
    """Yield findings about another program's checkpoint, which is trained."""
    from unrolled.checks import examine_published

    for finding in examine_published(path, tokenizer):
        yield True, finding


def _of_training(
    target: str, changes: list[str] | None, say: Callable[[Any], None]
) -> Iterator[tuple[bool, Finding]]:
    """Yield findings about data and model, each with whether the model is trained."""
    from unrolled.checks import CHECKS, ask, examine
    from unrolled.core.terminal import clean
    from unrolled.runs.keys import parse

    context = examine(target, parse(changes or []))
    size = sum(p.numel() for p in context.model.parameters())
    state = "as trained" if context.trained else "as drawn, before training"
    say(clean(context.plan.prepared.lines[0]))
    say(f"model: layer={context.plan.recipe.layer}, {size:,} parameters, {state}\n")
    for finding in ask(CHECKS, context):
        yield context.trained, finding


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
