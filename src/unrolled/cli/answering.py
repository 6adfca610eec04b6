"""Rows in, answers out: from the command line, from a file, or line by line."""

from __future__ import annotations

import heapq
import io
import itertools
import re
import secrets
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from unrolled.cli.output import WRITERS, as_object, check_output, show, written
from unrolled.core.errors import (
    DataError,
    UsageError,
    UserError,
    is_out_of_memory,
    shown,
)
from unrolled.core.terminal import json_line, note, out
from unrolled.data.aligned import Line, Lines
from unrolled.data.archives import too_long
from unrolled.data.formats import FORMATS
from unrolled.data.schema import Schema
from unrolled.data.shards import unchanged
from unrolled.data.sources import Rows, read, rows_of
from unrolled.run import Run
from unrolled.tasks.base import Prediction, locate
from unrolled.tasks.labelled import need_table
from unrolled.tasks.pairs import Pairs
from unrolled.tasks.recipe import Recipe

Numbered = tuple[int, tuple[Any, ...] | None]
CHUNK = 256  # rows answered together; what is read of a file at once
# lines of a text answered together, and their characters
LINES = 1024
CHARACTERS = 1 << 22
ARCHIVE = re.compile(r"\.zip(\.gz)?$", re.IGNORECASE)


def adjust(
    run: Run,
    changes: dict[str, Any],
    begin: str,
    banned: list[str],
    required: list[str],
    details: bool,
    seed: int | None,
) -> None:
    """Set how a run that writes texts searches; with ``details`` it aligns words too.

    ``seed`` is that of drawn answers; None draws others each time.

    Raises:
        UsageError: a key that is not under ``decoding``, or a run that searches for no answers.
    """
    other = next((key for key in changes if not key.startswith("decoding.")), None)
    if other is not None:
        raise UsageError(f"--set {other}: only keys under decoding can be set here")
    if not run.task.writes and not (changes or begin or banned or required):
        return
    torch.manual_seed(secrets.randbits(63) if seed is None else seed)
    align = details and isinstance(run.task, Pairs) and run.task.aligns(run.model)
    search = {key.removeprefix("decoding."): value for key, value in changes.items()}
    run.adjust(begin=begin, banned=banned, required=required, alignment=align, **search)


def print_answers(run: Run, rows: list[str], live: bool, as_json: bool) -> None:
    """Print the answer to each row, or with ``live`` to each line of standard input."""
    pairs = answer_live(run) if live else answer_rows(run, rows)
    for row, answer in pairs:
        out(show(row, answer, as_json), flush=live)


def answer_rows(run: Run, rows: list[str]) -> Iterator[tuple[str, Prediction]]:
    """Yield each row of the command line with its answer.

    Raises:
        UserError: a row is faulty; it says which one.
    """
    try:
        yield from zip(rows, run.answers(rows), strict=True)
    except UserError as error:
        if len(rows) == 1:
            raise
        for number, row in enumerate(rows, 1):
            answer = answer_one(run, row)
            if isinstance(answer, str):
                raise UserError(f"row {number}: {answer}") from None
        raise error


def answer_one(run: Run, row: Any) -> Prediction | str:
    """Return the answer to one row, or what is wrong with the row.

    Whatever fails of a row by itself is that row's fault: numbers out of bounds, text without end.
    """
    try:
        return run.answers([row])[0]
    except UserError as error:
        return str(error)
    except (ArithmeticError, ValueError, RecursionError) as error:
        return f"it cannot be answered ({shown(str(error), 100)})"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return "it takes more memory than there is"


def answer_live(run: Run) -> Iterator[tuple[str, Prediction]]:
    """Yield each line of standard input with its answer, as soon as it is read.

    A line that cannot be answered is named on standard error and gets an empty answer, with the
    ``error`` among its details, so that a stream goes on and line n of the output stays the answer
    to line n of the input.
    """
    for number, (row, fault) in enumerate(
        live_lines(sys.stdin, run.recipe.data.max_row), 1
    ):
        answer = fault or answer_one(run, row)
        if isinstance(answer, str):
            say(f"line {number}: {answer}")
            answer = Prediction("", None, {"error": answer})
        yield row, answer


def live_lines(stream: Any, most: int) -> Iterator[tuple[str, str]]:
    """Yield the lines of a stream, and what is wrong with those of more than ``most`` bytes.

    They are read as UTF-8, as files are; a broken byte is no reason to end a stream. Of a line
    without end a little is kept at a time.
    """
    source = getattr(stream, "buffer", None)
    if source is None:  # a stream of text, which holds no bytes
        source = io.BytesIO(stream.read().encode("utf-8", "replace"))
    first = True
    while line := source.readline(
        most + 3
    ):  # with the end of a line, or the mark of UTF-8
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = source.readline(CHARACTERS)
            if rest and len(line) <= most + 2:
                line += rest[: most + 3 - len(line)]
        text = line.removeprefix(b"\xef\xbb\xbf") if first else line
        first = False
        text = text.rstrip(b"\r\n")
        if len(text) > most:
            yield "", too_long(most)
        else:
            yield text.decode("utf-8", "replace"), ""


