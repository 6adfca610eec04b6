"""Sums over processes of one machine, through memory that all of them see.

A message through gloo is copied into a socket, out of it and back; here every process writes its
numbers once and reads those of the others where they stand.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

MEMORY = Path("/dev/shm")  # files that are memory, on Linux
SETS = 2  # of slots, used in turn: while one is read the next is written
BYTES = 4  # of a number
# bytes: larger ones are sent, since memory that is taken here is no one else's
LARGEST = 2**32


class SharedSums:
    """Adds up tensors over the processes of a machine.

    Between a ``write`` and the ``read`` that follows, and so between a ``read`` and the next
    ``write`` but one, all processes must have waited for each other, as any message makes them.

    Args:
        slots: the numbers that each process adds (SETS, processes, N), fp32, which all see.
        rank: which of the processes this is.
    """

    def __init__(self, slots: Tensor, rank: int) -> None:
        self.slots = slots
        self.rank = rank
        self.turn = 0

    def parts(self, process: int, shapes: Sequence[torch.Size]) -> list[Tensor]:
        """Return where the numbers of a process stand, tensor by tensor."""
        slot = self.slots[self.turn, process]
        sizes = [shape.numel() for shape in shapes]
        split = slot[: sum(sizes)].split(sizes)
        return [part.view(shape) for part, shape in zip(split, shapes, strict=True)]

    def write(
        self, tensors: Sequence[Tensor | None], shapes: Sequence[torch.Size]
    ) -> None:
        """Show the others what is to be added up; None where there is nothing of a shape."""
        self.turn = (self.turn + 1) % SETS
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        for tensor, part in zip(tensors, self.parts(self.rank, shapes), strict=True):
            if tensor is not None:
                targets.append(part)
                sources.append(tensor)
        if targets:
            torch._foreach_copy_(targets, sources)

    def read(
        self,
        tensors: Sequence[Tensor | None],
        shapes: Sequence[torch.Size],
        written: Tensor,
    ) -> None:
        """Put sums into tensors, added in the order of the processes, so that all get equal bits.

        Args:
            tensors: where the sums go; None where nobody wrote anything.
            shapes: of all.
            written: which process wrote which of them, bool (processes, tensors).
        """
        parts = [self.parts(process, shapes) for process in range(len(written))]
        for index, tensor in enumerate(tensors):
            if tensor is None:
                continue
            writers = written[:, index].nonzero().flatten().tolist()
            summands = [parts[writer][index] for writer in writers]
            if len(summands) == 1:
                tensor.copy_(summands[0])
                continue
            torch.add(summands[0], summands[1], out=tensor)
            for summand in summands[2:]:
                tensor += summand


def shared_sums(
    numbers: int,
    rank: int,
    size: int,
    broadcast: Callable[[str], str],
    agree: Callable[[bool], bool],
) -> SharedSums | None:
    """Return what adds up so many numbers; None where the processes share no memory.

    Args:
        numbers: that each process adds.
        rank: which of the processes this is.
        size: how many there are.
        broadcast: returns the first one's text on all.
        agree: returns whether it is true on all.
    """
    count = SETS * size * numbers
    made = _made(BYTES * count) if rank == 0 else ""
    slots: Tensor | None = None
    try:
        path = Path(broadcast(made))
        # on another machine there is no such file, which torch would make
        if path.name and path.is_file():
            with contextlib.suppress(RuntimeError, OSError):
                slots = torch.from_file(str(path), shared=True, size=count)
        is_shared = agree(slots is not None)
    finally:
        if made:
            # whoever has it keeps it, and nothing is left when they end
            Path(made).unlink(missing_ok=True)
    if slots is None or not is_shared:
        return None
    return SharedSums(slots.view(SETS, size, numbers), rank)


def _made(size: int) -> str:
    """Return the path of a new file in memory of so many bytes; empty where there is no room."""
    if not MEMORY.is_dir() or not 0 < size <= LARGEST:
        return ""
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix="unrolled-", dir=MEMORY)
        with os.fdopen(handle, "wb") as file:
            # a file with holes would end the process where there is no room for them
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        if name:
            Path(name).unlink(missing_ok=True)
        return ""
    return name
