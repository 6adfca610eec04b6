"""The header of a GGUF file: metadata, and where which tensor stands.

Nothing is believed: each count is compared with the bytes that are left before anything is made of
it, so that a header costs no more memory than the file is long, times a small factor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UserError, shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEADER_BYTES = 2**28
MOST_ENTRIES = 2**16  # keys, and tensors: those of the largest models are thousands
MOST_STRINGS = (
    2**21
)  # of all lists together: tokens and merges of the largest are 800,000
MOST_DIMENSIONS = 4
ALIGNMENT = 32
STRING = 8
LIST = 9
# numbers of types and what they are in memory, little-endian
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
# what is stored as numbers, and the blocks that the package gguf takes apart
PLAIN = ("F32", "F16", "BF16", "F64")
QUANTIZED = (
    *("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
    *("TQ1_0", "TQ2_0", "MXFP4"),
)
# of one entry of a list of tensors, and of keys: the fewest bytes
LEAST_TENSOR = 8 + 4 + 8 + 4 + 8
LEAST_KEY = 8 + 4 + 1


@dataclass(frozen=True, slots=True, eq=False)
class NumberList:
    """A list of numbers in a header, which equals no number; as an array it may be long."""

    values: NDArray[Any]

    def __repr__(self) -> str:
        return f"a list of {len(self.values):,} numbers"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor stands.

    Attributes:
        shape: outermost first, as torch writes it.
        type: the name of its type.
        begin: its first byte in the file.
        row_bytes: of one row, the innermost dimension.
    """

    shape: tuple[int, ...]
    type: str
    begin: int
    row_bytes: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return math.prod(self.shape[:-1])

    @property
    def end(self) -> int:
        """The byte after its last one."""
        return self.begin + self.rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata by key, and tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file, once all of it was seen to fit the file.

    Raises:
        UserError: it is of another version, cut off, damaged, or of types that are unknown.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _HeaderReader(path, file, size).read()
    except OSError as error:
        raise UserError(
            f"{path}: this file cannot be read ({error.strerror})"
        ) from None


