"""Weights as another program stores them: their shapes by themselves, and their numbers.

Shapes are of what is stored; legend: O outputs, I inputs of a product.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from unrolled.core.errors import UserError, listed, nearest, shown
from unrolled.core.files import read_json
from unrolled.training import checkpoints

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
FLOATS = ("F32", "F16", "BF16", "F64")
Shape = tuple[int, ...]


class Stored(Protocol):
    """A checkpoint: shapes are known at once, numbers are read when asked for."""

    @property
    def path(self) -> Path:
        """What errors name."""
        ...

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each tensor, by its name."""
        ...

    def read(self, name: str) -> Tensor:
        """Return a tensor in fp32."""
        ...


@dataclass(frozen=True, slots=True)
class WeightOrigin:
    """Where a weight of ours stands in a published checkpoint.

    Attributes:
        names: tensors that are put below each other, (O, I) each.
        transposed: they are kept as (I, O).
        part, parts: ours is this part, from 0, of so many that stand below each other.
    """

    names: tuple[str, ...]
    transposed: bool = False
    part: int = 0
    parts: int = 1

    def shape(self, ours: Shape) -> Shape:
        """Return the shape of each tensor for a weight of ours."""
        first, *rest = ours
        theirs = (first * self.parts // len(self.names), *rest)
        return theirs[::-1] if self.transposed else theirs

    def prefixed(self, prefix: str) -> WeightOrigin:
        """Return the same with a prefix before each name."""
        names = tuple(prefix + name for name in self.names)
        return WeightOrigin(names, self.transposed, self.part, self.parts)

    def read(self, stored: Stored) -> Tensor:
        """Return the weight as ours is."""
        tensors = [stored.read(name) for name in self.names]
        if self.transposed:
            tensors = [tensor.T for tensor in tensors]
        below = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        part = below.chunk(self.parts)[self.part]
        return part.contiguous()


def halved(tensor: Tensor, heads: int) -> Tensor:
    """Return rows of queries or keys (N E, ...) with a feature's partner E/2 further on.

    Args:
        tensor: partners stand side by side, as Su et al. (2021) write rotary positions.
        heads: N.
    """
    pairs = tensor.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).reshape(tensor.shape)


class SafetensorsFolder:
    """The safetensors of a folder: one file, or several with an index.

    Args:
        folder: of the checkpoint.

    Raises:
        UserError: there are none, or their headers are not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, Shape] = {}
        for file, names in _files_of(folder):
            self._take(file, names)

    def _take(self, file: Path, names: Sequence[str]) -> None:
        """Note the tensors of a file, which has those of some names."""
        described = _described(file)
        missing = [name for name in names if name not in described]
        if missing:
            raise UserError(
                f"{file}: expected {shown(missing[0])} here, as {INDEX} says"
            )
        for name, tensor in described.items():
            if name in self.files:
                raise UserError(f"{file}: {shown(name)} stands in two files")
            if tensor.dtype not in FLOATS:
                raise UserError(
                    f"{file}: {shown(name)} is of type {tensor.dtype}; expected one of "
                    f"{', '.join(FLOATS)}"
                )
            self.files[name] = file
            self.shapes[name] = tuple(tensor.shape)

    def read(self, name: str) -> Tensor:
        """Return a tensor in fp32. Raises UserError: the file cannot be read."""
        from safetensors import SafetensorError, safe_open

        file = self.files[name]
        try:
            with safe_open(file, framework="pt") as tensors:
                return tensors.get_tensor(name).to(torch.float32)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: {shown(name)} cannot be read ({error})") from None


class SafetensorsFile(SafetensorsFolder):
    """One file of safetensors.

    Args:
        file: its path.

    Raises:
        UserError: it is missing, or not whole.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        self.files = {}
        self.shapes = {}
        self._take(file, ())


def _files_of(folder: Path) -> list[tuple[Path, Sequence[str]]]:
    """Return the files of weights, and the tensors that an index expects in each."""
    # shards may be left from before, and transformers takes the whole file, too
    if os.path.lexists(folder / WEIGHTS):
        return [(folder / WEIGHTS, ())]
    if os.path.lexists(folder / INDEX):
        return _indexed(folder)
    for pickle in PICKLES:
        if os.path.lexists(folder / pickle):
            raise UserError(
                f"{folder / pickle}: a pickle can run code when it is read; save the model as "
                "safetensors with the program that it is of"
            )
    raise UserError(f"{folder}: expected weights in {WEIGHTS} or {INDEX}")


def _indexed(folder: Path) -> list[tuple[Path, Sequence[str]]]:
    path = folder / INDEX
    try:
        entries = read_json(path)["weight_map"]
        by_file: dict[str, list[str]] = {}
        for name, file in entries.items():
            by_file.setdefault(file, []).append(name)
        strange = [file for file in by_file if Path(file).name != file or "\0" in file]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected a weight_map of files ({error})") from None
    if strange:
        raise UserError(
            f"{path}: {shown(strange[0])} is no file of this folder; files stand beside it"
        )
    return [(folder / file, names) for file, names in sorted(by_file.items())]


def _described(path: Path) -> dict[str, checkpoints.Described]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is no regular file")
        return checkpoints.described(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: expected this file of weights; it is missing"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: no whole file of safetensors ({error}); fetch it anew"
        ) from None


def refuse_misfit(
    stored: Stored, expected: Mapping[str, Shape], spare: Mapping[str, Shape]
) -> None:
    """Raise UserError where tensors are missing, more than expected, or of another shape.

    Args:
        stored: what there is.
        expected: what a model is made of.
        spare: what may be there too, and follows from the others.
    """
    known = {**spare, **expected}
    for name, shape in stored.shapes.items():
        if name not in known:
            guess = nearest(name, [key for key in known if key not in stored.shapes])
            hint = f"; did it mean {guess}?" if guess else ""
            raise UserError(f"{stored.path}: {shown(name)} was not expected{hint}")
        if shape != known[name]:
            raise UserError(
                f"{stored.path}: {shown(name)} has shape {list(shape)}; expected "
                f"{list(known[name])} by its settings"
            )
    missing = [name for name in expected if name not in stored.shapes]
    if missing:
        raise UserError(f"{stored.path}: expected also {listed(missing)}")
