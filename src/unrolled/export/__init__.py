"""A trained model in the format of another program, kept only where both say the same.

Below the tasks: this package knows models and vocabularies. Which formats there are, and what each
takes of a run, stands in ``runs/exporting.py``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from unrolled.core.errors import UserError
from unrolled.core.files import refused
from unrolled.export.parity import Difference

# writes a model into an empty folder, runs what it wrote, and says how far it is from ours
Writer = Callable[[Path], Difference]


def export(
    to: str, write: Writer, out: Path, say: Callable[[str], None] = print
) -> None:
    """Write a model in another format, and keep it only where it says what ours says.

    Args:
        to: the name of the format.
        write: writes the model.
        out: the folder to make.
        say: takes a line on the comparison, and one on what was written.

    Raises:
        UserError: the format has no such model, ``out`` is there, or the two disagree.
    """
    if os.path.lexists(out):
        raise UserError(
            f"{out} is there already; remove it, or choose another folder with -o"
        )
    # beside it: a rename crosses no disks
    building = out.parent / f".{out.name}.{os.getpid()}"
    try:
        building.mkdir(parents=True)
        difference = write(building)
        for note in difference.notes:
            say(note)
        say(f"{to} beside ours: {difference}")
        if not difference.largest <= difference.tolerance:  # also a NaN
            raise UserError(
                f"{out}: not written, for this {to} model says something else: {difference.values} "
                f"differ by up to {difference.largest:.2g}, more than {difference.tolerance:.2g}; "
                "please report it"
            )
        building.rename(out)
    except OSError as error:
        raise refused(out, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.iterdir())
    say(f"written to {out} ({size / 1e6:.1f} MB); its README.md tells how to use it")