def answer_file(
    run: Run,
    path: Path,
    changes: dict[str, Any],
    output: Path | None,
    as_json: bool,
    raw: bool = False,
) -> None:
    """Answer every row of a file, on standard output or into ``output``, as it is read.

    ``changes`` are keys under ``data`` for this file, its column names for one; with ``raw`` cells
    of a CSV that a spreadsheet would run are left as they are.

    Raises:
        UsageError: the output is none of ``WRITERS``, or would overwrite the input.
        UserError: a row is faulty; what stands before it is answered.
    """
    if output is not None:
        check_output(output, [path], run.folder)
    told, schema = run.reading(changes)
    writes = run.task.writes
    # a text of a thousand sentences is not given up for one of them
    skip = told.data.on_error == "skip" or writes
    by_step = run.task.schema.steps
    # a file to answer may lack the answer and what else is not read
    needed = (
        *schema.inputs,
        *((told.data.sequence,) if by_step and told.data.sequence else ()),
    )
    rows: Rows | LineRows
    if writes and is_plain(path, changes):
        rows = LineRows(path, told.data.encoding, schema.inputs[0], told.data.max_row)
        pairs = answered_lines(run, rows)
    else:
        on_error = "skip" if skip else told.data.on_error
        encoding = told.data.encoding
        most = told.data.max_row
        rows = rows_of(
            path, encoding=encoding, on_error=on_error, needed=needed, max_row=most
        )
        pairs = (
            answered_steps(run, path, told, rows, schema, needed)
            if by_step
            else answered(run, rows, schema, skip)
        )
    if output is None:
        for row, answer in pairs:
            shown_row = (
                row if len(rows.columns) > 1 else {"input": next(iter(row.values()))}
            )
            out(
                json_line(as_object(shown_row, answer))
                if as_json
                else show(None, answer, False)
            )
        _tell_skipped(rows)
        return
    with written(output) as handle:
        WRITERS[output.suffix](handle, pairs, rows.columns, raw)
    _tell_skipped(rows)


def _tell_skipped(rows: Rows | LineRows) -> None:
    count = rows.faults if isinstance(rows, LineRows) else len(rows.skipped)
    if count:
        say(f"skipped {count:,} faulty rows; the first: {rows.skipped[0]}")


def say(text: str) -> None:
    """Print a line beside the answers: on standard error."""
    note(f"unrolled: {text}")


def answered(
    run: Run, rows: Rows, schema: Schema, skip: bool
) -> Iterator[tuple[dict[str, Any], Prediction]]:
    """Yield the rows of a file as mappings, each with its answer, a chunk at a time.

    With ``skip`` a faulty row gets an empty answer, and is counted.
    """
    places = locate(rows, schema.inputs, run.task.columns, schema.answer)
    failed: list[DataError] = []
    for group in _chunks(in_step(rows)):
        # rows that the reader left out have no cells
        chunk = [(line, row) for line, row in group if row is not None]
        cells = [tuple(row[i] for i in places) for _, row in chunk]
        in_turn = _together(run, cells, rows, [line for line, _ in chunk], skip, failed)
        for _, row in group:
            if row is None:
                yield dict.fromkeys(rows.columns), Prediction("")
            else:
                yield dict(zip(rows.columns, row, strict=True)), next(in_turn)
    rows.skipped += failed


def _together(
    run: Run,
    cells: list[tuple[Any, ...]],
    rows: Rows,
    lines: list[int],
    skip: bool,
    failed: list[DataError],
) -> Iterator[Prediction]:
    """Answer rows at once; where one cannot be answered, those that can by themselves."""
    if run.task.writes:
        told = answer_sound(run, cells)
        for line, each in zip(lines, told, strict=True):
            if isinstance(each, str):
                failed.append(DataError(each, *rows.position(line)))
        yield from (Prediction("") if isinstance(each, str) else each for each in told)
        return
    try:
        answers = run.answers(cells)
    except (UserError, ArithmeticError, ValueError, RecursionError, MemoryError):
        for line, cell in zip(lines, cells, strict=True):
            yield _one(run, cell, rows, line, failed if skip else None)
        return
    yield from answers


def answer_sound(run: Run, cells: list[tuple[Any, ...]]) -> list[Prediction | str]:
    """Answer together the rows that can be answered; of the others say what is wrong."""
    faults = [run.task.fault(row) for row in cells]
    sound = iter(
        run.answers(
            [row for row, fault in zip(cells, faults, strict=True) if not fault]
        )
    )
    return [fault or next(sound) for fault in faults]


