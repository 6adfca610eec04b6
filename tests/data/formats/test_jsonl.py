"""JSON lines: types and order as they are written, and errors that name the line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataError, UserError
from unrolled.data.columns import look
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import read
from unrolled.fields.frames import Frames
from unrolled.fields.series import WindowSpec


def test_jsonl_keeps_types_and_order(write: Any) -> None:
    rows = [
        {"tokens": ["나", "는"], "n": 1, "ok": True},
        {"n": 2.5, "tokens": [], "ok": None},
    ]
    dataset = table(write("".join(json.dumps(row) + "\n" for row in rows)))
    assert dataset.columns == ["tokens", "n", "ok"]
    assert dataset.rows == [(["나", "는"], 1, True), ([], 2.5, None)]


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
    dataset = table(path, on_error="skip")
    assert dataset.rows == [(1,), (2,), (3,)]
    assert dataset.lines == [1, 4, 5]
    assert len(dataset.skipped) == 1


def test_a_row_to_answer_may_lack_what_is_not_read(write: Any) -> None:
    path = write('{"a": 1, "b": 2}\n{"a": 3}\n{"a": 4, "c": 5}\n{"b": 6}\n')
    with pytest.raises(DataError, match="is missing"):
        read(path)
    dataset = table(path, needed=["a"], on_error="skip")
    assert dataset.columns == ["a", "b", "c"]
    assert dataset.rows == [(1, 2, None), (3, None, None), (4, None, 5)]
    assert [error.line for error in dataset.skipped] == [4]
    with pytest.raises(DataError, match=r"data.txt:4: the key 'a'.* is missing"):
        read(path, needed=["a"])


def test_numbers_beyond_a_float(write: Any) -> None:
    huge = "9" * 400
    path = write(
        f'{{"a": 1e999, "b": [-1e999, 1.5]}}\n{{"a": {huge}, "b": [{huge}]}}\n'
    )
    dataset = table(path)
    assert dataset.rows[0] == (None, [None, 1.5])
    assert [look("a", [row[0]]).numeric for row in dataset.rows] == [False, False]
    with pytest.raises(UserError, match="column 'b' holds no sequence of numbers"):
        Frames.fit(("b",), [row[1:] for row in dataset.rows], WindowSpec())
    assert not table(write(f"{'7' * 5_000},1\n2,3\n")).format.header


def test_json_that_is_no_jsonl(write: Any) -> None:
    with pytest.raises(DataError, match="one object a line"):
        read(write('{\n "a": 1,\n "b": 2\n}\n', "x.json"))


RECORDS = [{"text": f"a film {row}", "label": "ab"[row % 2]} for row in range(9)]


@pytest.mark.parametrize("end", [",\n", ",\r\n", " ,\n", " , \n", "\n\n", ",\n\n"])
def test_commas_behind_rows(write: Any, end: str) -> None:
    for last in (end, "\n"):
        dataset = table(write(end.join(map(json.dumps, RECORDS)) + last))
        assert dataset.format.kind == "jsonl"
        assert dataset.rows == [tuple(row.values()) for row in RECORDS]


def test_keys_that_some_rows_lack_are_optional(write: Any) -> None:
    rows = [row | ({"note": "x"} if n % 3 else {}) for n, row in enumerate(RECORDS)]
    dataset = table(write("\n".join(map(json.dumps, rows))))
    assert dataset.columns == ["text", "label", "note"]
    assert dataset.format.optional == ("note",)
    assert [row[2] for row in dataset.rows[:3]] == [None, "x", "x"]


def test_a_key_that_hardly_a_row_lacks_is_missing_there(write: Any) -> None:
    rows = [*RECORDS * 2, {"text": "a film"}]
    with pytest.raises(DataError, match=r":19: the key 'label', which other rows have"):
        read(write("\n".join(map(json.dumps, rows))))


def test_keys_of_objects_stand_behind_dots(write: Any) -> None:
    rows = [
        {
            "doc": {"body": {"text": row["text"]}},
            "label": {"name": row["label"], "id": 1},
            "m": {},
        }
        for row in RECORDS
    ]
    dataset = table(write("\n".join(map(json.dumps, rows))))
    assert dataset.columns == ["doc.body.text", "label.name", "label.id", "m"]
    assert dataset.rows[1] == ("a film 1", "b", 1, {})
    schema = infer(dataset, ColumnHints())
    assert (schema.inputs, schema.answer) == (("doc.body.text",), "label.name")


def test_an_object_where_others_hold_a_text(write: Any) -> None:
    rows = [*RECORDS[:3], {"text": {"a": 1}, "label": "a"}, *RECORDS]
    path = write("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        DataError, match=r":4: column 'text' holds an object, with 'text\.a'"
    ):
        read(path)
    assert len(table(path, on_error="skip").rows) == 12


def test_a_list_without_items_hides_no_text(write: Any) -> None:
    rows = [
        {"text": f"a film of {n}", "label": "ab"[n % 2], "tags": []} for n in range(9)
    ]
    dataset = table(write("\n".join(map(json.dumps, rows))))
    assert infer(dataset, ColumnHints()).inputs == ("text",)
