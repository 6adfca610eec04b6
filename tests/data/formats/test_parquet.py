"""Parquet: typed columns as rows, and errors that name the column."""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.schema import ColumnHints, Schema, infer
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
    dataset = table(path)
    assert dataset.format.describe() == "Parquet"
    assert dataset.rows == [
        (
            "가나",
            1,
            0.5,
            1.5,
            True,
            "a",
            ["a", "b"],
            [[1, 2]],
            None,
            "2024-01-31",
            "1.50",
        ),
        ("b", 2, None, 2.5, False, "b", [], [[3]], None, "2024-01-31", "1.50"),
        (None, None, 2.0, 3.5, None, "a", None, [[]], None, "2024-01-31", "1.50"),
    ]
    assert dataset.lines == [1, 2, 3]


def test_rows_are_streamed_and_infer_finds_the_answer(tmp_path: Path) -> None:
    count = 5_000
    columns = {
        "review": [f"row {i} of words" for i in range(count)],
        "label": [i % 2 for i in range(count)],
    }
    path = write(tmp_path / "d.parquet", columns, row_group_size=700)
    dataset = table(path)
    assert dataset.rows == list(zip(*columns.values(), strict=True))
    assert dataset.lines == list(range(1, count + 1))
    assert infer(dataset, ColumnHints()) == Schema("classify", ("review",), (), "label")
    assert table(path, limit=3).rows == dataset.rows[:3]
    assert next(rows_of(path)) == (1, dataset.rows[0])
    assert parse_row('{"review": "x"}', dataset.format, dataset.columns) == ("x", None)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([{"a": 1}], "struct"),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "map"),
        ([b"\x00\x01"], "binary"),
        ([[{"a": 1}]], "list<.*struct"),
    ],
)
def test_a_column_that_is_no_value_or_list_is_named(
    tmp_path: Path, column: Any, kind: str
) -> None:
    path = write(tmp_path / "d.parquet", {"meta": column, "text": ["a"]})
    dataset = table(path)
    assert (dataset.columns, dataset.rows) == (["text"], [("a",)])
    assert dataset.format.describe() == "Parquet, without meta"
    write(path, {"meta": column})
    with pytest.raises(
        DataError, match=rf"d\.parquet: column 'meta' holds {kind}.*a value"
    ):
        read(path)


def test_times_of_any_precision_are_text(tmp_path: Path) -> None:
    stamp = 1_700_000_000_000_000_000
    for unit, divisor in (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1)):
        column = pa.array([stamp // divisor, None], pa.timestamp(unit))
        dataset = table(write(tmp_path / "d.parquet", {"at": column}))
        assert dataset.rows == [("2023-11-14 22:13:20",), (None,)]
    odd = {
        "at": pa.array([stamp + 1], pa.timestamp("ns")),
        "each": pa.array([[stamp + 1]], pa.list_(pa.timestamp("ns"))),
        "named": pa.array([stamp + 1], pa.timestamp("ns")).dictionary_encode(),
        "took": pa.array([1_500_000_001], pa.duration("ns")),
        "time": pa.array([61_000_000_001], pa.time64("ns")),
        "day": pa.array([2**31 - 1], pa.date32()),
        "kind": pa.array(["1.0"]).dictionary_encode(),
    }
    ((at, times, named, took, time, day, kind),) = table(
        write(tmp_path / "d.parquet", odd)
    ).rows
    assert at == named == "2023-11-14 22:13:20.000000001"
    assert times == [at]
    assert (took, time, kind) == ("0:00:01.500000", "00:01:01.000000001", "1.0")
    assert "2147483647" in day  # no date of Python's


def test_no_number_is_missing(tmp_path: Path) -> None:
    column = pa.array([float("inf"), 1.0, float("-inf"), float("nan")])
    lists = pa.array([[float("inf")], [1.0], [2.0], []])
    dataset = table(write(tmp_path / "d.parquet", {"x": column, "y": lists}))
    assert dataset.rows == [(None, [None]), (1.0, [1.0]), (None, [2.0]), (None, [])]


def test_what_the_library_cannot_unpack_is_a_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path / "d.parquet", {"n": list(range(99))}, compression="gzip")
    # the codec's number in the metadata: gzip 2 becomes LZO 3 (Thrift writes them doubled)
    data = path.read_bytes()
    assert data.count(b"\x15\x04\x16\xc6\x01") == 1
    path.write_bytes(data.replace(b"\x15\x04\x16\xc6\x01", b"\x15\x06\x16\xc6\x01"))
    with pytest.raises(
        DataError, match=r"d\.parquet.*cannot be read.*compression='zstd'"
    ):
        read(path)
    path = write(
        tmp_path / "d.parquet", {"n": [1], "took": pa.array([2**62], pa.duration("s"))}
    )
    with pytest.raises(DataError, match=r"d\.parquet:1: cannot be read"):
        read(path)


def test_a_faulty_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "d.parquet", {"text": ["a", "b\0c", "d"]})
    with pytest.raises(DataError, match=r"d\.parquet:2: no character"):
        read(path)
    dataset = table(path, on_error="skip")
    assert (dataset.rows, dataset.lines) == ([("a",), ("d",)], [1, 3])
    assert [error.line for error in dataset.skipped] == [2]


