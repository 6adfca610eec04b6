"""``digests.json``: the SHA-256 of each file of a run that is read again, so that changes are seen.

A file is written beside its place first; then its digest is added to that of the file which stands
there, and only then does it take the place. So whenever the process is killed, the file that stands
there has one of the digests. README.md, report.html and metrics.jsonl are for people, and may be
changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from unrolled.core.errors import UserError
from unrolled.core.files import (
    advice,
    cause_of,
    indented_json,
    open_up,
    read_json,
    sha256,
    sync,
    write_json,
)

DIGESTS = "digests.json"
SAVING = ".saving"  # the folder of a run in which its files are written at first
FORMAT = 1


def read(folder: Path) -> dict[str, list[str]] | None:
    """Return the digests by file name; None for a run of a version that kept none.

    Raises:
        UserError: the file is no such table.
    """
    path = folder / DIGESTS
    try:
        table = read_json(path)
        files = table["files"]
        if table["format"] > FORMAT:
            raise ValueError("a newer version of unrolled wrote it; update to read it")
        if not all(isinstance(sums, list) for sums in files.values()):
            raise TypeError("no lists")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: this run cannot be read ({error}); train it anew"
        ) from None
    return {name: [str(digest) for digest in sums] for name, sums in files.items()}


def begin(folder: Path, names: Iterable[str]) -> None:
    """Start the table of a new run; a run that has one keeps it. Its file says whose folder it is.

    Args:
        folder: the run folder.
        names: files that are taken as they are, where a run of an older version goes on.

    Raises:
        UserError: the disk refused it.
    """
    if read(folder) is None:
        standing = {
            name: [sha256(folder / name)] for name in names if (folder / name).exists()
        }
        write_json(
            folder / DIGESTS, {"format": FORMAT, "files": standing}, parents=False
        )


def replace(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    """Let ``write`` write a file of a run, and put it in its place with its digest.

    Args:
        folder: the run folder, which is not made.
        name: of the file; it may stand in a folder of the run.
        write: writes a file under the path that it is given.

    Raises:
        UserError: the disk refused it; the older file is intact.
    """
    path = folder / name
    saving = folder / SAVING
    temporary = saving / path.name
    try:
        saving.mkdir(exist_ok=True)
        if path.parent != folder:
            path.parent.mkdir(exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as written:
            sync(Path(written.name))
        open_up(temporary)
        known = read(folder) or {}
        digest = sha256(temporary)
        # what stands there has one of the last two: a process may have been killed between
        known[name] = list(dict.fromkeys([digest, *known.get(name, [])[:2]]))
        write_json(folder / DIGESTS, {"format": FORMAT, "files": known}, parents=False)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: this file could not be written ({cause_of(error)}){advice(error)}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            saving.rmdir()


def is_changed(folder: Path, name: str) -> bool:
    """Say whether a file is another than the training wrote; False where no digests were kept."""
    known = read(folder)
    return known is not None and sha256(folder / name) not in known.get(name, ())


def settle(folder: Path) -> None:
    """Forget the digests of files that were replaced, once nothing is written any more."""
    known = read(folder)
    if known is None:
        return
    standing = {n: sha256(folder / n) for n in known if (folder / n).exists()}
    settled = {
        name: [digest] for name, digest in standing.items() if digest in known[name]
    }
    write_json(
        folder / DIGESTS, {"format": FORMAT, "files": known | settled}, parents=False
    )


def replace_text(folder: Path, name: str, text: str) -> None:
    """Put a text in its place; see ``replace``."""
    replace(folder, name, lambda path: _write(path, text))


def replace_json(folder: Path, name: str, value: Any) -> None:
    """Put JSON in its place; see ``replace``."""
    replace_text(folder, name, indented_json(value))


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def verify(folder: Path, names: Iterable[str]) -> int:
    """Raise UserError where a file is another than the training wrote.

    Args:
        folder: the run folder.
        names: those of its files that are read.

    Returns:
        how many files were compared; 0 for a run of a version that kept no digests.
    """
    known = read(folder)
    if known is None:
        return 0
    compared = 0
    for name in names:
        path = folder / name
        if not path.exists():
            continue
        if sha256(path) not in known.get(name, ()):
            raise UserError(
                f"{path}: this is not the file that the training wrote (its SHA-256 is another); "
                "restore it, or train anew"
            )
        compared += 1
    return compared
