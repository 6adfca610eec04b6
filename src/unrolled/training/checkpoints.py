"""Checkpoints: folders that are whole or do not count.

``checkpoints/step-N/`` holds tensors (safetensors), plain values (``state.json``) and, written
last, ``manifest.json`` with the size and SHA-256 of both. A folder is built under a temporary
name beside its target, synced and renamed, so that a crash at any point leaves the older
checkpoints as they were. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unrolled.core.errors import UserError
from unrolled.core.files import open_up, sha256, sync, write_json

FORMAT = 1
NEWER = "it was written by a newer version"
HEADER = 2**22  # bytes; about 40,000 tensors, which take a fifth of a second to look through
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run goes on from: tensors under dotted names, and plain values."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with ``name.``, without that prefix."""
        prefix = f"{name}."
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}


def under(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put ``name.`` in front of every key."""
    return {f"{name}.{key}": value for key, value in tensors.items()}


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors; shared or strided memory is copied first.

    Raises:
        OSError: the disk refused it.
    """
    copies = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    try:
        save_file(copies, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    open_up(path)


def shapes(path: Path) -> dict[str, list[int]]:
    """Return the shapes that the header of a safetensors file tells; no tensor is read.

    Raises:
        ValueError: the header is no header, names a tensor twice, or is too long to be one.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > HEADER:
            raise ValueError(f"its header is {size:,} bytes long")
        header = json.loads(file.read(size), object_pairs_hook=_once)
    try:
        found = {name: told["shape"] for name, told in header.items() if name != "__metadata__"}
        numbers = sum(math.prod(shape) for shape in found.values())
    except (AttributeError, KeyError, TypeError):
        raise ValueError("its header is no table of tensors") from None
    if numbers > path.stat().st_size:
        raise ValueError(f"its header tells of {numbers:,} numbers, more than the file holds")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("its header names something twice")
    return found


def drop(folder: Path, after: int) -> None:
    """Remove the checkpoints of later steps than ``after``."""
    for step in steps(folder):
        if step > after:
            shutil.rmtree(folder / f"step-{step}", ignore_errors=True)


def save(folder: Path, checkpoint: Checkpoint, keep: int, spare: int = -1) -> Path:
    """Write ``checkpoint`` into ``folder`` and remove all but the newest ``keep`` and ``spare``.

    Raises:
        UserError: the disk refused it; the older checkpoints are intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{checkpoint.step}"
    building = folder / f".step-{checkpoint.step}.tmp"
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir()
        save_tensors(building / TENSORS, checkpoint.tensors)
        write_json(building / STATE, checkpoint.state)
        parts = {
            name: {"bytes": (building / name).stat().st_size, "sha256": sha256(building / name)}
            for name in (TENSORS, STATE)
        }
        sync(building / TENSORS)
        manifest = {"format": FORMAT, "step": checkpoint.step, "files": parts}
        write_json(building / MANIFEST, manifest)
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
        sync(folder)
    except (OSError, UserError) as error:
        shutil.rmtree(building, ignore_errors=True)
        # what was being written is gone by now; the cause is what the user needs
        cause = error.__cause__ or error
        raise UserError(
            f"{target}: the checkpoint could not be written ({cause}); older ones are intact. "
            "Free some space, then go on with --resume"
        ) from error
    # a newer one was passed over as damaged: it must not push out what was written now
    for old in [step for step in steps(folder) if step <= checkpoint.step][:-keep]:
        if old != spare:
            shutil.rmtree(folder / f"step-{old}", ignore_errors=True)
    return target


def steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, oldest first."""
    names = (path.name for path in folder.glob("step-*") if path.is_dir())
    return sorted(int(name[5:]) for name in names if name[5:].isdigit())


def check(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        if manifest["format"] > FORMAT:
            return f"{NEWER} (format {manifest['format']})"
        if set(manifest["files"]) != {TENSORS, STATE}:
            return f"{MANIFEST} does not name {TENSORS} and {STATE}"
        for name, told in manifest["files"].items():
            if (path / name).stat().st_size != told["bytes"]:
                return f"{name} is cut short"
            if sha256(path / name) != told["sha256"]:
                return f"{name} was altered"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is incomplete ({error})"
    return None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        UserError: it is damaged or newer than this version.
    """
    fault = check(path)
    if fault:
        raise UserError(f"{path}: this checkpoint cannot be used: {fault}")
    try:
        state = json.loads((path / STATE).read_text("utf-8"))
        return Checkpoint(int(path.name[5:]), load_file(path / TENSORS), state)
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path}: this checkpoint cannot be used: {first}") from None


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and a sentence on each newer one that is not."""
    faults: list[str] = []
    for step in reversed(steps(folder)):
        path = folder / f"step-{step}"
        fault = check(path)
        if fault is None:
            try:
                return load(path), faults
            except UserError as error:  # its sums are right and its contents are not
                fault = str(error)
        if NEWER in fault:
            # to pass over it would train on from an older one and write over its successors
            raise UserError(f"{path}: {fault}; go on with that version")
        faults.append(f"{path} was passed over: {fault}")
    return None, faults
