"""Starts the processes of one training again and again, as torchrun would, but as forks.

``python group.py`` reads lines ``{"processes", "words", "hits", "errors"}`` from standard input:
``unrolled`` is called with the words by each process; ``hits`` are ``[rank, function, n, signal]``:
that process sends itself the signal as it enters the n-th call (see ``killing``); ``errors`` is a
folder for what each says. The clock of all but the first runs ``hurry`` times as fast; of the last,
the backward passes that ``poison`` numbers, from 1, give NaN. With ``call`` in place of ``words``
each process joins the group and calls that function of this file. The answer is the list of how the
processes ended.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from killing import kill_at

from unrolled.cli.main import main as unrolled
from unrolled.training import loop
from unrolled.training.objectives import Loss
from unrolled.training.parallel import ProcessGroup, StepReport, joined


def uneven(world: ProcessGroup) -> None:
    """One weight has a gradient in every process, one in the last alone, one in none."""
    weights = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
    weights[0].grad = torch.full((3,), 1.0 + world.rank)
    if world.rank == world.size - 1:
        weights[1].grad = torch.arange(3.0)
    logs = {
        "b": (torch.tensor(3.0), torch.tensor(4)),
        "a": (torch.tensor(5.0), torch.tensor(6)),
    }
    loss = Loss(torch.tensor(0.5), torch.tensor(2), None, logs)
    mine = StepReport(10 + world.rank, 7.0 + world.rank, 15 * world.rank)
    (added,), report = world.exchange([loss], weights, mine)
    size = world.size
    ranks = sum(range(world.size))
    assert torch.equal(weights[0].grad, torch.full((3,), float(size + ranks)))
    assert weights[1].grad is not None
    assert torch.equal(weights[1].grad, torch.arange(3.0))
    assert weights[2].grad is None
    assert report == StepReport(10 * size + ranks, 7.0, 15 * (size - 1))
    assert (added.sum, added.count) == (0.5 * size, 2 * size)
    assert added.logs == {"b": (3.0 * size, 4 * size), "a": (5.0 * size, 6 * size)}
    gathered = world.gather(world.rank)
    assert gathered == ([*range(size)] if world.first else [])
    assert world.broadcast({"rank": world.rank}) == {"rank": 0}


def elsewhere(world: ProcessGroup) -> None:
    """The processes find other checkpoints in what should be one folder."""
    world.require_same_step(4 + world.rank, Path("run"))
    world.barrier()


def poison(passes: set[int]) -> None:
    """Let some backward passes of this process give NaN."""
    real = torch.Tensor.backward
    turns = itertools.count(1)

    def backward(self: torch.Tensor) -> None:
        real(self, torch.tensor(torch.nan) if next(turns) in passes else None)

    torch.Tensor.backward = backward  # type: ignore[assignment, method-assign]


def child(request: dict[str, Any], rank: int, port: int) -> None:
    """Be one of the processes."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request["processes"]}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    for name, flags in (("said", 1), ("told", 2)):
        file = os.open(
            f"{request['errors']}/{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        )
        os.dup2(file, flags)
    for hit, name, turn, number in request.get("hits", []):
        if hit == rank:
            kill_at(name, turn, number)
    if rank and "hurry" in request:
        clock = time.monotonic
        loop.time = SimpleNamespace(monotonic=lambda: request["hurry"] * clock())  # type: ignore
    if rank == request["processes"] - 1:
        poison(set(request.get("poison", [])))
    if "call" in request:
        with joined() as world:
            globals()[request["call"]](world)
        return
    sys.argv = ["unrolled", *request["words"]]
    unrolled()


def start(request: dict[str, Any], rank: int, port: int) -> int:
    """Return the number of a new process."""
    number = os.fork()
    if number == 0:
        code: Any = 1
        try:
            child(request, rank, port)
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException as error:
            print(error, file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return number


def main() -> None:
    """Answer each line of standard input with the exit statuses of the processes it asked for."""
    torch.set_num_threads(1)
    # what the first optimizer, tokenizer and report import: once here, not in every fork
    torch.optim.AdamW([torch.zeros(1)])
    import sklearn.linear_model  # noqa: F401
    import tokenizers  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        numbers = [start(request, rank, port) for rank in range(request["processes"])]
        codes = [
            os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers
        ]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
