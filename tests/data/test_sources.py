"""Data files: their encodings, streaming in constant memory, limits, and one row by itself."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import UsageError
from unrolled.data.sources import Format, parse_row, read, rows_of

# ---------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["cp949", "utf-16", "utf-16-le", "utf-8", "UTF8"])
@pytest.mark.parametrize("zipped", [False, True])
def test_encodings(write: Any, encoding: str, zipped: bool) -> None:
    data = "text\tlabel\n좋다\t1\n싫다\t0\n".encode(encoding)
    path = write(gzip.compress(data) if zipped else data)
    dataset = table(path, encoding=encoding)
    assert dataset.rows == [("좋다", "1"), ("싫다", "0")]
    assert dataset.format.gzip == zipped


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_byte_order_marks_tell_the_encoding(write: Any, encoding: str) -> None:
    assert table(write("a\t1\n가\t2\n".encode(encoding))).rows == [
        ("a", "1"),
        ("가", "2"),
    ]


@pytest.mark.parametrize("name", ["utf-9", "base64", "ut\x00f", ""])
def test_unknown_encoding(write: Any, name: str) -> None:
    with pytest.raises(UsageError, match=r"data\.encoding=.*no such encoding"):
        read(write("text"), encoding=name)


# ---------------------------------------------------------------------- streaming, limits, one row


def test_limit_and_streaming_agree_with_read(write: Any) -> None:
    path = write("text\tlabel\n" + "".join(f"row {i}\t{i % 2}\n" for i in range(50)))
    whole = table(path)
    assert table(path, limit=7).rows == whole.rows[:7]
    streamed = rows_of(path)
    assert streamed.columns == whole.columns
    assert list(streamed) == list(zip(whole.lines, whole.rows, strict=True))


def test_streaming_takes_constant_memory(write: Any) -> None:
    peaks = []
    for count in (20_000, 80_000):
        path = write("text\tlabel\n" + "some words of a review\t1\n" * count)
        tracemalloc.start()
        assert sum(1 for _ in rows_of(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_parse_row() -> None:
    numbers = Format("table", ",", quoted=True)
    columns = ["column1", "column2", "column3"]
    assert parse_row("7, 6", numbers, columns) == ("7", "6")
    assert parse_row("7, 6, 42", numbers, columns) == ("7", "6", "42")
    assert parse_row('"a, b",c', numbers, columns) == ("a, b", "c")
    assert parse_row("a, b", Format("text"), ["text"]) == ("a, b",)
    assert parse_row('{"b": [1]}', Format("jsonl"), ["a", "b"]) == (None, [1])
    with pytest.raises(UsageError, match="has 4 fields, but the data has 3 columns"):
        parse_row("1,2,3,4", numbers, columns)
    with pytest.raises(UsageError, match="never closed"):
        parse_row('"a', numbers, columns)
    with pytest.raises(UsageError, match="not valid JSON"):
        parse_row("a", Format("jsonl"), ["a"])


def test_reading_is_fast(write: Any) -> None:
    row = '9976970\t아 더빙.. 진짜 짜증나네요 목소리 흠 "포스터" 보고 초딩영화줄\t0\n'
    path = write("id\tdocument\tlabel\n" + row * 100_000)
    start = time.process_time()
    assert len(table(path).rows) == 100_000
    assert time.process_time() - start < 5


def test_on_error_is_checked(write: Any) -> None:
    with pytest.raises(UsageError, match="stop or skip"):
        read(write("x"), on_error="ignore")  # type: ignore[arg-type]
