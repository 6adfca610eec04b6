"""``unrolled export``: what it refuses; that it exports is seen in tests/export."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from conftest import Call
from unrolled.runs.exporting import FORMATS


def test_a_run_of_another_kind_is_refused(home: SimpleNamespace, cli: Call) -> None:
    _, message = cli("export", home.runs["classify"], "--to", "ctranslate2", code=2)
    assert "classify writes no texts from texts" in message
    assert "onnx" in message
    assert not (home.runs["classify"] / "export").exists()


def test_a_format_must_be_named_and_known(tmp_path: Path, cli: Call) -> None:
    _, message = cli("export", tmp_path, code=2)
    assert "--to" in message
    _, message = cli("export", tmp_path, "--to", "onxx", code=2)
    assert "there is no format 'onxx'; did you mean 'onnx'?" in message


def test_help_names_every_format(cli: Call) -> None:
    out, _ = cli("export", "--help")
    for name in FORMATS:
        assert f"{name}:" in out
