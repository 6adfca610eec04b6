"""Data sets of the Hugging Face hub, asked for only by a name that says so: hub:owner/name."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from typing import Any

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.formats import Format
from unrolled.data.formats.parquet import value
from unrolled.data.lines import SKIP_HINT, Report
from unrolled.data.reader import Reader

PREFIX = "hub:"
_NAME = re.compile(r"hub:([\w.\-]+/[\w.\-]+)(?:/([^:/]+))?(?::([^:/]+))?")
_FORM = "write hub:owner/name, or hub:owner/name/config:split"
# read by these libraries when they are imported: they tell nobody what is done with them
_SILENT = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
# a column, and the key in its cells where these are mappings
CellPath = tuple[str, str | None]


def is_hub(name: object) -> bool:
    """Whether a name asks for the hub."""
    return str(name).startswith(PREFIX)


def title(name: str) -> str:
    """Return the short name of a data set of the hub. Raises UsageError when it is none."""
    return _parts(name)[0].split("/")[1]


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """Return owner/name, config and split."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name}: this is no name of the hub; {_FORM}")
    return match[1], match[2], match[3]


def reader_of_hub(name: str) -> Reader:
    """Return how a data set of the hub is read: its train split, or the one that is named.

    Raises:
        UsageError: the name is not ``hub:owner/name`` or ``hub:owner/name/config:split``.
        UserError: the extra is not installed, or the data set cannot be had.
    """
    rows = loaded(name)
    paths = _cell_paths(rows)
    read = functools.partial(_rows, rows, paths, name)
    return Reader(name, Format("hub"), list(paths), read)


def fingerprint_of_hub(name: str) -> str:
    """Return what tells this version of a data set of the hub from others."""
    return str(loaded(name)._fingerprint)


def size_of_hub(name: str) -> int:
    """Return how many bytes the rows of a data set of the hub take, of the split that is read."""
    return int(loaded(name).data.nbytes)


@functools.lru_cache(4)
def loaded(name: str) -> Any:
    """Return the data set, downloaded to the hub's own cache where it is not yet there."""
    owner, config, split = _parts(name)
    datasets = _library()
    try:
        return datasets.load_dataset(owner, config, split=split or "train")
    # whatever the hub, the network or a library between raises
    except Exception as error:
        why = str(error).strip().split("\n")[0] or type(error).__name__
        message = f"{name}: cannot be had from the hub ({why}); {_FORM}"
        raise UserError(message) from None


def _library() -> Any:
    for setting in _SILENT:
        os.environ[setting] = "1"
    os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"
    try:
        import datasets
    except ImportError:
        raise UserError(
            "hub: names need the library datasets; pip install 'unrolled[hub]'"
        ) from None
    return datasets


def _cell_paths(rows: Any) -> dict[str, CellPath]:
    """Return the columns, and where the cells of each stand.

    A column of translations is a column for each language, under the name of the language.
    """
    features = rows.features
    names = rows.column_names
    plain = [column for column in names if not _languages(features[column])]
    paths = dict[str, CellPath]()
    for column in names:
        for language in _languages(features[column]):
            taken = language in plain or language in paths
            paths[f"{column}.{language}" if taken else language] = column, language
        if column in plain:
            paths[column] = column, None
    return paths


def _languages(feature: Any) -> list[str]:
    """Return the languages of a column whose cells are mappings of languages to texts."""
    is_translation = getattr(feature, "_type", "") == "Translation"
    return list(feature.languages) if is_translation else []


def _rows(
    rows: Any, paths: dict[str, CellPath], name: str, report: Report
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield (number of the row, its values), labels by their names."""
    features = rows.features
    labels = {c: getattr(features[c], "names", None) for c in rows.column_names}
    for number, row in enumerate(rows, 1):
        cells = []
        try:
            for title, (column, key) in paths.items():
                cell = row[column] if key is None else (row[column] or {}).get(key)
                cells.append(_cell(cell, labels[column], title))
        except UserError as error:
            report(DataError(f"{error}, {SKIP_HINT}", name, number))
        else:
            yield number, tuple(cells)


def _cell(cell: Any, names: list[str] | None, column: str) -> Any:
    if names and isinstance(cell, int):
        return names[cell] if cell >= 0 else None  # -1 stands for no label
    try:
        return value(cell)
    except UserError as error:
        raise UserError(f"column {column!r} holds {error}") from None