def test_damaged_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "d.parquet", {"n": list(range(9_999))}).read_bytes()
    middle = len(whole) // 4
    for broken in (
        whole[:4],
        whole[:-9],
        whole[:200] + b"\xff" * middle + whole[200 + middle :],
    ):
        (tmp_path / "d.parquet").write_bytes(broken)
        with pytest.raises(DataError, match=r"d\.parquet.*cannot be read"):
            read(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"columns \(n\) and no row"):
        read(write(tmp_path / "e.parquet", {"n": pa.array([], pa.int64())}))


LONG = "a" * 300_000
PACKED = {
    "said once": ({"text": [LONG] * 400}, {"use_dictionary": True}),
    "said once in lists": ({"text": [[LONG] * 4] * 100}, {"use_dictionary": True}),
    "shared beginnings": (
        {"text": [LONG] * 4000},
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
    ),
    "packed well": (
        {"text": [LONG] * 400},
        {"use_dictionary": False, "compression": "zstd"},
    ),
    "equal numbers": ({"x": [0.0] * 10_000_000}, {}),
    "lists of equal numbers": ({"x": [[0.0] * 100_000] * 100}, {}),
}


@pytest.mark.parametrize("kind", PACKED)
def test_what_swells_like_a_bomb_is_refused_before_it_takes_memory(
    tmp_path: Path, kind: str
) -> None:
    columns, options = PACKED[kind]
    path = tmp_path / "bomb.parquet"
    # no statistics: they repeat the longest text, and so would tell
    pq.write_table(pa.table(columns), path, write_statistics=False, **options)
    code = (
        "import re, sys\n"
        "from unrolled.data.sources import read\n"
        "import pyarrow.parquet, pyarrow.compute\n"
        "def peak():\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "try:\n"
        "    read(sys.argv[1])\n"
        "except Exception as error:\n"
        "    print(error)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    message, kilobytes = done.stdout.strip().splitlines()
    assert "decompression bomb" in message
    assert str(path) in message
    # what is counted, 64 MB, and at most as much again for what is unpacked together
    assert int(kilobytes) < 250_000


@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_values_are_the_same_however_the_file_says_them(
    tmp_path: Path, data: st.DataObject
) -> None:
    texts = st.one_of(st.none(), st.text("ab한 ", max_size=4))
    rows = data.draw(
        st.lists(st.tuples(texts, st.lists(texts, max_size=3)), max_size=30)
    )
    columns = {
        "text": pa.array([row[0] for row in rows], pa.string()),
        "words": pa.array([row[1] for row in rows], pa.list_(pa.string())),
        "a.b": pa.array([row[0] for row in rows], pa.string()).dictionary_encode(),
    }
    path = tmp_path / "d.parquet"
    for options in ({"use_dictionary": True}, {"use_dictionary": False}):
        pq.write_table(pa.table(columns), path, row_group_size=7, **options)
        if not rows:
            continue
        assert read(path).rows == [(text, words, text) for text, words in rows]


def test_rows_that_are_not_found_are_missed(tmp_path: Path) -> None:
    # a page a value: the library itself loses rows whose list is empty
    path = write(
        tmp_path / "d.parquet", {"w": [["a"], []], "y": [1, 2]}, data_page_size=1
    )
    if len(pq.read_table(path)) == 2:
        assert len(read(path).rows) == 2
    else:
        with pytest.raises(DataError, match="says it has 2 rows, and 1 were found"):
            read(path)
