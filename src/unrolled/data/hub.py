"""Data sets of the Hugging Face hub, asked for only by a name that says so: hub:owner/name."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from typing import Any

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.lines import SKIP_HINT, Report
from unrolled.data.parquet import value
from unrolled.data.reader import Reader
from unrolled.data.sniff import Format

PREFIX = "hub:"
_NAME = re.compile(r"hub:([\w.\-]+/[\w.\-]+)(?:/([^:/]+))?(?::([^:/]+))?")
_FORM = "write hub:owner/name, or hub:owner/name/config:split"
# read by these libraries when they are imported: they tell nobody what is done with them
_SILENT = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
CellPath = tuple[
    str, str | None
]  # a column, and the key in its cells where these are mappings


def is_hub(name: object) -> bool:
    """Whether a name asks for the hub."""
    return str(name).startswith(PREFIX)


def title(name: str) -> str:
    """Return the short name of a data set of the hub. Raises UsageError when it is none."""
    return _parts(name)[0].split("/")[1]


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """Return owner/name, config and split."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"{name}: this is no name of the hub; {_FORM}")
    return found[1], found[2], found[3]


def reader_of_hub(name: str) -> Reader:
    """Return how a data set of the hub is read: its train split, or the one that is named.

    Raises:
        UsageError: the name is not ``hub:owner/name`` or ``hub:owner/name/config:split``.
        UserError: the extra is not installed, or the data set cannot be had.
    """
    found = loaded(name)
    places = _places(found)
    return Reader(
        name, Format("hub"), list(places), functools.partial(_rows, found, places, name)
    )


def fingerprint_of_hub(name: str) -> str:
    """Return what tells this version of a data set of the hub from others."""
    return str(loaded(name)._fingerprint)


@functools.lru_cache(4)
def loaded(name: str) -> Any:
    """Return the data set, downloaded to the hub's own cache where it is not yet there."""
    owner, config, split = _parts(name)
    datasets = _library()
    try:
        return datasets.load_dataset(owner, config, split=split or "train")
    except (
        Exception
    ) as error:  # whatever the hub, the network or a library between raises
        why = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{name}: cannot be had from the hub ({why}); {_FORM}"
        ) from None


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


def _places(found: Any) -> dict[str, CellPath]:
    """Return the columns, and where the cells of each stand.

    A column of translations is a column for each language, under the name of the language.
    """
    features = found.features
    places = dict[str, CellPath]()
    plain = [
        column for column in found.column_names if not _languages(features[column])
    ]
    for column in found.column_names:
        for language in _languages(features[column]):
            taken = language in plain or language in places
            places[f"{column}.{language}" if taken else language] = column, language
        if column in plain:
            places[column] = column, None
    return places


def _languages(feature: Any) -> list[str]:
    """Return the languages of a column whose cells are mappings of languages to texts."""
    return (
        list(feature.languages)
        if getattr(feature, "_type", "") == "Translation"
        else []
    )


def _rows(
    found: Any, places: dict[str, CellPath], name: str, report: Report
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield (number of the row, its values), labels by their names."""
    names = {c: getattr(found.features[c], "names", None) for c in found.column_names}
    for number, row in enumerate(found, 1):
        try:
            cells = [
                _cell(
                    row[c] if part is None else (row[c] or {}).get(part),
                    names[c],
                    shown,
                )
                for shown, (c, part) in places.items()
            ]
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
