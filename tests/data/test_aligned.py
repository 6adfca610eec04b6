"""Two files whose lines stand beside each other, and what may be wrong with a line."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from unrolled.core.errors import DataError, UsageError
from unrolled.data.aligned import Lines, read_aligned
from unrolled.data.archives import MAX_ROW, too_long

Write = Callable[..., Path]


def test_lines_with_commas_and_tabs_are_texts_and_no_table(write: Write) -> None:
    source = write("a,b,c\nd,e,f\ng,h,i\n" * 5, "a.en")
    target = write("1\t2\n3\t4\n5\t6\n" * 5, "a.de")
    table = read_aligned(source, target)
    assert table.columns == ["source", "target"]
    assert table.rows[:2] == [("a,b,c", "1\t2"), ("d,e,f", "3\t4")]
    assert table.lines == list(range(1, 16))


def test_gzip_byte_order_mark_line_ends_and_composed_letters(
    tmp_path: Path, write: Write
) -> None:
    packed = tmp_path / "a.en.gz"
    packed.write_bytes(gzip.compress("\ufeffone\r\ntwo\r\n".encode()))
    target = write("e\u0301in\nzwei", "a.de")  # no line end at the end
    assert read_aligned(packed, target).rows == [("one", "éin"), ("two", "zwei")]


def test_a_carriage_return_within_a_line_shifts_nothing(write: Write) -> None:
    lines = [line.text for line in Lines(write(b"a\rb\nc\n"))]
    assert lines == ["a\rb", "c"]
    assert [line.text for line in Lines(write(b"a\rb\rc\r"))] == ["a", "b", "c"]


@pytest.mark.parametrize("skip", ["stop", "skip"])
def test_unequal_line_counts_are_told_both(write: Write, skip: str) -> None:
    source = write("a\nb\nc\n", "a.en")
    target = write("a\nb\n", "a.de")
    message = f"{source}:3: 3 lines, but {target} has 2: "
    with pytest.raises(DataError, match=re.escape(message)):
        read_aligned(source, target, on_error=skip)  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=re.escape(f"{target}:3: 2 lines, but {source} has 3: ")
    ):
        read_aligned(target, source, on_error=skip)  # type: ignore[arg-type]


def test_the_first_lines_alone_are_read(write: Write) -> None:
    table = read_aligned(write("a\nb\nc\n", "a.en"), write("d\ne\n", "a.de"), limit=2)
    assert table.rows == [("a", "d"), ("b", "e")]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"\n", "this line is empty"),
        (b" \t \n", "this line is empty"),
        (b"a\x00b\n", "it holds a NUL character"),
        (b"\xff\xfe a\n", "not valid UTF-8 text (byte 0xff)"),
        (
            b"x" * (MAX_ROW + 1) + b"\n",
            too_long(MAX_ROW),
        ),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_a_faulty_line_is_named_or_skipped_and_counted(
    write: Write, bad: bytes, message: str, side: int
) -> None:
    good = b"a\nb\nc\n"
    files = [write(good, "good"), write(b"d\n" + bad + b"f\n", "bad")][
        :: 1 if side else -1
    ]
    with pytest.raises(DataError, match=re.escape(f"bad:2: {message}")):
        read_aligned(files[0], files[1])
    table = read_aligned(files[0], files[1], on_error="skip")
    assert (
        table.rows == [("a", "d"), ("c", "f")][::1]
        if side
        else [("d", "a"), ("f", "c")]
    )
    assert table.lines == [1, 3]
    assert [error.line for error in table.skipped] == [2]


def test_a_line_of_any_length_takes_little_memory(write: Write) -> None:
    path = write(b"short\n" + b"x" * (40 * MAX_ROW) + b"\nend\n")
    tracemalloc.start()
    try:
        lines = [(line.number, line.text, bool(line.error)) for line in Lines(path)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == [(1, "short", False), (2, "", True), (3, "end", False)]
    assert peak < 16 * MAX_ROW


def test_a_line_as_long_as_is_read_is_whole(write: Write) -> None:
    path = write(b"x" * MAX_ROW + b"\r\nend\n")
    assert [len(line.text) for line in Lines(path)] == [MAX_ROW, 3]


def test_a_file_that_is_none_or_no_text_is_refused(
    write: Write, tmp_path: Path
) -> None:
    good = write("a\n", "a.en")
    with pytest.raises(DataError, match="there is no such file"):
        read_aligned(good, tmp_path / "missing")
    with pytest.raises(DataError, match="a PNG image"):
        read_aligned(good, write(b"\x89PNG\r\n\x1a\n", "b"))
    with pytest.raises(UsageError, match="there is no such encoding"):
        read_aligned(good, good, encoding="utf-9")


def test_korean_windows_text_is_read(write: Write) -> None:
    text = "안녕하세요 반갑습니다\n" * 50
    table = read_aligned(write(text.encode("cp949"), "a.ko"), write(text, "a.en"))
    assert set(table.rows) == {("안녕하세요 반갑습니다",) * 2}


def test_utf_16_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(
        "one\ntwo\n".encode("utf-16-le")
    )  # without the mark that it begins with
    with pytest.raises(
        DataError, match=r"a\.txt:1: not valid UTF-16 text .*data\.encoding"
    ):
        list(Lines(path, "utf-16"))
