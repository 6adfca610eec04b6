"""The run folder: what training leaves behind and what Python, command line and server load.

    config.yaml         the resolved recipe
    fields.json         the task, its fields, the hashes of the data files
    words.json          the words that were seen, where words are tagged
    tokenizer.json      the vocabulary, for text
    model.safetensors   the best weights, or the last when nothing was scored
    metrics.jsonl       every logged step
    adapter/            what was learnt beside frozen weights, as PEFT has it, where it was
    checkpoints/step-N  what a resumed run goes on from
    result.json         scores, baselines, sizes and times, written when training has ended
    README.md           the model card
    report.html         the report
    inside.html         a look into three held-out rows
    digests.json        the SHA-256 of those that are read again

Nothing in it is a pickle, and nothing in it can run code. Other files have no place in it: a folder
that holds some is never made a run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from unrolled.core import digests
from unrolled.core.errors import (
    UsageError,
    UserError,
    is_out_of_memory,
    nearest,
    shown,
)
from unrolled.core.files import exists, read_json, refuse_strange, sha256
from unrolled.core.locks import LOCK, is_lock
from unrolled.core.saving import as_saved
from unrolled.core.terminal import note
from unrolled.core.words import either, option, resume
from unrolled.data.sources import Format
from unrolled.nn.adapters import merged_tensors
from unrolled.nn.without_memory import without_memory
from unrolled.ops import native
from unrolled.runs.recipes import CONFIG, FILES, as_yaml, read_yaml
from unrolled.tasks.base import FileLayout, Task
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class
from unrolled.training import checkpoints
from unrolled.training.averaging import Weights

FIELDS = "fields.json"
MODEL = "model.safetensors"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
FORMAT = 1
# what load reads; what stands in a run beside it; and what a training leaves while it works
READ = (CONFIG, FIELDS, "tokenizer.json", "target.json", "words.json", MODEL, RESULT)
SHOWN = (
    "metrics.jsonl",
    "README.md",
    "report.html",
    "inside.html",
    digests.DIGESTS,
)
FOLDERS = (CHECKPOINTS, ADAPTER, "tensorboard", "export", digests.SAVING)
LOCKS = (LOCK, f"{LOCK}.owner")
KNOWN = frozenset((*READ, *SHOWN, *FOLDERS, *LOCKS))
# what a process that was killed left half written
_NAMES = "|".join(map(re.escape, (*READ, *SHOWN)))
_REST = re.compile(rf"\.(?:{_NAMES})\.\w+\.tmp")
_REST_OF_STEP = re.compile(r"\.step-[0-9]+\.tmp")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A run read back: ``model`` holds its weights and is in evaluation mode."""

    folder: Path
    recipe: Recipe
    task: Task
    model: nn.Module
    result: dict[str, Any]


