"""What a running training shows: a bar in a terminal, plain lines elsewhere, metrics always."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unrolled.core.errors import UserError
from unrolled.core.files import parsed_json, read_bytes, refused, write_text
from unrolled.core.terminal import clean, is_terminal, note

METRICS_BYTES = 2**31  # of metrics.jsonl


def duration(seconds: float) -> str:
    """Return 75 as ``1m15s``."""
    seconds = max(0, round(seconds))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


class MetricsLog:
    """``metrics.jsonl``: one object a line, flushed as it is written; TensorBoard on request.

    Opened again at a step, it drops what followed on it, which a resumed run writes anew.
    """

    def __init__(self, path: Path, step: int, tensorboard: bool) -> None:
        self.path = path
        self._open(step)
        self.board: Any = None
        if tensorboard:
            writer = need_tensorboard()
            self.board = writer(str(path.parent / "tensorboard"))

    def _open(self, step: int) -> list[dict[str, Any]]:
        """Open the file as it was at a step; return the lines that this drops."""
        kept = list[dict[str, Any]]()
        dropped = list[dict[str, Any]]()
        for line in read_metrics(self.path):
            if not step or _after(line, step):
                dropped.append(line)
            else:
                kept.append(line)
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_text(self.path, text, parents=False)
        self.file = self.path.open("a", encoding="utf-8")
        return dropped

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop what followed on a step, from which the run goes on; return it."""
        self.file.close()
        return self._open(step)

    def write(self, line: dict[str, Any]) -> None:
        """Append one object. Raises UserError where the disk refuses it."""
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:
            raise refused(self.path, error) from error

    def add(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Append the values of one step; ``kind`` is ``train`` or ``dev``."""
        finite = {k: v for k, v in values.items() if v == v and abs(v) != float("inf")}
        self.write({"step": step, "kind": kind, **finite})
        if self.board is not None:
            for name, value in finite.items():
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close the file and the event writer."""
        # of a line that was refused, and told, before
        with contextlib.suppress(OSError):
            self.file.close()
        if self.board is not None:
            self.board.close()


class SilentLog(MetricsLog):
    """What the processes beside the first one write to: nothing."""

    def __init__(self) -> None:
        self.board = None

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop nothing."""
        return []

    def write(self, line: dict[str, Any]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""


def _after(line: dict[str, Any], step: int) -> bool:
    """Whether a line follows on a step; what a checkpoint of it goes back from does too."""
    at: int = line["step"]
    return at > step or (at == step and line.get("event") == "rollback")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; lines that a crash cut short or filled with zeros are left out.

    So is any other line that no training writes.
    """
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    try:
        data = read_bytes(path, METRICS_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; move it away") from None
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            values = parsed_json(line)
            if _is_line(values):
                lines.append(values)
    return lines


def _is_line(values: dict[str, Any]) -> bool:
    """Whether an object is what a training writes: a step, a kind, and of scores their numbers."""
    step = values.get("step")
    kind = values.get("kind")
    if type(step) is not int or not 0 <= step < 2**63 or not isinstance(kind, str):
        return False
    return kind == "guard" or all(
        type(value) in (int, float) and abs(value) < float("inf")
        for key, value in values.items()
        if key != "kind"
    )


def need_tensorboard() -> Any:
    """Return torch's event writer. Raises UserError where the extra is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "training.tensorboard=true needs the extra: pip install 'unrolled[tensorboard]'"
        ) from None
    return SummaryWriter


class Progress:
    """Shows loss, steps a second and time left on standard error.

    Args:
        quiet: show nothing.
        every: seconds between lines where there is no terminal.
        unit: what a step of an input is called.
    """

    def __init__(
        self,
        quiet: bool = False,
        every: float = 10.0,
        unit: str = "tokens",
    ) -> None:
        self.quiet = quiet
        self.unit = unit
        self.bar: Any = None
        self.task: Any = None
        self.every = every
        self.shown = 0.0
        self.began = time.monotonic()

    def __enter__(self) -> Self:
        if not self.quiet and is_terminal(sys.stderr):
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("starting", total=1.0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(
        self, step: int, done: float, loss: float, speed: float, left: float | None
    ) -> None:
        """Show the state of the run: how much of 1 is done, steps a second, seconds left."""
        if self.quiet:
            return
        text = f"step {step}  loss {loss:.4f}  {speed:,.0f} {self.unit}/s"
        if left is not None:
            text += f"  {duration(left)} left"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=text)
        elif time.monotonic() - self.shown > self.every:
            self.shown = time.monotonic()
            note(text)

    def say(self, text: str) -> None:
        """Print one line that stays."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(clean(text), highlight=False, markup=False)
        else:
            note(text)
