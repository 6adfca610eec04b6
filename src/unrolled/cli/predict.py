"""``unrolled predict``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from unrolled.cli.load import Tokenizer

MARK = "\1"  # nobody types it
SEED = 2**63 - 1  # the largest that torch takes


class RowsCommand(TyperCommand):
    """A command whose rows may begin with a negative number, as "-5, 3" does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Hide the minus of such words while options are told from rows."""
        marked = [re.sub(r"^(?=-\.?\d)", MARK, word) for word in args]
        rest = super().parse_args(ctx, marked)
        ctx.params = {name: _shown(value) for name, value in ctx.params.items()}
        return rest


COMMAND = RowsCommand


def _shown(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_shown(word) for word in value]
    return str(value).removeprefix(MARK) if str(value).startswith(MARK) else value


Rows = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ROW]...",
        help="Rows as the data file writes them; with --file, data.text=, ... of that file.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Write a .csv or .jsonl with the answers added, or them as .txt.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Search otherwise: decoding.beam=1 ..."
    ),
]
Live = Annotated[
    bool,
    typer.Option("--live", help="Answer lines, or frames, of standard input."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Begin = Annotated[
    str, typer.Option(help="What every text that is written begins with.")
]
Ban = Annotated[
    list[str] | None,
    typer.Option(help="A word or phrase that no text holds; repeatable."),
]
Require = Annotated[
    list[str] | None,
    typer.Option(help="A word or phrase that every text holds; repeatable."),
]
File = Annotated[
    Path | None,
    typer.Option(help="A file of rows to answer; - for standard input."),
]
Probabilities = Annotated[
    bool,
    typer.Option("--probabilities", help="Write the probability of each label, too."),
]
Question = Annotated[
    str | None,
    typer.Option(help="What is asked about each image; the rows are images."),
]
Shape = Annotated[
    str | None,
    typer.Option(
        metavar="H,W[,C]",
        help="With --live: frames of video come as bytes of this shape, not as JPEG.",
    ),
]
Raw = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="Leave cells of a .csv as they are, also those that a spreadsheet runs.",
    ),
]


def predict(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run, or another program's checkpoint."),
    ],
    rows: Rows = None,
    file: File = None,
    output: Output = None,
    live: Live = False,
    as_json: AsJson = False,
    settings: Settings = None,
    begin: Begin = "",
    ban: Ban = None,
    require: Require = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=SEED, help="Equal seeds draw equal answers."),
    ] = None,
    raw: Raw = False,
    probabilities: Probabilities = False,
    question: Question = None,
    shape: Shape = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Answer rows: one line for each on standard output, and nothing else.

    Examples:

      unrolled predict runs/reviews "what a film" "never again"

      unrolled predict runs/multi30k-en-de --file in.txt -o out.txt --set decoding.beam=1

      cat new.csv | unrolled predict runs/reviews --file - --probabilities

      unrolled predict runs/photos photo.jpg --question "what colour is the dog?"

      tail -f log.txt | unrolled predict runs/reviews --live
    """
    search = {
        "begin": begin,
        "banned": ban or [],
        "required": require or [],
        "seed": seed,
    }
    request = _Request(
        run=run,
        rows=rows or [],
        file=file,
        output=output,
        live=live,
        as_json=as_json,
        raw=raw,
        probabilities=probabilities,
        question=question,
        shape=shape,
        tokenizer=tokenizer,
    )
    request.check()
    request.answer(settings or [], search)


def shape_of(text: str) -> tuple[int, ...]:
    """Return the shape of a frame. Raises UsageError: it is none."""
    from unrolled.core.errors import UsageError

    parts = text.split(",")
    if len(parts) not in (2, 3) or not all(part.strip().isdigit() for part in parts):
        raise UsageError(
            f"--shape {text}: write rows, columns and colours: 120,160,3, or 120,160 for grey"
        )
    shape = tuple(int(part) for part in parts)
    if min(shape) < 1 or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise UsageError(f"--shape {text}: a frame has 1 or 3 colours")
    return shape


@dataclass(frozen=True, slots=True)
class _Request:
    """What was typed; the arguments of ``predict`` say what each is."""

    run: Path
    rows: list[str]
    file: Path | None
    output: Path | None
    live: bool
    as_json: bool
    raw: bool
    probabilities: bool
    question: str | None
    shape: str | None
    tokenizer: Path | None

    def check(self) -> None:
        """Raise UsageError for options that do not go together."""
        from unrolled.core.errors import UsageError

        from_rows = bool(self.rows) and self.file is None
        if sum([from_rows, self.file is not None, self.live]) != 1:
            raise UsageError("give rows, or --file FILE, or --live (one of the three)")
        if self.output is not None and self.file is None:
            raise UsageError(
                "-o writes the rows of a file with their answers: add --file FILE"
            )
        if self.question is not None and not from_rows:
            raise UsageError(
                "--question is about images that are given as rows; a file has a column of "
                "questions"
            )
        if self.raw and (self.output is None or self.output.suffix != ".csv"):
            raise UsageError("--raw is for the cells of a CSV: add -o FILE.csv")

    def answer(self, settings: list[str], search: dict[str, Any]) -> None:
        """Load the run and answer."""
        from unrolled.cli import answering
        from unrolled.core.errors import UsageError
        from unrolled.core.files import expanded
        from unrolled.run import load
        from unrolled.runs.keys import parse

        run = load(expanded(self.run), result=False, tokenizer=self.tokenizer)
        run.answers([])  # a run that answers no rows says so before any is read
        if self.live and run.task.schema.steps:
            raise UsageError(
                "--live answers each line by itself, and this run reads a row as one step of a "
                "sequence: give the rows as a file, with --file FILE"
            )
        details = self.as_json or str(self.output).endswith(".jsonl")
        answering.adjust(run, parse(settings), details=details, **search)
        labels = answering.labels_of(run, self.probabilities)
        if self.live and run.task.schema.clips:
            shape = None if self.shape is None else shape_of(self.shape)
            answering.print_live_frames(run, shape, self.as_json)
            return
        if self.live:
            answering.print_live(run, self.as_json, labels)
            return
        if self.file is None:
            rows = answering.image_rows(run, self.rows, self.question)
            answering.print_answers(run, rows, self.as_json, labels)
            return
        output = None if self.output is None else expanded(self.output)
        changes = parse(self.rows)
        with answering.file_of(expanded(self.file)) as path:
            answering.answer_file(
                run, path, changes, output, self.as_json, self.raw, labels
            )
