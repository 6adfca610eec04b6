"""Rows of units and of groups around the names of columns."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError


def rows_of(names: int, count: int = 30) -> list[str]:
    source = random.Random(0)
    rows = []
    for number in range(count):
        rows.append(
            ",".join([f"c{number}", *(str(source.random()) for _ in range(names))])
        )
    return rows


@given(
    units=st.lists(
        st.sampled_from(["°C", "kg", "%", "[V]", "(m/s)", ""]), min_size=3, max_size=3
    ).filter(any),
    count=st.integers(2, 30),
)
def test_a_row_of_units_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, units: list[str], count: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "units.csv"
    lines = ["time,temp,mass,share", ",".join(["", *units]), *rows_of(3, count)]
    path.write_text("\n".join(lines), encoding="utf-8")
    dataset = table(path)
    assert dataset.columns == ["time", "temp", "mass", "share"]
    assert (len(dataset.rows), dataset.lines[0]) == (count, 3)
    (warning,) = dataset.warnings
    assert (warning.line, "line 2 holds units" in warning.message) == (2, True)


@pytest.mark.parametrize(
    "groups", [",2019,2019,2020,2020", ",2019,,2020,", "info,2019,2019,2020,2020"]
)
def test_groups_are_joined_to_names(tmp_path: Path, groups: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("\n".join([groups, "city,sales,cost,sales,cost", *rows_of(4)]))
    dataset = table(path)
    assert dataset.columns[1:] == ["2019 sales", "2019 cost", "2020 sales", "2020 cost"]
    assert dataset.columns[0].endswith("city")
    assert (len(dataset.rows), dataset.lines[0]) == (30, 3)
    assert "lines 1 and 2 both name the columns" in dataset.warnings[0].message


def test_a_repeated_name_alone_is_no_group(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    lines = [f"a good film {n},so fine {n},pos" for n in range(30)]
    path.write_text("\n".join(["text,text,label", *lines]))
    assert table(path).columns == ["text", "text_2", "label"]


def test_a_value_that_is_a_unit_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "values.csv"
    lines = [f"{n},{'kg' if n % 2 else 'g'},pos" for n in range(30)]
    path.write_text("\n".join(["amount,unit,label", *lines]))
    assert len(table(path).rows) == 30


def test_a_header_that_stands_there_again_is_named(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    part = ["name,price", *(f"a{n},{n}" for n in range(10))]
    path.write_text("\n".join([*part, "", *part]))
    with pytest.raises(
        DataError, match=":13: the names of the columns stand here again"
    ):
        table(path)


def test_tables_of_several_widths_are_said(tmp_path: Path) -> None:
    path = tmp_path / "several.csv"
    first = ["name,price", *(f"a{n},{n}" for n in range(10))]
    second = ["city,area,rooms", *(f"b{n},{n},3" for n in range(10))]
    path.write_text("\n".join([*first, "", *second]))
    (warning,) = table(path).warnings
    assert (warning.line, "not equally many" in warning.message) == (13, True)
