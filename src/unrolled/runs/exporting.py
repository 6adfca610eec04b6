"""A trained model in another program's format: the one table of formats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from unrolled.core import digests
from unrolled.core.errors import UsageError, unknown
from unrolled.export import Writer, ctranslate2, export, onnx
from unrolled.export.parity import Difference
from unrolled.models import Unaligned
from unrolled.runs.published import write_gguf, write_hugging_face
from unrolled.tasks.base import Task


@dataclass(frozen=True, slots=True)
class Exportable:
    """What a format takes of a run.

    Attributes:
        task: its fields.
        model: in evaluation mode, on the CPU.
    """

    task: Task
    model: nn.Module


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A row of the table of formats.

    Attributes:
        models: those that it has, as ``--help`` and messages say it.
        open: returns what writes a model. It raises UserError for a model that the format does not
            have, or a program that is missing, before anything is written.
    """

    models: str
    open: Callable[[Exportable], Writer]


def _ctranslate2(exported: Exportable) -> Writer:
    source, target = exported.task.vocabularies()
    model = cast(Unaligned, exported.model)
    ctranslate2.refuse(model)
    return lambda folder: ctranslate2.write(model, source, target, folder)


def _onnx(exported: Exportable) -> Writer:
    model = exported.model
    onnx.refuse(model)
    onnx.check_installed()
    task = exported.task
    description = onnx.Description(
        task.name,
        task.pattern,
        task.class_names,
        task.to_json(),
        task.feature_columns if task.frames is None else task.frames.feature_columns,
        task.tokenizer,
    )

    def write(folder: Path) -> Difference:
        _save_fields(task, folder)
        return onnx.write(model, description, folder)

    return write


def _save_fields(task: Task, folder: Path) -> None:
    """Write the vocabulary and the words of a task, as far as it has some."""
    tokenizer = task.tokenizer
    # a checkpoint of another program may have come without
    if tokenizer is not None and not tokenizer.document:
        return
    task.save(folder)
    # what tells a run's files from others
    (folder / digests.DIGESTS).unlink(missing_ok=True)


def _hugging_face(exported: Exportable) -> Writer:
    return write_hugging_face(exported.model, exported.task.tokenizer)


def _gguf(exported: Exportable) -> Writer:
    return write_gguf(exported.model, exported.task.tokenizer)


FORMATS: dict[str, ExportFormat] = {
    "gguf": ExportFormat("language models over attention", _gguf),
    "hf": ExportFormat("language models over attention", _hugging_face),
    "ctranslate2": ExportFormat(
        "texts written from texts, over attention", _ctranslate2
    ),
    "onnx": ExportFormat(
        "language models, labels, values and tags, over any layer", _onnx
    ),
}


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
        UsageError: there is no such format.
        UserError: the format has no such model, the folder is there already, or what was written
            says something else and was removed.
    """
    check_format(to)
    on_processor = next(model.parameters()).device.type == "cpu"
    host_model = model if on_processor else copy.deepcopy(model).cpu()
    write = FORMATS[to].open(Exportable(task, host_model))
    export(to, write, folder, say)


def check_format(to: str) -> None:
    """Raise UsageError where there is no such format."""
    if to not in FORMATS:
        raise UsageError(unknown("format", to, FORMATS))
