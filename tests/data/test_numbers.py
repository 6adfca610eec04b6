"""Numbers as people write them: marks of several countries, units, signs, scripts, what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.data.numbers import (
    are_numbers,
    decimal_mark,
    is_doubtful,
    is_missing,
    number,
)

NARROW = "\u202f"
HARD = "\u00a0"  # a blank at which no line ends


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("7", 7),
        (" -3.5 ", -3.5),
        ("+.5", 0.5),
        ("1.", 1),
        ("007", 7),
        ("1.5E-3", 0.0015),
        ("1,234.50", 1234.5),
        ("1,234,567", 1234567),
        ("1'234.5", 1234.5),
        ("1\u2019234.50", 1234.5),
        ("12 345 678", 12345678),
        (f"1{HARD}234.5", 1234.5),
        (f"1{NARROW}234,5", 1234.5),
        ("1,23,456.78", 123456.78),  # as India groups digits
        ("12,34,567", 1234567),
        ("1.234.567,8", 1234567.8),
        ("0,123", 0.123),
        ("1,5", 1.5),
        ("1,5e3", 1500),
        (",5", 0.5),
    ],
)
def test_groups_and_decimals(cell: str, expected: float) -> None:
    assert number(cell) == expected
    assert number(cell, ",") == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("12%", 12),
        ("-1.5 %", -1.5),
        ("$1,234.5", 1234.5),
        ("-$5", -5),
        ("$-5", -5),
        ("€ 1.234,56", 1234.56),
        ("1.234,56 €", 1234.56),
        ("₩12,000", 12000),
        ("12,000원", 12000),
        ("1,200円", 1200),
        ("US$ 5", 5),
        ("HK$1,200.50", 1200.5),
        ("R$ 1.234,56", 1234.56),
        ("CHF 1'234.50", 1234.5),
        ("5 EUR", 5),
        ("5,50 zł", 5.5),
        ("Rs. 500", 500),
        ("(3)", -3),
        ("($ 1,234.5)", -1234.5),
        ("\u22125", -5),
        ("- 5", -5),
    ],
)
def test_units_and_signs(cell: str, expected: float) -> None:
    assert number(cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("１２３", 123),
        ("１，２３４．５", 1234.5),
        ("٣٫٥", 3.5),
        ("-۱۲", -12),
        ("१२३", 123),
        ("٤٢ %", 42),
    ],
)
def test_digits_of_other_scripts(cell: str, expected: float) -> None:
    assert number(cell) == expected


@pytest.mark.parametrize(
    "cell",
    [
        *("12_3", "0x1", "1e", "--1", ".", "1,,2", "1,2,3", "12,345,67", "1 2"),
        *("5 kg", "ABC 5", "1/2", "12:30", "2021-01-02", "1-2", "inf", "nan", "1e400"),
        *("5²", "½", "Ⅳ", "five", "", "-", "$ " + "1" * 99, "3 of 4"),
        *(True, None, [1], {"a": 1}, float("inf"), float("nan")),
    ],
)
def test_no_numbers(cell: object) -> None:
    assert number(cell) is None


def test_one_group_of_three_is_read_by_the_mark_of_its_column() -> None:
    assert (number("1,234"), number("1,234", ",")) == (1234, 1.234)
    assert (number("1.234"), number("1.234", ",")) == (1.234, 1234)
    assert is_doubtful("$ 1,234")
    assert is_doubtful("-1.234")
    for cell in ("1234", "0,123", "1,234,567", "1,23", "01,234", 1.234, None):
        assert not is_doubtful(cell)


@pytest.mark.parametrize(
    ("cells", "mark"),
    [
        (["1,234", "0,5"], ","),
        (["1,234", "0.5"], "."),
        (["1.234", "1.234.567"], ","),
        (["1,234", "1,234,567"], "."),
        (["1.234", "12,5 %", "n/a"], ","),
        (["1,5", "2,5", "3.5"], ","),  # most of them tell
        (["1,234", "2,345", "7", "a, b", 1.5, None], "?"),
        ([f"1{HARD}234,5", f"2{HARD}000"], ","),
    ],
)
def test_a_column_tells_its_decimal_mark(cells: list[object], mark: str) -> None:
    assert decimal_mark(cells, "?") == mark


@pytest.mark.parametrize(
    "cell",
    [
        *("", " ", HARD, "NA", "n/a", "N.A.", "NaN", "<NA>", "NaT", "null", "None"),
        *("#N/A", "#VALUE!", "#DIV/0!", ".", "..", "-", "--", "—", "?", "*", "\\N"),
        *("missing", "결측", None, float("nan")),
    ],
)
def test_marks_of_what_is_missing(cell: object) -> None:
    assert is_missing(cell)
    assert number(cell) is None


@pytest.mark.parametrize("cell", ["0", "no", "a", "-1", 0, 0.0, False, [], "five"])
def test_what_is_not_missing(cell: object) -> None:
    assert not is_missing(cell)


def test_a_column_of_numbers_may_have_a_few_exceptions() -> None:
    assert are_numbers(["1", "NA", "-", ""])
    assert are_numbers([*["1"] * 9, "twelve"])
    assert not are_numbers([*["1"] * 8, "twelve"])
    assert not are_numbers(["NA", ""])
    assert not are_numbers([])


numbers = st.decimals(-(10**9), 10**9, places=2, allow_nan=False)


@given(value=numbers, group=st.sampled_from([",", " ", "'", HARD, NARROW, ""]))
def test_what_a_country_of_points_writes(value: object, group: str) -> None:
    text = f"{value:,.2f}"
    assert number(text.replace(",", group)) == float(f"{value:.2f}")


@given(value=numbers, group=st.sampled_from([".", " ", "'", HARD, NARROW, ""]))
def test_what_a_country_of_commas_writes(value: object, group: str) -> None:
    text = f"{value:,.2f}".replace(".", ";").replace(",", group).replace(";", ",")
    assert number(text, ",") == float(f"{value:.2f}")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_writes(value: float) -> None:
    assert number(repr(value)) == value
    assert number(value) == value


@given(st.text(max_size=12))
def test_any_text_is_a_finite_number_or_none(cell: str) -> None:
    for mark in ".,":
        value = number(cell, mark)
        assert value is None or abs(value) < float("inf")
