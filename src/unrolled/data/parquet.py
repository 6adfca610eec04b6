"""Parquet: columns with types; a row is told by its number, from 1."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from unrolled.core.errors import DataError, UserError
from unrolled.data.archives import Origin
from unrolled.data.jsonl import composed
from unrolled.data.lines import SKIP_HINT, Report

MAGIC = b"PAR1"
_BATCH = 1024  # rows unpacked together


def columns_of(origin: Origin) -> list[str]:
    """Return the names of the columns.

    Raises:
        DataError: the file is damaged, or a column holds more than single values and lists.
    """
    with _opened(origin) as file:
        schema = file.schema_arrow
        for column in schema:
            if not _plain(column.type):
                raise DataError(
                    f"column {column.name!r} holds {column.type}, and only single values and "
                    "lists of them are read; write the file without it, or with a column a value",
                    origin.name,
                )
        repeated = {name for name in schema.names if schema.names.count(name) > 1}
        if repeated:
            told = f"several columns are named {min(repeated)!r}; rename all but one"
            raise DataError(told, origin.name)
        return list(schema.names)


def rows_of(origin: Origin, report: Report) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield (number of the row, its values); texts come in NFC, what is not a number as None."""
    number = 0
    with _opened(origin) as file:
        batches = file.iter_batches(_BATCH)
        while True:
            try:
                columns = [column.to_pylist() for column in next(batches).columns]
            except StopIteration:
                return
            except (OSError, ValueError) as error:  # ArrowInvalid and UnicodeDecodeError are such
                raise origin.broken(error, number + 1) from None
            for row in zip(*columns, strict=True):
                number += 1
                try:
                    yield number, tuple(map(value, row))
                except UserError as error:
                    report(DataError(f"{error}, {SKIP_HINT}", origin.name, number))


def value(cell: Any) -> Any:
    """Return a cell as JSON lines would give it: NFC text, dates as text, None for NaN.

    Raises:
        UserError: it is bytes or an object.
    """
    if isinstance(cell, float):
        return None if math.isnan(cell) else cell
    if cell is None or isinstance(cell, bool | int):
        return cell
    if isinstance(cell, str):
        return composed(cell)
    if isinstance(cell, list | tuple):
        return [value(item) for item in cell]
    if isinstance(cell, dict | bytes) or not type(cell).__module__.startswith(_TELLING):
        raise UserError(f"{type(cell).__name__} where a text, a number or a list is expected")
    return str(cell)


_TELLING = ("datetime", "decimal", "uuid", "pandas")  # types whose text says all


def _plain(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _plain(kind.value_type)
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return not types.is_nested(kind) and not any(check(kind) for check in binary)


@contextlib.contextmanager
def _opened(origin: Origin) -> Iterator[Any]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    with origin.open() as raw:
        try:
            file = ParquetFile(raw)
        except (ArrowException, OSError) as error:
            raise origin.broken(error) from None
        yield file
