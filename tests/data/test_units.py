"""Amounts: numbers with a unit or a factor behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import table
from unrolled.data.columns import look
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.units import FACTORS, amount, is_unit, marks_in, unit_of, units_in

UNITS = ["kg", "km/h", "°C", "m²", "GB", "mmHg", "세", "rooms"]


@given(
    values=st.lists(st.integers(-9999, 9999), min_size=10, max_size=40),
    unit=st.sampled_from(UNITS),
    comma=st.booleans(),
)
def test_amounts_of_one_unit_are_their_numbers(
    values: list[int], unit: str, comma: bool
) -> None:
    cells = [f"{value / 4:.2f} {unit}" for value in values]
    if comma:
        cells = [cell.replace(".", ",") for cell in cells]
    name = unit_of(cells)
    mark = "," if comma else "."
    assert [amount(cell, mark, name) for cell in cells] == [v / 4 for v in values]
    assert look("size", cells).numeric


@given(values=st.lists(st.integers(1, 999), min_size=10, max_size=40))
def test_factors_are_multiplied(values: list[int]) -> None:
    factors = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
    names = [list(factors)[value % 4] for value in values]
    cells = [f"${v}.5{name}" for v, name in zip(values, names, strict=True)]
    assert unit_of(cells) == FACTORS
    for value, name, cell in zip(values, names, cells, strict=True):
        assert amount(cell, unit=FACTORS) == pytest.approx(
            (value + 0.5) * factors[name]
        )


@pytest.mark.parametrize(
    "cells",
    [
        ["12B", "3M", "7B"],
        ["3M", "5M", "12M"],
        ["4K", "8K"],
        ["12", "7a", "9b", "14"],
        ["12A", "14A", "3A"],
        ["A12", "B7"],
        ["1st", "2nd", "3rd"],
        ["9 AM", "10 AM"],
        ["5 Jan", "7 Jan"],
        ["7 Samurai", "12 Angry Men"],
        ["32B", "34C"],
        ["2h 30m", "1h 5m"],
        ["2021-01-02", "2021-01-03"],
    ],
)
def test_codes_are_no_amounts(cells: list[str]) -> None:
    assert unit_of(cells * 10) == ""
    assert not look("code", cells * 10).numeric


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["70 kg", "NA", "71"], [70, None, 71]),
        (["5 m", "7,5 m"], [5, 7.5]),
        (["12V", "24V"], [12, 24]),
        (["1.37kg", "2 KG"], [1.37, 2]),
        (["1 hr", "2 hours"], [1, 2]),
        (["3만원", "1.5억원"], [30_000, 1.5e8]),
        (["1.2M USD", "300k USD"], [1.2e6, 3e5]),
        (["999", "1.2k", "3.4k"], [999, 1200, 3400]),
        (["$5m", "$3.5m"], [5e6, 3.5e6]),
        (["€1,5 Mrd.", "€200 Mio."], [1.5e9, 2e8]),
        (["300 K", "280 K"], [300, 280]),
    ],
)
def test_amounts(cells: list[str], expected: list[float | None]) -> None:
    unit = unit_of(cells * 10)
    values = [amount(cell, unit=unit) for cell in cells]
    assert values == [None if e is None else pytest.approx(e) for e in expected]


def test_a_cell_in_another_unit_is_no_number_of_its_column() -> None:
    cells = [*["70 kg"] * 30, "150 lb"]
    assert unit_of(cells) == "kg"
    assert amount("150 lb", unit="kg") is None


def test_several_units_are_named() -> None:
    assert units_in(["70 kg", "154 lb", "71 kg"] * 5) == ["kg", "lb"]
    assert units_in(["3 days", "2 weeks"] * 5) == ["day", "week"]
    assert units_in(["70 kg"] * 5) == []
    assert units_in(["a film", "another"] * 5) == []
    assert marks_in(["$5", "€6"]) == ["$", "€"]
    assert marks_in(["5%", "0.5"]) == ["%", "none"]
    assert marks_in(["5%", "6%"]) == []


def test_units_by_name() -> None:
    assert all(map(is_unit, ["°C", "kg", "%", "[V]", "(m/s)", "KG"]))
    assert not any(map(is_unit, ["Busan", "12", "", "label"]))


def test_labels_with_a_word_behind_stay_labels(tmp_path: object) -> None:
    rows = "".join(f"a film of {n},{n % 5 + 1} stars\n" for n in range(30))
    path = f"{tmp_path}/stars.csv"
    with open(path, "w") as file:
        file.write("text,stars\n" + rows)
    schema = infer(table(path), ColumnHints())
    assert (schema.task, schema.answer, schema.units) == ("classify", "stars", ())
