"""Data files: what is found in them, exact records and lines, and errors that name the line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import time
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.schema import look
from unrolled.data.sources import Document, Format, Table, nfc, parse_row, read, rows_of
from unrolled.fields.frames import Frames
from unrolled.fields.series import WindowSpec
from unrolled.runs.file_predictions import in_step

ANTHEM = (
    "동해물과 백두산이 마르고 닳도록\n하느님이 보우하사 우리나라 만세\n"
    "무궁화 삼천리 화려 강산\n대한 사람, 대한으로 길이 보전하세\n"
)
PLAY = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
    * 9
)


# ---------------------------------------------------------------------- what the file is


@pytest.mark.parametrize(
    "text", [ANTHEM, PLAY, "한 줄", "one, two\n", "a; b\nc\n", "(S (NP x))\n"]
)
@pytest.mark.parametrize("name", ["song.txt", "song"])
def test_running_text_is_a_document(write: Any, text: str, name: str) -> None:
    found = read(write(text, name))
    assert isinstance(found, Document)
    assert found.text == text
    assert found.format.describe() == "plain text, UTF-8"


def test_verse_with_one_comma_in_every_line_is_a_document(write: Any) -> None:
    verse = "Roses are red, violets are blue\nSugar is sweet, and so are you\n"
    assert isinstance(read(write(verse)), Document)


@pytest.mark.parametrize(
    ("content", "delimiter", "columns"),
    [
        (
            "id\tdocument\tlabel\n1\t좋다, 참\t1\n2\t\t0\n",
            "\t",
            ["id", "document", "label"],
        ),
        ("text,label\ngood,1\nbad,0\n", ",", ["text", "label"]),
        ("a,b,product\n7,6,42\n1,2,2\n", ",", ["a", "b", "product"]),
        ("x;y\n1,5;2,5\n3,5;4,5\n", ";", ["x", "y"]),
        ("Q|A\nhow are you|fine thanks\nwho|me\n", "|", None),
        ("7, 6, 42\n3, 3, 9\n", ",", None),
        ("7,6,42\n", ",", None),
        ("Go.\t가.\tCC-BY\nHi.\t안녕.\tCC-BY\n", "\t", None),
        ("good film\t1\nbad film\t0\n", "\t", None),
        ("en\tko\nGo.\t가.\nHi.\t안녕.\n", "\t", ["en", "ko"]),
        (
            "image\tcaption\nx.jpg\tA dog runs .\ny.jpg\tA cat .\n",
            "\t",
            ["image", "caption"],
        ),
        ("문장,감정\n아주 좋다,기쁨\n정말 싫다,슬픔\n", ",", ["문장", "감정"]),
        ("1,2,3,Phase\n.1,.2,.3,Rest\n.2,.3,.1,Hold\n", ",", ["1", "2", "3", "Phase"]),
        ("1,2,3,Rest\n.1,.2,.3,Rest\n", ",", None),
        (
            "date,OT\n2016-07-01 00:00:00,30.5\n2016-07-01 01:00:00,27.7\n",
            ",",
            ["date", "OT"],
        ),
        (",text,label\n0,good,1\n1,bad,0\n", ",", ["column1", "text", "label"]),
        ("5.1,NA,3\n4.9,2,4\n", ",", None),
        ("image\t이미지\nword\t낱말\nsun\t해\n", "\t", None),
    ],
)
def test_delimiter_and_header(
    write: Any, content: str, delimiter: str, columns: list[str] | None
) -> None:
    found = table(write(content))
    assert found.format.delimiter == delimiter
    assert found.format.header == (columns is not None)
    width = len(content.split("\n", 1)[0].split(delimiter))
    assert found.columns == (columns or [f"column{i + 1}" for i in range(width)])
    assert len(found.rows) == content.count("\n") - found.format.header


def test_unknown_names_over_texts_and_labels_are_a_header(write: Any) -> None:
    body = "".join(
        f"this is sentence {i}\t{'joy' if i % 2 else 'rage'}\n" for i in range(8)
    )
    assert table(write("satz\tstimmung\n" + body)).columns == ["satz", "stimmung"]
    assert not table(write("hello\tjoy\n" + body)).format.header


def test_numbers_lose_their_blanks_and_texts_keep_them(write: Any) -> None:
    assert table(write("7, 6, 42\n 3 , 3, 9 \n")).rows == [
        ("7", "6", "42"),
        ("3", "3", "9"),
    ]
    assert table(write("text\tlabel\n a b \t 1\n")).rows == [(" a b ", "1")]
    assert table(write('t,n\n"a, b"," 7 "\nc, 7\n')).rows == [
        ("a, b", " 7 "),
        ("c", "7"),
    ]


def test_suffix_does_not_tell_the_format_but_tips_a_doubtful_case(write: Any) -> None:
    assert isinstance(read(write("a\t1\nb\t2\n", "x.csv")), Table)
    assert isinstance(read(write('{"a": 1}\n', "x.csv")), Table)
    one = table(write("document\n좋다\n싫다\n", "x.csv"))
    assert (one.columns, one.rows) == (["document"], [("좋다",), ("싫다",)])


def test_describe() -> None:
    assert (
        Format("table", "\t", header=True).describe() == "tab-separated, header, UTF-8"
    )
    assert Format("jsonl", gzip=True).describe() == "JSON lines, UTF-8, gzip"


# ---------------------------------------------------------------------- quotes


def test_stray_quotes_in_a_tsv_are_text(write: Any) -> None:
    body = '"Horses" is the plural\t1\n"never closed\t0\nsays "hi"\t1\n"\t0\n'
    found = table(write("text\tlabel\n" + body))
    assert not found.format.quoted
    assert [row[0] for row in found.rows] == [
        '"Horses" is the plural',
        '"never closed',
        'says "hi"',
        '"',
    ]


def test_a_tsv_that_is_really_quoted(write: Any) -> None:
    found = table(write('id\tdocument\tlabel\n1\t"""와"" 좋다"\t1\n2\t그냥\t0\n'))
    assert found.format.quoted
    assert found.rows == [("1", '"와" 좋다', "1"), ("2", "그냥", "0")]


