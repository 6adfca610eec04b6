"""``unrolled predict``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

MARK = "\1"  # nobody types it
SEED = 2**63 - 1  # the largest that torch takes


class RowsCommand(TyperCommand):
    """A command whose rows may begin with a negative number, as "-5, 3" does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Hide the minus of such words while options are told from rows."""
        rest = super().parse_args(
            ctx, [re.sub(r"^(?=-\.?\d)", MARK, word) for word in args]
        )
        ctx.params = {name: _shown(value) for name, value in ctx.params.items()}
        return rest


def _shown(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    return str(value).removeprefix(MARK) if str(value).startswith(MARK) else value


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    rows: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROW]...",
            help="Rows as the data file writes them; with --file, data.text=, ... of that file.",
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A file of rows to answer.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write a .csv or .jsonl with the answers added, or them as .txt.",
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Answer lines of standard input.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Search otherwise: decoding.beam=1 ..."
        ),
    ] = None,
    begin: Annotated[
        str, typer.Option(help="What every text that is written begins with.")
    ] = "",
    ban: Annotated[
        list[str] | None,
        typer.Option(help="A word or phrase that no text holds; repeatable."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="A word or phrase that every text holds; repeatable."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=SEED, help="Equal seeds draw equal answers."),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Leave cells of a .csv as they are, also those that a spreadsheet runs.",
        ),
    ] = False,
) -> None:
    """Answer rows: one line for each on standard output, and nothing else.

    Examples:

      unrolled predict runs/reviews "what a film" "never again"

      unrolled predict runs/reviews --file new.csv -o answers.csv

      unrolled predict runs/multi30k-en-de --file in.txt -o out.txt --set decoding.beam=1

      tail -f log.txt | unrolled predict runs/reviews --live
    """
    asked = {
        "begin": begin,
        "banned": ban or [],
        "required": require or [],
        "seed": seed,
    }
    _answer(run, rows or [], file, output, live, as_json, raw, settings or [], asked)


def _answer(
    run: Path,
    rows: list[str],
    file: Path | None,
    output: Path | None,
    live: bool,
    as_json: bool,
    raw: bool,
    settings: list[str],
    asked: dict[str, Any],
) -> None:
    from unrolled.cli.answering import adjust, answer_file, print_answers
    from unrolled.core.errors import UsageError
    from unrolled.core.files import expanded
    from unrolled.run import load
    from unrolled.runs.keys import parse

    if sum([bool(rows) and file is None, file is not None, live]) != 1:
        raise UsageError("give rows, or --file FILE, or --live (one of the three)")
    if output is not None and file is None:
        raise UsageError(
            "-o writes the rows of a file with their answers: add --file FILE"
        )
    if raw and (output is None or output.suffix != ".csv"):
        raise UsageError("--raw is for the cells of a CSV: add -o FILE.csv")
    loaded = load(expanded(run), result=False)
    loaded.answers([])  # a run that answers no rows says so before any is read
    if live and loaded.task.schema.steps:
        raise UsageError(
            "--live answers each line by itself, and this run reads a row as one step of a "
            "sequence: give the rows as a file, with --file FILE"
        )
    details = as_json or str(output).endswith(".jsonl")
    adjust(loaded, parse(settings), details=details, **asked)
    if file is not None:
        target = None if output is None else expanded(output)
        answer_file(loaded, expanded(file), parse(rows), target, as_json, raw)
        return
    print_answers(loaded, rows, live, as_json)
