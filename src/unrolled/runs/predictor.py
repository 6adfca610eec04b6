"""Rows in any form to predictions: the one way that Python and the command line share."""

from __future__ import annotations

import io
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from unrolled.core.errors import UserError, is_out_of_memory, shown
from unrolled.data.archives import too_long
from unrolled.runs.folder import Loaded
from unrolled.runs.rows import InputCells, cells_of, rows_of
from unrolled.tasks.base import AnswerOptions, Prediction, Task
from unrolled.training.precision import ComputeDevice, choose, torch_defaults

Cells = tuple[Any, ...]
READ = 1 << 22  # bytes of an endless line that are read at once


class KeptStepper:
    """What stepped a model last, with the weights that it packed; one user at a time has it."""

    def __init__(self) -> None:
        self._kept: list[tuple[list[nn.Parameter], list[int], Any]] = []

    def __reduce__(self) -> tuple[type[KeptStepper], tuple[()]]:
        # packed weights are neither copied nor pickled
        return KeptStepper, ()

    def take(self, weights: list[nn.Parameter], versions: list[int], fresh: Any) -> Any:
        """Return what was kept, where it would be made of the same weights as ``fresh``."""
        try:
            known, packed, stepper = self._kept.pop()
        except IndexError:
            return fresh
        same = len(known) == len(weights) and all(map(operator.is_, known, weights))
        if same and packed == versions and _kind_of(stepper) == _kind_of(fresh):
            return stepper
        return fresh

    def give(
        self, weights: list[nn.Parameter], versions: list[int], stepper: Any
    ) -> None:
        """Keep a stepper, if its weights can be told from later ones."""
        if versions:
            self._kept[:] = [(weights, versions, stepper)]


def _kind_of(stepper: Any) -> tuple[type, str, str]:
    """Return the class of what steps, in what it reads weights, and by which path.

    A model has neither choice.
    """
    precision = getattr(stepper, "precision", "float32")
    return type(stepper), precision, getattr(stepper, "path", "")


def _versions(weights: list[nn.Parameter]) -> list[int]:
    """Return how often each was changed, and where it stands; nothing where that is not known."""
    if any(weight.is_inference() for weight in weights):
        return []
    versions: list[int] = []
    for weight in weights:
        versions += [weight._version, weight.data_ptr()]
    return versions


