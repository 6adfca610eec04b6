"""The tasks by name: a new one is a line here, and its file is loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from unrolled.tasks.base import Task

TASKS = {
    "classify": "classify:Classify",
    "regress": "regress:Regress",
    "tag": "tag:Tag",
    "language": "language:Language",
    "translate": "translate:Translate",
    "rewrite": "rewrite:Rewrite",
    "parse": "parse:Parse",
}
# the same for sequences of numbers, where another class does it
OF_FRAMES = {"tag": "tag_frames:FrameTag"}


def task_class(name: str, frames: bool = False) -> type[Task]:
    """Return the task of a name, for sequences of numbers where ``frames``."""
    spelt = OF_FRAMES.get(name, TASKS[name]) if frames else TASKS[name]
    module, _, attribute = spelt.partition(":")
    loaded = importlib.import_module(f"unrolled.tasks.{module}")
    return cast("type[Task]", getattr(loaded, attribute))
