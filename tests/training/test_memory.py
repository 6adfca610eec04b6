"""What a training frees stays with the process while it runs, and is given back after it."""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys

import pytest
import torch

from unrolled.training.memory import freed_memory_kept

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="mallopt is one of glibc"
)
# in a process of its own: what stands in the memory of one that ran other tests is not known
COUNTS = """
import json, resource
from unrolled.training.memory import freed_memory_kept

def new_pages(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        _ = b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = {"before": new_pages(6)}
first = freed_memory_kept()
second = freed_memory_kept()
first.__enter__()
second.__enter__()
new_pages(1)
counts["inside"] = new_pages(6)
first.__exit__(None, None, None)
counts["one has ended"] = new_pages(6)
second.__exit__(None, None, None)
counts["after"] = new_pages(6)
print(json.dumps(counts))
"""


@glibc
def test_large_blocks_are_mapped_once_until_the_last_training_ends() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COUNTS], capture_output=True, text=True, check=True
    )
    counts = json.loads(ran.stdout)
    for part in ("inside", "one has ended"):
        assert counts[part] < counts["before"] / 4
    # glibc's own thresholds have gone up, so that a block of 64 MiB is mapped, but no small one
    assert counts["after"] > counts["before"] / 2


def test_a_library_without_these_settings_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with freed_memory_kept():
        assert float(torch.ones(3).sum()) == 3
