"""Many files read as one: a folder or a zip of tables, of texts, or of folders of texts."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from unrolled.core.errors import DataError
from unrolled.core.files import sha256
from unrolled.core.words import command, either, path_word
from unrolled.data.archives import MAX_ROW, Origin, find, members, refuse_binary
from unrolled.data.charsets import encoding_of
from unrolled.data.formats import FORMATS, Format
from unrolled.data.formats.base import HeaderHint, Row
from unrolled.data.lines import DAMAGE, Report, blocks, nfc, stop
from unrolled.data.reader import Reader, reader_of

# files that people, and programs, put beside their data
_BESIDE = re.compile(
    r"(?:^|/)(readme|licen[cs]e|copying|notice|citation)\b[^/]*$", re.IGNORECASE
)
_HIDDEN = re.compile(
    r"(^|/)(\.|__MACOSX/|~\$|(desktop\.ini|thumbs\.db)$)", re.IGNORECASE
)
_SPLITS = frozenset({"train", "test", "dev", "valid", "val", "validation"})
_PACKED = (
    ".gz",
    ".zip",
    ".parquet",
)  # ends of names of files that hold more than their size
_PACKED_RATIO = 4
_EXAMINED_FILES = 20  # files that are looked into to tell what all of them are
Parts = list[tuple[int, str]]
Named = tuple[str, Callable[[], Origin]]
Opened = Callable[[Origin], Reader]
DataFiles = tuple[list[Named], tuple[str, ...]]  # and the names of those beside them


def in_folder(path: Path, max_row: int = MAX_ROW) -> DataFiles:
    """Return the data files below a folder, by their names in it, and the names of those beside."""
    paths = []
    for root, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(root, name) for name in files]
    named = list[Named]()
    for file in paths:
        name = file.relative_to(path).as_posix()
        open_file = functools.partial(find, file, max_row)
        named.append((name, open_file))
    return _data(named, str(path), "folder")


def in_zip(path: Path, max_row: int = MAX_ROW) -> DataFiles:
    """Return the data files in a zip archive, as ``in_folder`` does. Raises DataError."""

    def part(origin: Origin) -> Origin:
        return origin

    named = list[Named]()
    for origin in members(path, max_row):
        open_file = functools.partial(part, origin)
        named.append((origin.member, open_file))
    return _data(named, str(path), "archive")


def _data(files: list[Named], name: str, what: str) -> DataFiles:
    """Take the files that people put beside data apart, unless there are no others."""
    shown = {}
    for file, open_file in files:
        if _HIDDEN.search(file) or file.endswith("/"):
            continue
        shown[file] = open_file
    if not shown:
        raise DataError(f"the {what} holds no data file; put one in it", name)
    beside = tuple(file for file in shown if _BESIDE.search(file))
    data = sorted(shown.keys() - beside)
    if not data:
        return list(shown.items()), ()
    return [(file, shown[file]) for file in data], beside


def together(
    path: Path,
    data_files: DataFiles,
    encoding: str | None,
    needed: Collection[str] | None,
    parts: Parts,
    header: HeaderHint = None,
) -> Reader:
    """Return how several files are read as one.

    Tables of equal columns become one table, in the order of their names. Texts become a table
    with one row a file: ``text``, and ``label`` where they lie in folders, whose names these are.

    Args:
        path: the folder or archive.
        data_files: the files by their names in it, and the names of those beside them.
        encoding: that of all files; None to tell it for each.
        needed, header: see ``reader_of``.
        parts: takes, as the rows are read, the lines before each file and its name.

    Raises:
        DataError: tables and texts, or files and folders, are mixed, or the folders are parts such
            as train and test; it names a file.
    """
    files, beside = data_files
    opened = functools.partial(
        reader_of, encoding=encoding, needed=needed, header=header
    )
    reader = _together(path, files, encoding, opened, parts)
    without = (*reader.format.without, *beside)
    format = replace(reader.format, without=without)
    return replace(reader, format=format)


def _together(
    path: Path, files: list[Named], encoding: str | None, opened: Opened, parts: Parts
) -> Reader:
    names = [name for name, _ in files]
    if len(names) == 1:
        return opened(files[0][1]())
    tables = [_is_table(name) for name in names]
    if any(tables) and not all(tables):
        table = names[tables.index(True)]
        raise DataError(
            f"this is no table, and {table} is one; put texts and tables into folders of "
            "their own",
            path / names[tables.index(False)],
        )
    folders = [Path(name).parent for name in names]
    inner = os.path.commonpath(folders)
    labels = [_label(name, inner) for name in names]
    if all(tables):
        _refuse_split_files(path, names)
    elif any(labels):
        _check_labels(path, path / inner, names, labels)
        return _texts(path, files, labels, encoding, parts)
    readers = [opened(open_file()) for _, open_file in files[:_EXAMINED_FILES]]
    texts = any(reader.format.row_format.running for reader in readers)
    if texts and not all(tables):
        return _texts(path, files, None, encoding, parts)
    first = readers[0]
    rows = functools.partial(_joined, first, files, opened, parts)
    return replace(first, name=str(path), rows=rows, text=None)


def _label(name: str, inner: str) -> str:
    """Return the folder below ``inner`` in which a file lies; none where it lies in no other."""
    depth = len(Path(inner).parts)
    folders = Path(name).parent.parts
    below = folders[depth:]
    return below[0] if below else ""


def _is_table(name: str) -> bool:
    """Return whether a file is a table by its name."""
    return any(known.tabular and known.names(name) for known in FORMATS)


def _check_labels(
    path: Path, folder: Path, names: Sequence[str], labels: Sequence[str]
) -> None:
    """Raise DataError where the folders of texts cannot be labels, or a text lies in none."""
    for name, label in zip(names, labels, strict=True):
        if DAMAGE.search(label):
            message = "the name of this file's folder is its label, and is no UTF-8; rename it"
            raise DataError(message, path / name)
    distinct = set(labels) - {""}
    _refuse_splits(path, folder, distinct)
    if not all(labels):
        message = "this file lies beside folders whose names are labels; put it into one of them"
        unlabelled = names[labels.index("")]
        raise DataError(message, path / unlabelled)


def _refuse_splits(path: Path, folder: Path, names: set[str]) -> None:
    """Raise DataError when the folders of texts are the parts of a data set, and no labels."""
    if len(names) > 1 and names <= _SPLITS:
        parts = {name: folder / name for name in names}
        what = f"the folders {', '.join(sorted(names))}"
        raise _parts_of_one(path, f"{what} are parts of a data set, not labels", parts)


def _refuse_split_files(path: Path, names: list[str]) -> None:
    """Raise DataError when tables are the parts of a data set: joined, one would be trained on."""
    parts = dict[str, Path]()
    # the first file of a split stands for it
    for name in reversed(names):
        for word in re.findall(r"[a-z]+", name.lower()):
            if word in _SPLITS:
                parts[word] = path / name
    if len(parts) > 1:
        files = [file.relative_to(path) for file in parts.values()]
        shown = ", ".join(map(str, files))
        reason = f"{shown} are parts of one data set by their names"
        raise _parts_of_one(path, reason, parts)


def _split_rank(name: str) -> tuple[bool, bool, str]:
    """Return what is smallest for the part to train on, and largest for that of a test."""
    return name != "train", name == "test", name


def _parts_of_one(path: Path, reason: str, parts: dict[str, Path]) -> DataError:
    # rows to choose the best weights by; those of a test only where there are no others
    first, second, *_ = sorted(parts, key=_split_rank)
    unpack = "" if path.is_dir() else "unpack it and "
    shell = command("train", path_word(parts[first]), f"data.dev={parts[second]}")
    data = str(parts[first])
    dev = str(parts[second])
    python = f"unrolled.train({data!r}, data={{'dev': {dev!r}}})"
    how = f"`{either(shell, python)}`"
    advice = f"{unpack}give one as the data and one to score on: {how}"
    return DataError(f"{reason}; {advice}", path)


def _joined(
    first: Reader, files: list[Named], opened: Opened, parts: Parts, report: Report
) -> Iterator[Row]:
    """Yield the rows of tables, their lines counted on from file to file."""
    before = 0  # lines of the files before
    last = 0

    def count_and_report(error: DataError) -> None:
        nonlocal last
        last = max(last, before + (error.line or 0))
        report(error)

    for _, open_file in files:
        reader = opened(open_file())
        same_kind = reader.format.kind == first.format.kind
        if reader.columns != first.columns or not same_kind:
            columns = ", ".join(reader.columns[:8])
            expected = ", ".join(first.columns[:8])
            raise DataError(
                f"the columns are {columns}, and those of {first.name} are {expected}; "
                "give all files of a folder the same columns",
                reader.name,
                1,
            )
        parts.append((before, reader.name))
        for line, row in reader.rows(count_and_report):
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
    """Yield one row a file; a file that cannot be read is a malformed row."""
    for index, (_, open_file) in enumerate(files):
        origin = open_file()
        parts.append((index, origin.name))
        try:
            text = whole_text(origin, encoding)
        except DataError as error:
            report(error)
            continue
        number = index + 1
        if labels is None:
            yield number, (text,)
        else:
            label = nfc(labels[index])
            yield number, (text, label)


def whole_text(origin: Origin, encoding: str | None) -> str:
    """Return the text of a file, whatever it looks like."""
    refuse_binary(origin, origin.head())
    if encoding is None:
        encoding = encoding_of(origin)
    format = Format("text", encoding=encoding)
    text = [block for _, block in blocks(origin, format, stop)]
    return "".join(text)


def size(path: Path) -> int:
    """Return about how many bytes a file holds, or the data files of a folder together.

    A packed file counts four times its own size.
    """
    if path.is_dir():
        files, _ = in_folder(path)
        return sum(size(path / name) for name, _ in files)
    is_packed = path.name.lower().endswith(_PACKED)
    return path.stat().st_size * (_PACKED_RATIO if is_packed else 1)


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's data files."""
    if not path.is_dir():
        return sha256(path)
    files, _ = in_folder(path)
    digests = [f"{name} {sha256(path / name)}\n" for name, _ in files]
    listing = "".join(digests)
    return hashlib.sha256(listing.encode()).hexdigest()
