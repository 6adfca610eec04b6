"""Records of a table: what the csv module reads, exact lines, bounds on what a quote swallows."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.core.errors import DataError
from unrolled.data.records import LOOK, BadQuoteError, records, split
from unrolled.data.sources import Format

COMMAS = Format("table", ",", quoted=True)
cells = st.text(st.sampled_from('",;a b\n'), max_size=8)


def read(
    text: str, format: Format = COMMAS, lost: dict[int, DataError] | None = None
) -> tuple[list[tuple[int, list[str]]], list[DataError]]:
    errors: list[DataError] = []
    lines = enumerate(text.split("\n"), 1)
    rows = records(lines, format, "t.csv", errors.append, lost or {}, max_row=2000)
    return list(rows), errors


@given(
    rows=st.lists(st.lists(cells, min_size=2, max_size=3), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;|\t"),
)
@settings(max_examples=200, deadline=None)
def test_records_are_those_that_the_csv_module_reads(
    rows: list[list[str]], delimiter: str
) -> None:
    # a line of blanks alone is no record here
    rows = [["x" + first, *others] for first, *others in rows]
    handle = io.StringIO()
    csv.writer(handle, delimiter=delimiter, lineterminator="\n").writerows(rows)
    text = handle.getvalue()
    oracle = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    begins = 1
    expected = []
    for cells in oracle:
        expected.append((begins, cells))
        begins = oracle.line_num + 1
    assert read(text, Format("table", delimiter, quoted=True)) == (expected, [])


def test_without_quotes_a_line_is_a_record() -> None:
    plain = Format("table", "\t")
    text = 'a\t"b\n"c"\td"e\n\n \t\n'
    assert read(text, plain)[0] == [(1, ["a", '"b']), (2, ['"c"', 'd"e'])]
    assert read("one\ntwo", Format("table"))[0] == [(1, ["one"]), (2, ["two"])]


def test_blanks_around_numbers_alone_go() -> None:
    assert read(" 7 , -3.5% , a b ,\n")[0] == [(1, ["7", "-3.5%", " a b ", ""])]
    assert split(" 7 , x", COMMAS, lambda: None, strip=False) == [" 7 ", " x"]


def test_after_a_quote_that_does_not_end_the_lines_it_swallowed_are_read() -> None:
    rows, errors = read('a,1\n"b,2\nc,3\n"d" e,4\nf,5')
    assert [line for line, _ in rows] == [1, 3, 5]
    assert [error.line for error in errors] == [2, 4]
    assert "follows its closing quote" in str(errors[0])  # that before d opens none
    assert "' e,4' follows its closing quote" in str(errors[1])


def test_a_quote_swallows_no_more_than_a_row_may_have() -> None:
    filler = "x" * 100 + "\n"
    rows, errors = read('"a\n' + filler * LOOK + "b,1")
    assert "more characters than a row may have" in str(errors[0])
    assert errors[0].line == 1
    assert rows[-1] == (LOOK + 2, ["b", "1"])
    # what a row may have is read, however many lines it takes
    rows, errors = read('"a\n' + "x\n" * 10 * LOOK + 'b",1')
    assert not errors
    assert [line for line, _ in rows] == [1]


def test_a_record_with_a_damaged_line_is_left_out_whole() -> None:
    damage = DataError("bytes", "t.csv", 2)
    rows, errors = read('"a\nb\nc",1\nd,2\n', lost={2: damage})
    assert rows == [(4, ["d", "2"])]
    assert errors == [damage]


def test_a_row_by_itself_has_no_next_line() -> None:
    with pytest.raises(BadQuoteError, match="never closed"):
        split('a,"b', COMMAS, lambda: None)
