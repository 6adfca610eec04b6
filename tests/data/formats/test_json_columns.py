"""One JSON object with a table in it, in each of the forms that pandas writes."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import read

ROWS = [(f"a film number {row}", ["pos", "neg"][row % 2]) for row in range(20)]
COLUMNS = ["text", "label"]
RECORDS = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
LISTS = {name: [row[name] for row in RECORDS] for name in COLUMNS}
NUMBERS = list(map(str, range(20)))


def by_row(index: list[str]) -> dict[str, Any]:
    return {name: dict(zip(index, cells, strict=True)) for name, cells in LISTS.items()}


FORMS = {
    "lists": LISTS,
    "orient=columns": by_row(NUMBERS),
    "orient=columns, times": by_row([f"{1609459200000 + row}" for row in range(20)]),
    "orient=columns, names": by_row([f"row {row}" for row in range(20)]),
    "orient=columns, sampled": by_row([f"{7 * row % 20}" for row in range(20)]),
    "orient=index": dict(zip(NUMBERS, RECORDS, strict=True)),
    "orient=index, names": {f"row {n}": row for n, row in enumerate(RECORDS)},
    "orient=split": {"columns": COLUMNS, "index": NUMBERS, "data": ROWS},
    "orient=split, no index": {"columns": COLUMNS, "data": ROWS},
    "orient=table": {"schema": {"fields": [{"name": "text"}]}, "data": RECORDS},
    "with an object": {"meta": {"by": "me"}, "rows": RECORDS},
    "with a list": {"labels": ["pos", "neg"], "rows": RECORDS},
    "two deep": {"data": {"rows": RECORDS}},
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_table(write: Any, form: str, indent: int | None) -> None:
    dataset = table(write(json.dumps(FORMS[form], indent=indent), "d.json"))
    assert (dataset.format.kind, dataset.columns) == ("json_columns", COLUMNS)
    assert dataset.rows == ROWS
    assert dataset.lines == list(range(1, 21))
    schema = infer(dataset, ColumnHints())
    assert (schema.task, schema.inputs, schema.answer) == (
        "classify",
        ("text",),
        "label",
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949"])
def test_encodings_and_packed_files(write: Any, encoding: str) -> None:
    text = json.dumps(
        {"문장": ["좋은 영화", "나쁜 영화"] * 9, "감정": ["+", "-"] * 9},
        ensure_ascii=False,
    )
    content = text.encode(encoding)
    for data in (content, gzip.compress(content)):
        dataset = table(write(data, "d.json"))
        assert dataset.columns == ["문장", "감정"]
        assert dataset.rows == [("좋은 영화", "+"), ("나쁜 영화", "-")] * 9


def test_cells_that_rows_lack_are_missing(write: Any) -> None:
    rows = {
        str(n): row if n % 3 else {"text": row["text"]} for n, row in enumerate(RECORDS)
    }
    dataset = table(write(json.dumps(rows), "d.json"))
    assert dataset.columns == COLUMNS
    assert [row[1] for row in dataset.rows[:3]] == [None, "neg", "pos"]
    columns = by_row(NUMBERS)
    del columns["label"]["4"]
    assert table(write(json.dumps(columns), "d.json")).rows[4] == (ROWS[4][0], None)


def test_objects_in_cells_are_taken_apart(write: Any) -> None:
    names = [{"name": label, "by": {"who": "me"}} for _, label in ROWS]
    split = [[text, name] for (text, _), name in zip(ROWS, names, strict=True)]
    forms: list[Any] = [
        {"text": LISTS["text"], "label": names},
        {"columns": COLUMNS, "data": split},
    ]
    for form in forms:
        dataset = table(write(json.dumps(form), "d.json"))
        assert dataset.columns == ["text", "label.name", "label.by.who"]
        assert dataset.rows[0] == (*ROWS[0], "me")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": ["a b", "c", "d"], "label": ["x", "y"]}, "text has 3, label has 2"),
        (
            {"columns": COLUMNS, "data": [["a", "x"], ["b"]]},
            'row 2 of "data" is no list of 2',
        ),
        (
            {"columns": COLUMNS, "data": RECORDS},
            'row 1 of "data" is no list of 2 fields',
        ),
        ({"text": {"a": 1}, "label": "x"}, "JSON"),
    ],
)
def test_what_is_no_table_is_an_error(write: Any, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(json.dumps(value, indent=1), "d.json"))


def test_a_key_twice_is_an_error(write: Any) -> None:
    with pytest.raises(DataError, match="the key 'a' stands there twice"):
        read(write('{"a": [1, 2], "a": [3, 4], "b": [5, 6]}', "d.json"))


def test_one_row_of_lists_is_a_row(write: Any) -> None:
    row = {"words": ["a", "b"], "tags": ["X", "Y"]}
    assert table(write(json.dumps(row) + "\n", "d.jsonl")).rows == [
        (["a", "b"], ["X", "Y"])
    ]
    text = json.dumps(row) + "\n"
    assert table(write(text * 3, "d.json")).format.kind == "jsonl"
