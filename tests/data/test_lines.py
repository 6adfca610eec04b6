"""Bytes to lines: encodings, line ends, damage and NFC, with exact numbers and in bounds."""

from __future__ import annotations

import gzip
import json
import resource
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data import lines
from unrolled.data.archives import find
from unrolled.data.sources import Document, Format, nfc, read


def test_mixed_line_ends_and_a_mark_at_the_start(write: Any) -> None:
    dataset = table(write("\ufefftext\tlabel\r\na\t1\rb\t0\nc\t1"))
    assert dataset.columns == ["text", "label"]
    assert dataset.rows == [("a", "1"), ("b", "0"), ("c", "1")]
    assert dataset.lines == [2, 3, 4]
    assert dataset.format.newline == "mixed"
    assert table(write("text\tlabel\ra\t1\r")).format.newline == "\r"
    document = read(write("one\r\ntwo\rthree\n"))
    assert isinstance(document, Document)
    assert document.text == "one\ntwo\nthree\n"


def test_mixed_line_ends_are_said(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"text,label\r\na,1\nb,0\r\n")
    dataset = table(path)
    assert (
        dataset.format.describe() == "comma-separated, header, UTF-8, mixed line ends"
    )
    assert dataset.lines == [2, 3]
    path.write_bytes(b"text,label\ra,1\rb,0\r")
    assert table(path).format.describe() == "comma-separated, header, UTF-8"


@pytest.mark.parametrize("lines_before", [1, 40_000])
def test_bytes_that_do_not_decode(write: Any, lines_before: int) -> None:
    good = "text\tlabel\n" + "좋은 영화\t1\n" * lines_before
    path = write(good.encode() + "나쁜\t0\n".encode("cp949") + "끝\t1\n".encode())
    line = lines_before + 2
    with pytest.raises(
        DataError, match=rf"data.txt:{line}: not valid UTF-8.*data\.encoding"
    ):
        read(path)
    dataset = table(path, on_error="skip")
    assert len(dataset.rows) == lines_before + 1
    assert dataset.lines[-1] == line + 1
    assert [error.line for error in dataset.skipped] == [line]


def test_many_undecodable_lines_take_linear_time(write: Any) -> None:
    path = write(("좋다\t1\n" * 3 + "ok\t1\n").encode("cp949") * 20_000)
    start = time.process_time()
    dataset = table(path, encoding="utf-8", on_error="skip")
    assert time.process_time() - start < 10
    assert len(dataset.rows) == 20_000
    assert dataset.lines[:2] == [4, 8]
    assert [error.line for error in dataset.skipped[:4]] == [1, 2, 3, 5]


def test_binary_files_are_refused(write: Any) -> None:
    with pytest.raises(DataError, match=r":2: NUL bytes: .*binary file"):
        read(write(b"text\n\x00\x01\x02"))
    with pytest.raises(DataError, match=r"utf-16"):
        read(write("가나다 text\n".encode("utf-16-le") + b"\0"), on_error="skip")
    with pytest.raises(DataError, match=r"UTF-8|binary"):
        read(write(bytes(range(1, 256)) * 9))


def test_a_nul_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_bytes(b"text,label\ngood,1\nb\0d,0\n")
    with pytest.raises(DataError, match=r"n\.csv:3: NUL bytes"):
        read(path)
    dataset = table(path, on_error="skip")
    assert (dataset.rows, [error.line for error in dataset.skipped]) == (
        [("good", "1")],
        [3],
    )


def test_damaged_gzip(write: Any) -> None:
    data = gzip.compress(("a\t1\n" * 9999).encode())
    for broken in (data[:-20], data[:5], data[:30] + b"\xff" * 30):
        with pytest.raises(DataError, match="cannot be read"):
            read(write(broken))


def test_text_is_composed(write: Any) -> None:
    word = unicodedata.normalize("NFD", "한국어 é")
    assert table(write(f"{word}\t1\n{word}\t2\n")).rows[0][0] == "한국어 é"
    assert table(write(json.dumps({"t": word}) + "\n")).rows == [("한국어 é",)]


@given(
    st.text(
        st.sampled_from(
            ["a", "가", "\u1112", "\u1161", "\u11ab", "\u0301", "\u0316", " "]
        )
    )
)
def test_nfc_is_the_standard_one(text: str) -> None:
    assert nfc(text * 50) == unicodedata.normalize("NFC", text * 50)