def test_quotes_are_told_beyond_the_first_block(write: Any) -> None:
    plain = "".join(f"{i}\tplain words here\t{i % 2}\n" for i in range(20_000))
    found = table(write("id\ttext\tlabel\n" + plain + '20000\t"a ""b"""\t1\n'))
    assert found.rows[-1] == ("20000", 'a "b"', "1")
    assert found.lines[-1] == 20_002


def test_quoted_cells_over_several_lines_keep_exact_line_numbers(write: Any) -> None:
    path = write('text,label\n"a\nb, ""c""",1\n\nplain,0\n"x\n\ny",1\n')
    found = table(path)
    assert found.rows == [('a\nb, "c"', "1"), ("plain", "0"), ("x\n\ny", "1")]
    assert found.lines == [2, 5, 6]


def test_unterminated_quote_names_the_line_where_it_opens(write: Any) -> None:
    path = write('text,label\ngood,1\n"bad,0\nfine,1\n')
    with pytest.raises(DataError, match=r"data.txt:3: a double quote opens here"):
        read(path)
    found = table(path, on_error="skip")
    assert found.rows == [("good", "1"), ("fine", "1")]
    assert [error.line for error in found.skipped] == [3]


def test_text_after_a_closing_quote(write: Any) -> None:
    path = write('text,label\n"a, b",1\n"c" d,0\n"e, f",1\n')
    with pytest.raises(
        DataError, match=r"data.txt:3: .*' d,0' follows its closing quote"
    ):
        read(path)
    assert len(table(path, on_error="skip").rows) == 2


cells = st.text(
    st.one_of(
        st.sampled_from(list('",;\t|\n \'a1"')), st.characters(exclude_categories=["C"])
    ),
    max_size=12,
)


@given(
    rows=st.lists(st.tuples(cells, cells, st.integers(-9, 9)), min_size=1, max_size=12),
    delimiter=st.sampled_from(",;\t|"),
    newline=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
@settings(max_examples=150, deadline=None)
def test_round_trip_of_what_the_csv_module_writes(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, int]],
    delimiter: str,
    newline: str,
    quoting: Any,
) -> None:
    handle = io.StringIO()
    writer = csv.writer(
        handle, delimiter=delimiter, lineterminator=newline, quoting=quoting
    )
    writer.writerows([("text", "other", "label"), *rows])
    path = tmp_path_factory.getbasetemp() / "nasty.csv"
    path.write_bytes(handle.getvalue().encode())
    found = table(path)
    assert found.columns == ["text", "other", "label"]
    assert found.rows == [tuple(nfc(str(cell)) for cell in row) for row in rows]
    lines = handle.getvalue().replace("\r\n", "\n").split("\n")
    assert [lines[line - 1][:1] for line in found.lines] == ['"'] * len(rows)


