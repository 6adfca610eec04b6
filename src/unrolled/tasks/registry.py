"""The class of a task by its name; its file is loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import cast

from unrolled.tasks.base import Task
from unrolled.tasks.names import OF_KINDS, TASKS


def task_class(name: str, kind: str = "") -> type[Task]:
    """Return the task of a name, for inputs of a kind: ``frames``, ``image`` or any other."""
    spelt = OF_KINDS.get(kind, {}).get(name, TASKS[name])
    module, _, attribute = spelt.partition(":")
    loaded = importlib.import_module(f"unrolled.tasks.{module}")
    return cast("type[Task]", getattr(loaded, attribute))