@dataclass(frozen=True, slots=True)
class Predictor:
    """A task with a trained model: rows to predictions, in order.

    Attributes:
        task: fields and search.
        model: in evaluation mode.
        compute_device: where it computes.
        max_row: bytes that a row may have.
        options: how texts are written; two predictors may share a model and differ in these.
        kept: see ``stepping``.
    """

    task: Task
    model: nn.Module
    compute_device: ComputeDevice
    max_row: int
    options: AnswerOptions
    kept: KeptStepper = field(
        default_factory=lambda: KeptStepper(), compare=False, repr=False
    )

    @classmethod
    def of(cls, loaded: Loaded, device: str = "auto") -> Predictor:
        """Return what answers rows as a run that was read back says.

        Args:
            loaded: the run.
            device: ``auto``, ``cpu``, ``cuda`` ...

        Raises:
            UsageError: there is no such device.
        """
        recipe = loaded.recipe
        precision = "fp32" if recipe.training.precision == "fp32" else "auto"
        compute_device = choose(device, precision)
        model = loaded.model.to(compute_device.device)
        options = AnswerOptions.of(recipe)
        loaded.task.check_options(options, model)
        return cls(
            loaded.task,
            model,
            compute_device,
            recipe.data.max_row,
            options,
        )

    @contextmanager
    def stepping(self, precision: str = "float32", many: bool = False) -> Iterator[Any]:
        """Lend what steps the language model, with its weights packed and its last text read.

        It is kept for the next text, unless weights have changed since or somebody else has it.
        What is written through ``.data`` of a weight is not seen.

        Args:
            precision: of the packed weights; see ``Layer.stream``.
            many: what steps many texts at once.

        Raises:
            UsageError: there is no such precision, or no step in it.
        """
        model: Any = self.model
        fresh = model.batched(precision) if many else model.stepper(precision)
        weights = list(model.parameters())
        versions = _versions(weights)
        stepper = self.kept.take(weights, versions, fresh)
        try:
            yield stepper
        finally:
            self.kept.give(weights, versions, stepper)

    def predict(self, rows: Iterable[Any]) -> list[Prediction]:
        """Answer rows together.

        Raises:
            UserError: a row does not fit the columns the run was trained on.
        """
        self.task.check_rows()
        cells: list[Cells] = []
        for row in rows_of(rows):
            cells_of_row = cells_of(row, self.task, self.max_row)
            cells.append(cells_of_row)
        return self.predict_cells(cells) if cells else []

    @torch_defaults()
    def predict_cells(self, cells: Sequence[Cells]) -> list[Prediction]:
        """Answer rows that are given by their input cells."""
        device = self.compute_device
        return self.task.predict(self.model, cells, device, self.options)

    @torch_defaults()
    def predict_steps(self, cells: Cells) -> list[Prediction]:
        """Answer at every step of a sequence of numbers, given by its input cells."""
        return self.task.predict_steps(self.model, cells, self.compute_device)

    def predict_one(self, row: Any) -> Prediction | str:
        """Return the answer to one row, or what is wrong with the row.

        Whatever fails of a row by itself is that row's error: numbers out of bounds, text without
        end.
        """
        try:
            return self.predict([row])[0]
        except UserError as error:
            return str(error)
        except (ArithmeticError, ValueError, RecursionError) as error:
            return f"it cannot be answered ({shown(str(error), 100)})"
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return "it takes more memory than there is"

    def predict_each(self, rows: Sequence[Cells]) -> list[Prediction | str]:
        """Answer together the rows that can be answered; of the others say what is wrong.

        A search takes long, so its task says before what cannot be answered; of other tasks the
        rows are asked one by one where they fail together.
        """
        rows = [InputCells(row) for row in rows]
        if self.task.is_generative:
            reasons = [self.task.why_not_answerable(row) for row in rows]
            pairs = zip(rows, reasons, strict=True)
            valid = [row for row, reason in pairs if not reason]
            predictions = iter(self.predict(valid))
            return [reason or next(predictions) for reason in reasons]
        try:
            return [*self.predict(rows)]
        except (UserError, ArithmeticError, ValueError, RecursionError, MemoryError):
            return [self.predict_one(row) for row in rows]

    def predict_named(self, rows: Sequence[str]) -> Iterator[tuple[str, Prediction]]:
        """Yield typed rows with their answers.

        Raises:
            UserError: a row is faulty; it says which one.
        """
        try:
            predictions = self.predict(rows)
            yield from zip(rows, predictions, strict=True)
        except UserError as error:
            if len(rows) == 1:
                raise
            for number, row in enumerate(rows, 1):
                prediction = self.predict_one(row)
                if isinstance(prediction, str):
                    raise UserError(f"row {number}: {prediction}") from None
            raise error

    def predict_stream(self, stream: Any) -> Iterator[tuple[str, Prediction | str]]:
        """Yield each line of a stream with its answer, or what is wrong, as soon as it is read."""
        for row, reason in stream_lines(stream, self.max_row):
            yield row, reason or self.predict_one(row)


def stream_lines(stream: Any, most: int) -> Iterator[tuple[str, str]]:
    """Yield the lines of a stream, and what is wrong with those of more than ``most`` bytes.

    They are read as UTF-8, as files are; a broken byte is no reason to end a stream. Of a line
    without end a little is kept at a time.
    """
    source = getattr(stream, "buffer", None)
    if source is None:  # a stream of text, which holds no bytes
        text = stream.read()
        source = io.BytesIO(text.encode("utf-8", "replace"))
    first = True
    # with the end of a line, or the mark of UTF-8
    bound = most + 3
    while line := source.readline(bound):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = source.readline(READ)
            missing = bound - len(line)
            line += rest[:missing]
        content = line.removeprefix(b"\xef\xbb\xbf") if first else line
        first = False
        content = content.rstrip(b"\r\n")
        if len(content) > most:
            yield "", too_long(most)
        else:
            yield content.decode("utf-8", "replace"), ""
