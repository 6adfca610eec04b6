"""Sums through shared memory are those of the numbers, bit for bit alike in all processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unrolled.training import shared_sums as module
from unrolled.training.shared_sums import SETS, SharedSums, shared_sums

SHAPES = [torch.Size([3, 2]), torch.Size([]), torch.Size([4]), torch.Size([2, 3, 1, 1])]
NUMBERS = sum(shape.numel() for shape in SHAPES)


def group(size: int) -> list[SharedSums]:
    slots = torch.full((SETS, size, NUMBERS), float("nan"))
    return [SharedSums(slots, rank) for rank in range(size)]


def drawn(seed: int) -> list[Tensor | None]:
    torch.manual_seed(seed)
    tensors: list[Tensor | None] = [torch.randn(shape) for shape in SHAPES]
    # as gradients of convolutions may lie
    last = tensors[3]
    assert last is not None
    tensors[3] = last.contiguous(memory_format=torch.channels_last)
    return tensors


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_process_has_the_sum_of_all(size: int) -> None:
    members = group(size)
    for step in range(4):
        given = [drawn(10 * step + rank) for rank in range(size)]
        given[0][1] = None  # that one process did not need
        written = torch.tensor([[part is not None for part in row] for row in given])
        for member, tensors in zip(members, given, strict=True):
            member.write(tensors, SHAPES)
        sums: list[list[Tensor | None]] = []
        for member, tensors in zip(members, given, strict=True):
            total = [
                torch.zeros(shape) if tensor is None else tensor.clone()
                for tensor, shape in zip(tensors, SHAPES, strict=True)
            ]
            member.read(total, SHAPES, written)
            sums.append([*total])
        for index in range(len(SHAPES)):
            summands = [row[index] for row in given if row[index] is not None]
            expected = summands[0]
            assert expected is not None
            for summand in summands[1:]:
                assert summand is not None
                expected = expected + summand
            for row in sums:
                got = row[index]
                assert got is not None
                assert torch.equal(got, expected)


def test_what_nobody_wrote_and_what_one_wrote_alone() -> None:
    first, second = group(2)
    given: list[Tensor | None] = [torch.ones(3, 2), None, None, None]
    first.write(given, SHAPES)
    second.write([None] * 4, SHAPES)
    written = torch.tensor([[True, False, False, False], [False] * 4])
    total: list[Tensor | None] = [torch.zeros(3, 2), None, None, None]
    second.read(total, SHAPES, written)
    assert total[0] is not None
    assert total[0].eq(1).all()


def test_one_set_is_read_while_the_next_is_written() -> None:
    first, second = group(2)
    ones: list[Tensor | None] = [torch.ones(shape) for shape in SHAPES]
    twos: list[Tensor | None] = [torch.full(shape, 2.0) for shape in SHAPES]
    written = torch.ones(2, len(SHAPES), dtype=torch.bool)
    first.write(ones, SHAPES)
    second.write(twos, SHAPES)
    total: list[Tensor | None] = [torch.zeros(shape) for shape in SHAPES]
    first.read(total, SHAPES, written)
    # the first goes on while the second has not read yet
    first.write(twos, SHAPES)
    second.read(total, SHAPES, written)
    assert all(part is not None and bool(part.eq(3).all()) for part in total)


def one_of_two(rank: int, box: str, results: multiprocessing.Queue) -> None:
    """Open what the other made, write and read."""
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{box}", rank=rank, world_size=2
    )

    def broadcast(text: str) -> str:
        texts = [text]
        dist.broadcast_object_list(texts)
        return texts[0]

    def agree(is_true: bool) -> bool:
        word = torch.tensor(float(is_true))
        dist.all_reduce(word, dist.ReduceOp.MIN)
        return bool(word)

    sums = shared_sums(NUMBERS, rank, 2, broadcast, agree)
    if sums is None:
        results.put(None)
        return
    tensors: list[Tensor | None] = [torch.full(shape, rank + 1.0) for shape in SHAPES]
    sums.write(tensors, SHAPES)
    dist.barrier()
    sums.read(tensors, SHAPES, torch.ones(2, len(SHAPES), dtype=torch.bool))
    results.put([float(part.sum()) for part in tensors if part is not None])
    dist.destroy_process_group()


@pytest.mark.skipif(not module.MEMORY.is_dir(), reason="no files in memory here")
def test_processes_share_a_file_that_is_gone_at_once(tmp_path: Path) -> None:
    before = set(module.MEMORY.glob("unrolled-*"))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=one_of_two, args=(rank, str(tmp_path / "box"), results))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    expected = [3.0 * shape.numel() for shape in SHAPES]
    assert [results.get(timeout=120) for _ in processes] == [expected, expected]
    for process in processes:
        process.join()
    assert set(module.MEMORY.glob("unrolled-*")) <= before


def test_without_such_memory_or_room_in_it_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def same(value: str) -> str:
        return value

    monkeypatch.setattr(module, "MEMORY", tmp_path / "nowhere")
    assert shared_sums(NUMBERS, 0, 1, same, bool) is None
    monkeypatch.setattr(module, "MEMORY", tmp_path)

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    assert shared_sums(NUMBERS, 0, 1, same, bool) is None
    assert not list(tmp_path.iterdir())


def test_another_machine_has_no_such_file(tmp_path: Path) -> None:
    # what the first one says it made is not there
    assert shared_sums(4, 1, 2, lambda _: str(tmp_path / "made"), bool) is None
    assert not list(tmp_path.iterdir())
