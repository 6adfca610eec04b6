"""Parquet: columns with types; a row is told by its number, from 1."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from unrolled.core.errors import DataError, UserError
from unrolled.data.archives import LARGE, RATIO, Origin
from unrolled.data.formats.base import (
    DataFile,
    FileFormat,
    Format,
    Head,
    Row,
    Sniffed,
)
from unrolled.data.formats.jsonl import ObjectRows
from unrolled.data.json_values import composed
from unrolled.data.lines import SKIP_HINT, Report

MAGIC = b"PAR1"
_BATCH = 1024  # rows unpacked together
_NUMBER = 8  # bytes that a value which is no text counts as
_BOMB = (
    f"its values come to more than {RATIO} times its size, as those of a decompression bomb do; "
    "if you trust it, write it as JSON lines and give that file"
)


class ParquetFormat(ObjectRows, FileFormat):
    kind = "parquet"
    title = "Parquet"
    suffixes = ("parquet",)
    tabular = True
    encoded = False

    def sniff(self, head: Head) -> Sniffed | None:
        if not head.bytes.startswith(MAGIC):
            return None
        origin = head.origin
        columns, without = columns_of(origin)
        zipped = origin.archive is not None
        format = Format(self.kind, gzip=origin.gzip, zip=zipped, without=tuple(without))
        return Sniffed(format, columns)

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        yield from rows_of(file.origin, file.columns, report)


def columns_of(origin: Origin) -> tuple[list[str], list[str]]:
    """Return the names of the columns that are read, and of those that hold objects or bytes.

    Raises:
        DataError: the file is damaged, no column holds single values or lists of them, or several
            have one name.
    """
    with _opened(origin) as (file, _):
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
            message = f"several columns are named {min(repeated)!r}; rename all but one"
            raise DataError(message, origin.name)
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
        DataError: the file is damaged, packed or typed as this library cannot read, or says few
            values so often that they swell as a decompression bomb does.
    """
    from pyarrow import ArrowException

    number = 0
    made = 0
    with _opened(origin, names) as (file, most):
        together = _rows_together(file)
        groups = range(file.num_row_groups)
        # group by group: the library joins no dictionaries of two groups in one batch
        batches = itertools.chain.from_iterable(
            file.iter_batches(together, row_groups=[group], columns=names)
            for group in groups
        )
        while True:
            try:
                batch = next(batches)
                columns = [_cells(batch.column(name)) for name in names]
            except StopIteration:
                if number != (said := file.metadata.num_rows):
                    counts = f"says it has {said:,} rows, and {number:,} were found"
                    message = f"{counts}; write it anew"
                    raise DataError(message, origin.name) from None
                return
            except (ArrowException, OSError, ValueError, OverflowError) as error:
                advice = "copy the file anew, or write it in another way"
                message = (
                    f"cannot be read: {error}; {advice}, as with compression='zstd'"
                )
                raise DataError(message, origin.name, number + 1) from None
            for row in zip(*columns, strict=True):
                number += 1
                made += sum(map(_size, row))
                if made > most:
                    raise DataError(_BOMB, origin.name, number)
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
        raise UserError(
            f"{type(cell).__name__} where a text, a number or a list is expected"
        )
    return str(cell)


_TELLING = ("datetime", "decimal", "uuid", "pandas")  # types whose text says all


def _size(cell: Any) -> int:
    """Return about how many bytes of data a cell stands for."""
    if isinstance(cell, str):
        return len(cell)
    return sum(map(_size, cell)) if isinstance(cell, list) else _NUMBER


def _cells(column: Any) -> list[Any]:
    """Return the values of a column; equal ones of a dictionary are one object, made once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        used = pc.unique(column.indices.drop_null())
        values = dict(
            zip(used.to_pylist(), _cells(column.dictionary.take(used)), strict=True)
        )
        return [values.get(at) for at in column.indices.to_pylist()]
    if not pa.types.is_nested(kind):
        return _written(column).to_pylist()
    flat = _cells(column.flatten())
    lists = []
    start = 0
    for length in pc.list_value_length(column).to_pylist():
        end = start + (length or 0)
        lists.append(None if length is None else flat[start:end])
        start = end
    return lists


def _written(column: Any) -> Any:
    """Return a column with dates and times as text, which Python's own types cannot all hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if kind == pa.duration("ns"):  # whole microseconds are what Python counts in
        return pc.cast(column, pa.duration("us"), safe=False)
    if not (
        pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)
    ):
        return column
    # a second without a fraction is written without one
    return pc.replace_substring_regex(
        pc.cast(column, pa.string()), r"\.0+(Z|[+-]\d+)?$", r"\1"
    )


def _plain(kind: Any) -> bool:
    import pyarrow.types as types

    if (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    ):
        return _plain(kind.value_type)
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return not types.is_nested(kind) and not any(check(kind) for check in binary)


@contextlib.contextmanager
def _opened(origin: Origin, names: Sequence[str] = ()) -> Iterator[tuple[Any, int]]:
    """Open a file and say how many bytes its values may come to: as of any packed file.

    Args:
        origin: the file.
        names: the columns that are read; none where only their types are.

    Raises:
        DataError: it is damaged, or these columns by its own word unpack to more.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    with origin.open() as raw:
        try:
            most = max(LARGE, RATIO * raw.seek(0, io.SEEK_END))
            raw.seek(0)
            paths = tuple(f"{name}." for name in names)
            chunks = [
                chunk
                for chunk in _chunks(ParquetFile(raw).metadata)
                if f"{chunk.path_in_schema}.".startswith(paths)
            ]
            said = {chunk.path_in_schema for chunk in chunks if _is_said_once(chunk)}
            file = ParquetFile(raw, read_dictionary=sorted(said))
        except (ArrowException, OSError) as error:
            raise origin.broken(error) from None
        unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
        # a run of equal numbers is packed as one, and so is a list of them
        if max(unpacked, _NUMBER * sum(chunk.num_values for chunk in chunks)) > most:
            raise DataError(_BOMB, origin.name)
        yield file, most


def _chunks(metadata: Any) -> list[Any]:
    """Return what a file says of the columns of each group of its rows."""
    chunks = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks += [group.column(index) for index in range(group.num_columns)]
    return chunks


def _is_said_once(chunk: Any) -> bool:
    """Say whether texts stand in a dictionary, and their indices in it for each row."""
    return chunk.physical_type == "BYTE_ARRAY" and chunk.has_dictionary_page


def _rows_together(file: Any) -> int:
    """Return how many rows are unpacked together.

    Texts that are told by what they share with the text before are all longer, unpacked, than the
    file says, each of them at most as long as all of their column.
    """
    shared = [
        chunk.total_uncompressed_size
        for chunk in _chunks(file.metadata)
        if "DELTA_BYTE_ARRAY" in chunk.encodings
    ]
    return max(1, min(_BATCH, LARGE // (2 * max(shared)))) if shared else _BATCH
