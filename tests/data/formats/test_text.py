"""Running text: what is no table, read whole or line by line."""

from __future__ import annotations

from typing import Any

import pytest

from unrolled.data.sources import Document, read, rows_of

ANTHEM = (
    "동해물과 백두산이 마르고 닳도록\n하느님이 보우하사 우리나라 만세\n"
    "무궁화 삼천리 화려 강산\n대한 사람, 대한으로 길이 보전하세\n"
)


PLAY = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
    * 9
)


@pytest.mark.parametrize(
    "text", [ANTHEM, PLAY, "한 줄", "one, two\n", "a; b\nc\n", "(S (NP x))\n"]
)
@pytest.mark.parametrize("name", ["song.txt", "song"])
def test_running_text_is_a_document(write: Any, text: str, name: str) -> None:
    document = read(write(text, name))
    assert isinstance(document, Document)
    assert document.text == text
    assert document.format.describe() == "plain text, UTF-8"


def test_verse_with_one_comma_in_every_line_is_a_document(write: Any) -> None:
    verse = "Roses are red, violets are blue\nSugar is sweet, and so are you\n"
    assert isinstance(read(write(verse)), Document)


def test_running_text_streams_line_by_line(write: Any) -> None:
    path = write("one, two\n\nthree\n")
    assert list(rows_of(path)) == [(1, ("one, two",)), (2, ("",)), (3, ("three",))]
    short = read(path, limit=1)
    assert isinstance(short, Document)
    assert short.text == "one, two\n"
