"""Checkpoints: folders that are whole or do not count.

``checkpoints/step-N/`` holds tensors (safetensors), plain values (``state.json``) and, written
last, ``manifest.json`` with the size and SHA-256 of both. A folder is built under a temporary
name beside its target, synced and renamed, so that a crash at any point leaves the older
checkpoints as they were. Nothing in it is a pickle.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unrolled.core.errors import UserError, shown
from unrolled.core.files import (
    advice,
    open_up,
    parsed_json,
    read_json,
    sha256,
    sync,
    write_json,
)
from unrolled.core.words import resume

FORMAT = 1
NEWER = "it was written by a newer version"
# bytes; about 40,000 tensors, which take a fifth of a second to look through
HEADER = 2**22
TENSORS = "tensors.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
NAME = re.compile(r"step-([0-9]{1,15})")
DIMENSIONS = 8  # of a tensor
# bytes of a number, by the names that safetensors gives
BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run goes on from: tensors under dotted names, and plain values."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with ``name.``, without that prefix."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }


def under(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put ``name.`` in front of every key."""
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors; shared or strided memory is copied first.

    Args:
        path: the file.
        tensors: by their names.
        metadata: what the header says beside them.

    Raises:
        OSError: the disk refused it.
    """
    copies = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
    }
    try:
        save_file(copies, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    open_up(path)


class Described(NamedTuple):
    """What the header of a safetensors file says of a tensor, such as F32 and [2, 3]."""

    dtype: str
    shape: list[int]


def described(path: Path) -> dict[str, Described]:
    """Return what the header of a safetensors file says of its tensors; none is read.

    Raises:
        OSError: the system refuses the file.
        ValueError: the header is no header, names a tensor twice, is too long to be one, or tells
            of other sizes than the file has.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > HEADER:
            raise ValueError(f"its header is {size:,} bytes long")
        header = parsed_json(file.read(size))
        room = os.fstat(file.fileno()).st_size - 8 - size
    return {
        name: _described(name, entry, room)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _described(name: str, entry: Any, room: int) -> Described:
    """Check what a header says of one tensor against the ``room`` bytes of all of them."""
    try:
        dtype = entry["dtype"]
        shape = entry["shape"]
        (begin, end) = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ValueError("its header is no table of tensors") from None
    if dtype not in BYTES:
        raise ValueError(
            f"its header gives {shown(name)} a type that is unknown: {shown(dtype)}"
        )
    is_shape = isinstance(shape, list) and len(shape) <= DIMENSIONS
    sizes = [begin, end, *shape] if is_shape else [None]
    if not all(type(size) is int and 0 <= size < 2**48 for size in sizes):
        raise ValueError(f"its header gives {shown(name)} a shape that is none")
    numbers = math.prod(shape)  # of few numbers that are not long
    if not begin <= end <= room or numbers * BYTES[dtype] != end - begin:
        raise ValueError(
            f"its header tells of {numbers:,} numbers of {dtype} in {shown(name)}, other than the "
            "file holds"
        )
    return Described(dtype, shape)


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
    target = folder / f"step-{checkpoint.step}"
    building = folder / f".step-{checkpoint.step}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        remove(building)
        building.mkdir()
        save_tensors(building / TENSORS, checkpoint.tensors)
        write_json(building / STATE, checkpoint.state)
        described_files: dict[str, dict[str, Any]] = {}
        for name in (TENSORS, STATE):
            size = (building / name).stat().st_size
            digest = sha256(building / name)
            described_files[name] = {"bytes": size, "sha256": digest}
        sync(building / TENSORS)
        manifest = {
            "format": FORMAT,
            "step": checkpoint.step,
            "files": described_files,
        }
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
            f"{target}: the checkpoint could not be written ({cause}){advice(cause)}; older ones "
            f"are intact, go on with: {resume(folder.parent)}"
        ) from error
    # a newer one was passed over as damaged: it must not push out what was written now
    written = [step for step in steps(folder) if step <= checkpoint.step]
    for step in written[:-keep]:
        if step != spare:
            shutil.rmtree(folder / f"step-{step}", ignore_errors=True)
    return target


def remove(path: Path) -> None:
    """Remove a file, a link (not where it leads) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, oldest first."""
    names = (
        NAME.fullmatch(path.name) for path in folder.glob("step-*") if path.is_dir()
    )
    return sorted(int(name[1]) for name in names if name)


def check(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        manifest = read_json(path / MANIFEST)
        if manifest["format"] > FORMAT:
            return f"{NEWER} (format {manifest['format']})"
        if set(manifest["files"]) != {TENSORS, STATE}:
            return f"{MANIFEST} does not name {TENSORS} and {STATE}"
        for name, expected in manifest["files"].items():
            if (path / name).stat().st_size != expected["bytes"]:
                return f"{name} is cut short"
            if sha256(path / name) != expected["sha256"]:
                return f"{name} was altered"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is incomplete ({error})"
    return None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        UserError: it is damaged or newer than this version.
    """
    reason = check(path)
    if reason:
        raise UserError(f"{path}: this checkpoint cannot be used: {reason}")
    try:
        described(path / TENSORS)
        step = int(path.name.removeprefix("step-"))
        return Checkpoint(step, load_file(path / TENSORS), read_json(path / STATE))
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path}: this checkpoint cannot be used: {first}") from None


def newest_state(folder: Path) -> dict[str, Any] | None:
    """Return the plain values of the newest whole checkpoint, None where there is none."""
    for step in reversed(steps(folder)):
        path = folder / f"step-{step}"
        if check(path) is None:
            with contextlib.suppress(OSError, ValueError):
                return read_json(path / STATE)
    return None


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and a sentence on each newer one that is not."""
    passed_over: list[str] = []
    for step in reversed(steps(folder)):
        path = folder / f"step-{step}"
        reason = check(path)
        if reason is None:
            try:
                return load(path), passed_over
            except UserError as error:  # its sums are right and its contents are not
                reason = str(error)
        if NEWER in reason:
            # to pass over it would train on from an older one and write over its successors
            raise UserError(f"{path}: {reason}; go on with that version")
        passed_over.append(f"{path} was passed over: {reason}")
    return None, passed_over
