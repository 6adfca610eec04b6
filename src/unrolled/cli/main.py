"""The command ``unrolled``: its verbs, and what becomes of errors."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated, NoReturn

import typer

from unrolled.cli import doctor, evaluate, export, generate, predict, recipes, train
from unrolled.core.errors import UserError

app = typer.Typer(
    name="unrolled",
    help="Train sequence models on your own data, and see what they remember.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)
app.command("train")(train.train)
app.command("doctor")(doctor.doctor)
app.command("evaluate")(evaluate.evaluate)
app.command("predict", cls=predict.Rows)(predict.predict)
app.command("generate")(generate.generate)
app.command("export")(export.export)
app.command("recipes")(recipes.recipes)


def _version(asked: bool) -> None:
    if asked:
        from unrolled import __version__

        print(f"unrolled {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train sequence models on your own data, and see what they remember."""


def main() -> NoReturn:
    """Run the command line.

    Exit code 0, 1 (the work failed), 2 (wrong usage), 130 or 143 (SIGINT or SIGTERM ended it).
    """
    sys.exit(_run())


# typer brings its own copy of click, so the classes are taken from typer and not from click
_CLICK: type[Exception] = typer.BadParameter.__mro__[2]

# torch has no MemoryError: on the CPU it raises a bare RuntimeError that only its text tells apart
_NO_MEMORY = re.compile(
    r"(can'?t|cannot|can not|could not|unable to|failed to) allocate|out of memory"
    r"|not enough memory|storage size calculation overflowed",
    re.IGNORECASE,
)


def _run() -> int:
    try:
        # standalone_mode would print click's own error box and hide the exit code
        code = app(prog_name="unrolled", standalone_mode=False)
        sys.stdout.flush()
        return _stopped() if code == 130 else code if isinstance(code, int) else 0
    except UserError as error:
        print(f"unrolled: {error}", file=sys.stderr)
        return error.exit_code
    except _CLICK as error:
        told = error.format_message()  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            print(told)
        else:
            print(f"unrolled: {' '.join(told.split())}{_help(error)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return _stopped()
    except BrokenPipeError:
        # whoever read the output has gone; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"unrolled: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        print("unrolled: out of memory; lower training.batch_size or model.hidden", file=sys.stderr)
        return 1


def _stopped() -> int:
    print("unrolled: stopped; a training goes on with --resume", file=sys.stderr)
    return 130


def _help(error: Exception) -> str:
    """Return where to read what the verb takes."""
    context = getattr(error, "ctx", None)
    return f" (see `{context.command_path} --help`)" if context is not None else ""
