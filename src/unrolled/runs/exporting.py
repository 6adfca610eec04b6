"""A trained model in another program's format."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import cast

from torch import nn

from unrolled.export import export
from unrolled.models import Unaligned
from unrolled.tasks.base import Task


def export_model(
    task: Task, model: nn.Module, to: str, folder: Path, say: Callable[[str], None]
) -> None:
    """Write a model into a folder, once it was seen to say the same there.

    Args:
        task: its fields.
        model: on any device.
        to: the format.
        folder: which is made.
        say: takes the lines that tell how far the two are apart.

    Raises:
        UserError: the format has no such model, the folder is there already, or what was written
            says something else and was removed.
    """
    source, target = task.vocabularies()
    on_processor = next(model.parameters()).device.type == "cpu"
    host_model = model if on_processor else copy.deepcopy(model).cpu()
    export(to, cast(Unaligned, host_model), source, target, folder, say)
