"""What the package exports, and what importing it costs."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import unrolled


def modules(code: str) -> set[str]:
    """Return the top-level modules that are loaded after some code, in a fresh process."""
    names = "sorted({name.split('.')[0] for name in sys.modules})"
    end = f"import sys, json; print(); print(json.dumps({names}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{end}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_no_torch() -> None:
    loaded = modules("import unrolled")
    assert "unrolled" in loaded
    assert not loaded & {
        "torch",
        "numpy",
        "sklearn",
        "tokenizers",
        "typer",
        "pydantic",
        "yaml",
    }


def test_importing_the_layers_loads_nothing_of_the_rest() -> None:
    loaded = modules("import unrolled.nn")
    assert "torch" in loaded
    assert not loaded & {
        "sklearn",
        "tokenizers",
        "typer",
        "rich",
        "yaml",
        "pandas",
        "click",
    }
    ours = "[n.split('.')[1] for n in sys.modules if n.startswith('unrolled.')]"
    modules(
        f"import unrolled.nn, sys; assert set({ours}) <= {{'nn', 'ops', 'core', '_version'}}"
    )


def test_the_help_loads_no_torch() -> None:
    run = "import sys\nsys.argv = ['unrolled', {}'--help']\nimport unrolled.cli.main as m\nm._run()"
    for verb in ("", "'train', ", "'predict', "):
        loaded = modules(run.format(verb))
        assert "typer" in loaded
        assert not loaded & {"torch", "numpy", "sklearn", "tokenizers"}


def test_the_names_that_are_exported_are_there() -> None:
    names = {
        "DataError",
        "Run",
        "UsageError",
        "UserError",
        "__version__",
        "load",
        "train",
    }
    assert set(unrolled.__all__) == names
    for name in [*unrolled.__all__, "nn", "ops"]:
        assert getattr(unrolled, name) is not None
        assert name in dir(unrolled)
    assert unrolled.nn.GRU.__module__.startswith("unrolled.nn")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(
        AttributeError, match="module 'unrolled' has no attribute 'trian'"
    ):
        _ = unrolled.trian  # type: ignore[attr-defined]


def every_class(base: type[BaseException]) -> list[type[BaseException]]:
    return [
        base,
        *(
            descendant
            for child in base.__subclasses__()
            for descendant in every_class(child)
        ),
    ]


def test_every_error_of_the_package_is_made_again_in_another_process() -> None:
    for module in pkgutil.walk_packages(unrolled.__path__, "unrolled."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ours = [
        kind
        for kind in every_class(BaseException)
        if kind.__module__.startswith("unrolled.")
    ]
    assert {unrolled.UserError, unrolled.UsageError, unrolled.DataError} <= set(ours)
    for kind in ours:
        error = (
            kind("no such column", "a.csv", 7)
            if issubclass(kind, unrolled.DataError)
            else kind("told")
        )
        for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert type(again) is kind
            assert str(again) == str(error)
            assert vars(again) == vars(error)


def test_an_error_in_another_process_is_raised_here(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n", encoding="utf-8")
    # a fresh interpreter: a pool that forks under torch's threads may hang by itself
    code = (
        "import concurrent.futures as futures, multiprocessing, unrolled\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    with futures.ProcessPoolExecutor(1, mp_context=context) as pool:\n"
        f"        told = pool.submit(unrolled.train, {str(path)!r}).exception()\n"
        "    print(type(told).__name__, told.path, told.line)\n"
    )
    script = tmp_path / "pool.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split()[:2] == ["DataError", str(path)], done.stderr


def test_a_type_checker_is_told_that_there_are_types() -> None:
    (home,) = unrolled.__path__
    assert Path(home, "py.typed").is_file()