@given(rows=st.lists(st.tuples(cells, st.sampled_from("01")), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_minimal_quoting_with_commas(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    handle = io.StringIO()
    csv.writer(handle).writerows([("text", "label"), *rows])
    path = tmp_path_factory.getbasetemp() / "minimal.csv"
    path.write_bytes(handle.getvalue().encode())
    oracle = [
        tuple(row) for row in csv.reader(io.StringIO(handle.getvalue(), newline=""))
    ][1:]
    strip = [
        (a.strip(" ") if nfc(a).strip().isascii() and _float(a) else nfc(a), b)
        for a, b in oracle
    ]
    assert table(path).rows == [(a, b) for a, b in strip]


def _float(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------- bytes and lines


def test_mixed_line_ends_and_a_mark_at_the_start(write: Any) -> None:
    found = table(write("\ufefftext\tlabel\r\na\t1\rb\t0\nc\t1"))
    assert found.columns == ["text", "label"]
    assert found.rows == [("a", "1"), ("b", "0"), ("c", "1")]
    assert found.lines == [2, 3, 4]
    assert found.format.newline == "mixed"
    assert table(write("text\tlabel\ra\t1\r")).format.newline == "\r"
    document = read(write("one\r\ntwo\rthree\n"))
    assert isinstance(document, Document)
    assert document.text == "one\ntwo\nthree\n"


@pytest.mark.parametrize("encoding", ["cp949", "utf-16", "utf-16-le", "utf-8", "UTF8"])
@pytest.mark.parametrize("zipped", [False, True])
def test_encodings(write: Any, encoding: str, zipped: bool) -> None:
    data = "text\tlabel\n좋다\t1\n싫다\t0\n".encode(encoding)
    path = write(gzip.compress(data) if zipped else data)
    found = table(path, encoding=encoding)
    assert found.rows == [("좋다", "1"), ("싫다", "0")]
    assert found.format.gzip == zipped


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


@pytest.mark.parametrize("lines_before", [1, 40_000])
def test_bytes_that_do_not_decode(write: Any, lines_before: int) -> None:
    good = "text\tlabel\n" + "좋은 영화\t1\n" * lines_before
    path = write(good.encode() + "나쁜\t0\n".encode("cp949") + "끝\t1\n".encode())
    line = lines_before + 2
    with pytest.raises(
        DataError, match=rf"data.txt:{line}: not valid UTF-8.*data\.encoding"
    ):
        read(path)
    found = table(path, on_error="skip")
    assert len(found.rows) == lines_before + 1
    assert found.lines[-1] == line + 1
    assert [error.line for error in found.skipped] == [line]


def test_a_record_with_a_line_that_does_not_decode_is_left_out_whole(
    write: Any,
) -> None:
    rows = [
        b'"a",1',
        b'"b\nb \xff, ""x""\n\xfe""b",0',
        b'"c, d",1',
        b"\xff,0",
        b'"e\ne",1',
        b"f,0",
    ]
    path = write(b"text,label\n" + b"\n".join(rows) + b"\n", "d.csv")
    with pytest.raises(
        DataError, match=r"d\.csv:4: not valid UTF-8 text \(byte 0xff\)"
    ):
        read(path)
    found = table(path, on_error="skip")
    assert found.rows == [("a", "1"), ("c, d", "1"), ("e\ne", "1"), ("f", "0")]
    assert [error.line for error in found.skipped] == [4, 7]
    told = [row is None for _, row in in_step(rows_of(path, on_error="skip"))]
    assert told == [False, True, False, True, False, False]


def test_a_lost_line_after_a_quote_that_is_never_closed(write: Any) -> None:
    path = write(b'text,label\n"x",1\n"open,0\n\xff,1\nfine,1\n', "d.csv")
    found = table(path, on_error="skip")
    assert found.rows == [("x", "1"), ("fine", "1")]
    assert [error.line for error in found.skipped] == [3, 4]


def test_binary_files_are_refused(write: Any) -> None:
    with pytest.raises(DataError, match=r":2: NUL bytes: .*binary file"):
        read(write(b"text\n\x00\x01\x02"))
    with pytest.raises(DataError, match=r"utf-16"):
        read(write("가나다 text\n".encode("utf-16-le") + b"\0"), on_error="skip")
    with pytest.raises(DataError, match=r"UTF-8|binary"):
        read(write(bytes(range(1, 256)) * 9))


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


def test_many_undecodable_lines_take_linear_time(write: Any) -> None:
    path = write(("좋다\t1\n" * 3 + "ok\t1\n").encode("cp949") * 20_000)
    start = time.process_time()
    found = table(path, encoding="utf-8", on_error="skip")
    assert time.process_time() - start < 10
    assert len(found.rows) == 20_000
    assert found.lines[:2] == [4, 8]
    assert [error.line for error in found.skipped[:4]] == [1, 2, 3, 5]


bits = st.sampled_from(
    [
        '"',
        ",",
        "\t",
        "\n",
        "\r",
        ";",
        "|",
        "a",
        "1",
        " ",
        "{",
        "}",
        ":",
        "[",
        '{"a": 1}',
        "가",
        "text",
        "label",
    ]
)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(bits, max_size=40).map(lambda b: "".join(b).encode()),
    )
)
@settings(max_examples=400, deadline=None)
def test_whatever_a_file_holds_the_answer_is_rows_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for target in (path, path.with_suffix(".txt")):
        target.write_bytes(content)
        for on_error in ("stop", "skip"):
            try:
                found = read(target, on_error=on_error)  # type: ignore[arg-type]
            except DataError:
                continue
            if isinstance(found, Table):
                assert {len(row) for row in found.rows} == {len(found.columns)}
                assert found.lines == sorted(set(found.lines))


@pytest.mark.parametrize(
    "unit", ['"', ',"', ',"a', "a,", '"a" b,', " ", ',"""', "|", '\t"']
)
def test_telling_the_format_takes_linear_time(write: Any, unit: str) -> None:
    start = time.process_time()
    with contextlib.suppress(DataError):
        read(write("x" + unit * (300_000 // len(unit)) + "\n", "data.csv"))
    assert time.process_time() - start < 5


# ---------------------------------------------------------------------- faulty files


def test_wrong_number_of_fields(write: Any) -> None:
    path = write("text\tlabel\ngood\t1\nbad\nfine\t0\nx\ty\tz\n")
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.line == 3
    for part in ("expected 2 fields", "found 1", "text, label", "data.on_error=skip"):
        assert part in str(caught.value)
    found = table(path, on_error="skip")
    assert found.lines == [2, 4]
    assert [error.line for error in found.skipped] == [3, 5]


def test_unquoted_comma_in_a_csv_is_an_error_not_a_document(write: Any) -> None:
    with pytest.raises(DataError, match=r":3: expected 2 fields .*found 4"):
        read(write("text,label\ngood,1\noh, no, bad,0\nfine,1\n", "data.csv"))


def test_blank_lines_are_passed_over(write: Any) -> None:
    found = table(write("\n7, 6, 42\n\n  \n1, 2, 2\n\n"))
    assert found.lines == [2, 5]


@pytest.mark.parametrize("content", ["", "\n\n", "  \n", "\ufeff"])
def test_empty_files(write: Any, content: str) -> None:
    with pytest.raises(DataError, match="the file is empty"):
        read(write(content))


def test_header_and_no_rows(write: Any) -> None:
    with pytest.raises(DataError, match=r"a header \(id, document, label\) and no row"):
        read(write("id\tdocument\tlabel\n"))


def test_missing_file_names_the_nearest(write: Any, tmp_path: Path) -> None:
    write("x", "ratings_train.txt")
    with pytest.raises(
        DataError, match=r"no such file; did you mean '.*/ratings_train.txt'"
    ):
        read(tmp_path / "rating_train.txt")
    with pytest.raises(DataError, match=r"folder .* does not exist either"):
        read(tmp_path / "nowhere" / "x.txt")


def test_empty_text_is_a_value(write: Any) -> None:
    assert table(write("text\tlabel\n\t1\nb\t0\n")).rows == [("", "1"), ("b", "0")]


def test_two_columns_of_one_name(write: Any) -> None:
    with pytest.raises(DataError, match=r":1: 2 columns are named 'text'"):
        read(write("text,text\na,1\nb,2\n"))


def test_on_error_is_checked(write: Any) -> None:
    with pytest.raises(UsageError, match="stop or skip"):
        read(write("x"), on_error="ignore")  # type: ignore[arg-type]


# ---------------------------------------------------------------------- JSON lines


def test_jsonl_keeps_types_and_order(write: Any) -> None:
    rows = [
        {"tokens": ["나", "는"], "n": 1, "ok": True},
        {"n": 2.5, "tokens": [], "ok": None},
    ]
    found = table(write("".join(json.dumps(row) + "\n" for row in rows)))
    assert found.columns == ["tokens", "n", "ok"]
    assert found.rows == [(["나", "는"], 1, True), ([], 2.5, None)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"a": 1', "not valid JSON"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[1]", "JSON list"),
        ("{}", "key 'a'"),
        ('{"a": "\\ud800"}', "no character"),
        ('{"a":' * 50_000, "JSON"),
    ],
)
def test_bad_json_lines(write: Any, bad: str, message: str) -> None:
    path = write(f'{{"a": 1}}\n\n{bad}\n{{"a": 2}}\n{{"a": 3}}\n')
    with pytest.raises(DataError, match=rf"data.txt:3: .*{message}"):
        read(path)
    found = table(path, on_error="skip")
    assert found.rows == [(1,), (2,), (3,)]
    assert found.lines == [1, 4, 5]
    assert len(found.skipped) == 1


def test_a_row_to_answer_may_lack_what_is_not_read(write: Any) -> None:
    path = write('{"a": 1, "b": 2}\n{"a": 3}\n{"a": 4, "c": 5}\n{"b": 6}\n')
    with pytest.raises(DataError, match="is missing"):
        read(path)
    found = table(path, needed=["a"], on_error="skip")
    assert found.columns == ["a", "b", "c"]
    assert found.rows == [(1, 2, None), (3, None, None), (4, None, 5)]
    assert [error.line for error in found.skipped] == [4]
    with pytest.raises(DataError, match=r"data.txt:4: the key 'a'.* is missing"):
        read(path, needed=["a"])


def test_numbers_beyond_a_float(write: Any) -> None:
    huge = "9" * 400
    path = write(
        f'{{"a": 1e999, "b": [-1e999, 1.5]}}\n{{"a": {huge}, "b": [{huge}]}}\n'
    )
    found = table(path)
    assert found.rows[0] == (None, [None, 1.5])
    assert [look("a", [row[0]]).numeric for row in found.rows] == [False, False]
    with pytest.raises(UserError, match="column 'b' holds no sequence of numbers"):
        Frames.fit(("b",), [row[1:] for row in found.rows], WindowSpec())
    assert not table(write(f"{'7' * 5_000},1\n2,3\n")).format.header


def test_json_that_is_no_jsonl(write: Any) -> None:
    with pytest.raises(DataError, match="one object a line"):
        read(write('{\n "a": 1,\n "b": 2\n}\n', "x.json"))


# ---------------------------------------------------------------------- streaming, limits, one row


def test_limit_and_streaming_agree_with_read(write: Any) -> None:
    path = write("text\tlabel\n" + "".join(f"row {i}\t{i % 2}\n" for i in range(50)))
    whole = table(path)
    assert table(path, limit=7).rows == whole.rows[:7]
    streamed = rows_of(path)
    assert streamed.columns == whole.columns
    assert list(streamed) == list(zip(whole.lines, whole.rows, strict=True))


def test_running_text_streams_line_by_line(write: Any) -> None:
    path = write("one, two\n\nthree\n")
    assert list(rows_of(path)) == [(1, ("one, two",)), (2, ("",)), (3, ("three",))]
    short = read(path, limit=1)
    assert isinstance(short, Document)
    assert short.text == "one, two\n"


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
