"""Predictions printed, or written to a file: what `unrolled predict` does in each of its modes."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from unrolled.cli.output import (
    WRITERS,
    AnswerColumns,
    as_object,
    check_output,
    show,
    written,
)
from unrolled.core.errors import DataError, UsageError
from unrolled.core.terminal import json_line, note, out
from unrolled.core.words import counted
from unrolled.data.pictures import is_image
from unrolled.run import Run
from unrolled.runs.evaluate import changed_search
from unrolled.runs.live_frames import LiveFrames, jpeg_frames, raw_frames
from unrolled.tasks.base import Prediction

STANDARD_INPUT = "standard input"  # the name of the file that it is copied to


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
    changed = changes or begin or banned or required
    if not run.task.is_generative and not changed:
        return
    torch.manual_seed(secrets.randbits(63) if seed is None else seed)
    align = details and run.task.aligns(run.model)
    search = {key.removeprefix("decoding."): value for key, value in changes.items()}
    changed_search(
        run.recipe, search
    )  # which refuses a key that is an argument as well
    run.adjust(begin=begin, banned=banned, required=required, alignment=align, **search)


def labels_of(run: Run, probabilities: bool) -> tuple[str, ...]:
    """Return the labels whose probabilities are asked for.

    Raises:
        UsageError: the run does not answer a row with one of some labels.
    """
    if not probabilities:
        return ()
    task = run.task
    if not task.class_names or task.scored_unit != "rows":
        raise UsageError(
            "--probabilities is for runs that answer a row with one of some labels"
        )
    return task.class_names


def print_answers(
    run: Run, rows: list[str], as_json: bool, labels: tuple[str, ...] = ()
) -> None:
    """Print the answer to each row of the command line."""
    for row, prediction in run.predictor.predict_named(rows):
        out(show(row, prediction, as_json, labels))


def image_rows(run: Run, rows: list[str], question: str | None) -> list[str]:
    """Return rows with folders of images spelt out, and the question beside each image.

    Raises:
        UsageError: a question for a run that is asked none, or a folder without images.
    """
    schema = run.task.schema
    if question is not None and not (schema.images and schema.text):
        raise UsageError("--question is for a run that answers questions about images")
    if not schema.images:
        return rows
    spelt: list[str] = []
    for row in rows:
        path = Path(row)
        if schema.clips or not path.is_dir():
            spelt.append(row)
            continue
        files = sorted(file for file in path.rglob("*") if is_image(file.name))
        if not files:
            raise UsageError(f"{row}: this folder holds no images")
        spelt += map(str, files)
    if question is None:
        return spelt
    columns = (schema.images[0], schema.text[0])
    return [
        json.dumps(dict(zip(columns, (row, question), strict=True)), ensure_ascii=False)
        for row in spelt
    ]


def print_live_frames(run: Run, shape: tuple[int, ...] | None, as_json: bool) -> None:
    """Print the label of each frame that comes on standard input, as soon as it has come."""
    live = LiveFrames(run.predictor)
    stream = sys.stdin.buffer
    frames = jpeg_frames(stream) if shape is None else raw_frames(stream, shape)
    count = 0
    for count, frame in enumerate(frames, 1):
        prediction = live.push(frame)
        out(show(str(count), prediction, as_json), flush=True)
    if count:
        say(f"{count:,} frames, {live.latency * 1e3:.1f} ms each (median)")


def print_live(run: Run, as_json: bool, labels: tuple[str, ...] = ()) -> None:
    """Print the answer to each line of standard input, as soon as it is read.

    A line that cannot be answered is named on standard error and gets an empty answer, with the
    ``error`` among its details, so that a stream goes on and line n of the output stays the answer
    to line n of the input.
    """
    pairs = run.predictor.predict_stream(sys.stdin)
    for number, (row, prediction) in enumerate(pairs, 1):
        if isinstance(prediction, str):
            say(f"line {number}: {prediction}")
            prediction = Prediction("", None, {"error": prediction})
        out(show(row, prediction, as_json, labels), flush=True)


def answer_file(
    run: Run,
    path: Path,
    changes: dict[str, Any],
    output: Path | None,
    as_json: bool,
    raw: bool = False,
    labels: tuple[str, ...] = (),
) -> None:
    """Answer every row of a file, on standard output or into ``output``, as it is read.

    ``changes`` are keys under ``data`` for this file, its column names for one; with ``raw`` cells
    of a CSV that a spreadsheet would run are left as they are. ``labels`` are those whose
    probabilities are added.

    Raises:
        UsageError: the output is none of ``WRITERS``, or would overwrite the input.
        UserError: a row is faulty; what stands before it is answered.
    """
    if output is not None:
        check_output(output, [path], run.folder)
    predictions = run.predict_file(path, **changes)
    if output is None:
        _print_rows(predictions, len(predictions.columns), as_json, labels)
    else:
        probable = not run.task.answers_values
        columns = AnswerColumns(predictions.columns, raw, probable, labels)
        with written(output) as handle:
            WRITERS[output.suffix](handle, predictions, columns)
    if predictions.error_count:
        error = predictions.first_error
        if error is not None and path.name == STANDARD_INPUT:
            error = _of_standard_input(error)
        say(
            f"skipped {counted(predictions.error_count, 'faulty row')}; "
            f"the first: {error}"
        )


def _print_rows(
    pairs: Iterable[tuple[dict[str, Any], Prediction]],
    columns: int,
    as_json: bool,
    labels: tuple[str, ...],
) -> None:
    for row, prediction in pairs:
        if not as_json:
            out(show(None, prediction, False, labels))
            continue
        shown = row if columns > 1 else {"input": next(iter(row.values()))}
        out(json_line(as_object(shown, prediction)))


@contextmanager
def file_of(path: Path) -> Iterator[Path]:
    """Yield a file; for - one of what comes on standard input, since it is read more than once.

    Raises:
        DataError: what a reader raises of it, by its usual name.
    """
    if str(path) != "-":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, STANDARD_INPUT)
        with path.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        try:
            yield path
        except DataError as error:
            raise _of_standard_input(error) from None


def _of_standard_input(error: DataError) -> DataError:
    return DataError(error.message, STANDARD_INPUT, error.line)


def say(text: str) -> None:
    """Print a line beside the answers: on standard error."""
    note(f"unrolled: {text}")
