"""A file of one's own code adds a layer to every verb."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import SMALL, Call
from unrolled.core import plugins
from unrolled.nn import LAYERS
from unrolled.ops.reference import STEPS

LEAKY = """
from unrolled.nn import add_cell
from unrolled.ops.reference import PLAIN, from_hidden

def leaky(a, state, w, extras=PLAIN):
    (h,) = state
    new = h / 2 + (a + from_hidden("leaky", h, w, extras)).tanh() / 2
    return (new,), {"h": new}

add_cell("leaky", leaky, gates=1)
"""
KEYS = [f"{key}={value}" for key, value in SMALL.items() if key != "model.ngrams"]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Leave no plugin to the tests that follow."""
    yield
    for table in (LAYERS, STEPS):
        table.pop("leaky", None)  # type: ignore[attr-defined]
    plugins.LOADED.clear()
    for name in [name for name in sys.modules if name.startswith("unrolled_plugin_")]:
        del sys.modules[name]


def test_a_cell_in_a_file_trains_and_writes(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "leaky cell.py"
    out = tmp_path / "run"
    path.write_text(LEAKY, "utf-8")
    output, _ = cli(
        "train",
        home.files["language"],
        "--plugin",
        path,
        "--out",
        out,
        "layer=leaky",
        "training.max_steps=3",
        *KEYS,
    )
    assert "this model (leaky)" in output
    assert f"generate {out} --plugin '{path}'" in output
    text, _ = cli("generate", out, "--plugin", path, "--seed", 1, "--max-new-tokens", 5)
    assert text
    LAYERS.pop("leaky")
    _, err = cli("generate", out, code=2)
    assert "there is no layer 'leaky'" in err
    assert "--plugin FILE" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "own.py:1: "),
        ("\nraise RuntimeError('no')\n", "own.py:2: RuntimeError: no; mend the plugin"),
        (
            LEAKY.replace('"leaky", leaky', '"gru", leaky'),
            "expected a name that no layer has",
        ),
        (None, "own.py: there is no such file"),
    ],
)
def test_a_plugin_that_cannot_run_is_named(
    cli: Call, home: SimpleNamespace, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "own.py"
    if text is not None:
        path.write_text(text, "utf-8")
    code = 1 if text is not None else 2
    _, err = cli("predict", home.runs["classify"], "good", "--plugin", path, code=code)
    assert message in err
    assert not plugins.LOADED
