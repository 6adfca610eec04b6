"""The command ``unrolled``: its verbs, and what becomes of errors."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from unrolled.core.errors import UserError, is_out_of_memory
from unrolled.core.files import cause_of
from unrolled.core.plugins import load_plugins
from unrolled.core.terminal import note, open_missing_streams, show_everything
from unrolled.core.words import in_shell
from unrolled.training.stopping import Terminated

app = typer.Typer(
    name="unrolled",
    help="Train sequence models on your own data, and see what they remember.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keep SIGINT and SIGTERM waiting: torch aborts where one comes while it is imported."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_PLUGIN = inspect.Parameter(
    "plugin",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        list[Path] | None,
        typer.Option(
            help="A Python file that adds layers; it is code, and runs. Repeatable."
        ),
    ],
)


def _with_torch(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb that imports torch, and the files of one's own that every verb takes."""

    @functools.wraps(verb)
    def run(*args: Any, plugin: list[Path] | None = None, **options: Any) -> Any:
        with _signals_held():
            import torch  # noqa: F401
        load_plugins(plugin or [])
        return verb(*args, **options)

    signature = inspect.signature(verb, eval_str=True)
    parameters = [*signature.parameters.values(), _PLUGIN]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


# a verb is a file with a function of its name, and a word here; COMMAND reads its words otherwise
VERBS = (
    "train",
    "doctor",
    "evaluate",
    "predict",
    "generate",
    "chat",
    "inspect",
    "load",
    "compare",
    "recall",
    "export",
    "recipes",
)
for _name in VERBS:
    _module = importlib.import_module(f"unrolled.cli.{_name}")
    _command = getattr(_module, "COMMAND", TyperCommand)
    app.command(_name, cls=_command)(_with_torch(getattr(_module, _name)))


def _version(requested: bool) -> None:
    if requested:
        from unrolled import __version__

        print(f"unrolled {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Train sequence models on your own data, and see what they remember."""


def main() -> NoReturn:
    """Run the command line.

    Exit code 0, 1 (the work failed), 2 (wrong usage), 130 or 143 (SIGINT or SIGTERM ended it).
    """
    open_missing_streams()
    show_everything()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run())


def _terminate(number: int, frame: Any) -> NoReturn:
    """End in order: locks are given back and half-written files removed on the way out."""
    signal.signal(number, signal.SIG_DFL)
    raise Terminated("stopped")


# typer brings its own copy of click, so the classes are taken from typer and not from click
_CLICK: type[Exception] = typer.BadParameter.__mro__[2]


def _run() -> int:
    with in_shell():
        return _code()


def _code() -> int:
    """Run a verb, say in one line what went wrong, and return the exit code."""
    try:
        # standalone_mode would print click's own error box and hide the exit code
        code = app(prog_name="unrolled", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:
            return _stopped(130)
        return code if isinstance(code, int) else 0
    except UserError as error:
        note(f"unrolled: {error}")
        return error.exit_code
    except _CLICK as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
        else:
            note(f"unrolled: {' '.join(message.split())}{_help(error)}")
        return 2
    except Terminated:
        return _stopped(Terminated.code)
    except (KeyboardInterrupt, typer.Abort):
        return _stopped(130)
    except BrokenPipeError:
        _let_go()  # whoever read the output has gone
        return 1
    except OSError as error:
        # without a name it is that of a stream
        where = f"{error.filename}: " if error.filename else "standard output: "
        note(f"unrolled: {where}{cause_of(error)}")
        _let_go()
        return 1
    except Exception as error:
        code = _signal_behind(error)
        if code is not None:
            return _stopped(code)
        if not is_out_of_memory(error):
            raise
        note("unrolled: out of memory")
        return 1


def _signal_behind(error: BaseException) -> int | None:
    """Return the exit code of the signal that an error was made of, None of any other error.

    A signal may come where Python calls a hook of a class that is being made; before 3.12 it
    then raises a RuntimeError in place of what the handler raised, which is its cause.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Terminated):
            return Terminated.code
        if isinstance(cause, KeyboardInterrupt):
            return 130
        cause = cause.__cause__
    return None


def _let_go() -> None:
    """Give up standard output, of which Python would complain once more at its exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stopped(code: int) -> int:
    note("unrolled: stopped")
    return code


def _help(error: Exception) -> str:
    """Return where to read what the verb takes."""
    context = getattr(error, "ctx", None)
    return f" (see `{context.command_path} --help`)" if context is not None else ""
