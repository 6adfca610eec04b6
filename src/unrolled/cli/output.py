"""Answers as lines and as files: text, JSON lines, CSV."""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from unrolled.core.errors import UsageError, UserError
from unrolled.core.files import advice, cause_of, open_up
from unrolled.core.terminal import as_json, clean, json_line
from unrolled.core.words import counted
from unrolled.tasks.base import Prediction

Pairs = Iterable[tuple[dict[str, Any], Prediction]]

# what spreadsheets take for a formula at the beginning of a cell
_FORMULA = re.compile(" *[\t\r\n=+\\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class AnswerColumns:
    """What is written of each row that is answered.

    Attributes:
        names: the columns of the file.
        raw: cells of a CSV that a spreadsheet would run are left as they are.
        probability: answers have one.
        labels: those whose probabilities are written, too.
    """

    names: list[str]
    raw: bool = False
    probability: bool = True
    labels: tuple[str, ...] = ()

    def added(self) -> list[str]:
        """Return the columns that are added to those of the file."""
        names = ["answer", *(["probability"] if self.probability else [])]
        names += [f"probability_{label}" for label in self.labels]
        return [free(name, self.names) for name in names]

    def probabilities(self, answer: Prediction) -> list[str]:
        """Return the probability of each label; empty ones for a row without an answer."""
        known = answer.details.get("probabilities", {})
        return [
            f"{known[label]:.6f}" if label in known else "" for label in self.labels
        ]


def show(
    row: Any, answer: Prediction, json_lines: bool, labels: tuple[str, ...] = ()
) -> str:
    """Return one line of output for a row, with the probabilities of ``labels`` behind tabs."""
    if not json_lines:
        columns = AnswerColumns([], labels=labels)
        return "\t".join(
            [clean(on_one_line(answer.text)), *columns.probabilities(answer)]
        )
    return json_line(as_object({"input": row}, answer))


def on_one_line(text: str) -> str:
    """Return a text without line ends, so that line n of the output answers row n."""
    return " ".join(text.splitlines())


def as_object(row: dict[str, Any], answer: Prediction) -> dict[str, Any]:
    """Return a row with its answer, its probability and the details beside its own columns."""
    columns: dict[str, Any] = {**row, free("answer", row): answer.text}
    if answer.probability is not None:
        columns[free("probability", row)] = answer.probability
    details = {free(key, row): value for key, value in answer.details.items()}
    return columns | details


def free(name: str, taken: Iterable[str]) -> str:
    """Return ``name``, lengthened while it is taken."""
    names = set(taken)
    while name in names:
        name += "_"
    return name


def _plain(value: Any, raw: bool) -> Any:
    """Return a cell of a table; without ``raw`` one that no spreadsheet runs as a formula."""
    text = (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, list | dict)
        else value
    )
    if raw or not isinstance(text, str) or not _FORMULA.match(text):
        return text
    return text if _NUMBER.fullmatch(text.strip(" ")) else f"'{text}"


def write_csv(handle: IO[str], pairs: Pairs, columns: AnswerColumns) -> None:
    """Write rows with the columns they have, the answer and its probabilities added."""
    # texts are quoted, all of them: another program may part cells at a semicolon or a tab
    writer = csv.writer(handle, quoting=csv.QUOTE_MINIMAL)
    raw = columns.raw
    head = [*columns.names, *columns.added()]
    _write_row(handle, writer, [_plain(name, raw) for name in head])
    for row, answer in pairs:
        cells = [_plain(value, raw) for value in (*row.values(), answer.text)]
        if columns.probability:
            known = answer.probability is not None
            cells.append(f"{answer.probability:.6f}" if known else "")
        cells += columns.probabilities(answer)
        _write_row(handle, writer, cells)
        handle.flush()


_PARTING = re.compile("[;\t]")


def _write_row(handle: IO[str], writer: Any, cells: list[Any]) -> None:
    """Write a row; one with a cell that another locale's delimiter would part is quoted whole."""
    if any(isinstance(cell, str) and _PARTING.search(cell) for cell in cells):
        csv.writer(handle, quoting=csv.QUOTE_ALL).writerow(cells)
    else:
        writer.writerow(cells)