def test_nfc_takes_linear_time() -> None:
    start = time.process_time()
    nfc("a" + "\u0301\u0316" * 500_000)
    assert time.process_time() - start < 20  # the plain call takes many minutes
    korean = unicodedata.normalize("NFD", "한국어" * 20_000)
    assert nfc(korean) == "한국어" * 20_000


def test_a_line_without_end_is_refused_by_its_number_in_bounded_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "long.txt"
    with path.open("wb") as handle:
        handle.write(b"first\nsecond\n")
        for _ in range(100):
            handle.write(b"word " * 200_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        DataError, match=r"long\.txt:3: a line of more than .*break the text"
    ):
        read(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000 * (1 if sys.platform != "darwin" else 1024)


def test_lines_up_to_the_limit_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LONGEST", 1 << 19)
    path = tmp_path / "t.txt"
    for size, ok in ((1 << 19, True), (1 << 20, False)):
        path.write_text("a b\n" * 99 + "x" * size + "\n" + "c\n")
        if ok:
            document = read(path)
            assert isinstance(document, Document)
            assert len(document.text) == 99 * 4 + size + 3
        else:
            with pytest.raises(DataError, match=r"t\.txt:100: a line of more than"):
                read(path)


@pytest.mark.parametrize("content", ["", "\n\n", "  \n", "\ufeff"])
def test_empty_files(write: Any, content: str) -> None:
    with pytest.raises(DataError, match="the file is empty"):
        read(write(content))


def test_missing_file_names_the_nearest(write: Any, tmp_path: Path) -> None:
    write("x", "ratings_train.txt")
    with pytest.raises(
        DataError, match=r"no such file; did you mean '.*/ratings_train.txt'"
    ):
        read(tmp_path / "rating_train.txt")
    with pytest.raises(DataError, match=r"folder .* does not exist either"):
        read(tmp_path / "nowhere" / "x.txt")


# ---------------------------------------------------------------------- blocks and numbers


def test_lines_keep_their_numbers_over_blocks(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK", 7)
    content = "".join(f"line {number}\r\n" for number in range(1, 50))
    origin = find(write(content + "last"))
    texts = list(lines.numbered_lines(origin, Format("text"), lines.stop))
    assert texts == [(n, f"line {n}") for n in range(1, 50)] + [(50, "last")]
    blocks = list(lines.blocks(origin, Format("text"), lines.stop))
    assert len(blocks) > 40
    assert "".join(block for _, block in blocks) == content.replace("\r", "") + "last"
    numbers = [first for first, _ in blocks]
    ends = [first + block.count("\n") for first, block in blocks]
    assert numbers == [1, *ends[:-1]]


@pytest.mark.parametrize("size", [1000, 1001, 4000, 100_000])
def test_a_line_longer_than_a_row_is_emptied_and_reported(
    write: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(lines, "BLOCK", 512)
    origin = find(write(f"a\n{'x' * size}\nb\n"), max_row=1000)
    errors: list[DataError] = []
    texts = list(lines.numbered_lines(origin, Format("table"), errors.append))
    long = size > 1000
    assert texts == [(1, "a"), (2, "" if long else "x" * size), (3, "b")]
    assert [error.line for error in errors] == [2] * long
    # a row is bounded in bytes: 400 syllables are 1,200 of them
    origin = find(write("가" * 400 + "\n"), max_row=1000)
    assert list(lines.numbered_lines(origin, Format("table"), errors.append)) == [
        (1, "")
    ]


def test_damaged_lines_are_kept_for_the_row_that_they_are_part_of(write: Any) -> None:
    origin = find(write(b"a\n\xff\nc\n\xfe\xfe\n"))
    texts, errors = lines.lines_with_errors(origin, Format("conllu"))
    assert [next(texts) for _ in range(4)] == [(1, "a"), (2, ""), (3, "c"), (4, "")]
    assert sorted(errors) == [2, 4]
    assert "byte 0xfe" in str(errors[4])
    # of a table the bytes alone go: its quotes tell where a record ends
    origin = find(write(b'"a\xff"\n'))
    texts, errors = lines.lines_with_errors(origin, Format("table"))
    assert (next(texts), sorted(errors)) == ((1, '"a"'), [1])


def test_line_ends_of_the_first_block(write: Any) -> None:
    for content, end in (
        ("a\nb", "\n"),
        ("a\r\nb\r\n", "\r\n"),
        ("a\rb", "\r"),
        ("a", "\n"),
        ("a\r\nb\n", "mixed"),
    ):
        assert lines.newline_of(find(write(content)), Format("text")) == end
