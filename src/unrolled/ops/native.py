"""The native core: finds libunrolled, checks its version once, and calls it through ctypes.

What the functions do is said in ``native/include/unrolled.h``. Without the library (no compiler at
the installation, another version) there is one warning, and torch's kernels run instead.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import sysconfig
import threading
import warnings
from collections.abc import Mapping, Sequence
from ctypes import c_char_p, c_double, c_int32, c_int64, c_uint32, c_void_p
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from unrolled.core.errors import UsageError

ABI = 5
CELLS = {"rnn_tanh": 0, "rnn_relu": 1, "gru": 2, "lstm": 3}
PRECISIONS = {"float32": 0, "bf16": 1, "int8": 2}
# weights in blocks, as GGUF has them, are those of decoders alone
DECODER_PRECISIONS = {**PRECISIONS, "q8_0": 3, "q4_0": 4}
LEVELS = ("portable", "avx2", "avx512", "amx")
_FEATURES = ("bf16", "vnni", "amx")
# of ``unrolled_counter``; its products of matrices have no caller in Python and are not bound
_COUNTERS = {"forward": 0, "backward": 1, "step": 2}

_INT32 = ("cell", "precision", "reverse", "threads")
_INT64 = ("rows", "steps", "input", "hidden", "count", "step_stride", "row_stride")
_POINTERS = (
    *("offset", "active", "base", "order"),
    *("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0", "mask"),
    *("y", "h_final", "c_final", "gates", "cells", "inner"),
    *("d_y", "d_h_final", "d_c_final"),
    *("d_x", "d_w_ih", "d_w_hh", "d_b_ih", "d_b_hh", "d_h0", "d_c0"),
)

# ``unrolled_run``, one layer of one direction over time: fields and their kinds as struct has them
FIELDS = (
    dict.fromkeys(_INT32, "i")
    | dict.fromkeys(_INT64, "q")
    | dict.fromkeys(_POINTERS, "P")
)
# bytes from here cost a tenth of what a structure of ctypes does
_RUN = struct.Struct("".join(FIELDS.values()))

# ``unrolled_decoding``, one token of a decoder, likewise
DECODING = (
    dict.fromkeys(("threads", "rows", "sources", "cache_rows", "room"), "q")
    | {"cache_strides": "4q", "memory_steps": "q", "memory_strides": "3q"}
    | dict.fromkeys(("x", "ids", "table"), "P")
    | {"tokens": "q"}
    | dict.fromkeys(("places", "cosines", "sines"), "P")
    | {"positions": "q"}
    | dict.fromkeys(("keys", "values", "lengths", "origin", "own"), "P")
    | dict.fromkeys(("memory_keys", "memory_values"), "P")
    | dict.fromkeys(("memory_lengths", "memory_rows"), "P")
    | {"y": "P", "logits": "P", "ld_logits": "q", "scored": "q", "score_at": "P"}
    | {"k": "q", "best": "P", "best_ids": "P", "banned": "P", "banned_count": "q"}
    | {"pages": "P", "sequences": "q", "most_pages": "q"}
)
_DECODE = struct.Struct("".join(DECODING.values()))

# ``unrolled_stack``, what a transformer is
STACK = (
    dict.fromkeys(("precision", "norm", "norm_first", "feedforward"), "i")
    | dict.fromkeys(("epsilon", "head_epsilon"), "f")
    | dict.fromkeys(("layers", "width", "heads", "size", "kv_heads"), "q")
    | dict.fromkeys(("memory_heads", "inner", "vocabulary", "window"), "q")
)
_STACK = struct.Struct("".join(STACK.values()))

_TEXT = c_char_p
_NONE = None
# of every function: what it returns, what it takes
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "level": (c_int32,),
    "best_level": (c_int32,),
    "set_level": (c_int32, c_int32),
    "features": (c_uint32,),
    "use_team": (_NONE, c_void_p),
    "count": (c_int64, c_int32),
    "forward": (_TEXT, c_void_p),
    "backward": (_TEXT, c_void_p),
    "stream_new": (c_void_p, c_int64, c_int32),
    "stream_embedding": (_TEXT, c_void_p, c_int64, c_int64, c_void_p),
    "stream_layer": (
        *(_TEXT, c_void_p, c_int32, c_int64, c_int64),
        *(c_void_p, c_void_p, c_int32),
    ),
    "stream_linear": (_TEXT, c_void_p, c_int64, c_int64),
    "stream_load": (_TEXT, c_void_p, c_int64, c_void_p, c_void_p, c_void_p, c_void_p),
    "stream_output": (_TEXT, c_void_p, c_void_p),
    "stream_step": (_TEXT, c_void_p, c_void_p),
    "stream_bytes": (c_int64, c_void_p),
    "stream_free": (_NONE, c_void_p),
    "top_log_probabilities": (
        *(_TEXT, c_int32, c_int64, c_int64, c_void_p, c_int64),
        *(c_int64, c_void_p, c_void_p),
    ),
    "decoder_new": (c_void_p, c_void_p),
    "decoder_load": (_TEXT, c_void_p, c_int64, c_int32, c_void_p, c_void_p),
    "decoder_step": (_TEXT, c_void_p, c_void_p),
    "decoder_bytes": (c_int64, c_void_p),
    "decoder_free": (_NONE, c_void_p),
    "peak": (c_double, c_int32, c_int32, c_double),
    "bandwidth": (c_double, c_int64, c_int32, c_double),
}


def _refuse_cut(path: str) -> None:
    """Refuse a library that lacks bytes: the system maps it unread, and ends the process later.

    ELF alone (the header of its 64 bits in little endian, System V ABI, chapter 4) is looked at.
    """
    with Path(path).open("rb") as file:
        header = file.read(64)
        if header.startswith(b"\x7fELF") and not _is_whole(file, header):
            raise OSError(f"{path} is cut short")


def _is_whole(file: BinaryIO, header: bytes) -> bool:
    """Say whether all that an ELF file's header and segments name lies inside of it."""
    size = os.fstat(file.fileno()).st_size
    if len(header) < 64:
        return False
    if header[4:6] != b"\x02\x01":  # not of 64 bits in little endian: not looked at
        return True
    segments, sections = struct.unpack_from("<QQ", header, 32)
    widths_and_counts = struct.unpack_from("<4H", header, 54)
    width, count, section_width, section_count = widths_and_counts
    if sections + section_width * section_count > size:
        return False
    if segments + width * count > size:
        return False
    file.seek(segments)
    table = file.read(width * count)
    for entry in range(0, len(table), width):
        (offset,) = struct.unpack_from("<Q", table, entry + 8)
        (length,) = struct.unpack_from("<Q", table, entry + 32)
        if offset + length > size:
            return False
    return True


