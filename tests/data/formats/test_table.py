"""Tables: delimiter, header, quotes, errors that name the line; the csv module is the oracle."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.sources import Table, nfc, read


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
    dataset = table(write(content))
    assert dataset.format.delimiter == delimiter
    assert dataset.format.header == (columns is not None)
    width = len(content.split("\n", 1)[0].split(delimiter))
    assert dataset.columns == (columns or [f"column{i + 1}" for i in range(width)])
    assert len(dataset.rows) == content.count("\n") - dataset.format.header


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
    dataset = table(write("document\n좋다\n싫다\n", "x.csv"))
    assert (dataset.columns, dataset.rows) == (["document"], [("좋다",), ("싫다",)])


def test_comments_above_a_table_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text(
        "# where it is from\n# more, with commas\n" + "a\t가\nb\t나\nc\t다\n" * 3
    )
    dataset = table(path)
    assert (dataset.rows[0], dataset.lines[0], len(dataset.rows)) == (("a", "가"), 3, 9)
    path.write_text("#id\ttext\n1\ta\n2\tb\n3\tc\n")
    assert table(path).columns == ["#id", "text"]


# ---------------------------------------------------------------------- quotes


def test_stray_quotes_in_a_tsv_are_text(write: Any) -> None:
    body = '"Horses" is the plural\t1\n"never closed\t0\nsays "hi"\t1\n"\t0\n'
    dataset = table(write("text\tlabel\n" + body))
    assert not dataset.format.quoted
    assert [row[0] for row in dataset.rows] == [
        '"Horses" is the plural',
        '"never closed',
        'says "hi"',
        '"',
    ]


def test_a_tsv_that_is_really_quoted(write: Any) -> None:
    dataset = table(write('id\tdocument\tlabel\n1\t"""와"" 좋다"\t1\n2\t그냥\t0\n'))
    assert dataset.format.quoted
    assert dataset.rows == [("1", '"와" 좋다', "1"), ("2", "그냥", "0")]


def test_quotes_are_told_beyond_the_first_block(write: Any) -> None:
    plain = "".join(f"{i}\tplain words here\t{i % 2}\n" for i in range(20_000))
    dataset = table(write("id\ttext\tlabel\n" + plain + '20000\t"a ""b"""\t1\n'))
    assert dataset.rows[-1] == ("20000", 'a "b"', "1")
    assert dataset.lines[-1] == 20_002


def test_quoted_cells_over_several_lines_keep_exact_line_numbers(write: Any) -> None:
    path = write('text,label\n"a\nb, ""c""",1\n\nplain,0\n"x\n\ny",1\n')
    dataset = table(path)
    assert dataset.rows == [('a\nb, "c"', "1"), ("plain", "0"), ("x\n\ny", "1")]
    assert dataset.lines == [2, 5, 6]


def test_unterminated_quote_names_the_line_where_it_opens(write: Any) -> None:
    path = write('text,label\ngood,1\n"bad,0\nfine,1\n')
    with pytest.raises(DataError, match=r"data.txt:3: a double quote opens here"):
        read(path)
    dataset = table(path, on_error="skip")
    assert dataset.rows == [("good", "1"), ("fine", "1")]
    assert [error.line for error in dataset.skipped] == [3]


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
    dataset = table(path)
    assert dataset.columns == ["text", "other", "label"]
    assert dataset.rows == [tuple(nfc(str(cell)) for cell in row) for row in rows]
    lines = handle.getvalue().replace("\r\n", "\n").split("\n")
    assert [lines[line - 1][:1] for line in dataset.lines] == ['"'] * len(rows)


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
    dataset = table(path, on_error="skip")
    assert dataset.rows == [("a", "1"), ("c, d", "1"), ("e\ne", "1"), ("f", "0")]
    assert [error.line for error in dataset.skipped] == [4, 7]


def test_a_lost_line_after_a_quote_that_is_never_closed(write: Any) -> None:
    path = write(b'text,label\n"x",1\n"open,0\n\xff,1\nfine,1\n', "d.csv")
    dataset = table(path, on_error="skip")
    assert dataset.rows == [("x", "1"), ("fine", "1")]
    assert [error.line for error in dataset.skipped] == [3, 4]


# ---------------------------------------------------------------------- malformed rows


def test_wrong_number_of_fields(write: Any) -> None:
    path = write("text\tlabel\ngood\t1\nbad\nfine\t0\nx\ty\tz\n")
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.line == 3
    for part in ("expected 2 fields", "found 1", "text, label", "data.on_error=skip"):
        assert part in str(caught.value)
    dataset = table(path, on_error="skip")
    assert dataset.lines == [2, 4]
    assert [error.line for error in dataset.skipped] == [3, 5]


def test_unquoted_comma_in_a_csv_is_an_error_not_a_document(write: Any) -> None:
    with pytest.raises(DataError, match=r":3: expected 2 fields .*found 4"):
        read(write("text,label\ngood,1\noh, no, bad,0\nfine,1\n", "data.csv"))


def test_blank_lines_are_passed_over(write: Any) -> None:
    dataset = table(write("\n7, 6, 42\n\n  \n1, 2, 2\n\n"))
    assert dataset.lines == [2, 5]


def test_header_and_no_rows(write: Any) -> None:
    with pytest.raises(DataError, match=r"a header \(id, document, label\) and no row"):
        read(write("id\tdocument\tlabel\n"))


def test_empty_text_is_a_value(write: Any) -> None:
    assert table(write("text\tlabel\n\t1\nb\t0\n")).rows == [("", "1"), ("b", "0")]