def begin(
    folder: Path,
    recipe: Recipe,
    task: Task,
    files: dict[str, str],
    begins_with: dict[str, Any] | None = None,
) -> None:
    """Write what a run knows before its first step; ``config.yaml`` comes last.

    Args:
        folder: the run folder.
        recipe: resolved.
        task: with its fields.
        files: the SHA-256 of the data files by the names that the recipe gives them.
        begins_with: what was taken of another run, where it begins with one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    digests.begin(folder, READ)
    task.save(folder)
    fields = {
        "format": FORMAT,
        "task": task.name,
        "columns": task.columns,
        "written": as_saved(task.format),
        "fields": task.to_json(),
        "files": files,
        "digests": True,
    }
    if begins_with is not None:
        fields["init"] = begins_with
    digests.replace_json(folder, FIELDS, fields)
    digests.replace_text(folder, CONFIG, as_yaml(recipe))


def begun(recipe: Recipe, task: Task, files: dict[str, str]) -> dict[str, Any]:
    """Return what a checkpoint keeps of the run that it is of, so that a changed one is noticed.

    Args:
        recipe: resolved.
        task: with its fields.
        files: the SHA-256 of the data files by the names that the recipe gives them.
    """
    return {
        "recipe": recipe.model_dump(mode="json"),
        "fields": digest_of(task),
        "data": by_role(recipe, files),
        "instructions": instructions(),
    }


def instructions() -> str:
    """Return the level of instructions that a training takes its bits from."""
    return native.level() if native.library() is not None else "torch"


def digest_of(task: Task) -> str:
    """Return a SHA-256 of the fields of a task, vocabularies among them."""
    with tempfile.TemporaryDirectory() as home:
        task.save(Path(home))
        written = {path.name: sha256(path) for path in Path(home).glob("*.json")}
    written.pop(digests.DIGESTS, None)
    fields = {
        "fields": task.to_json(),
        "columns": task.columns,
        "files": written,
        "written": as_saved(task.format),
    }
    plain = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def by_role(recipe: Recipe, files: dict[str, str]) -> dict[str, str]:
    """Return the hashes of the data files by the keys of ``data`` that name them."""
    named = {role: getattr(recipe.data, role) for role in FILES}
    return {role: files[name] for role, name in named.items() if name in files}


def read_begun(folder: Path) -> dict[str, Any]:
    """Return what the newest checkpoint keeps of the run; empty where there is none, or an old one.

    Raises:
        UserError: it is no such table.
    """
    state = checkpoints.newest_state(folder / CHECKPOINTS) or {}
    begun = state.get("begun") or {}
    keys = {"recipe", "fields", "data"}
    later = {"instructions"}  # which older runs do not keep
    if not isinstance(begun, dict) or (begun and set(begun) - later != keys):
        raise UserError(f"{folder / CHECKPOINTS}: the newest checkpoint cannot be read")
    return begun


def sweep(folder: Path) -> None:
    """Remove what a process that was killed left half written, and nothing else."""
    checkpoints.remove(folder / digests.SAVING)
    inner = folder / CHECKPOINTS
    rests = [rest for rest in folder.glob(".*.tmp") if _REST.fullmatch(rest.name)]
    for rest in inner.glob(".step-*.tmp"):
        if _REST_OF_STEP.fullmatch(rest.name):
            rests.append(rest)
    for rest in rests:
        checkpoints.remove(rest)


def save_weights(folder: Path, weights: Weights) -> None:
    """Write ``model.safetensors`` atomically. Raises UserError where the disk refuses it."""
    digests.replace(folder, MODEL, lambda path: checkpoints.save_tensors(path, weights))


def is_ended_without_checkpoints(folder: Path) -> bool:
    """Whether a training ended here whose checkpoints were removed since."""
    return exists(folder / RESULT) and not checkpoints.steps(folder / CHECKPOINTS)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    try:
        # a link that leads nowhere is refused, when read
        return os.path.lexists(folder / CONFIG)
    except ValueError:
        return False


def near(folder: Path, name: str) -> list[Path]:
    """Return where a file or run may stand that a run was begun with, seen from its folder.

    A run stands in runs/NAME below the folder that it was begun from, mostly.
    """
    folder = folder.absolute()  # what is "." has no parent
    homes = folder.parent.parent, folder.parent
    bare = Path(name).name
    return [home / name for home in homes] + [home / bare for home in homes]


def claim(folder: Path) -> None:
    """Refuse a folder that a new run would lose files of.

    A run may begin in a folder that is not there, that is empty, or in which one was begun and
    killed before its first step.

    Raises:
        UserError: the folder holds a run, or something that is no part of one.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: this is a file; choose another {option('out')}")
    look(folder)
    # a program of somebody else may have a config.yaml too
    if is_run(folder) and (exists(folder / FIELDS) or exists(folder / digests.DIGESTS)):
        raise UserError(
            f"{folder} holds a run already; go on with it: {resume(folder)}, or choose another "
            f"{option('out')}"
        )
    known = digests.read(folder)
    foreign = [
        path.name for path in sorted(folder.iterdir()) if not _is_begun(path, known)
    ]
    if foreign:
        raise UserError(
            f"{folder} holds {shown(foreign[0])}, which is no part of a run; choose another "
            f"{option('out')}, a folder that is empty or not there yet"
        )


def _is_begun(path: Path, known: dict[str, list[str]] | None) -> bool:
    """Whether a file is what a run that was killed before its first step left in its folder.

    Args:
        path: the file.
        known: the digests that the folder keeps, if it keeps any.
    """
    if path.name in LOCKS:
        return is_lock(path)
    if known is None:
        return False
    if path.name in known:
        return sha256(path) in known[path.name]
    return path.name in (digests.DIGESTS, digests.SAVING) or bool(
        _REST.fullmatch(path.name)
    )


def look(folder: Path) -> None:
    """Refuse a run whose files lead elsewhere or are none; nothing is opened.

    Raises:
        UserError: a file of it is a link that leads out of the run, a pipe or a device.
    """
    inner = folder / CHECKPOINTS
    if not folder.is_dir():
        return
    home = os.path.realpath(folder)
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name in KNOWN]
    if inner in paths:
        refuse_strange(inner, home, is_folder=True)
        _look_at_checkpoints(inner, home)
    for path in paths:
        if path.name in LOCKS and path.is_symlink():
            raise UserError(f"{path}: this is a link and no lock; remove it")
        refuse_strange(path, home, is_folder=path.name in FOLDERS)


def _look_at_checkpoints(folder: Path, home: str) -> None:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if checkpoints.NAME.fullmatch(e.name)]
    for step in (folder / name for name in names):
        if step.is_dir() or step.is_symlink():
            refuse_strange(step, home, is_folder=True)
            for path in step.iterdir():
                refuse_strange(path, home, is_folder=False)


def read_recipe(folder: Path) -> Recipe:
    """Return the resolved recipe of a run.

    Raises:
        UserError: there is no run in this folder.
    """
    if not is_run(folder):
        raise UserError(_no_run(folder))
    look(folder)
    return Recipe.read(read_yaml(folder / CONFIG), str(folder / CONFIG))