def _bind(path: str) -> SimpleNamespace:
    """Return the functions of a library, without their prefix.

    Raises:
        OSError: it cannot be loaded, is cut short, of another version or lacks a function.
    """
    _refuse_cut(path)
    loaded = ctypes.CDLL(path)
    functions = {}
    version = getattr(loaded, "unrolled_abi", int)()
    if version != ABI:
        raise OSError(f"{path} is of version {version}, expected {ABI}")
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(loaded, f"unrolled_{name}", None)
        if function is None:
            raise OSError(f"{path} has no unrolled_{name}")
        function.restype = result
        function.argtypes = arguments
        functions[name] = function
    return SimpleNamespace(**functions)


_lock = threading.Lock()
_library: SimpleNamespace | None = None
_missing: str | None = None  # why there is none; None before the first look


def _candidates() -> list[Path]:
    """Return the paths that the library may have, in the order of looking."""
    chosen = os.environ.get("UNROLLED_LIBRARY")
    if chosen:
        return [Path(chosen)]
    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    # an editable installation has the package in src/ and the library here
    installed = Path(sysconfig.get_path("platlib"), "unrolled", "ops")
    folders = (Path(__file__).parent, installed)
    return [folder / f"libunrolled.{suffix}" for folder in folders]


class WrongLevel(UsageError, ValueError):
    """UNROLLED_ISA names an instruction level that does not run here."""


def _open() -> SimpleNamespace:
    candidates = _candidates()
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise OSError(f"no {' nor '.join(map(str, candidates))}")
    library = _bind(str(path))
    # two teams of threads would fight for the cores: take the one that torch has, if it has
    process = ctypes.CDLL(None) if os.name == "posix" else None
    team = getattr(process, "GOMP_parallel", None)
    library.use_team(ctypes.cast(team, c_void_p) if team else None)
    level = os.environ.get("UNROLLED_ISA")
    if level:
        try:
            _set_level(library, level, "UNROLLED_ISA")
        except ValueError as error:
            raise WrongLevel(str(error)) from None
    return library


