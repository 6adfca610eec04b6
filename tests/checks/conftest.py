"""A plan of a small file, and the finding of one check about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL
from unrolled.checks import CHECKS, Context, Finding, ask, examine

Ask = Callable[[str, Context], Finding | None]


@pytest.fixture
def find() -> Ask:
    """Ask one check by its name."""

    def find_check(name: str, context: Context) -> Finding | None:
        (check,) = [check for check in CHECKS if check.name == name]
        findings = list(ask([check], context))
        if findings:
            assert findings[0].name == name
            assert findings[0].message
            assert not findings[0].message.startswith("this fails")
            assert findings[0].status == "ok" or findings[0].advice
        return findings[0] if findings else None

    return find_check


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Context]:
    """Plan a training on a file."""
    monkeypatch.chdir(tmp_path)

    def made(path: Path | str, **changes: Any) -> Context:
        settings = {key.replace("__", "."): value for key, value in changes.items()}
        return examine(str(path), {**SMALL, **settings})

    return made
