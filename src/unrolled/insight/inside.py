"""A look inside a run on some inputs: traces, and the page that shows them."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unrolled.core.errors import UsageError, UserError, shown
from unrolled.core.files import write_text
from unrolled.insight.inside_page import MARK, render
from unrolled.insight.trace import Forecast, Trace
from unrolled.insight.tracing import Options, look
from unrolled.ops.recording import Hold
from unrolled.runs.predictor import Predictor
from unrolled.runs.rows import cells_of
from unrolled.training.precision import ComputeDevice, callers_state_kept

NINETY = 1.645  # deviations of a normal distribution that hold nine values of ten
STATE_NAMES = {"unit": "h"}  # other names of what is held
_HOLD = re.compile(
    r"(?:(?P<layer>[^=.]+)\.)?(?P<name>[a-z]+)(?::(?P<unit>\d+))?=(?P<value>.+)"
)


@dataclass(frozen=True)
class Inside:
    """What was seen inside a run while it read some inputs; in a notebook it draws itself.

    Attributes:
        traces: one for each input.
        title: what the run is called.
        language: of the page: ``auto``, ``en`` or ``ko``.
    """

    traces: tuple[Trace, ...]
    title: str
    language: str = "auto"

    def to_json(self) -> Any:
        """Return plain values: those of the one input, or a list of several."""
        values = [trace.to_json() for trace in self.traces]
        return values[0] if len(values) == 1 else values

    def to_html(self) -> str:
        """Return the page."""
        return render(self.traces, self.title, self.language)

    def save(self, path: str | Path) -> Path:
        """Write the page, and return its path.

        Raises:
            UserError: a file is there that is no such page, or it cannot be written.
        """
        path = Path(path)
        if path.exists() and not _is_ours(path):
            raise UserError(
                f"{path}: a file is there that is no page of unrolled inspect; name another with -o"
            )
        write_text(path, self.to_html())
        return path

    def _repr_html_(self) -> str:
        # a page has styles and scripts of its own, which must not meet those of the notebook
        from html import escape

        page = escape(self.to_html())
        return f'<iframe srcdoc="{page}" width="100%" height="720" style="border:0"></iframe>'


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(4096)
    except OSError:
        return False


def inspect(
    predictor: Predictor,
    inputs: Sequence[Any],
    result: dict[str, Any],
    *,
    hold: Sequence[str] = (),
    units: Sequence[int] | None = None,
    at: int | None = None,
    title: str = "",
    language: str = "auto",
) -> Inside:
    """Look inside a run while it reads each of some inputs.

    Args:
        predictor: of the run.
        inputs: rows in any form that ``predict`` takes; texts, where the run is a language model.
        result: of the training, whose error a forecast's interval is made of.
        hold: gates and units that are held: ``forget=0``, ``unit:17=1.0``,
            ``layer 2.update:3=0.5``.
        units: which units are shown.
        at: the step whose output is explained, from 1.
        title: of the page.
        language: of the page.

    Raises:
        UserError: an input cannot be read.
        UsageError: a gate, unit or step is not there.
    """
    if not inputs:
        raise UsageError("give an input to look at")
    options = Options(
        tuple(parse_hold(text) for text in hold),
        None if units is None else tuple(units),
        None if at is None else at - 1,
    )
    predictor = _on_processor(predictor)
    traces: list[Trace] = []
    for count, row in enumerate(inputs, 1):
        try:
            traces.append(_look(predictor, _row(predictor, row), options, result))
        except UserError as error:
            if len(inputs) == 1 or isinstance(error, UsageError):
                raise
            raise UserError(f"input {count}: {error}") from None
    return Inside(tuple(traces), title, language)


@dataclass(frozen=True)
class RowToInspect:
    """A row with its input cells, how it is shown, and its true value, where that is known."""

    text: str
    cells: tuple[Any, ...]
    truth: float | None = None


def inspect_rows(
    predictor: Predictor,
    rows: Sequence[RowToInspect],
    result: dict[str, Any],
    title: str,
) -> Inside:
    """Look inside a run while it reads rows of a file. Raises UserError: one cannot be read."""
    predictor = _on_processor(predictor)
    traces = [_look(predictor, row, Options(), result) for row in rows]
    return Inside(tuple(traces), title)


def _row(predictor: Predictor, row: Any) -> RowToInspect:
    """Return a row as it was given. Raises UserError: it does not fit the columns."""
    task = predictor.task
    text = row if isinstance(row, str) else shown(row, 200)
    if not task.answers_rows:
        if not isinstance(row, str):
            raise UsageError(f"{text} is no text; a language model reads one")
        return RowToInspect(text, (row,))
    return RowToInspect(text, cells_of(row, task, predictor.max_row))


def _on_processor(predictor: Predictor) -> Predictor:
    """Return what answers on the processor: the steps of one row are too small for a GPU."""
    if predictor.compute_device.device.type == "cpu":
        return predictor
    device = ComputeDevice(torch.device("cpu"), "fp32", "one row, step by step")
    model = copy.deepcopy(predictor.model).cpu()
    return replace(predictor, model=model, compute_device=device)


@callers_state_kept()
def _look(
    predictor: Predictor, row: RowToInspect, options: Options, result: dict[str, Any]
) -> Trace:
    # steps of one row are too small to be divided: threads that wait for each other cost more than
    # they give, and several times as much where something else runs
    torch.set_num_threads(1)
    task = predictor.task
    reader = task.step_reader(predictor.compute_device, predictor.options)
    trace = look(predictor.model, reader, row.cells, row.text, options)
    if not reader.are_values:
        return trace
    error = result.get("scores", {}).get("rmse", math.nan)
    if not math.isfinite(error):
        return trace
    value = trace.explained.probability
    frames = task.frames
    forecast = Forecast(
        value,
        value - NINETY * error,
        value + NINETY * error,
        task.schema.answer or "",
        0 if frames is None else frames.reading.ahead,
        row.truth,
    )
    return replace(trace, forecast=forecast)


def parse_hold(text: str) -> Hold:
    """Read ``forget=0``, ``unit:17=1.0`` or ``layer 2.update:3=0.5``.

    Raises:
        UsageError: it is none of these.
    """
    match = _HOLD.fullmatch(text.strip())
    value = math.nan
    if match is not None:
        try:
            value = float(match["value"])
        except ValueError:
            value = math.nan
    if match is None or not math.isfinite(value):
        raise UsageError(
            f"--hold {shown(text)}: write NAME=VALUE or NAME:UNIT=VALUE, such as forget=0 or "
            "unit:17=1.0"
        )
    name = STATE_NAMES.get(match["name"], match["name"])
    unit = None if match["unit"] is None else int(match["unit"])
    if match["name"] == "unit" and unit is None:
        raise UsageError(
            f"--hold {shown(text)}: say which unit, as in unit:17={value:g}"
        )
    return Hold(name, value, unit, match["layer"])