def library() -> SimpleNamespace | None:
    """Return the library's functions, loaded at the first call, or None where there is none.

    Raises:
        ValueError: the environment's UNROLLED_ISA names no level that runs here.
    """
    global _library, _missing
    if _missing is None:
        reason = ""
        with _lock:
            if _missing is None:  # no other thread was faster
                try:
                    _library = _open()
                except OSError as error:
                    reason = str(error)
                # last: from here on threads read both without the lock
                _missing = reason
        # outside of the lock: a filter of warnings may raise, or call back into this module
        if reason:
            warnings.warn(
                f"the native core is not in use: {reason}; recurrent layers take torch's kernels, "
                "which are slower: install a C++ compiler and reinstall unrolled",
                RuntimeWarning,
                stacklevel=2,
            )
    return _library


def available() -> bool:
    """Say whether the library is there."""
    return library() is not None


# what torch.compiler.assume_constant_result sets; importing that would import all of torch._dynamo
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def missing() -> str:
    """Return why there is no library; empty when there is."""
    return "" if available() else _missing or ""


def _loaded() -> SimpleNamespace:
    functions = library()
    if functions is None:
        raise RuntimeError(f"expected the native core, got none: {_missing}")
    return functions


def check(message: bytes | None) -> None:
    """Raise what a function of the library complains about.

    Raises:
        MemoryError: memory could not be had.
        ValueError: it returned another message.
    """
    if message == b"out of memory":
        raise MemoryError("the native core: out of memory")
    if message is not None:
        raise ValueError(f"the native core: {message.decode()}")


def run(name: str, numbers: tuple[int, ...], pointers: list[int]) -> None:
    """Call forward or backward; what it is given must be held until then.

    Args:
        name: which of them.
        numbers: the fields that are no pointers, in the order of ``FIELDS``.
        pointers: the first of the others, 0 for NULL as is the rest.
    """
    unused = (0,) * (len(_POINTERS) - len(pointers))
    function = getattr(_loaded(), name)
    check(function(_RUN.pack(*numbers, *pointers, *unused)))


def new_decoder(**fields: float) -> int:
    """Return a stack of blocks, 0 where it cannot be made; ``fields`` are those of ``STACK``."""
    stack = _STACK.pack(*(fields[name] for name in STACK))
    return _loaded().decoder_new(stack) or 0


def decoding(fields: Sequence[int]) -> bytes:
    """Return what a step of a decoder is given.

    Args:
        fields: the numbers of ``DECODING`` in order, 0 for NULL.
    """
    return _DECODE.pack(*fields)


def decoding_of(fields: Mapping[str, int], cache_strides: Sequence[int]) -> bytes:
    """Return what a step of a decoder without memory is given.

    Args:
        fields: some of ``DECODING`` by name; the others are 0.
        cache_strides: of layer, row, head and step.
    """
    numbers: list[int] = []
    for name, kind in DECODING.items():
        if name == "cache_strides":
            numbers += cache_strides
        else:
            numbers += [fields.get(name, 0)] * int(kind[:-1] or 1)
    return _DECODE.pack(*numbers)


def decode(core: int, call: bytes) -> None:
    """Read one token of every row; what ``decoding`` was given must be held until then."""
    check(_loaded().decoder_step(core, call))


def _levels(library: SimpleNamespace) -> tuple[str, ...]:
    return LEVELS[: library.best_level() + 1]


def _set_level(library: SimpleNamespace, name: str, option: str) -> None:
    names = _levels(library)
    if name not in names or library.set_level(LEVELS.index(name)) < 0:
        raise ValueError(
            f"expected {option} out of {', '.join(names)}, got {name!r}; choose another"
        )


def levels() -> tuple[str, ...]:
    """Return the instruction levels that run here, the plainest first."""
    return _levels(_loaded())


def level() -> str:
    """Return the instruction level in use."""
    return LEVELS[_loaded().level()]


def set_level(name: str) -> None:
    """Use an instruction level from now on, in the whole process.

    Raises:
        ValueError: it is unknown or does not run here.
    """
    _set_level(_loaded(), name, "a level")


def features() -> tuple[str, ...]:
    """Return which of bf16, vnni and amx the level in use takes from this processor."""
    bits = _loaded().features()
    return tuple(name for bit, name in enumerate(_FEATURES) if bits >> bit & 1)


def count(kind: str) -> int:
    """Return how many calls of a kind have run: forward, backward or step."""
    return int(_loaded().count(_COUNTERS[kind]))
