"""What stands in tests for libraries that ask a network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from unrolled.data import hub

SETTINGS = (
    "HF_HUB_DISABLE_TELEMETRY",
    "DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
    "HF_UPDATE_DOWNLOAD_COUNTS",
)


class DataSet(list[dict[str, Any]]):
    """Rows like those of a data set of the hub."""

    column_names: list[str]
    features: dict[str, Any]
    _fingerprint = "f00d"

    @property
    def data(self) -> SimpleNamespace:
        """The table behind the rows, which knows its size."""
        return SimpleNamespace(nbytes=sum(len(str(row)) for row in self))


def put_hub(monkeypatch: pytest.MonkeyPatch, load: Callable[..., DataSet]) -> None:
    """Put a library like ``datasets`` in its place, which loads data sets by a function."""
    library = ModuleType("datasets")
    library.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that it is restored
    hub.loaded.cache_clear()
