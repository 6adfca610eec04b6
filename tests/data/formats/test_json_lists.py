"""Rows that are JSON lists: one a line, or all of them in one list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError, UsageError
from unrolled.data.json_values import composed
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import parse_row, read

ROWS = [[f"a film number {row}", ["pos", "neg"][row % 2], row / 2] for row in range(20)]
EXPECTED = [tuple(row) for row in ROWS]
LINES = list(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n".join(LINES), 1),
        ("\r\n".join(LINES), 1),
        ("\n\n".join(LINES), 1),
        (",\n".join([*LINES, ""]), 1),
        ("[\n" + ",\n".join(LINES) + "\n]\n", 2),
        ("[" + ",\n ".join(LINES) + "]\n", 1),
        ("[" + ",\n ".join([*LINES, ""]) + "]\n", 1),
        (json.dumps(ROWS), 1),
        (json.dumps(ROWS, indent=2), 2),
        ("\ufeff" + json.dumps(ROWS), 1),
    ],
)
@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.txt"])
def test_lists_a_line_and_lists_in_a_list(
    write: Any, text: str, line: int, name: str
) -> None:
    dataset = table(write(text, name))
    assert dataset.format.kind == "json_lists"
    assert dataset.columns == ["column1", "column2", "column3"]
    assert (dataset.rows, dataset.lines[0]) == (EXPECTED, line)


def test_a_header(write: Any) -> None:
    header = json.dumps(["text", "label", "length"])
    for text in ("\n".join([header, *LINES]), f"[{','.join([header, *LINES])}]"):
        dataset = table(write(text))
        assert dataset.columns == ["text", "label", "length"]
        assert dataset.rows == EXPECTED
    assert not table(write("\n".join([header, *LINES])), header=False).format.header
    assert table(write("\n".join(LINES)), header=True).columns[1] == "pos"


def test_lists_of_words_and_tags(write: Any) -> None:
    rows = [[["Kim", "runs"], ["N", "V"]], [["It", "rains", "."], ["N", "V", "."]]] * 5
    for text in (
        "\n".join(map(json.dumps, rows)),
        json.dumps(rows),
        json.dumps(rows, indent=1),
    ):
        dataset = table(write(text, "d.json"))
        assert dataset.rows == [tuple(row) for row in rows]
        assert infer(dataset, ColumnHints()).task == "tag"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('["a", "b"]', "expected 3 fields, found 2"),
        ('["a", {"name": "b"}, 1]', "column2 holds an object"),
        ('["a", "b", 1', "not valid JSON"),
        ('{"a": 1}', "a JSON dict where a list is expected"),
    ],
)
def test_a_row_of_another_form_is_named(write: Any, line: str, message: str) -> None:
    path = write("\n".join([*LINES[:3], line, *LINES[3:]]))
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.line == 4
    assert table(path, on_error="skip").rows == EXPECTED


def test_a_list_of_lists_that_goes_wrong(write: Any) -> None:
    for text, message in (
        (f"[{LINES[0]},\n{LINES[1]}", "has no end"),
        (f"[{LINES[0]},\n7]", "'7' where an array holds lists alone"),
        (f'[{LINES[0]},\n{{"a": [1]}}]', "where an array holds lists alone"),
        (f"[{LINES[0]}\n{LINES[1]}]", "where an array holds lists alone"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read(write(text, "d.json"))
        assert caught.value.line == 2


def test_a_row_by_itself(write: Any) -> None:
    dataset = table(write("\n".join(LINES)))
    parts = (dataset.format, dataset.columns)
    assert parse_row('["a film"]', *parts) == ("a film",)
    for row in ('["a", "b", 1, 2]', "a film", '{"a": 1}'):
        with pytest.raises(UsageError, match="row"):
            parse_row(row, *parts)


letters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
cells = st.none() | st.booleans() | st.integers(-99, 99) | st.text(letters, max_size=6)
cells |= st.lists(st.just('a "]}{[\\'), max_size=2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.just("x"), cells, cells), min_size=2, max_size=6),
    indent=st.sampled_from([None, 0, 3]),
)
def test_both_forms_hold_the_same(
    write: Any, rows: list[Any], indent: int | None
) -> None:
    lines = write("\n".join(map(json.dumps, rows)), "lines.json")
    array = write(json.dumps(rows, indent=indent), "array.json")
    expected = table(lines, header=False).rows
    assert expected == [tuple(map(composed, row)) for row in rows]
    assert table(array, header=False).rows == expected
