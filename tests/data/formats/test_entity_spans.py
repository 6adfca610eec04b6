"""Texts with entities by position, as spaCy, doccano and Label Studio write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError, UserError
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import read
from unrolled.data.spans import tagged

TEXT = "Kim lives in New York."
SPANS = [[0, 3, "PER"], [13, 21, "LOC"]]
OBJECTS = [{"start": first, "end": end, "label": name} for first, end, name in SPANS]
WORDS = ["Kim", "lives", "in", "New", "York", "."]
TAGS = ["B-PER", "O", "O", "B-LOC", "I-LOC", "O"]
ROW = {"text": TEXT, "entities": SPANS}


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        {"id": 1, "text": TEXT, "label": SPANS},
        {"text": TEXT, "labels": SPANS, "meta": {"by": "me"}},
        {"text": TEXT, "entities": SPANS[::-1]},
        {"text": TEXT, "spans": OBJECTS},
        {"text": TEXT, "ents": OBJECTS, "tokens": [{"text": "Kim"}]},
        {
            "text": TEXT,
            "label": [span | {"labels": [span["label"]]} for span in OBJECTS],
        },
        {
            "text": TEXT,
            "label": [
                {"start": first, "end": end, "labels": [name]}
                for first, end, name in SPANS
            ],
        },
        [TEXT, {"entities": SPANS}],
    ],
)
def test_programs_and_their_keys(write: Any, row: Any) -> None:
    rows = [row] * 20
    texts = [
        lines(*rows),
        lines(*rows).replace("\n", ",\r\n"),
        json.dumps(rows),
        json.dumps(rows, indent=1),
    ]
    for text in texts:
        dataset = table(write(text, "d.json"))
        assert dataset.columns == ["words", "ner"]
        assert dataset.rows == [(WORDS, TAGS)] * 20
        schema = infer(dataset, ColumnHints())
        assert (schema.task, schema.inputs, schema.answer) == ("tag", ("words",), "ner")


def test_an_array_in_an_object(write: Any) -> None:
    dataset = table(write(json.dumps({"data": [ROW] * 3}, indent=1), "d.json"))
    assert dataset.rows == [(WORDS, TAGS)] * 3


def test_texts_without_entities_may_come_first(write: Any) -> None:
    none = {"text": "It rains", "entities": []}
    dataset = table(write(lines(*[none] * 80, ROW)))
    assert dataset.rows[0] == (["It", "rains"], ["O", "O"])
    assert dataset.rows[-1] == (WORDS, TAGS)
    assert table(write(lines(*[none] * 80))).format.kind == "jsonl"


@pytest.mark.parametrize(
    ("text", "spans", "words", "tags"),
    [
        ("Busan에 산다", [[0, 5, "L"]], ["Busan", "에", "산다"], ["B-L", "O", "O"]),
        ("😀 Kim", [[2, 5, "P"]], ["😀", "Kim"], ["O", "B-P"]),
        ("a b c", [[0, 1, "X"], [2, 3, "X"]], ["a", "b", "c"], ["B-X", "B-X", "O"]),
        ("New York", [[0, 8, "L"]], ["New", "York"], ["B-L", "I-L"]),
        ("New York", [[0, 4, "L"]], ["New", "York"], ["B-L", "O"]),
        ("in New York", [[2, 11, "L"]], ["in", "New", "York"], ["O", "B-L", "I-L"]),
        ("ab", [[0, 1, "X"], [1, 2, "Y"]], ["a", "b"], ["B-X", "B-Y"]),
    ],
)
def test_words_are_cut_where_entities_are(
    text: str, spans: list[Any], words: list[str], tags: list[str]
) -> None:
    assert tagged(text, [tuple(span) for span in spans]) == (words, tags)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": TEXT}, "no list of entities"),
        ({"entities": SPANS}, 'no "text" beside "entities"'),
        ({"text": TEXT, "entities": [[0, 99, "X"]]}, "does not lie in the text of 22"),
        ({"text": TEXT, "entities": [[3, 3, "X"]]}, "does not lie in the text"),
        ({"text": TEXT, "entities": [[0, "3", "X"]]}, "is no entity"),
        ({"text": TEXT, "entities": [["Kim", "PER"]]}, "is no entity"),
        ({"text": TEXT, "entities": [[0, 9, "A"], [4, 12, "B"]]}, "overlap"),
        ({"text": {"a": 1}, "entities": SPANS}, 'no "text"'),
    ],
)
def test_a_row_that_says_something_else_is_named(
    write: Any, row: Any, message: str
) -> None:
    for text in (lines(ROW, ROW, row, ROW), json.dumps([ROW, ROW, row, ROW], indent=0)):
        path = write(text)
        with pytest.raises(DataError, match=message):
            read(path)
        dataset = table(path, on_error="skip")
        assert dataset.rows == [(WORDS, TAGS)] * 3
        assert len(dataset.skipped) == 1
    with pytest.raises(DataError, match=message) as caught:
        read(write(lines(ROW, ROW, row, ROW)))
    assert caught.value.line == 3


@given(
    words=st.lists(st.text("abc가😀.", min_size=1, max_size=4), min_size=1, max_size=8),
    data=st.data(),
)
def test_whole_words_get_the_tags_of_their_entities(
    words: list[str], data: st.DataObject
) -> None:
    starts = [sum(map(len, words[:index])) + index for index in range(len(words))]
    tags: list[str] = []
    spans = []
    while len(tags) < len(words):
        first = len(tags)
        length = data.draw(st.integers(1, len(words) - first))
        name = data.draw(st.sampled_from(["PER", "LOC", ""]))
        tags += [
            f"{mark}-{name}" if name else "O" for mark in ["B", *"I" * (length - 1)]
        ]
        last = len(tags) - 1
        if name:
            spans.append((starts[first], starts[last] + len(words[last]), name))
    assert tagged(" ".join(words), spans) == (words, tags)


def test_entities_within_each_other_have_no_tags() -> None:
    with pytest.raises(UserError, match="overlap"):
        tagged("New York", [(0, 8, "LOC"), (4, 8, "NAME")])
