"""Words: lists of them, a vocabulary of the frequent ones, and how each is spelt."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from fields.cells import nested
from unrolled.core.errors import DataError
from unrolled.fields.base import WORDS, InvalidCell
from unrolled.fields.words import Words, words_of
from unrolled.text.tokenizers import Tokenizer

CHARS = Tokenizer.fit("chars", ["abcdef 한국"])


def test_words_are_a_list_or_text_with_blanks_between() -> None:
    field = Words("w", (), None, 3)
    assert field.check([["a b", "c"]]) == ["a b", "c"]
    assert field.check([" ab  c "]) == ["ab", "c"]
    for empty in ("", " ", None, []):
        with pytest.raises(InvalidCell, match="column 'w' holds no word"):
            field.check([empty])
    with pytest.raises(InvalidCell, match=r"4 words and data.max_tokens is 3"):
        field.check(["a b c d"])


def test_words_that_are_typed_in_pieces_read_like_a_file() -> None:
    whole = "한국 é"
    pieces = unicodedata.normalize("NFD", whole)
    assert pieces != whole
    field = Words("w", (), None, None)
    assert field.check([pieces]) == field.check([pieces.split()]) == whole.split()


def test_words_are_known_from_their_second_time_on_and_spelt_once_each() -> None:
    rows = [["ab", "c", "ab"], ["c", "d", "ab"]]
    field = Words.fit("w", rows, 100, 2, "chars", None)
    assert (field.known, field.size) == (("ab", "c"), 4)
    indices, spellings = field.encode([["d", "ab", "d"], ["dac"]])
    assert spellings is not None
    assert indices.flat.tolist() == [0, 1, 0, 2]
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


@given(nested)
def test_words_are_words(cell: Any) -> None:
    plain = (str, int, float)
    fits = isinstance(cell, plain) and not isinstance(cell, bool)
    fits |= cell is None or (
        isinstance(cell, list) and all(isinstance(c, plain) for c in cell)
    )
    if fits:
        assert all(isinstance(word, str) for word in words_of("w", cell, "word"))
    else:
        with pytest.raises(InvalidCell, match="where a word is expected"):
            words_of("w", cell, "word")


@pytest.mark.parametrize("tokenizer", [None, "chars"])
def test_words_are_saved_with_what_spells_them(
    tmp_path: Path, tokenizer: str | None
) -> None:
    rows = [["ab", "c", "ab"], ["d"]]
    field = Words.fit("w", rows, 100, 1, tokenizer, 9)
    field.save(tmp_path)
    values = json.loads(json.dumps(field.to_json()))
    again = Words.from_json(values, tmp_path)
    assert (again.column, again.known, again.max_words) == ("w", field.known, 9)
    ids, spellings = again.encode(rows)
    saved_ids, saved_spellings = field.encode(rows)
    assert ids.flat.tolist() == saved_ids.flat.tolist()
    assert (spellings is None) == (saved_spellings is None) == (tokenizer is None)
    if spellings is not None and saved_spellings is not None:
        assert spellings.pieces.flat.tolist() == saved_spellings.pieces.flat.tolist()


def test_a_list_of_words_that_was_changed_is_refused(tmp_path: Path) -> None:
    values = {"column": "w", "max_words": None, "spelt": False}
    (tmp_path / WORDS).write_text('["a", 5]')
    with pytest.raises(DataError, match="no list of words that unrolled saved"):
        Words.from_json(values, tmp_path)
    (tmp_path / WORDS).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        Words.from_json(values, tmp_path)
