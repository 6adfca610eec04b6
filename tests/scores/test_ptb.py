"""Tokens of captions: those that the reference scorer's tokenizer gives."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.scores.ptb import ptb_tokens

FIXTURE = json.loads(Path(__file__).with_name("captions.json").read_text("utf-8"))


@pytest.mark.parametrize("case", FIXTURE["tokens"], ids=lambda case: case["text"][:40])
def test_the_tokens_are_the_reference_scorers(case: Any) -> None:
    assert ptb_tokens(case["text"]) == case["tokens"]


def test_a_number_in_two_parts_is_one_token() -> None:
    tokens = ptb_tokens("3 1/2 feet")
    assert tokens == ["3\xa01/2", "feet"]
    assert " ".join(tokens).split() == ["3", "1/2", "feet"]


def test_numerals_that_are_no_digits_stand_apart() -> None:
    assert ptb_tokens("¼ ½ ¾ ⅓ 5⅔") == ["1/4", "1/2", "3/4", "1/3", "5", "2/3"]
    assert ptb_tokens("20m² x₂ ⅛") == ["20m", "²", "x", "₂", "⅛"]


def test_a_period_after_a_letter_stays_unless_a_sentence_begins() -> None:
    assert ptb_tokens("by row B. Then") == ["by", "row", "b", "then"]
    assert ptb_tokens("by row B. then") == ["by", "row", "b.", "then"]
    assert ptb_tokens("by row B.") == ["by", "row", "b."]
    assert ptb_tokens("by row B .") == ["by", "row", "b"]


def test_states_are_short_in_upper_case_alone() -> None:
    assert ptb_tokens("in Mass. and Ill. now") == ["in", "mass.", "and", "ill.", "now"]
    assert ptb_tokens("a mass. and ill. now") == ["a", "mass", "and", "ill", "now"]


def test_a_straight_apostrophe_may_be_a_quotation_mark() -> None:
    assert ptb_tokens("the dog's 'soft' bed") == ["the", "dog", "'s", "soft", "bed"]
    assert ptb_tokens("we'll 'llama") == ["we", "'ll", "llama"]
    assert ptb_tokens("n't isn't ain't") == ["n't", "is", "n't", "ai", "n't"]


def test_accents_may_be_characters_of_their_own() -> None:
    assert ptb_tokens("cafe\u0301s, re\u0301sume\u0301") == [
        "cafe\u0301s",
        "re\u0301sume\u0301",
    ]


@given(st.lists(st.sampled_from(["dog", "A", "Two", "grass", "xyz"]), max_size=8))
def test_plain_words_are_cut_at_blanks(words: list[str]) -> None:
    assert ptb_tokens(" \t".join(words)) == [word.lower() for word in words]
    assert ptb_tokens("\n".join(words)) == [word.lower() for word in words]


@given(
    st.text(st.sampled_from("aB1 .,'’“\"-/&<>()!?:;@#½€\xa0\xad\u0301😀"), max_size=30)
)
def test_any_text_has_tokens_without_blanks_or_capitals(text: str) -> None:
    for token in ptb_tokens(text):
        assert token
        assert token == token.lower()
        assert not set(token) & set(" \xad😀")
    assert ptb_tokens(text + "  ") == ptb_tokens(text)
    assert ptb_tokens("  " + text) == ptb_tokens(text)


@pytest.mark.parametrize(
    "part", ["a,", " ", "a-", "<a ", "e'e", "5 ", "x.", "\u3000", "&"]
)
def test_the_time_grows_as_the_text(part: str) -> None:
    def seconds(count: int) -> float:
        text = "dog " + part * count
        start = time.process_time()
        assert ptb_tokens(text)[0] == "dog"
        return time.process_time() - start

    # were the rest read again at each token, a text of ten times the length would take a hundred
    short = min(seconds(3_000) for _ in range(3))
    long = min(seconds(30_000) for _ in range(3))
    assert long < 40 * short + 0.01
