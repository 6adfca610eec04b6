"""Characters as tokenizers count them: jamo as NFD takes them apart, letters for all bytes."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from unrolled.text.characters import byte_letters, code_points, valid_text

syllables = st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)


@given(st.text(st.one_of(syllables, st.sampled_from("a1ㄱ\u1100\u11a8\ud7a4\uabff😀"))))
def test_syllables_are_taken_apart_as_nfd_does(text: str) -> None:
    apart = "".join(map(chr, code_points(text, jamo=True).tolist()))
    assert apart == unicodedata.normalize("NFD", text)
    assert "".join(map(chr, code_points(text, jamo=False).tolist())) == text


def test_every_syllable_is_taken_apart() -> None:
    text = "".join(map(chr, range(0xAC00, 0xD7A4)))
    apart = "".join(map(chr, code_points(text, jamo=True).tolist()))
    assert apart == unicodedata.normalize("NFD", text)


def test_other_letters_with_marks_stay_whole() -> None:
    assert code_points("é가", jamo=True).tolist() == [0xE9, 0x1100, 0x1161]


def test_bytes_have_letters_of_their_own() -> None:
    letters = byte_letters()
    assert sorted(letters) == list(range(256))
    assert len(set(letters.values())) == 256
    assert all(len(letter) == 1 and letter.isprintable() for letter in letters.values())
    assert letters[ord("a")] == "a"
    assert letters[ord(" ")] == "Ġ"  # as GPT-2 writes it


def test_halves_of_pairs_are_replaced() -> None:
    assert valid_text("a\ud800b\udfff😀") == "a\ufffdb\ufffd😀"
    assert valid_text("plain 한국") == "plain 한국"
