"""Parquet: columns with types; a row is told by its number, from 1."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from unrolled.core.errors import DataError, UserError
from unrolled.data.archives import Origin
from unrolled.data.jsonl import composed
from unrolled.data.lines import SKIP_HINT, Report

MAGIC = b"PAR1"
_BATCH = 1024  # rows unpacked together


def columns_of(origin: Origin) -> tuple[list[str], list[str]]:
    """Return the names of the columns that are read, and of those that hold objects or bytes.

    Raises:
        DataError: the file is damaged, no column holds single values or lists of them, or several
            have one name.
    """
    with _opened(origin) as file:
        schema = file.schema_arrow
        without = [column for column in schema if not _plain(column.type)]
        if without and len(without) == len(schema):
            raise DataError(
                f"column {without[0].name!r} holds {without[0].type}, and only single values and "
                "lists of them are read; write the file with a column a value",
                origin.name,
            )
        repeated = {name for name in schema.names if schema.names.count(name) > 1}
        if repeated:
            told = f"several columns are named {min(repeated)!r}; rename all but one"
            raise DataError(told, origin.name)
        left_out = [column.name for column in without]
        return [name for name in schema.names if name not in left_out], left_out


def rows_of(
    origin: Origin, names: Sequence[str], report: Report
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield (number of the row, its values); texts come in NFC, what is not a number as None.

    Args:
        origin: the file.
        names: the columns that are read.
        report: takes the faulty rows.

    Raises:
        DataError: the file is damaged, or packed or typed as this library cannot read.
    """
    from pyarrow import ArrowException

    number = 0
    with _opened(origin) as file:
        batches = file.iter_batches(_BATCH, columns=names)
        while True:
            try:
                batch = next(batches)
                columns = [_written(batch.column(name)).to_pylist() for name in names]
            except StopIteration:
                return
            except (ArrowException, OSError, ValueError, OverflowError) as error:
                told = f"cannot be read: {error}; copy the file anew, or write it in another way"
                raise DataError(
                    f"{told}, as with compression='zstd'", origin.name, number + 1
                ) from None
            for row in zip(*columns, strict=True):
                number += 1
                try:
                    yield number, tuple(map(value, row))
                except UserError as error:
                    report(DataError(f"{error}, {SKIP_HINT}", origin.name, number))


def value(cell: Any) -> Any:
    """Return a cell as JSON lines would give it: NFC text, dates as text, None for no number.

    Raises:
        UserError: it is bytes or an object.
    """
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
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


def _written(column: Any) -> Any:
    """Return a column with dates and times as text, which Python's own types cannot all hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def shown(kind: Any) -> Any:
        inner = getattr(kind, "value_type", None)
        if inner is not None:  # a list or a dictionary
            told = shown(inner)
            if told == inner:
                return kind
            if pa.types.is_dictionary(kind):
                return told
            return (pa.large_list if pa.types.is_large_list(kind) else pa.list_)(told)
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
            return pa.string()
        # whole microseconds are what Python counts in
        return pa.duration("us") if kind == pa.duration("ns") else kind

    if shown(column.type) == column.type:
        return column
    text = pc.cast(column, shown(column.type), safe=False)
    # a second without a fraction is written without one
    whole = r"\.0+(Z|[+-]\d+)?$"
    return pc.replace_substring_regex(text, whole, r"\1") if text.type == pa.string() else text


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
