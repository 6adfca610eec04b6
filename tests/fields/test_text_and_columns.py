"""Texts with other columns beside them: checked, encoded and saved as each part by itself is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell, MissingCell
from unrolled.fields.inputs import read_input
from unrolled.fields.text import Text
from unrolled.fields.text_and_columns import TextAndColumns
from unrolled.fields.vector import Vector
from unrolled.text.tokenizers import Tokenizer

SCHEMA = Schema("", numbers=("size",), categories=("city",))
ROWS: list[tuple[Any, ...]] = [
    ("a fine house", 30, "Seoul"),
    ("a damp flat in the old town", 12, "Busan"),
    ("", 25, "Seoul"),
    ("a flat", "NA", "Busan"),
]


def field(missing: Any = "median") -> TextAndColumns:
    texts = [row[0] for row in ROWS]
    tokenizer = Tokenizer.fit("words", texts, 100, 1)
    text = Text(("note",), tokenizer, 512, characters=True)
    vector = Vector.fit(SCHEMA, [row[1:] for row in ROWS], missing)
    return TextAndColumns(text, vector)


def test_each_part_is_what_it_is_by_itself() -> None:
    both = field()
    assert both.columns == ("note", "size", "city")
    assert both.tokenizer is both.text.tokenizer
    lines = np.array([2, 3, 4, 5])
    checked = [both.check(row) for row in ROWS]
    examples = both.examples(checked, lines)
    texts = both.text.examples([both.text.check(row[:1]) for row in ROWS], lines)
    vectors = [both.vector.check(row[1:]) for row in ROWS]
    assert examples.lines.tolist() == lines.tolist()
    assert examples.vectors is not None
    np.testing.assert_array_equal(examples.vectors, np.float32(vectors))
    assert examples.sequences is not None
    assert texts.sequences is not None
    np.testing.assert_array_equal(examples.sequences.flat[:], texts.sequences.flat[:])
    np.testing.assert_array_equal(examples.lengths, texts.lengths)


def test_a_row_to_answer_may_lack_a_number_but_not_hold_another_thing() -> None:
    both = field()
    _, features = both.check_to_predict(("a flat", None, "Jeju"))
    assert features == both.check(("a flat", "?", "Jeju"))[1]
    assert features[1:] == (1.0, 0.0, 0.0)
    assert both.check(("a flat", "big", "Seoul"))[1][1] == 1.0
    with pytest.raises(InvalidCell, match="column 'size' holds 'big'"):
        both.check_to_predict(("a flat", "big", "Seoul"))


def test_what_is_wrong_with_either_part_is_said() -> None:
    with pytest.raises(InvalidCell, match="column 'city' holds"):
        field().check(("a flat", 3, ["Seoul"]))
    with pytest.raises(InvalidCell, match="column 'note' holds"):
        field().check(({"a": 1}, 3, "Seoul"))
    with pytest.raises(MissingCell, match="column 'size' holds no number"):
        field("drop").check(("a flat", "", "Seoul"))


def test_the_field_survives_its_folder(tmp_path: Path) -> None:
    both = field()
    both.save(tmp_path)
    values = json.loads(json.dumps({"kind": both.kind, **both.to_json()}))
    again = read_input(values, tmp_path)
    assert isinstance(again, TextAndColumns)
    assert again.vector == both.vector
    assert [again.check(row) for row in ROWS] == [both.check(row) for row in ROWS]
    ids = [f.tokenizer.encode("a damp house") for f in (again, both)]
    assert ids[0] == ids[1]