def _chunks(rows: Iterator[Numbered]) -> Iterator[list[Numbered]]:
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


class LineRows:
    """The lines of a text as rows of one column; of its faults the first is kept, and counted."""

    def __init__(
        self, path: Path, encoding: str | None, column: str, max_row: int
    ) -> None:
        self.lines = Lines(path, encoding, max_row)
        self.columns = [column]
        self.skipped: list[DataError] = []
        self.faults = 0

    def report(self, line: int, fault: str) -> None:
        """Count a fault."""
        self.faults += 1
        if not self.skipped:
            self.skipped.append(DataError(fault, self.lines.path, line))

    def chunks(self) -> Iterator[list[Line]]:
        """Yield lines to answer together: many, so that few are padded, or few long ones."""
        chunk = list[Line]()
        size = 0
        for line in self.lines:
            chunk.append(line)
            size += len(line.text)
            if len(chunk) >= LINES or size >= CHARACTERS:
                yield chunk
                chunk = []
                size = 0
        if chunk:
            yield chunk


def is_plain(path: Path, changes: dict[str, Any]) -> bool:
    """Whether a file holds a text a line, whatever its lines look like: its name says no table."""
    named = any(known.names(path.name) for known in FORMATS)
    named = named or ARCHIVE.search(path.name) is not None
    return path.is_file() and not named and "data.text" not in changes


def answered_lines(
    run: Run, rows: LineRows
) -> Iterator[tuple[dict[str, Any], Prediction]]:
    """Yield every line of a text with its answer, in constant memory.

    A line that is empty, too long or damaged gets an empty answer, and is counted.
    """
    answers: dict[int, Prediction] = {}
    for chunk in rows.chunks():
        faults = {line.number: line.error for line in chunk if line.error}
        sound = [line for line in chunk if not line.error]
        cells = [(line.text,) for line in sound]
        for line, answer in zip(sound, answer_sound(run, cells), strict=True):
            if isinstance(answer, str):
                faults[line.number] = answer
            else:
                answers[line.number] = answer
        for number in sorted(faults):
            rows.report(number, faults[number])
        for line in chunk:
            yield {rows.columns[0]: line.text}, answers.pop(line.number, Prediction(""))


def in_step(rows: Rows) -> Iterator[Numbered]:
    """Yield (line, row) as a file has them, None for a row that the reader left out.

    So line n of the answers stays the answer to row n of the file.
    """
    # the fault of a line of plain text leaves the line, emptied
    faults: list[DataError] = [] if rows.format.kind == "text" else rows.skipped
    waiting: list[int] = []
    seen = 0
    for line, row in rows:
        # a block of lines tells its faults before the first of its rows comes
        for fault in faults[seen:]:
            heapq.heappush(waiting, _counted(rows, fault))
        seen = len(faults)
        while waiting and waiting[0] < line:
            yield heapq.heappop(waiting), None
        yield line, row
    yield from ((line, None) for line in sorted(waiting))
    yield from ((_counted(rows, fault), None) for fault in faults[seen:])


def _counted(rows: Rows, fault: DataError) -> int:
    """Return the line of a fault counted over all files, as ``rows`` counts."""
    at = next((i for i, (_, name) in enumerate(rows.parts) if name == fault.path), None)
    if at is None:
        return fault.line or 1
    line = rows.parts[at][0] + (fault.line or 1)
    # of a text that is one row the fault may be lines further down
    return min(line, rows.parts[at + 1][0]) if at + 1 < len(rows.parts) else line


def answered_steps(
    run: Run,
    path: Path,
    told: Recipe,
    rows: Rows,
    schema: Schema,
    needed: Collection[str],
) -> Iterator[tuple[dict[str, Any], Prediction]]:
    """Yield the rows of a file of steps, each with the answer at its step.

    The whole file is read first, since a sequence is answered as a whole. A row that was left out
    gets an empty answer.
    """
    data = told.data
    with unchanged(path):  # which is read twice
        table = need_table(
            read(
                path,
                encoding=data.encoding,
                on_error=data.on_error,
                needed=needed,
                max_row=data.max_row,
            )
        )
        answers, skipped = run.answers_by_line(table, told, schema)
        for line, row in in_step(rows):
            cells = [None] * len(rows.columns) if row is None else row
            yield (
                dict(zip(rows.columns, cells, strict=True)),
                answers.get(line, Prediction("")),
            )
    rows.skipped = skipped


def _one(
    run: Run,
    cells: tuple[Any, ...],
    rows: Rows,
    line: int,
    failed: list[DataError] | None,
) -> Prediction:
    """Answer one row, or say which line it is that cannot be answered."""
    answer = answer_one(run, cells)
    if isinstance(answer, Prediction):
        return answer
    fault = DataError(answer, *rows.position(line))
    if failed is None:
        raise fault
    failed.append(fault)
    return Prediction("")
