"""Every test of a layer starts from the same random numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from unrolled import ops


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(7)
    yield
    ops.use("auto")
