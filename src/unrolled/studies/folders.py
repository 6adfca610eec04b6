"""The command line of the studies that write a folder to train on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from unrolled.core.errors import UserError


def write_folder(
    study: str,
    description: str,
    arguments: Sequence[str],
    write: Callable[[Path], None],
) -> int:
    """Write into the folder that a command line names, and return its exit code.

    Args:
        study: the module that is run.
        description: what it writes.
        arguments: of the command line.
        write: writes into a folder.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m unrolled.studies.{study}", description=description
    )
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    try:
        write(options.folder)
    except UserError as error:
        print(f"unrolled: {error}", file=sys.stderr)
        return error.exit_code
    return 0
