"""Texts: end marks, cuts, several columns, code points."""

from __future__ import annotations

import itertools
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.fields.base import InvalidCell
from unrolled.fields.text import Text
from unrolled.text.tokenizers import Tokenizer

CHARS = Tokenizer.fit("chars", ["abcdef 한국"])
END = CHARS.eos_id


def text(*columns: str, cut: int | None = None) -> Text:
    return Text(columns, CHARS, cut)


def test_a_text_ends_with_the_end_mark_and_decodes_to_itself() -> None:
    (ids,) = text("a").encode([("한 bad",)])
    assert ids[-1] == END
    assert CHARS.decode(ids[:-1]) == "한 bad"


def test_an_empty_text_is_a_value() -> None:
    field = text("a", "b")
    assert field.check(["", None]) == ("", "")
    assert field.encode([("", "")]) == [[END, END]]


def test_several_columns_stand_one_after_another_each_with_its_end() -> None:
    field = text("a", "b")
    (both,) = field.encode([("ab", "c")])
    assert both == [*CHARS.encode("ab"), END, *CHARS.encode("c"), END]
    assert field.encode([("ab", "c"), ("", "f")])[1] == [END, *CHARS.encode("f"), END]


def test_code_points_are_those_of_the_texts_and_as_many_as_the_tokens_allow() -> None:
    code_points = text("a", "b", cut=2).code_points(
        [("한b", "c"), ("", ""), ("x" * 99, "")]
    )
    rows = [
        code_points.flat[a:b].tolist()
        for a, b in itertools.pairwise(code_points.offsets)
    ]
    assert rows == [[0xD55C, ord("b"), 0x1F, ord("c")], [0x1F], [ord("x")] * 16]


@given(st.text("abcdef", max_size=12), st.integers(2, 9))
def test_max_tokens_cuts_the_end_of_the_text_and_keeps_the_end_mark(
    word: str, cut: int
) -> None:
    (ids,) = text("a", cut=cut).encode([(word,)])
    assert len(ids) <= cut
    assert ids == [*CHARS.encode(word[: cut - 1]), END]


def test_numbers_in_a_text_column_are_text_and_lists_are_not() -> None:
    assert text("a").check([3.5]) == ("3.5",)
    with pytest.raises(
        InvalidCell, match=r"column 'a' holds \['x'\] where text is expected"
    ):
        text("a").check([["x"]])


def test_what_is_typed_in_pieces_reads_like_a_file() -> None:
    pieces = unicodedata.normalize("NFD", "한국 é")
    whole = "한국 é"
    assert pieces != whole
    assert text("a").check([pieces]) == text("a").check([whole]) == (whole,)


@pytest.mark.parametrize("characters", [False, True])
def test_examples_hold_the_tokens_and_the_code_points_where_they_are_read(
    characters: bool,
) -> None:
    field = Text(("a",), CHARS, None, characters)
    rows = [("ab",), ("c",)]
    examples = field.examples(rows, np.array([2, 5]))
    assert examples.lines.tolist() == [2, 5]
    assert examples.lengths.tolist() == [3, 2]
    if characters:
        assert examples.characters is not None
        assert examples.characters.flat.tolist() == [ord(c) for c in "abc"]
    else:
        assert examples.characters is None


def test_a_text_field_is_saved_with_its_vocabulary(tmp_path: Path) -> None:
    field = Text(("a", "b"), CHARS, 7, True)
    field.save(tmp_path)
    values = json.loads(json.dumps(field.to_json()))
    again = Text.from_json(values, tmp_path)
    assert (again.columns, again.max_tokens, again.characters) == (("a", "b"), 7, True)
    rows = [("abc 한", "fed")]
    assert again.encode(rows) == field.encode(rows)
