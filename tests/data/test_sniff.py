"""Whether lines are rows of a table: delimiters, headers and quotes, from texts alone."""

from __future__ import annotations

import csv

import pytest

from unrolled.data.sniff import (
    Quotes,
    closed_columns,
    count_quotes,
    find_delimiter,
    find_header,
    is_doubtful_header,
    is_number,
    is_quoted,
    names_columns,
    usual_width,
)


@pytest.mark.parametrize(
    ("head", "named_table", "expected"),
    [
        ("a,1\nb,2\n", False, ","),
        ("x;y\n1,5;2,5\n3,5;4,5\n", False, ";"),  # the comma stands in the numbers
        ("a\t1,2\nb\t3,4\n", False, "\t"),  # of two that fit the tab
        ("a|x\nb|x\nc|y\nd|y\n", False, "|"),
        ('"x, y",1\n"z",2\n', False, ","),  # a comma in quotes is none
        (
            "Roses are red, violets are blue\nSugar is sweet, and so are you\n",
            False,
            None,
        ),
        ("text,label\nOne. Two,three\n", False, ","),  # its columns have names
        ("def f():\n\treturn 1\n\n\tx = 2\n", False, None),  # indented lines
        ("oh, no, a\nfine,1\nbad,2\n", True, ","),
        ("oh, no, a\nfine then\nbad, 2\n", False, None),
        ("plain\n", True, None),
        ("", False, None),
    ],
)
def test_delimiters(head: str, named_table: bool, expected: str | None) -> None:
    assert find_delimiter(head, named_table=named_table) == expected


def test_the_usual_width_is_the_commonest_and_of_two_the_larger() -> None:
    assert usual_width([]) == (0, 0.0)
    assert usual_width([["a"], ["a", "b"]]) == (2, 0.5)
    assert usual_width([["a"], ["a"], ["a", "b"]]) == (1, 2 / 3)


def test_closed_columns_hold_numbers_or_few_words() -> None:
    labels = [["head", "x"]] + [[word, "some words"] for word in "ababab"]
    assert closed_columns(labels) == 1
    assert closed_columns([["n", "m"], ["1", "NA"], ["-2.5%", "3"], ["", "4"]]) == 2
    assert closed_columns([["only", "1"]]) == 1  # without a row below, row one counts
    few = [["head"], ["a"], ["a"], ["b"]]  # three rows tell no labels
    assert closed_columns(few) == 0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["text", "label"], ["a b", "1"]], True),
        ([["alpha", "beta"], ["1", "2"]], True),  # they stand over numbers
        ([["1", "2", "3", "Phase"], [".1", ".2", ".3", "Rest"]], True),
        ([["1", "2", "3", "Rest"], [".1", ".2", ".3", "Rest"]], False),
        ([["0", "1", "2", "y"], ["5", "5", "5", "a"]], True),
        ([["text", "text"], ["a", "b"]], True),  # the reader numbers the second
        ([["text", "label", ""], ["a b", "x", ""]], True),
        ([["alpha", "beta"], ["x", "2021-01-31"]], True),  # it stands over dates
        ([["text", "label"], ["text", "b"]], False),  # a cell that comes again is none
        ([["7", "label"], ["8", "x"]], False),
        ([["NA", "x"], ["1", "y z"]], False),
        ([["This is a sentence.", "label"], ["a", "b"]], False),
        ([["", ""], ["a", "b"]], False),
        ([["text"]], True),
    ],
)
def test_headers(rows: list[list[str]], expected: bool) -> None:
    assert find_header(rows) is expected


def test_unknown_names_are_told_by_labels_that_do_not_repeat_them() -> None:
    body = [[f"this is sentence {i}", "joy" if i % 2 else "rage"] for i in range(8)]
    assert find_header([["satz", "stimmung"], *body])
    assert not find_header([["satz", "joy"], *body])
    assert not find_header([["satz", "satz"], *body])


