"""The rows of a file, each with its prediction, as the file is read."""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.core.errors import DataError
from unrolled.data.aligned import Line, Lines
from unrolled.data.clips import Clip
from unrolled.data.formats import FORMATS
from unrolled.data.image_files import ImageFile
from unrolled.data.shards import unchanged
from unrolled.data.sources import Rows, read, rows_of
from unrolled.fields.series import Series
from unrolled.runs.file_reading import FileReading
from unrolled.runs.predictor import Predictor
from unrolled.tasks.base import Prediction, locate, need_table

NumberedRow = tuple[int, tuple[Any, ...] | None]
NamedRow = dict[str, Any]
CHUNK = 256  # rows answered together; what is read of a file at once
# lines of a text answered together, and their characters
LINES = 1024
CHARACTERS = 1 << 22
ARCHIVE = re.compile(r"\.zip(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FilePredictions:
    """The rows of a file by the names of their columns, each with its prediction.

    They are answered as they are taken. A row that was left out, or cannot be answered, has an
    empty answer, so that answer n stays that of row n; ``errors`` has what was wrong.
    """

    rows: Rows | LineRows
    pairs: Iterator[tuple[NamedRow, Prediction]]

    def __iter__(self) -> Iterator[tuple[NamedRow, Prediction]]:
        return self.pairs

    @property
    def columns(self) -> list[str]:
        """The columns of the file."""
        return self.rows.columns

    @property
    def error_count(self) -> int:
        """How many rows had none but an empty answer, of those that were taken."""
        if isinstance(self.rows, LineRows):
            return self.rows.error_count
        return len(self.rows.skipped)

    @property
    def first_error(self) -> DataError | None:
        """What was wrong with the first of these."""
        return next(iter(self.rows.skipped), None)


def predict_file(
    predictor: Predictor, path: Path, reading: FileReading, as_lines: bool
) -> FilePredictions:
    """Answer every row of a file, in constant memory where rows are no steps of a sequence.

    Args:
        predictor: what answers.
        path: the file.
        reading: its settings and columns.
        as_lines: whether it may be a text a line, where its name says nothing else.

    Raises:
        UserError: the file cannot be read. A faulty row raises as it is reached, unless it is
            skipped.
    """
    task = predictor.task
    data = reading.data
    schema = reading.schema
    archived = ARCHIVE.search(path.name) is not None
    named = archived or any(known.names(path.name) for known in FORMATS)
    alone = len(schema.inputs) == 1
    may_be_lines = as_lines and task.is_generative and alone and not named
    if may_be_lines and path.is_file():
        lines = LineRows(path, data.encoding, schema.inputs[0], data.max_row)
        return FilePredictions(lines, _predict_lines(predictor, lines))
    # a text of a thousand sentences is not given up for one of them
    skip = data.on_error == "skip" or task.is_generative
    by_step = schema.steps
    # a file to answer may lack the answer and what else is not read
    needed = [*schema.inputs]
    if by_step and data.sequence:
        needed.append(data.sequence)
    rows = rows_of(
        path,
        encoding=data.encoding,
        on_error="skip" if skip else data.on_error,
        needed=needed,
        max_row=data.max_row,
        header=reading.header(task),
        sheet=data.sheet,
    )
    if by_step:
        pairs = _predict_steps(predictor, path, reading, rows, needed)
    else:
        pairs = _predict_rows(predictor, rows, reading, skip)
    return FilePredictions(rows, pairs)


# ---------------------------------------------------------------------- rows of a table


def _predict_rows(
    predictor: Predictor, rows: Rows, reading: FileReading, skip: bool
) -> Iterator[tuple[NamedRow, Prediction]]:
    """Yield the rows of a file, each with its answer, a chunk at a time."""
    schema = reading.schema
    indices = locate(rows, schema.inputs, predictor.task.columns, schema.answer)
    errors: list[DataError] = []
    for group in _chunks(in_step(rows)):
        # rows that the reader left out have no cells
        chunk = [(line, row) for line, row in group if row is not None]
        cells = [tuple(row[i] for i in indices) for _, row in chunk]
        predictions = iter(predictor.predict_each(cells) if cells else [])
        for line, row in group:
            if row is None:
                yield dict.fromkeys(rows.columns), Prediction("")
                continue
            prediction = next(predictions)
            if isinstance(prediction, str):
                error = DataError(prediction, *rows.position(line))
                if not skip:
                    raise error
                errors.append(error)
                prediction = Prediction("")
            yield dict(zip(rows.columns, map(_plain, row), strict=True)), prediction
    rows.skipped += errors


def _plain(cell: Any) -> Any:
    """Return a cell as it is written beside its answer: an image or a clip by its name."""
    return str(cell) if isinstance(cell, ImageFile | Clip) else cell


def _chunks(rows: Iterator[NumberedRow]) -> Iterator[list[NumberedRow]]:
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


def in_step(rows: Rows) -> Iterator[NumberedRow]:
    """Yield (line, row) as a file has them, None for a row that the reader left out.

    So line n of the answers stays the answer to row n of the file.
    """
    # an error in a line of plain text leaves the line, emptied
    errors: list[DataError] = [] if rows.format.kind == "text" else rows.skipped
    waiting: list[int] = []
    seen = 0
    for line, row in rows:
        # a block of lines has its errors before the first of its rows comes
        for error in errors[seen:]:
            heapq.heappush(waiting, _counted(rows, error))
        seen = len(errors)
        while waiting and waiting[0] < line:
            yield heapq.heappop(waiting), None
        yield line, row
    yield from ((line, None) for line in sorted(waiting))
    yield from ((_counted(rows, error), None) for error in errors[seen:])


def _counted(rows: Rows, error: DataError) -> int:
    """Return the line of an error counted over all files, as ``rows`` counts."""
    parts = rows.parts
    index = next((i for i, (_, name) in enumerate(parts) if name == error.path), None)
    if index is None:
        return error.line or 1
    line = parts[index][0] + (error.line or 1)
    # of a text that is one row the error may be lines further down
    return min(line, parts[index + 1][0]) if index + 1 < len(parts) else line


# ---------------------------------------------------------------------- lines of a text


class LineRows:
    """The lines of a text as rows of one column; of their errors the first is kept, all counted."""

    def __init__(
        self, path: Path, encoding: str | None, column: str, max_row: int
    ) -> None:
        self.lines = Lines(path, encoding, max_row)
        self.columns = [column]
        self.skipped: list[DataError] = []
        self.error_count = 0

    def report(self, line: int, reason: str) -> None:
        """Count an error."""
        self.error_count += 1
        if not self.skipped:
            self.skipped.append(DataError(reason, self.lines.path, line))

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


def _predict_lines(
    predictor: Predictor, rows: LineRows
) -> Iterator[tuple[NamedRow, Prediction]]:
    """Yield every line of a text with its answer, in constant memory.

    A line that is empty, too long or damaged gets an empty answer, and is counted.
    """
    for chunk in rows.chunks():
        predictions: dict[int, Prediction] = {}
        reasons = {line.number: line.error for line in chunk if line.error}
        valid = [line for line in chunk if not line.error]
        answered = predictor.predict_each([(line.text,) for line in valid])
        for line, prediction in zip(valid, answered, strict=True):
            if isinstance(prediction, str):
                reasons[line.number] = prediction
            else:
                predictions[line.number] = prediction
        for number in sorted(reasons):
            rows.report(number, reasons[number])
        for line in chunk:
            prediction = predictions.get(line.number, Prediction(""))
            yield {rows.columns[0]: line.text}, prediction


# ---------------------------------------------------------------------- steps of sequences


def _predict_steps(
    predictor: Predictor,
    path: Path,
    reading: FileReading,
    rows: Rows,
    needed: Collection[str],
) -> Iterator[tuple[NamedRow, Prediction]]:
    """Yield the rows of a file of steps, each with the answer at its step.

    The whole file is read first, since a sequence is answered as a whole. A row that was left out
    gets an empty answer.
    """
    data = reading.data
    task = predictor.task
    with unchanged(path):  # which is read twice
        table = need_table(
            read(
                path,
                encoding=data.encoding,
                on_error=data.on_error,
                needed=needed,
                max_row=data.max_row,
                header=reading.header(task),
                sheet=data.sheet,
            )
        )
        series = task.gather(table, reading.schema, data.on_error, answered=False)
        assert isinstance(series, Series)
        indices = locate(series, reading.schema.inputs, task.columns)
        by_line: dict[int, Prediction] = {}
        for sequence, lines in zip(series.rows, series.steps, strict=True):
            cells = tuple(sequence[i] for i in indices)
            by_line |= zip(lines, predictor.predict_steps(cells), strict=True)
        for line, row in in_step(rows):
            cells = (None,) * len(rows.columns) if row is None else row
            named = dict(zip(rows.columns, cells, strict=True))
            yield named, by_line.get(line, Prediction(""))
    rows.skipped = series.skipped
