"""Many files read as one: a folder or a zip of tables, of texts, or of folders of texts."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

from unrolled.core.errors import DataError
from unrolled.core.files import sha256
from unrolled.core.words import command, either, path_word
from unrolled.data.archives import MAX_ROW, Origin, find, members, refuse_binary
from unrolled.data.charsets import encoding_of
from unrolled.data.formats.base import Row
from unrolled.data.lines import DAMAGE, Report, blocks, nfc, stop
from unrolled.data.reader import Reader, reader_of
from unrolled.data.sniff import Format

# files that people, and programs, put beside their data
_BESIDE = re.compile(
    r"(?:^|/)(readme|licen[cs]e|copying|notice|citation)\b[^/]*$", re.IGNORECASE
)
_HIDDEN = re.compile(
    r"(^|/)(\.|__MACOSX/|~\$|(desktop\.ini|thumbs\.db)$)", re.IGNORECASE
)
_SPLITS = frozenset({"train", "test", "dev", "valid", "val", "validation"})
_TABLE = re.compile(r"\.(csv|tsv|jsonl|ndjson|conllu?|parquet)(\.gz)?$", re.IGNORECASE)
_LOOKED_AT = 20  # files without such a name that are looked into
Parts = list[tuple[int, str]]
Named = tuple[str, Callable[[], Origin]]
Opened = Callable[[Origin], Reader]
Found = tuple[list[Named], tuple[str, ...]]


def in_folder(path: Path, max_row: int = MAX_ROW) -> Found:
    """Return the data files below a folder, by their names in it, and the names of those beside."""
    found = []
    for root, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files]
    named: list[Named] = [
        (p.relative_to(path).as_posix(), functools.partial(find, p, max_row))
        for p in found
    ]
    return _data(named, str(path), "folder")


def in_zip(path: Path, max_row: int = MAX_ROW) -> Found:
    """Return the data files in a zip archive, as ``in_folder`` does. Raises DataError."""

    def part(origin: Origin) -> Origin:
        return origin

    named: list[Named] = [
        (o.member, functools.partial(part, o)) for o in members(path, max_row)
    ]
    return _data(named, str(path), "archive")


def _data(files: list[Named], name: str, what: str) -> Found:
    shown = [f for f in files if not _HIDDEN.search(f[0]) and not f[0].endswith("/")]
    data = sorted((f for f in shown if not _BESIDE.search(f[0])), key=lambda f: f[0])
    if not shown:
        raise DataError(f"the {what} holds no data file; put one in it", name)
    return (
        (data, tuple(f[0] for f in shown if _BESIDE.search(f[0])))
        if data
        else (shown, ())
    )


def together(
    path: Path,
    found: Found,
    encoding: str | None,
    needed: Collection[str] | None,
    parts: Parts,
) -> Reader:
    """Return how several files are read as one.

    Tables of equal columns become one table, in the order of their names. Texts become a table
    with one row a file: ``text``, and ``label`` where they lie in folders, whose names these are.

    Args:
        path: the folder or archive.
        found: the files by their names in it, and the names of those beside them.
        encoding: that of all files; None to tell it for each.
        needed: see ``reader_of``.
        parts: takes, as the rows are read, the lines before each file and its name.

    Raises:
        DataError: tables and texts, or files and folders, are mixed, or the folders are parts such
            as train and test; it names a file.
    """
    files, beside = found
    opened = functools.partial(reader_of, encoding=encoding, needed=needed)
    reader = _together(path, files, encoding, opened, parts)
    without = (*reader.format.without, *beside)
    return replace(reader, format=replace(reader.format, without=without))


def _together(
    path: Path, files: list[Named], encoding: str | None, opened: Opened, parts: Parts
) -> Reader:
    if len(files) == 1:
        return opened(files[0][1]())
    tables = [bool(_TABLE.search(name)) for name, _ in files]
    if any(tables) and not all(tables):
        told = f"this is no table, and {files[tables.index(True)][0]} is one"
        name = files[tables.index(False)][0]
        raise DataError(
            f"{told}; put texts and tables into folders of their own", path / name
        )
    inner = Path(os.path.commonpath([Path(name).parent for name, _ in files]))
    shared = len(inner.parts)
    labels = ["/".join(Path(name).parts[shared:-1][:1]) for name, _ in files]
    _refuse_split_files(path, [name for name, _ in files] if all(tables) else [])
    if not any(tables) and any(labels):
        for (name, _), label in zip(files, labels, strict=True):
            if DAMAGE.search(label):
                told = "the name of this file's folder is its label, and is no UTF-8; rename it"
                raise DataError(told, path / name)
        _refuse_splits(path, path / inner, {label for label in labels if label})
        if not all(labels):
            told = "this file lies beside folders whose names are labels; put it into one of them"
            raise DataError(told, path / files[labels.index("")][0])
        return _texts(path, files, labels, encoding, parts)
    first = opened(files[0][1]())
    looked = [opened(open_file()) for _, open_file in files[1:_LOOKED_AT]]
    if all(tables) or all(r.format.kind != "text" for r in [first, *looked]):
        rows = functools.partial(_joined, first, files, opened, parts)
        return replace(first, name=str(path), rows=rows, text=None)
    return _texts(path, files, None, encoding, parts)


def _refuse_splits(path: Path, folder: Path, names: set[str]) -> None:
    """Raise DataError when the folders of texts are the parts of a data set, and no labels."""
    if len(names) > 1 and names <= _SPLITS:
        told = f"the folders {', '.join(sorted(names))} are parts of a data set, not labels"
        raise _parts_of_one(path, told, {name: folder / name for name in names})


def _refuse_split_files(path: Path, names: list[str]) -> None:
    """Raise DataError when tables are the parts of a data set: joined, one would be trained on."""
    parts = {
        word: path / name
        for name in reversed(names)
        for word in re.findall(r"[a-z]+", name.lower())
        if word in _SPLITS
    }
    if len(parts) > 1:
        shown = ", ".join(str(file.relative_to(path)) for file in parts.values())
        raise _parts_of_one(
            path, f"{shown} are parts of one data set by their names", parts
        )


def _parts_of_one(path: Path, told: str, parts: dict[str, Path]) -> DataError:
    # rows to choose the best weights by; those of a test only where there are no others
    first, second, *_ = sorted(
        parts, key=lambda name: (name != "train", name == "test", name)
    )
    unpack = "" if path.is_dir() else "unpack it and "
    shell = command("train", path_word(parts[first]), f"data.dev={parts[second]}")
    python = (
        f"unrolled.train({str(parts[first])!r}, data={{'dev': {str(parts[second])!r}}})"
    )
    how = f"`{either(shell, python)}`"
    return DataError(
        f"{told}; {unpack}give one as the data and one to score on: {how}", path
    )


def _joined(
    first: Reader, files: list[Named], opened: Opened, parts: Parts, report: Report
) -> Iterator[Row]:
    """Yield the rows of tables, their lines counted on from file to file."""
    before = last = 0

    def fault(error: DataError) -> None:
        nonlocal last
        last = max(last, before + (error.line or 0))
        report(error)

    for _, open_file in files:
        reader = opened(open_file())
        if (reader.columns, reader.format.kind) != (first.columns, first.format.kind):
            raise DataError(
                f"the columns are {', '.join(reader.columns[:8])}, and those of {first.name} are "
                f"{', '.join(first.columns[:8])}; give all files of a folder the same columns",
                reader.name,
                1,
            )
        parts.append((before, reader.name))
        for line, row in reader.rows(fault):
            last = max(last, before + line)
            yield before + line, row
        before = last


def _texts(
    path: Path,
    files: list[Named],
    labels: list[str] | None,
    encoding: str | None,
    parts: Parts,
) -> Reader:
    columns = ["text"] if labels is None else ["text", "label"]
    rows = functools.partial(_documents, files, labels, encoding, parts)
    return Reader(str(path), Format("folder"), columns, rows)


def _documents(
    files: list[Named],
    labels: list[str] | None,
    encoding: str | None,
    parts: Parts,
    report: Report,
) -> Iterator[Row]:
    """Yield one row a file; a file that cannot be read is a faulty row."""
    for place, (_, open_file) in enumerate(files):
        origin = open_file()
        parts.append((place, origin.name))
        try:
            text = whole_text(origin, encoding)
        except DataError as error:
            report(error)
            continue
        yield place + 1, (text,) if labels is None else (text, nfc(labels[place]))


def whole_text(origin: Origin, encoding: str | None) -> str:
    """Return the text of a file, whatever it looks like."""
    refuse_binary(origin, origin.head())
    format = Format(
        "text", encoding=encoding_of(origin) if encoding is None else encoding
    )
    return "".join(block for _, block in blocks(origin, format, stop))


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's data files."""
    if not path.is_dir():
        return sha256(path)
    told = [f"{name} {sha256(path / name)}\n" for name, _ in in_folder(path)[0]]
    return hashlib.sha256("".join(told).encode()).hexdigest()