def test_usual_names_of_columns() -> None:
    assert names_columns([["Text_1", "sentiment label"]])
    assert names_columns([["리뷰", "평점"]])
    assert not names_columns([["hello", "there"]])
    assert not names_columns(
        [["text", "alpha", "beta", "gamma"]]
    )  # half are to be known
    assert not names_columns([])


@pytest.mark.parametrize(
    "cell", ["7", " -3.5 ", "+.5", "1e-3", "12%", "1.", "1,5", "٣", "$ 1,200"]
)
def test_numbers(cell: str) -> None:
    assert is_number(cell)


@pytest.mark.parametrize("cell", ["", "1_5", "0x1", "nan", "1e", "--1", "."])
def test_no_numbers(cell: str) -> None:
    assert not is_number(cell)


def test_quotes_are_counted() -> None:
    text = '"a",1\n"b, c",2\n"d""e",3\nf,4\n'
    assert count_quotes(text, ",") == Quotes(closed=3, needed=2, broken=0, rows=4)
    # with tabs a field ends with its line where the lines are even without quotes
    text = '"open\t1\nsays "hi"\t2\n"x"\t3\n'
    assert count_quotes(text, "\t") == Quotes(closed=1, needed=0, broken=1, rows=3)


def test_quoting_with_commas_is_expected_and_with_tabs_proved() -> None:
    assert is_quoted(Quotes(0, 0, 0, 5), ",")
    assert is_quoted(Quotes(1, 0, 9, 5), ",")
    assert not is_quoted(Quotes(0, 0, 3, 5), ",")
    assert not is_quoted(Quotes(1, 0, 0, 5), "\t")
    assert is_quoted(Quotes(1, 1, 0, 5), "\t")
    assert is_quoted(Quotes(5, 0, 0, 5), "\t")  # a whole column of them
    assert not is_quoted(Quotes(9, 9, 1, 9), "\t")


def test_delimiters_are_those_that_the_csv_module_sniffs() -> None:
    rows = "".join(f"word{i}{{0}}{i}{{0}}{i % 3}\n" for i in range(9))
    for delimiter in ",;|\t":
        text = rows.format(delimiter)
        assert csv.Sniffer().sniff(text).delimiter == delimiter
        assert find_delimiter(text, named_table=False) == delimiter


def test_names_of_two_words_are_a_doubtful_header() -> None:
    body = [[f"this is sentence {i}", "joy" if i % 2 else "rage"] for i in range(8)]
    names = ["Kommentar Text", "Bewertung"]
    assert find_header([names, *body])
    assert is_doubtful_header([names, *body])
    assert not is_doubtful_header([["satz", "stimmung"], *body])  # it is surely one
    assert not find_header([["Kommentar Text", "joy"], *body])
    assert not find_header([["Dies ist ein Satz.", "stimmung"], *body])
    assert not find_header([names, *body[:3]])  # of too few rows


def test_one_name_over_texts_is_a_doubtful_header() -> None:
    body = [[f"this is sentence {i}", f"and more of {i}"] for i in range(8)]
    assert is_doubtful_header([["text", "foo"], *body])
    assert not is_doubtful_header([["foo", "bar"], *body])
    assert not is_doubtful_header([["text", "7"], *body])
    assert not is_doubtful_header([["text", "foo"], ["text", "x y"], *body])
    assert not is_doubtful_header([["text", "label"], *body])


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (["when", "load"], True),
        (["", "load"], True),
        (["2021-01-01", "load"], False),
        (["2021-01-01", "NA"], False),
        (["when", "7"], False),
        (["NA", "-"], False),
        (["when", "kW €"], True),
    ],
)
def test_a_header_over_dates_and_numbers(first: list[str], expected: bool) -> None:
    body = [[f"2021-01-{day:02d}", f"{day},5 €"] for day in range(2, 20)]
    assert find_header([first, *body]) is expected
