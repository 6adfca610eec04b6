"""Where and in which number format a model computes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from random import getstate, setstate
from typing import Any

import numpy as np
import torch

from unrolled.core.errors import UsageError
from unrolled.training.parallel import local_rank


@dataclass(frozen=True, slots=True)
class ComputeDevice:
    """A device and a precision. Weights, sums and carried state are fp32 in either precision."""

    device: torch.device
    precision: str
    why: str

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which forward passes run."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def searching(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which answers are searched for: fp32 on the processor.

        Its steps are too small for bf16 to pay there, and the native core packs fp32.
        """
        if self.device.type == "cpu":
            return torch.autocast("cpu", enabled=False)
        return self.autocast()

    def describe(self) -> str:
        """Return one line, such as ``cpu, bf16 (auto: the processor has bf16 instructions)``."""
        return f"{self.device}, {self.precision} ({self.why})"


@contextlib.contextmanager
def callers_state_kept() -> Iterator[None]:
    """Give back, whatever happens inside, the random states and thread count of the caller.

    A training draws from torch's, numpy's and Python's global generators and sets the number of
    threads; a program that trains between two experiments of its own must not notice. Gradients
    are on inside, and torch's defaults its own; see :func:`torch_defaults`.
    """
    threads = torch.get_num_threads()
    numpy_state = np.random.get_state()  # noqa: NPY002
    python_state = getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        random = torch.random.fork_rng(devices=devices)
        with random, torch_defaults(), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy_state)  # noqa: NPY002
        setstate(python_state)


class _Defaults:
    """Who needs float32 as torch's default type now, and what it was before the first of them."""

    lock = threading.Lock()
    holders = 0
    before = torch.float32


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """Make new tensors float32 and on the processor inside, whatever the caller's defaults are.

    The default type is one of the process: the last to leave gives it back, whichever thread that
    is. The default device is one of the thread.
    """
    device = torch.get_default_device()
    here = contextlib.nullcontext() if device.type == "cpu" else torch.device("cpu")
    with _Defaults.lock:
        if not _Defaults.holders:
            _Defaults.before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _Defaults.holders += 1
    try:
        with here:
            yield
    finally:
        with _Defaults.lock:
            _Defaults.holders -= 1
            if not _Defaults.holders:
                torch.set_default_dtype(_Defaults.before)


def choose(device: str, precision: str) -> ComputeDevice:
    """Resolve the keys ``training.device`` and ``training.precision``.

    Raises:
        UsageError: the device does not exist here.
    """
    chosen = _device(device)
    if precision != "auto":
        return ComputeDevice(chosen, precision, "as asked")
    if chosen.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        what = "the GPU"
    elif chosen.type == "cpu":
        able = _cpu_has_bf16()
        what = "the processor"
    else:
        able = False
        what = f"{chosen.type}"
    if able:
        return ComputeDevice(chosen, "bf16", f"auto: {what} has bf16 instructions")
    return ComputeDevice(chosen, "fp32", f"auto: {what} has no bf16 instructions")


def _device(name: str) -> torch.device:
    local = local_rank()
    if local is not None:
        return _own_device(name, local)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it keeps no numbers")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UsageError(
            f"training.device={name}: no such device here; use cpu, or auto to take what there is"
        ) from None
    return device


def _own_device(name: str, local: int) -> torch.device:
    """Return the device of one of several processes on this machine."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise UsageError(
            f"training.device={name}: each of several processes takes a GPU of its own or the "
            "processor; say cuda or cpu"
        )
    if local >= torch.cuda.device_count():
        raise UsageError(
            f"process {local} of this machine has no GPU of its own, of {torch.cuda.device_count()}"
            "; start as many processes as there are GPUs, or set training.device=cpu"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def _cpu_has_bf16() -> bool:
    # the vector unit alone does not repay the conversions; both flags are what oneDNN looks at
    return bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
