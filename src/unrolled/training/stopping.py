"""SIGINT and SIGTERM end a training in good order: the step is finished, a checkpoint written."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from unrolled.core.words import resume

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HINT = b"stopping after this step; once more to stop at once\n"


class Interrupted(KeyboardInterrupt):
    """SIGINT (Ctrl-C) ended a training; its checkpoint is written."""

    code = 128 + signal.SIGINT


class Terminated(SystemExit):
    """SIGTERM ended a training; its checkpoint is written. Left alone, it ends Python with 143."""

    code = 128 + signal.SIGTERM

    def __init__(self, message: str) -> None:
        super().__init__(self.code)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Stop:
    """Catches the first signal while the block runs; ``number`` is it, 0 before.

    A second signal does what it did before the block: it stops at once. Handlers belong to the
    main thread, so in another thread nothing is caught; an ignored signal stays ignored.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.number = 0
        self.before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for caught in SIGNALS:
                handler = signal.getsignal(caught)
                if handler not in (signal.SIG_IGN, None):
                    self.before[caught] = handler
            for number in self.before:
                signal.signal(number, self._catch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        if signal.SIGTERM in self.before:
            # a second one is not asked to wait
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not self.quiet:
            os.write(2, HINT)  # print may be what was interrupted

    def end(self, step: int, run: Path) -> None:
        """Raise Interrupted or Terminated if a signal came."""
        if not self.number:
            return
        message = f"stopped at step {step}; go on with: {resume(run)}"
        if self.number == signal.SIGINT:
            raise Interrupted(message)
        raise Terminated(message)