class _HeaderReader:
    """Reads a header from its first byte to its last.

    Args:
        path: what errors name.
        file: at its beginning.
        size: bytes of the file.
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path = path
        self.file = file
        self.size = size
        self.at = 0
        self.strings = 0

    def read(self) -> GgufHeader:
        if self._bytes(4, "GGUF") != MAGIC:
            raise self._error("expected the word GGUF first")
        version = self._number("<I", "version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            other = " of big-endian machines" if swapped in VERSIONS else ""
            raise self._error(
                f"GGUF version {min(version, swapped)}{other}; expected version "
                f"{' or '.join(map(str, VERSIONS))}, little-endian"
            )
        tensors = self._count("<Q", "tensors", LEAST_TENSOR)
        keys = self._count("<Q", "keys", LEAST_KEY)
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string("key")
            if key in metadata:
                raise self._error(f"the key {shown(key)} stands there twice")
            metadata[key] = self._value(key)
        described = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment.bit_count() != 1:
            raise self._error(
                f"general.alignment is {shown(alignment)}; expected a power of two"
            )
        start = -(-self.at // alignment) * alignment
        placed = dict(self._placed(described, start, alignment))
        self._refuse_overlaps(placed)
        return GgufHeader(metadata, placed)

    # ------------------------------------------------------------------ values

    def _value(self, key: str) -> Any:
        kind = self._number("<I", key)
        if kind == STRING:
            return self._string(key)
        if kind == LIST:
            return self._list(key)
        return self._numbers(kind, 1, key)[0].item()

    def _list(self, key: str) -> Any:
        kind = self._number("<I", key)
        count = self._number("<Q", key)
        if kind == LIST:
            raise self._error(f"{shown(key)} is a list of lists; expected a plain one")
        if kind != STRING:
            return NumberList(self._numbers(kind, count, key))
        self.strings += count
        if count * 8 > self._left() or self.strings > MOST_STRINGS:
            raise self._error(f"{shown(key)} has {count:,} texts{self._too_many()}")
        return [self._string(key) for _ in range(count)]

    def _numbers(self, kind: int, count: int, key: str) -> NDArray[Any]:
        if kind not in SCALARS:
            raise self._error(
                f"{shown(key)} is of type {kind}; expected 0 to {max(SCALARS)}"
            )
        dtype = np.dtype(SCALARS[kind])
        data = self._bytes(count * dtype.itemsize, key)
        if kind == 7:
            return np.frombuffer(data, np.uint8) != 0
        return np.frombuffer(data, dtype)

    def _string(self, what: str) -> str:
        length = self._number("<Q", what)
        try:
            return self._bytes(length, what).decode()
        except UnicodeDecodeError:
            raise self._error(f"{shown(what)} is no text in UTF-8") from None

    # ------------------------------------------------------------------ tensors

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return name, shape, number of its type, and where it begins in the data."""
        name = self._string("name of a tensor")
        count = self._number("<I", name)
        if not 1 <= count <= MOST_DIMENSIONS:
            raise self._error(
                f"{shown(name)} has {count:,} dimensions; expected 1 to {MOST_DIMENSIONS}"
            )
        sizes = [self._number("<Q", name) for _ in range(count)]
        kind = self._number("<I", name)
        offset = self._number("<Q", name)
        return name, tuple(reversed(sizes)), kind, offset

    def _placed(
        self,
        described: list[tuple[str, tuple[int, ...], int, int]],
        start: int,
        alignment: int,
    ) -> Iterator[tuple[str, StoredTensor]]:
        """Yield where tensors stand in the file. Raises UserError: one does not fit there."""
        names = set()
        for name, shape, kind, offset in described:
            if name in names:
                raise self._error(f"the tensor {shown(name)} stands there twice")
            names.add(name)
            row_bytes, type_name = self._row(name, shape, kind)
            tensor = StoredTensor(shape, type_name, start + offset, row_bytes)
            if min(shape) < 1 or tensor.end > self.size:
                raise self._error(
                    f"{shown(name)} of shape {list(shape)} ({type_name}) ends at byte "
                    f"{tensor.end:,}, and the file has {self.size:,}; it was cut off, or is damaged"
                )
            if offset % alignment:
                raise self._error(
                    f"{shown(name)} begins at {offset:,}; expected a multiple of {alignment}"
                )
            yield name, tensor

    def _row(self, name: str, shape: tuple[int, ...], kind: int) -> tuple[int, str]:
        """Return the bytes of a row and the name of its type."""
        import gguf

        known = PLAIN + QUANTIZED
        try:
            type_name = gguf.GGMLQuantizationType(kind).name
        except ValueError:
            type_name = str(kind)
        if type_name not in known:
            raise self._error(
                f"{shown(name)} is of type {type_name}; expected one of {', '.join(known)}"
            )
        block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        if shape[-1] % block:
            raise self._error(
                f"{shown(name)} has rows of {shape[-1]:,}; expected a multiple of {block}, of "
                f"which {type_name} is made"
            )
        return shape[-1] // block * block_bytes, type_name

    def _refuse_overlaps(self, tensors: dict[str, StoredTensor]) -> None:
        """Raise UserError where tensors share bytes, by which a small file could fill memory."""
        end = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
            if tensor.begin < end:
                raise self._error(f"{shown(name)} begins inside another tensor")
            end = tensor.end

    # ------------------------------------------------------------------ bytes

    def _left(self) -> int:
        return min(self.size, HEADER_BYTES) - self.at

    def _bytes(self, count: int, what: str) -> bytes:
        if count > self._left():
            raise self._error(
                f"{shown(what)} takes {count:,} bytes at byte {self.at:,}"
                + self._too_many()
            )
        data = self.file.read(count)
        self.at += len(data)
        # a file that shrinks while it is read
        if len(data) < count:
            raise self._error(f"the file ends before {shown(what)}")
        return data

    def _number(self, form: str, what: str) -> int:
        packed = struct.Struct(form)
        value: int = packed.unpack(self._bytes(packed.size, what))[0]
        return value

    def _count(self, form: str, what: str, least: int) -> int:
        count = self._number(form, f"number of {what}")
        if count > MOST_ENTRIES or count * least > self._left():
            raise self._error(f"it tells of {count:,} {what}{self._too_many()}")
        return count

    def _too_many(self) -> str:
        return f", more than fit {self._left():,} bytes; it was cut off, or is damaged"

    def _error(self, reason: str) -> UserError:
        return UserError(f"{self.path}: no whole GGUF file: {reason}")
