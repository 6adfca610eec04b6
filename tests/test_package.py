"""What the package exports, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import unrolled


def modules(code: str) -> set[str]:
    """Return the top-level modules that are loaded after some code, in a fresh process."""
    names = "sorted({name.split('.')[0] for name in sys.modules})"
    end = f"import sys, json; print(); print(json.dumps({names}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{end}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_no_torch() -> None:
    found = modules("import unrolled")
    assert "unrolled" in found
    assert not found & {"torch", "numpy", "sklearn", "tokenizers", "typer", "pydantic", "yaml"}


def test_importing_the_layers_loads_nothing_of_the_rest() -> None:
    found = modules("import unrolled.nn")
    assert "torch" in found
    assert not found & {"sklearn", "tokenizers", "typer", "rich", "yaml", "pandas", "click"}
    ours = "[n.split('.')[1] for n in sys.modules if n.startswith('unrolled.')]"
    modules(f"import unrolled.nn, sys; assert set({ours}) <= {{'nn', 'ops', 'core', '_version'}}")


def test_the_help_loads_no_torch() -> None:
    run = "import sys\nsys.argv = ['unrolled', {}'--help']\nimport unrolled.cli.main as m\nm._run()"
    for verb in ("", "'train', ", "'predict', "):
        found = modules(run.format(verb))
        assert "typer" in found
        assert not found & {"torch", "numpy", "sklearn", "tokenizers"}


def test_the_names_that_are_exported_are_there() -> None:
    assert set(unrolled.__all__) == {"Run", "__version__", "load", "train"}
    for name in [*unrolled.__all__, "nn", "ops"]:
        assert getattr(unrolled, name) is not None
        assert name in dir(unrolled)
    assert unrolled.nn.GRU.__module__.startswith("unrolled.nn")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'unrolled' has no attribute 'trian'"):
        _ = unrolled.trian  # type: ignore[attr-defined]
