"""``unrolled export``: what it refuses; that it exports is seen in tests/export."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from conftest import Call


def test_a_run_of_another_kind_is_refused(home: SimpleNamespace, cli: Call) -> None:
    _, message = cli("export", home.runs["classify"], "--to", "ctranslate2", code=2)
    assert "classify has no export; translate and rewrite have" in message
    assert not (home.runs["classify"] / "export").exists()


def test_a_format_must_be_named(tmp_path: Path, cli: Call) -> None:
    _, message = cli("export", tmp_path, code=2)
    assert "--to" in message
