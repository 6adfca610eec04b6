"""Every test of an op starts from the same random numbers, and ends in the modes it began in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from unrolled import ops
from unrolled.ops import native

THERE = native.available()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(7)
    before = native.level() if THERE else ""
    yield
    ops.use("auto")
    ops.precision("auto")
    if before:
        native.set_level(before)


@pytest.fixture
def core() -> None:
    if not THERE:
        pytest.skip("needs the native core")
