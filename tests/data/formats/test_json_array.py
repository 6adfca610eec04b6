"""A JSON array of objects is read as the same objects written a line each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unrolled
from conftest import SMALL, reviews, table
from unrolled.core.errors import DataError
from unrolled.data.formats import json_array
from unrolled.data.sources import read, rows_of

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 99)
    | st.text(max_size=6)
    | st.just('a "]}{[\\\\'),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.tuples(values, values), min_size=1, max_size=5),
    indent=st.sampled_from([None, 0, 3]),
    chunk=st.integers(1, 9),
    escaped=st.booleans(),
)
def test_it_reads_what_json_lines_hold(
    tmp_path: Path, rows: list[Any], indent: int | None, chunk: int, escaped: bool
) -> None:
    records = [{"text": first, "label": second} for first, second in rows]
    array = tmp_path / "d.json"
    lines = tmp_path / "d.jsonl"
    array.write_text(json.dumps(records, indent=indent, ensure_ascii=escaped), "utf-8")
    written = "\n".join(json.dumps(row, ensure_ascii=escaped) for row in records)
    lines.write_text(written, "utf-8")

    def rows_in(path: Path) -> Any:
        try:
            return [row for _, row in rows_of(path)]
        except DataError as error:
            return str(error).partition(": ")[2].partition(",")[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK", chunk)
        assert rows_in(array) == rows_in(lines)


def test_lines_are_those_on_which_objects_begin(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('[\n  {"a": 1},\n\n  {\n "a": 2}, {"a": 3}\n]\n', "utf-8")
    dataset = table(path)
    assert (dataset.format.kind, dataset.columns) == ("json_array", ["a"])
    assert dataset.format.describe() == "JSON array, UTF-8"
    assert dataset.rows == [(1,), (2,), (3,)]
    assert dataset.lines == [2, 4, 5]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('[{"a": 1},\n{"a": 2', 2, "has no end"),
        ('[{"a": 1},\n{"a": 2}', 2, "has no end"),
        ('[{"a": 1},\n7]', 2, "'7' where an array holds objects alone"),
        ('[{"a": 1},\n[2]]', 2, "where an array holds objects alone"),
        ('[{"a": 1}\n{"a": 2}]', 2, "where an array holds objects alone"),
        ('[{"a": 1},\n,{"a": 2}]', 2, "where an array holds objects alone"),
        ('[{"a": 1},\n"x"]', 2, "where an array holds objects alone"),
        ('[{"a": 1}]\n[{"a": 2}]', 2, "where an array holds objects alone"),
        ('[{"a": 1}]\nx', 2, "'x' where an array holds objects alone"),
        ('[{"a": 1},\n{"a": 2, "a": 3}]', 2, "the key 'a' stands there twice"),
        (
            '[{"a": 1, "b": 1},\n{"b": 2}]',
            2,
            "the key 'a', which other rows have, is missing",
        ),
        ('[{"a": 1},\n{"a": }]', 2, "not valid JSON"),
        ("[{}]", 1, "no object with a key"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    path = tmp_path / "d.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.line == line


def test_faulty_objects_may_be_left_out_and_long_ones_are_bounded(
    tmp_path: Path,
) -> None:
    path = tmp_path / "d.json"
    path.write_text(
        f'[{{"a": 1}}, {{"a": "{"x" * 5000}"}}, {{"a": }}, {{"a": 4}}]', "utf-8"
    )
    dataset = table(path, on_error="skip", max_row=1000)
    assert dataset.rows == [(1,), (4,)]
    assert "more than 1,000 bytes" in str(dataset.skipped[0])


def test_bytes_that_do_not_decode_and_packed_files(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    text = json.dumps([{"text": "좋아요", "label": "a"}] * 3, ensure_ascii=False)
    path.write_bytes(gzip.compress(text.encode()))
    assert table(path).rows == [("좋아요", "a")] * 3
    for encoding in ("utf-16", "utf-8-sig", "cp949"):
        path.write_bytes(text.encode(encoding))
        assert table(path).rows == [("좋아요", "a")] * 3
    path.write_bytes(text.encode()[:-3] + b"\xff" + text.encode()[-3:])
    with pytest.raises(DataError):
        read(path, encoding="utf-8")


def test_a_run_is_trained_and_scored_on_one(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "reviews.json"
    rows = [{"text": text, "label": label} for text, label in reviews(60, 6)]
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    run = unrolled.train(
        path,
        out=tmp_path / "run",
        quiet=True,
        say=lambda text: None,
        **{**SMALL, "training.max_steps": 5},
    )
    assert "accuracy" in run.evaluate(path)
    assert run.predict([{"text": "a good film"}]) == run.predict(
        ['{"text": "a good film"}']
    )


def test_the_only_object_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"text": "a\0b"}]), "utf-8")
    with pytest.raises(DataError, match=r"d\.json:1: no character \(a NUL"):
        list(rows_of(path))
    path.write_text("[{}, {}]", "utf-8")
    with pytest.raises(DataError, match="holds no object with a key"):
        list(rows_of(path))


RECORDS = [{"text": f"a film {row}", "label": "ab"[row % 2]} for row in range(9)]
ROWS = [("a film 0", "a"), ("a film 1", "b"), ("a film 2", "a")]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "around",
    [
        {"data": RECORDS},
        {"rows": RECORDS, "count": 9},
        {"version": "1.0", "count": 9, "ok": True, "data": RECORDS, "license": "x"},
    ],
)
def test_an_array_in_an_object(write: Any, around: Any, indent: int | None) -> None:
    text = json.dumps(around, indent=indent)
    dataset = table(write(text, "d.json"))
    assert (dataset.format.kind, dataset.columns) == ("json_array", ["text", "label"])
    assert (dataset.rows[:3], len(dataset.rows)) == (ROWS, 9)
    line = text.split('"a film 0"')[0].count("\n")
    assert dataset.lines[0] == (line if indent else 1)


def test_a_row_with_an_array_of_objects_is_no_wrapper(write: Any) -> None:
    row = json.dumps({"data": RECORDS})
    assert table(write(f"{row}\n{row}\n", "d.jsonl")).columns == ["data"]
    assert table(write(f"{row}\n{row}\n", "d.json")).columns == ["data"]


@pytest.mark.parametrize("end", ["},]", "},\n]\n", "} , ]"])
def test_a_comma_behind_the_last_row(write: Any, end: str) -> None:
    text = json.dumps(RECORDS).removesuffix("}]") + end
    assert table(write(text)).rows[:3] == ROWS
    with pytest.raises(DataError, match="an array holds objects alone"):
        read(write(text.replace("},", "},,")))


def test_keys_that_some_objects_lack(write: Any) -> None:
    rows = [row | ({"note": "x"} if n % 3 else {}) for n, row in enumerate(RECORDS)]
    dataset = table(write(json.dumps(rows)))
    assert dataset.columns == ["text", "label", "note"]
    assert [row[2] for row in dataset.rows[:3]] == [None, "x", "x"]
    late = [*RECORDS * 60, *[row | {"note": "x"} for row in RECORDS * 10]]
    assert table(write(json.dumps(late))).rows[-1][2] == "x"


def test_objects_within_objects(write: Any) -> None:
    rows = [
        {
            "doc": {"body": {"text": row["text"]}},
            "label": {"name": row["label"], "id": 1},
        }
        for row in RECORDS
    ]
    dataset = table(write(json.dumps(rows, indent=1)))
    assert dataset.columns == ["doc.body.text", "label.name", "label.id"]
    assert dataset.rows[0] == ("a film 0", "a", 1)


def test_an_object_where_a_text_is_expected(write: Any) -> None:
    rows = [*RECORDS[:3], {"text": {"a": 1}, "label": "a"}, *RECORDS]
    path = write(json.dumps(rows, indent=0))
    with pytest.raises(
        DataError, match=r"column 'text' holds an object, with 'text\.a'"
    ) as caught:
        read(path)
    assert caught.value.line == 14
    assert len(table(path, on_error="skip").rows) == 12