def read_fields(folder: Path) -> tuple[Task, dict[str, str]]:
    """Return the task of a run and the hashes of its data files."""
    path = folder / FIELDS
    try:
        saved = read_json(path)
        if saved["format"] > FORMAT:
            raise UserError(
                f"{path}: written by a newer version of unrolled; update to read it"
            )
        if saved.get("digests") and digests.read(folder) is None:
            raise UserError(
                f"{folder / digests.DIGESTS}: this file is missing, by which changes of the run "
                "are seen; restore it"
            )
        fields = saved["fields"]
        layout = FileLayout(saved["columns"], Format(**saved["written"]))
        kind = task_class(saved["task"], fields.get("inputs", {}).get("kind", ""))
        return kind.from_json(fields, folder, layout), saved["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = shown(str(error), 200).strip("'\"")
        raise UserError(
            f"{path}: this run cannot be read ({why}); train it anew"
        ) from None


def read_init(folder: Path) -> Any:
    """Return what a run took of the one that it began with; None where it began with none."""
    path = folder / FIELDS
    try:
        return read_json(path).get("init")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error})") from None


def read_result(folder: Path) -> dict[str, Any]:
    """Return what training wrote when it ended, empty before that."""
    path = folder / RESULT
    try:
        return read_json(path) if exists(path) else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error})") from None


def load(folder: Path, weights: str = "best", result: bool = True) -> Loaded:
    """Read a run.

    Args:
        folder: the run folder.
        weights: ``best``, or ``last`` for those of the newest checkpoint.
        result: read how training ended; answers need nothing of it.

    Raises:
        UserError: it is no run, has no weights yet, or was damaged.
    """
    if weights not in ("best", "last"):
        raise UsageError(f"weights={shown(weights)}: say best or last")
    recipe = read_recipe(folder)
    task, _ = read_fields(folder)
    path = folder / (MODEL if weights == "best" else CHECKPOINTS)
    try:
        if weights == "last":
            checkpoint, _ = checkpoints.newest(path)
            tensors = checkpoint.group("model") if checkpoint is not None else {}
            tensors = merged_tensors(tensors, recipe.adapter.scale)
            shapes = {name: _described(value) for name, value in tensors.items()}
        else:
            shapes = checkpoints.described(path) if exists(path) else {}
        if not shapes:
            raise UserError(f"{folder}: no weights yet; train it on with {_on()}")
        if "head.bias" in shapes and not recipe.model.head_bias:
            # an older version heeded this key in translators alone
            recipe = recipe.changed(model=recipe.model.changed(head_bias=True))
        refuse_misfit(task, recipe, shapes)
        ended = read_result(folder) if result else {}
        names = [name for name in READ if result or name != RESULT]
        if not digests.verify(folder, names):
            note(
                f"unrolled: {folder} keeps no digests of its files (an older version wrote it)"
            )
        model = task.build(recipe)
        model.load_state_dict(load_file(path) if weights == "best" else tensors)
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: these weights do not fit the run ({first})") from None
    refuse_infinite(path, model)
    return Loaded(folder, recipe, task, model.eval(), ended)


def _on() -> str:
    return either("--resume", "resume=True")


def _described(tensor: torch.Tensor) -> checkpoints.Described:
    return checkpoints.Described(
        _TYPES.get(tensor.dtype, str(tensor.dtype)), list(tensor.shape)
    )


_TYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
}


def refuse_infinite(path: Path, model: nn.Module) -> None:
    """Raise UserError for weights that are not all finite: whatever they say is no number."""
    for name, value in model.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(
                f"{path}: {name} holds numbers that are not finite; train anew"
            )


def refuse_misfit(
    task: Task, recipe: Recipe, weights: dict[str, checkpoints.Described]
) -> None:
    """Raise ValueError when a recipe describes another model than weights of these shapes.

    Nothing is allocated: a recipe from elsewhere may describe a model of any size.
    """
    size = max(2**20, sum(math.prod(tensor.shape) for tensor in weights.values()))
    for name, value in recipe.model:
        most = len(weights) if name == "layers" else size
        if isinstance(value, int) and value > most:
            raise ValueError(f"model.{name}={value} is more than they hold")
    try:
        with without_memory():
            model = task.build(recipe)
    except NotImplementedError:
        return  # one that looks at its first numbers; it is built for real
    described = {name: _described(value) for name, value in model.state_dict().items()}
    for name in (*described, *weights):
        ours = described.get(name)
        theirs = weights.get(name)
        if (ours and ours.shape) != (theirs and theirs.shape):
            shapes = [side.shape if side else "none" for side in (theirs, ours)]
            raise ValueError(
                f"{shown(name)} has shape {shapes[0]}, and in the recipe's model {shapes[1]}"
            )
        if ours and theirs and ours.dtype != theirs.dtype:
            raise ValueError(
                f"{shown(name)} is of type {theirs.dtype}, and in the recipe's model {ours.dtype}"
            )


def _no_run(folder: Path) -> str:
    if not exists(folder):
        beside = (
            [p.name for p in folder.parent.glob("*") if is_run(p)]
            if folder.parent.is_dir()
            else []
        )
        guess = nearest(folder.name, beside)
        hint = f"; did you mean {str(folder.parent / guess)!r}?" if guess else ""
        return f"{folder}: there is no such run{hint}"
    return f"{folder}: this is not a run (it has no {CONFIG})"