def test_two_columns_of_one_name(write: Any) -> None:
    dataset = table(write("text,text,text_2\na,1,x\nb,2,y\n"))
    assert dataset.columns == ["text", "text_2", "text_2_2"]
    (warning, _) = dataset.warnings
    assert "two columns are named text; the later one is read as text_2" in str(warning)
    assert warning.line == 1


# ---------------------------------------------------------------------- what spreadsheets write

REVIEWS = [(f"a film number {row}", ["pos", "neg"][row % 2]) for row in range(12)]


def reviews(delimiter: str, end: str = "\n", header: str = "text{}label") -> str:
    lines = [header.format(delimiter), *(delimiter.join(row) for row in REVIEWS)]
    return "".join(f"{line}{end}" for line in lines)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["d.csv", "d.txt"])
@pytest.mark.parametrize(
    "before", ["sep={}\r\n", '"sep={}"\n', "SEP={}\n", "\ufeffsep={}\n"]
)
def test_the_line_of_excel_that_names_the_delimiter(
    write: Any, delimiter: str, name: str, before: str
) -> None:
    text = before.format(delimiter) + reviews(delimiter, "\r\n")
    for content in (text.encode(), text.removeprefix("\ufeff").encode("utf-16")):
        dataset = table(write(content, name))
        assert dataset.format.delimiter == delimiter
        assert (dataset.columns, dataset.rows) == (["text", "label"], REVIEWS)
        assert dataset.lines[0] == 3


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["text{0}label", "text{0}label{0}"])
def test_a_delimiter_that_ends_each_row(
    write: Any, delimiter: str, header: str
) -> None:
    text = reviews(delimiter, f"{delimiter}\n")
    _, _, body = text.partition("\n")
    path = write(f"{header.format(delimiter)}\n{body}", "d.csv")
    dataset = table(path)
    assert (dataset.columns, dataset.rows) == (["text", "label"], REVIEWS)
    assert dataset.format.ends
    bare = table(write(body, "d.csv"))
    assert (bare.columns, bare.rows) == (["column1", "column2"], REVIEWS)


def test_an_empty_last_column_with_a_name_is_one(write: Any) -> None:
    dataset = table(write("text,label,note\na b,x,\nc d,y,\n", "d.csv"))
    assert dataset.columns == ["text", "label", "note"]
    assert not dataset.format.ends


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("title", "line"),
    [
        ("Reviews of a year\n", 3),
        ("Reviews of a year\nfrom the web\n\n", 5),
        ("Reviews of a year{0}\n{0}\n", 4),
        ("sep={0}\nReviews of a year{0}\n", 4),
        ('"Reviews of a year"\n', 3),
        ("\n\n", 4),
    ],
)
def test_titles_above_a_header(
    write: Any, delimiter: str, title: str, line: int
) -> None:
    dataset = table(write(title.format(delimiter) + reviews(delimiter), "d.csv"))
    assert (dataset.columns, dataset.rows) == (["text", "label"], REVIEWS)
    assert dataset.lines[0] == line


@pytest.mark.parametrize(
    "title", ["Report;2021;", "Store:;Busan;", ";;Report", "Report"]
)
def test_titles_of_several_cells(write: Any, title: str) -> None:
    body = "".join(
        f"{1 + row % 28:02d}.01.2021;{row % 3};{row},5\n" for row in range(40)
    )
    dataset = table(write(f"{title}\nDatum;Filiale;Umsatz\n{body}", "d.csv"))
    assert dataset.columns == ["Datum", "Filiale", "Umsatz"]
    assert (len(dataset.rows), dataset.lines[0]) == (40, 3)


def test_a_first_row_with_an_empty_cell_is_no_title(write: Any) -> None:
    dataset = table(write("a b,,x\nc d,1,y\ne f,2,x\ng h,3,y\n" * 3, "d.csv"))
    assert len(dataset.rows) == 12
    assert not dataset.format.header


@pytest.mark.parametrize(
    "comments",
    [
        ["# made by me", "# on monday, at noon"],
        ["# on monday, at noon", "# made by me"],
        ["# made by me, on monday, at noon"],
        ["#"],
    ],
)
def test_comments_may_hold_the_delimiter(write: Any, comments: list[str]) -> None:
    dataset = table(write("\n".join([*comments, reviews(",")])))
    assert (dataset.columns, dataset.rows) == (["text", "label"], REVIEWS)
    assert dataset.lines[0] == len(comments) + 2


def test_empty_names_are_numbered(write: Any) -> None:
    text = ",,label\n" + "".join(f"{a},x,{b}\n" for a, b in REVIEWS)
    assert table(write(text, "d.csv")).columns == ["column1", "column2", "label"]


def test_a_header_is_what_the_user_says_it_is(write: Any) -> None:
    path = write("text,label\n" + "".join(f"{a},{b}\n" for a, b in REVIEWS), "d.csv")
    assert table(path, header=False).rows[0] == ("text", "label")
    assert table(path, header=False).warnings == ()
    assert table(write("1,2\n3,4\n"), header=True).columns == ["1", "2"]
    # a file to be answered has the names of the one that was trained on
    body = "a,b\nc,d\n"
    assert table(write(f"satz,x\n{body}"), header=["satz"]).columns == ["satz", "x"]
    assert not table(write(f"satz,x\n{body}"), header=["text"]).format.header


def test_a_doubtful_header_is_a_warning_with_the_key(write: Any) -> None:
    rows = "".join(f"{a} and more\t{b}{a}\n" for a, b in REVIEWS)
    dataset = table(write(f"text\twhat was said\n{rows}"))
    assert dataset.columns == ["text", "what was said"]
    (warning,) = dataset.warnings
    assert "(text, what was said) is taken for the names" in warning.message
    assert (warning.key, warning.line) == ("data.header=false", 1)
