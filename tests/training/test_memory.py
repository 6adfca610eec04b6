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
LARGE = 2**26  # bytes, which glibc maps anew each time


def new_pages(rounds: int) -> int:
    """Return how many pages the process got while it filled so much memory again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        _ = b"x" * LARGE
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_large_blocks_are_mapped_once() -> None:
    outside = new_pages(6)
    with freed_memory_kept():
        new_pages(1)
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
    new_pages(1)
    kept = new_pages(4)
    second.__exit__(None, None, None)
    assert kept < new_pages(4) / 4


@glibc
def test_a_thread_may_train() -> None:
    seen: list[float] = []

    def work() -> None:
        with freed_memory_kept():
            seen.append(float(torch.ones(LARGE // 4).sum()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [LARGE // 4]


def test_a_library_without_these_settings_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with freed_memory_kept():
        assert float(torch.ones(3).sum()) == 3
