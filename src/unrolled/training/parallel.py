"""Several processes that train one model, as ``torchrun`` starts them.

Every process holds the whole model. Batches are a function of (seed, epoch, index), so nobody deals
them out: of the rows of each, process r of n reads r, r + n, r + 2n and so on. Losses and gradients
are sums, added up over the processes and divided by what all of them scored, so that an update is
that of one process to rounding.

Gradients are added up when the last backward pass of a step has ended, and not bucket by bucket
during it as torch's DistributedDataParallel does (Li et al. 2020). That wrapper prepares itself in
``forward``, and objectives call other methods of a model (``read``, ``recover``, its ``head``); it
takes means, where the divisor is known only after the pass; and it must be told which weights may
be left without a gradient. What this costs is that no exchange hides behind a backward pass;
``training.accumulate`` makes it rarer. On one machine gradients go through memory that all
processes see (``shared_sums``), from one machine to another through gloo.

Beside it one short message a step goes from host to host (gloo, also beside GPUs), so that all are
of one mind on the clock, on signals, and on which weights have a gradient at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unrolled.core.errors import UserError
from unrolled.core.words import either
from unrolled.data.batches import Batch, BatchSource, DivisibleSource, random
from unrolled.nn.state import State, pack, unpack
from unrolled.training.losses import pack_losses, unpack_losses
from unrolled.training.objectives import Loss
from unrolled.training.shared_sums import SharedSums, shared_sums
from unrolled.training.stopping import Interrupted, Terminated

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
# one that hangs ends the others after this; an evaluation, which they wait for, may take as long.
# Of one that ends they hear at once
PATIENCE = timedelta(minutes=30)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepReport:
    """What all processes know after the backward passes of a step.

    ``tokens`` that all of them read, ``seconds`` on the first one's clock, and the ``signal`` that
    any of them caught, 0 for none.
    """

    tokens: int
    seconds: float
    signal: int


class SharedMemory:
    """The memory that the processes of a machine share, once there is need of it."""

    def __init__(self) -> None:
        self.numbers: int | None = None  # that it was made for
        self.sums: SharedSums | None = None

    def of(
        self, group: ProcessGroup, parameters: Sequence[nn.Parameter]
    ) -> SharedSums | None:
        """Return what adds up the gradients of parameters; None where gloo must."""
        numbers = sum(parameter.numel() for parameter in parameters)
        if numbers != self.numbers:
            self.numbers = numbers
            fits = all(
                parameter.is_cpu and parameter.dtype == torch.float32
                for parameter in parameters
            )
            self.sums = None
            if numbers and group.agree(fits):
                self.sums = shared_sums(
                    numbers, group.rank, group.size, group.broadcast, group.agree
                )
        return self.sums


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among those that train together; by itself it is the first of one.

    Whatever raises UserError here says that another process has ended or does not answer.
    """

    rank: int = 0
    size: int = 1
    grouped: bool = False
    memory: SharedMemory = field(default_factory=SharedMemory, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, speaks and evaluates."""
        return self.rank == 0

    def shard(self, source: BatchSource, epoch: int, index: int) -> tuple[Batch, bool]:
        """Return this process's rows of a batch, and whether they count.

        Where there are fewer rows than processes, the others read the first row, for nothing: then
        all have the same gradients and logs to tell of.

        Raises:
            UserError: the batch cannot be divided by its rows.
        """
        if self.size == 1:
            return source.batch(epoch, index), True
        if isinstance(source, DivisibleSource):
            rows = source.rows_of_batch(epoch, index)
            return source.batch(epoch, index, self.part(rows)), self.rank < rows
        batch = source.batch(epoch, index)
        if batch.extra:
            raise UserError(
                "these batches cannot be divided among processes; train with one"
            )
        rows = len(batch.rows)
        return taken(batch, self.part(rows)), self.rank < rows

    def part(self, rows: int) -> slice:
        """Return which of so many rows this process reads."""
        return slice(self.rank, None, self.size) if self.rank < rows else slice(0, 1)

    def exchange(
        self, losses: list[Loss], parameters: Sequence[nn.Parameter], mine: StepReport
    ) -> tuple[list[Loss], StepReport]:
        """Add up the losses of a step and the gradients of its parameters, in place.

        A parameter that has a gradient in any process has one in all of them afterwards.
        """
        if not self.grouped:
            return losses, mine
        used = [parameter.grad is not None for parameter in parameters]
        sums = self.memory.of(self, parameters)
        shapes = [parameter.shape for parameter in parameters]
        if sums is not None:
            sums.write([parameter.grad for parameter in parameters], shapes)
        row = torch.tensor(
            [mine.tokens, mine.seconds, mine.signal, *used], dtype=torch.float64
        )
        rows = [torch.empty_like(row) for _ in range(self.size)]
        with together():
            dist.all_gather(rows, row)
        table = torch.stack(rows)
        report = StepReport(
            tokens=int(table[:, 0].sum()),
            seconds=float(table[0, 1]),
            signal=int(table[:, 2].max()),
        )
        added = add_losses(losses)
        written = table[:, 3:].bool()
        for parameter, is_used in zip(parameters, written.any(0), strict=True):
            # all processes must send as many numbers in the one message
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        all_gradients = [parameter.grad for parameter in parameters]
        gradients = [gradient for gradient in all_gradients if gradient is not None]
        if sums is not None:
            sums.read(all_gradients, shapes, written)
        elif gradients:
            add(gradients)
        return added, report

    def agree(self, is_true: bool) -> bool:
        """Return whether it is true on all."""
        word = torch.tensor(float(is_true))
        with together():
            dist.all_reduce(word, dist.ReduceOp.MIN)
        return bool(word)

    def gather(self, own: T) -> list[T]:
        """Return on the first what each process hands in, in their order; else an empty list."""
        if not self.grouped:
            return [own]
        parts: list[T | None] | None = [None] * self.size if self.first else None
        with together():
            dist.gather_object(own, parts)
        return parts or []  # type: ignore[return-value]

    def broadcast(self, value: T) -> T:
        """Return the first process's value on all."""
        if not self.grouped:
            return value
        values = [value]
        with together():
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def require_same_step(self, step: int, folder: Path) -> None:
        """Compare the steps that the processes go on from.

        Raises:
            UserError: this one goes on from another than the first.
        """
        if (theirs := self.broadcast(step)) != step:
            raise UserError(
                f"{folder}: process {self.rank} finds a checkpoint of step {step}, the first one "
                f"{theirs}; the folder of a run must be one and the same for all processes"
            )

    def broadcast_weights(self, model: nn.Module) -> None:
        """Give every process the first one's weights: other machines may draw others."""
        if self.grouped:
            with together():
                for parameter in model.parameters():
                    dist.broadcast(parameter.detach(), 0)

    def barrier(self) -> None:
        """Return when all processes have come here."""
        if self.grouped:
            with together():
                # torch's own barrier over nccl would need the GPU
                dist.all_reduce(torch.zeros(1))


def world() -> ProcessGroup:
    """Return the group that this process has joined, else one of itself alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return ProcessGroup()
    return ProcessGroup(dist.get_rank(), dist.get_world_size(), True)


@contextlib.contextmanager
def joined() -> Iterator[ProcessGroup]:
    """Join the group that the environment names, for the block; without one, or in one, as is.

    Raises:
        UserError: the others do not come.
        SystemExit: a signal ended the training, of which only the first process tells.
    """
    if not all(os.environ.get(name) for name in NAMES) or world().grouped:
        yield world()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with together():
        dist.init_process_group(backend, timeout=PATIENCE)
    here = world()
    try:
        yield here
    except (Interrupted, Terminated) as stopped:
        if here.first:
            raise
        raise SystemExit(stopped.code) from None
    finally:
        dist.destroy_process_group()


def local_rank() -> int | None:
    """Return which process of its machine this is, None outside of a group."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world().grouped else None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Say what a message that fails means. Raises UserError."""
    try:
        yield
    except RuntimeError as error:
        raise lost(error) from error


def is_lost(error: BaseException) -> bool:
    """Say whether an error of torch tells that another process does not answer."""
    if not dist.is_available():
        return False
    names = ("gloo", "nccl", "connection closed by peer")
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(name in text for name in names)


def lost(error: BaseException) -> UserError:
    """Return what a person is told when another process does not answer."""
    first = (str(error).splitlines() or [""])[0]
    return UserError(
        f"another process of this training has ended or does not answer ({first[:160]}); what "
        f"it says tells why; go on with {either('--resume', 'resume=True')}"
    )


def taken(batch: Batch, part: slice) -> Batch:
    """Return some rows of a batch without ``extra``."""
    return replace(
        batch,
        inputs=batch.inputs[part],
        lengths=None if batch.lengths is None else batch.lengths[part],
        targets=None if batch.targets is None else batch.targets[part],
        rows=batch.rows[part],
        fresh=None if batch.fresh is None else batch.fresh[part],
        starts=None if batch.starts is None else batch.starts[part],
    )


def for_nothing(loss: Loss) -> Loss:
    """Return a loss that counts for nothing, and whose gradients are zero."""
    logs = {name: (total * 0, count * 0) for name, (total, count) in loss.logs.items()}
    return Loss(loss.sum * 0, loss.count * 0, loss.carry, logs)


def add_losses(losses: list[Loss]) -> list[Loss]:
    """Return the losses of a step added up over the processes, with what they log."""
    packed = pack_losses(losses)
    with together():
        for name in sorted(packed):
            dist.all_reduce(packed[name])
    return unpack_losses(packed)


def add(tensors: list[Tensor]) -> None:
    """Add up tensors over the processes, in place, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with together():
        dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(
        tensors,
        [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)],
    )


def interleaved(states: Sequence[State]) -> State:
    """Return the states of all processes, in the order of the rows that they carried: see ``part``.

    Args:
        states: those of the processes that have rows, in their order.
    """
    if len(states) == 1:
        return states[0]
    # of each row of the joined states: its turn in its process, the process, its own index
    order: list[tuple[int, int, int]] = []
    for rank, state in enumerate(states):
        start = len(order)
        for turn in range(state.rows):
            order.append((turn, rank, start + turn))
    rows = torch.tensor([row for _, _, row in sorted(order)])
    return type(states[0]).join(states).reorder(rows)


def merged(owned: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what is of each process alone as tensors of one checkpoint.

    The random states of the first keep their names, those of process r end in ``.r``; the carried
    states become one, of all rows, which any number of processes can divide again.

    Args:
        owned: of each process, in their order: ``random.NAME`` and ``carry.NAME``.
    """
    tensors = dict[str, Tensor]()
    carried = list[State]()
    for rank, own in enumerate(owned):
        mark = f".{rank}" if rank else ""
        carry = dict[str, Tensor]()
        for key, tensor in own.items():
            if key.startswith("random."):
                tensors[f"{key}{mark}"] = tensor
            elif key.startswith("carry."):
                carry[key.removeprefix("carry.")] = tensor
        if carry:
            carried.append(unpack(carry))
    if carried:
        for name, tensor in pack(interleaved(carried)).items():
            tensors[f"carry.{name}"] = tensor
    return tensors


def random_states(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Return the random states of one process out of those that ``merged`` named."""
    mark = f".{rank}" if rank else ""
    return {
        kind: tensors[kind + mark] for kind in ("cpu", "cuda") if kind + mark in tensors
    }


def seeded(seed: int, rank: int, step: int) -> None:
    """Begin another stream of random numbers in each process but the first."""
    if rank:
        torch.manual_seed(int(random(seed, rank, step).integers(2**63)))
