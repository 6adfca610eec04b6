"""Files of a person's own code, which add layers: run as any program of theirs is."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from unrolled.core.errors import UsageError, UserError

LOADED: list[str] = []  # in their order, as they were named


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run files of Python code, each once in a process.

    Raises:
        UsageError: there is no such file.
        UserError: it cannot be run; the message names the line.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise UsageError(
                f"{path}: there is no such file; --plugin takes a file of Python code"
            )
        _run(path)
        if str(path) not in LOADED:
            LOADED.append(str(path))


def _run(path: Path) -> None:
    name = f"unrolled_plugin_{path.resolve().as_posix().replace('/', '_')}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: this is no file of Python code; end its name in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        raise UserError(
            f"{path}:{error.lineno}: {error.msg}; mend the plugin"
        ) from None
    except Exception as error:
        del sys.modules[name]
        lines = [
            at.lineno
            for at in traceback.extract_tb(error.__traceback__)
            if at.filename == str(path)
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise UserError(
            f"{where}: {type(error).__name__}: {error}; mend the plugin"
        ) from None
