"""What a training frees stays with the process while it runs, and is given back after it."""

from __future__ import annotations

import ctypes
import platform
import resource
import threading

import pytest
import torch

from unrolled.training.memory import freed_memory_kept

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="mallopt is one of glibc"
)
LARGE = 2**24  # fp32 numbers, 64 MiB: mapped anew by glibc each time


def new_pages(rounds: int) -> int:
    """Return how many pages the process got while it used a large tensor again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(LARGE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_large_tensors_are_mapped_once() -> None:
    outside = new_pages(6)
    with freed_memory_kept():
        torch.ones(LARGE)
        inside = new_pages(6)
    assert inside < outside / 4
    assert new_pages(6) > inside


@glibc
def test_the_last_of_several_trainings_gives_it_back() -> None:
    first = freed_memory_kept()
    second = freed_memory_kept()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    torch.ones(LARGE)
    kept = new_pages(4)
    second.__exit__(None, None, None)
    assert kept < new_pages(4) / 4


@glibc
def test_a_thread_may_train() -> None:
    seen: list[float] = []

    def work() -> None:
        with freed_memory_kept():
            seen.append(float(torch.ones(LARGE).sum()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [LARGE]


def test_a_library_without_these_settings_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with freed_memory_kept():
        assert float(torch.ones(3).sum()) == 3
