"""The run folder: what training leaves behind and what Python, command line and server load.

    config.yaml         the resolved recipe
    fields.json         the task, its fields, the hashes of the data files
    words.json          the words that were seen, where words are tagged
    tokenizer.json      the vocabulary, for text
    model.safetensors   the best weights, or the last when nothing was scored
    metrics.jsonl       every logged step
    checkpoints/step-N  what a resumed run goes on from
    result.json         scores, baselines, sizes and times, written when training has ended
    README.md           the model card
    report.html         the report

Nothing in it is a pickle, and nothing in it can run code.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from unrolled.core.errors import UserError, nearest
from unrolled.core.files import replacing, write_json, write_text
from unrolled.data.sniff import Format
from unrolled.tasks import Task, kind_of
from unrolled.tasks.recipe import CONFIG, Recipe, as_yaml, read_yaml
from unrolled.training import checkpoints
from unrolled.training.averaging import Weights

FIELDS, MODEL, RESULT, CHECKPOINTS = (
    "fields.json",
    "model.safetensors",
    "result.json",
    "checkpoints",
)
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Loaded:
    """A run read back: ``model`` holds its weights and is in evaluation mode."""

    folder: Path
    recipe: Recipe
    task: Task
    model: nn.Module
    result: dict[str, Any]


def begin(folder: Path, recipe: Recipe, task: Task, files: dict[str, str]) -> None:
    """Write what a run knows before its first step; ``config.yaml`` comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    task.save(folder)
    fields = {
        "format": FORMAT,
        "task": task.name,
        "columns": task.columns,
        "written": asdict(task.format),
        "fields": task.to_json(),
        "files": files,
    }
    write_json(folder / FIELDS, fields)
    write_text(folder / CONFIG, as_yaml(recipe))


def sweep(folder: Path) -> None:
    """Remove what a process that was killed left half written."""
    for rest in folder.glob(".*.tmp"):
        rest.unlink(missing_ok=True)
    for rest in (folder / CHECKPOINTS).glob(".step-*.tmp"):
        shutil.rmtree(rest, ignore_errors=True)


def save_weights(folder: Path, weights: Weights) -> None:
    """Write ``model.safetensors`` atomically. Raises UserError where the disk refuses it."""
    with replacing(folder / MODEL) as temporary:
        checkpoints.save_tensors(temporary, weights)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (folder / CONFIG).exists()


def read_recipe(folder: Path) -> Recipe:
    """Return the resolved recipe of a run.

    Raises:
        UserError: there is no run in this folder.
    """
    if not is_run(folder):
        raise UserError(_no_run(folder))
    return Recipe.read(read_yaml(folder / CONFIG), str(folder / CONFIG))


def read_fields(folder: Path) -> tuple[Task, dict[str, str]]:
    """Return the task of a run and the hashes of its data files."""
    path = folder / FIELDS
    try:
        told = json.loads(path.read_text("utf-8"))
        if told["format"] > FORMAT:
            raise UserError(f"{path}: written by a newer version of unrolled; update to read it")
        frames = told["fields"].get("inputs", {}).get("kind") == "frames"
        task = kind_of(told["task"], frames).from_json(told["fields"], folder)
        task.columns, task.format = told["columns"], Format(**told["written"])
        return task, told["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: this run cannot be read ({error}); train it anew") from None


def read_result(folder: Path) -> dict[str, Any]:
    """Return what training wrote when it ended, empty before that."""
    path = folder / RESULT
    try:
        return json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path}: not readable ({error})") from None


def load(folder: Path, weights: str = "best") -> Loaded:
    """Read a run.

    Args:
        folder: the run folder.
        weights: ``best``, or ``last`` for those of the newest checkpoint.

    Raises:
        UserError: it is no run, has no weights yet, or was damaged.
    """
    refuse_links(folder)
    recipe = read_recipe(folder)
    task, _ = read_fields(folder)
    path = folder / (MODEL if weights == "best" else CHECKPOINTS)
    try:
        if weights == "last":
            checkpoint, _ = checkpoints.newest(path)
            found = checkpoint.group("model") if checkpoint is not None else {}
            told = {name: list(value.shape) for name, value in found.items()}
        else:
            told = checkpoints.shapes(path) if path.exists() else {}
        if not told:
            raise UserError(f"{folder}: no weights yet; train it on with --resume")
        refuse_misfit(task, recipe, told)
        model = task.build(recipe)
        model.load_state_dict(load_file(path) if weights == "best" else found)
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path}: these weights do not fit the run ({first})") from None
    return Loaded(folder, recipe, task, model.eval(), read_result(folder))


def refuse_links(folder: Path) -> None:
    """Raise UserError when a file of a run is a link to one outside of it."""
    for path in folder.glob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path}: a link that leads out of the run; put the file itself there")


def refuse_misfit(task: Task, recipe: Recipe, weights: dict[str, list[int]]) -> None:
    """Raise ValueError when a recipe describes another model than weights of these shapes.

    Nothing is allocated: a recipe from elsewhere may describe a model of any size.
    """
    size = max(2**20, sum(math.prod(shape) for shape in weights.values()))
    for name, value in recipe.model:
        if isinstance(value, int) and value > (len(weights) if name == "layers" else size):
            raise ValueError(f"model.{name}={value} is more than they hold")
    try:
        with torch.device("meta"):
            model = task.build(recipe)
    except NotImplementedError:  # one that looks at its first numbers; it is built for real
        return
    wanted = {name: list(value.shape) for name, value in model.state_dict().items()}
    for name in (*wanted, *weights):
        ours, theirs = wanted.get(name, "none"), weights.get(name, "none")
        if ours != theirs:
            raise ValueError(f"{name} has shape {theirs}, and in the recipe's model {ours}")


def _no_run(folder: Path) -> str:
    if not folder.exists():
        beside = (
            [p.name for p in folder.parent.glob("*") if is_run(p)] if folder.parent.is_dir() else []
        )
        guess = nearest(folder.name, beside)
        hint = f"; did you mean {str(folder.parent / guess)!r}?" if guess else ""
        return f"{folder}: there is no such run{hint}"
    return f"{folder}: this is not a run (it has no {CONFIG})"
