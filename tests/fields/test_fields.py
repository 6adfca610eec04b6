"""Fields: what they learn, encode and give back, and what they say of a cell that does not fit."""

from __future__ import annotations

import itertools
import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.core.errors import UserError
from unrolled.data.schema import label
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.label import Label
from unrolled.fields.number import Number
from unrolled.fields.text import Text
from unrolled.fields.vector import Vector
from unrolled.fields.words import Words
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
    found = text("a", "b", cut=2).code_points([("한b", "c"), ("", ""), ("x" * 99, "")])
    rows = [found.flat[a:b].tolist() for a, b in itertools.pairwise(found.offsets)]
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


def test_words_are_a_list_or_text_with_blanks_between() -> None:
    field = Words("w", (), None, 3)
    assert field.check([["a b", "c"]]) == ["a b", "c"]
    assert field.check([" ab  c "]) == ["ab", "c"]
    for empty in ("", " ", None, []):
        with pytest.raises(InvalidCell, match="column 'w' holds no word"):
            field.check([empty])
    with pytest.raises(InvalidCell, match=r"4 words and data.max_tokens is 3"):
        field.check(["a b c d"])


def test_what_is_typed_in_pieces_reads_like_a_file() -> None:
    pieces = unicodedata.normalize("NFD", "한국 é")
    whole = "한국 é"
    assert pieces != whole
    assert text("a").check([pieces]) == text("a").check([whole]) == (whole,)
    field = Words("w", (), None, None)
    assert field.check([pieces]) == field.check([pieces.split()]) == whole.split()


def test_words_are_known_from_their_second_time_on_and_spelt_once_each() -> None:
    rows = [["ab", "c", "ab"], ["c", "d", "ab"]]
    field = Words.fit("w", rows, 100, 2, "chars", None)
    assert (field.known, field.size) == (("ab", "c"), 4)
    places, spellings = field.encode([["d", "ab", "d"], ["dac"]])
    assert spellings is not None
    assert places.flat.tolist() == [0, 1, 0, 2]
    assert spellings.ids.tolist() == [1, 2, 1]  # unknown, the first known, unknown
    chars = field.tokenizer
    assert chars is not None
    begin = chars.bos_id
    end = chars.eos_id
    spelt = [[begin, *chars.encode(word), end] for word in ("d", "ab", "dac")]
    assert spellings.pieces.flat.tolist() == [id for word in spelt for id in word]
    assert spellings.pieces.lengths.tolist() == [3, 4, 5]


def test_words_that_are_not_spelt_are_ids() -> None:
    field = Words.fit("w", [["b", "a", "b"], ["c"]], 4, 1, None, None)
    assert field.known == (
        "b",
        "a",
    )  # as many as the vocabulary holds: two after the specials
    ids, spellings = field.encode([["a", "c", "b"]])
    assert spellings is None
    assert ids.flat.tolist() == [3, 1, 2]


def test_an_endless_word_keeps_its_ends_and_an_empty_one_a_place() -> None:
    _, spellings = Words("w", (), CHARS, None).encode([["a" * 40 + "b" * 40, ""]])
    assert spellings is not None
    begin = CHARS.bos_id
    end = CHARS.eos_id
    assert spellings.pieces.lengths.tolist() == [66, 2]
    spelt = [begin, *CHARS.encode("a" * 32 + "b" * 32), end, begin, end]
    assert spellings.pieces.flat.tolist() == spelt


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "9", "2", "9"], ("2", "9", "10")),
        ([10, 9.0, 2], ("2", "9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        ([True, False], ("false", "true")),
        (["x ", "x"], ("x",)),
        (["", "a", None, " "], ("a",)),
    ],
)
def test_labels_are_ordered_as_numbers_or_as_words(
    values: list[object], names: tuple[str, ...]
) -> None:
    assert Label.fit("y", values).names == names


def test_json_and_csv_write_the_same_label() -> None:
    assert [label(cell) for cell in (1, 1.0, "1", " 1 ", True, None)] == [
        "1",
        "1",
        "1",
        "1",
        "true",
        "",
    ]


@pytest.mark.parametrize("empty", ["", " ", None])
def test_an_empty_label_is_none_of_the_names(empty: str | None) -> None:
    field = Label.fit("y", ["a", empty, "b"])
    with pytest.raises(InvalidCell, match="column 'y' holds no label"):
        field.check(empty)
    with pytest.raises(UserError, match="column 'y' holds no label"):
        Label.fit("y", [empty])


def test_a_label_that_training_did_not_see_names_the_known_and_the_nearest() -> None:
    field = Label.fit("y", ["positive", "negative"])
    assert [field.check(name) for name in ("negative", "positive")] == [0, 1]
    with pytest.raises(InvalidCell) as caught:
        field.check("positiv")
    told = str(invalid_row(caught.value, "test.csv", 7))
    assert told.startswith("test.csv:7: label 'positiv' was not seen in training ")
    assert "(known: negative, positive); did you mean 'positive'?" in told
    assert told.endswith("mend the row, or set data.on_error=skip")


def test_a_number_is_scaled_and_comes_back() -> None:
    values = [1.0, 2.0, 6.0, 7.5]
    field = Number.fit("x", values)
    scaled = np.array([field.check(value) for value in values])
    assert scaled.mean() == pytest.approx(0, abs=1e-12)
    assert scaled.std() == pytest.approx(1)
    np.testing.assert_allclose(field.decode(scaled), values, rtol=1e-12)


def test_a_constant_column_does_not_divide_by_nothing() -> None:
    field = Number.fit("x", [5, 5])
    assert field.check(5) == 0
    assert field.check(6) == 1


def test_answers_are_whole_where_training_saw_only_whole_numbers() -> None:
    assert Number.fit("x", ["1", "2", "40"]).show(41.7) == "42"
    assert Number.fit("x", ["1", "2.5"]).show(41.75) == "41.75"


@pytest.mark.parametrize("cell", ["x", "", None, "nan", "1,000", [1], True])
def test_a_cell_that_is_no_number_is_named_with_its_column(cell: object) -> None:
    with pytest.raises(
        InvalidCell, match=r"column 'x' holds .* where a number is expected"
    ):
        Number.fit("x", [1, 2]).check(cell)
    with pytest.raises(
        InvalidCell, match=r"column 'b' holds .* where a number is expected"
    ):
        Vector.fit(("a", "b"), [(1, 2), (3, 5)]).check([1, cell])


def test_a_column_without_any_number_is_refused() -> None:
    with pytest.raises(UserError, match="column 'x' holds no number"):
        Number.fit("x", ["a", ""])


def test_a_vector_scales_each_column_by_itself() -> None:
    rows = [(1, 100), (2, 300), (3, 800)]
    field = Vector.fit(("a", "b"), rows)
    scaled = np.array([field.check(row) for row in rows])
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(0), 1)


@pytest.mark.parametrize(
    "field",
    [
        Label.fit("y", ["a", "b"]),
        Number.fit("x", [1, 2.5]),
        Vector.fit(("a", "b"), [(1, 2), (3, 5)]),
    ],
)
def test_what_a_field_learnt_survives_json(field: Label | Number | Vector) -> None:
    told = json.loads(json.dumps(field.to_json()))
    read = {key: tuple(v) if isinstance(v, list) else v for key, v in told.items()}
    assert type(field)(**read) == field
    assert replace(field) == field
