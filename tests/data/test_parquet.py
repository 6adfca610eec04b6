"""Parquet: typed columns as rows, and errors that name the column."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.schema import Schema, Wanted, infer
from unrolled.data.sources import parse_row, read, rows_of


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_types_become_what_json_lines_would_give(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.txt",  # the content tells, not the name
        {
            "text": ["가나", "b", None],
            "n": [1, 2, None],
            "x": pa.array([0.5, float("nan"), 2.0]),
            "small": pa.array([1.5, 2.5, 3.5], pa.float32()),
            "ok": [True, False, None],
            "label": pa.array(["a", "b", "a"]).dictionary_encode(),
            "words": [["a", "b"], [], None],
            "grid": [[[1, 2]], [[3]], [[]]],
            "void": pa.nulls(3),
            "day": [datetime.date(2024, 1, 31)] * 3,
            "price": [decimal.Decimal("1.50")] * 3,
        },
    )
    found = table(path)
    assert found.format.describe() == "Parquet"
    assert found.rows == [
        ("가나", 1, 0.5, 1.5, True, "a", ["a", "b"], [[1, 2]], None, "2024-01-31", "1.50"),
        ("b", 2, None, 2.5, False, "b", [], [[3]], None, "2024-01-31", "1.50"),
        (None, None, 2.0, 3.5, None, "a", None, [[]], None, "2024-01-31", "1.50"),
    ]
    assert found.lines == [1, 2, 3]


def test_rows_are_streamed_and_infer_finds_the_answer(tmp_path: Path) -> None:
    count = 5_000
    columns = {"review": [f"row {i} of words" for i in range(count)],
               "label": [i % 2 for i in range(count)]}  # fmt: skip
    path = write(tmp_path / "d.parquet", columns, row_group_size=700)
    found = table(path)
    assert found.rows == list(zip(*columns.values(), strict=True))
    assert found.lines == list(range(1, count + 1))
    assert infer(found, Wanted()) == Schema("classify", ("review",), (), "label")
    assert table(path, limit=3).rows == found.rows[:3]
    assert next(rows_of(path)) == (1, found.rows[0])
    assert parse_row('{"review": "x"}', found.format, found.columns) == ("x", None)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([{"a": 1}], "struct"),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "map"),
        ([b"\x00\x01"], "binary"),
        ([[{"a": 1}]], "list<.*struct"),
    ],
)
def test_a_column_that_is_no_value_or_list_is_named(tmp_path: Path, column: Any, kind: str) -> None:
    path = write(tmp_path / "d.parquet", {"text": ["a"], "meta": column})
    with pytest.raises(DataError, match=rf"d\.parquet: column 'meta' holds {kind}.*without it"):
        read(path)


def test_a_faulty_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "d.parquet", {"text": ["a", "b\0c", "d"]})
    with pytest.raises(DataError, match=r"d\.parquet:2: no character"):
        read(path)
    found = table(path, on_error="skip")
    assert (found.rows, found.lines) == ([("a",), ("d",)], [1, 3])
    assert [error.line for error in found.skipped] == [2]


def test_damaged_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "d.parquet", {"n": list(range(9_999))}).read_bytes()
    middle = len(whole) // 4
    for broken in (whole[:4], whole[:-9], whole[:200] + b"\xff" * middle + whole[200 + middle :]):
        (tmp_path / "d.parquet").write_bytes(broken)
        with pytest.raises(DataError, match=r"d\.parquet.*cannot be read"):
            read(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"columns \(n\) and no row"):
        read(write(tmp_path / "e.parquet", {"n": pa.array([], pa.int64())}))
