"""The state machine of required phrases against plain search in text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decoding.fakes import occurs
from unrolled.decoding.phrases import Phrases

PHRASE = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@given(
    st.lists(PHRASE, min_size=1, max_size=3), st.lists(st.integers(1, 3), max_size=12)
)
def test_progress_is_what_the_text_says(
    phrases: list[list[int]], text: list[int]
) -> None:
    machine = Phrases(phrases)
    progress = machine.start
    for token in text:
        progress = machine.advance(progress, token)
    for at, phrase in zip(progress, machine.phrases, strict=True):
        ends = [
            n
            for n in range(len(phrase))
            if n <= len(text) and text[len(text) - n :] == phrase[:n]
        ]
        assert at == (len(phrase) if occurs(phrase, text) else max(ends))


@given(
    st.lists(PHRASE, min_size=1, max_size=3), st.lists(st.integers(1, 3), max_size=8)
)
def test_something_always_brings_a_row_to_a_higher_bank(
    phrases: list[list[int]], text: list[int]
) -> None:
    machine = Phrases(phrases)
    progress = machine.start
    for token in text:
        progress = machine.advance(progress, token)
    bank = machine.bank(progress)
    assert 0 <= bank <= machine.size
    banks = [
        machine.bank(machine.advance(progress, token))
        for token in machine.next_tokens(progress)
    ]
    assert (bank == machine.size) == (not banks)
    assert not banks or max(banks) > bank


def test_a_phrase_named_twice_is_one() -> None:
    assert Phrases([[1, 2], [1, 2], [2]]).size == 3
