"""Every test that docs/reliability.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{path}::{name}"
    native = re.findall(r"`(native/tests/\w+\.cpp)::(\w+)`", page)
    assert len(native) > 5
    for path, name in native:
        assert f", {name}) {{" in (ROOT / path).read_text("utf-8"), f"{path}::{name}"