def write_jsonl(handle: IO[str], pairs: Pairs, columns: AnswerColumns) -> None:
    """Write rows as JSON objects, one a line."""
    for row, answer in pairs:
        handle.write(as_json(as_object(row, answer)) + "\n")
        handle.flush()


def write_text(handle: IO[str], pairs: Pairs, columns: AnswerColumns) -> None:
    """Write the answers alone, one a line, with probabilities of labels behind tabs."""
    for _, answer in pairs:
        cells = [on_one_line(answer.text), *columns.probabilities(answer)]
        handle.write("\t".join(cells) + "\n")
        handle.flush()


WRITERS: dict[str, Callable[[IO[str], Pairs, AnswerColumns], None]] = {
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".txt": write_text,
}


def check_output(output: Path, inputs: Iterable[Path], run: Path) -> None:
    """Refuse a file that answers must not be written to.

    Args:
        output: the file.
        inputs: what is read; a folder stands for all that is in it.
        run: the folder of the run.

    Raises:
        UsageError: it is none of ``WRITERS``, a folder, one of the inputs or a file of the run.
    """
    if output.suffix not in WRITERS:
        raise UsageError(f"{output}: end the name in {', '.join(WRITERS)}")
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file in it")
    real = os.path.realpath(output)
    for path in inputs:
        source = os.path.realpath(path)
        if real == source or (
            output.exists() and path.exists() and output.samefile(path)
        ):
            raise UsageError(f"{output} is the file that is read; choose another name")
        if path.is_dir() and Path(real).is_relative_to(source):
            raise UsageError(
                f"{output} lies in the folder that is read; choose another place"
            )
    home = os.path.realpath(run)
    if Path(real).is_relative_to(home) and (
        Path(real).parent == Path(home)
        or Path(real).is_relative_to(Path(home, "checkpoints"))
    ):
        raise UsageError(
            f"{output} lies in the folder of the run; choose another place"
        )


@contextmanager
def written(output: Path) -> Iterator[IO[str]]:
    """Yield a file whose text takes the place of ``output`` when the block succeeds.

    Where it fails, what stood there is intact, and what was written is kept beside it under a name
    that the error tells; a pipe or a device is written to directly.

    Raises:
        UserError: it cannot be written.
    """
    if _is_strange(output):
        try:
            with output.open("w", encoding="utf-8", newline="") as handle:
                yield handle
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _refused(output, error) from None
        return
    target = Path(os.path.realpath(output))  # a link stays a link
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(
            prefix=f".{target.stem[:50]}.", suffix=".tmp", dir=target.parent
        )
    except OSError as error:
        raise _refused(output, error) from None
    temporary = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        open_up(temporary)
        temporary.replace(target)
    except BaseException as error:
        kept = _keep(temporary, target)
        if isinstance(error, OSError) and error.filename in (None, name):
            raise UserError(f"{_refused(output, error)}{kept}") from None
        if isinstance(error, UserError) and kept:
            extended = UserError(f"{error}{kept}")
            extended.exit_code = error.exit_code
            raise extended from None
        raise


def _is_strange(output: Path) -> bool:
    """Whether a pipe, a device or a socket stands there."""
    try:
        return not stat.S_ISREG(os.stat(output).st_mode)
    except OSError:
        return False


def _refused(output: Path, error: OSError) -> UserError:
    return UserError(f"{output}: cannot be written ({cause_of(error)}){advice(error)}")


def _keep(temporary: Path, target: Path) -> str:
    """Keep what was written under a name of its own, if it holds rows; say where."""
    with suppress(OSError):
        lines = temporary.read_bytes().count(b"\n") - (target.suffix == ".csv")
        if lines > 0:
            for number in range(1, 1000):
                more = "" if number == 1 else f"-{number}"
                kept = target.with_name(
                    f"{target.stem[:50]}.partial{more}{target.suffix}"
                )
                if not kept.exists():
                    open_up(temporary)
                    temporary.replace(kept)
                    return f"; what was answered before ({counted(lines, 'row')}) is in {kept}"
        temporary.unlink(missing_ok=True)
    return ""
