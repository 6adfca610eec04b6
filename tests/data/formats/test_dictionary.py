"""Pronunciation dictionaries: told from their content, several sounds of a word, comments."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.schema import ColumnHints, Schema, infer
from unrolled.data.sources import Document, read

ENTRIES = """;;; a comment
'bout B AW1 T
aalborg AO1 L B AO0 R G # place, danish
aalborg(2) AA1 L B AO0 R G
a EY1
a(2) AH0
read(3)  R IY1 D
"""


def test_entries_are_told_from_their_content(write: Callable[..., Path]) -> None:
    dataset = table(write(ENTRIES))
    assert dataset.format.describe() == "pronunciation dictionary, UTF-8"
    assert dataset.columns == ["word", "pronunciation"]
    assert dataset.rows == [
        ("'bout", "B AW1 T"),
        ("aalborg", "AO1 L B AO0 R G"),
        ("aalborg", "AA1 L B AO0 R G"),
        ("a", "EY1"),
        ("a", "AH0"),
        ("read", "R IY1 D"),
    ]
    assert dataset.lines == [2, 3, 4, 5, 6, 7]


def test_it_is_rewritten_without_a_word(write: Callable[..., Path]) -> None:
    sounds = ["AH1 B", "IY1 K", "OW1 L T", "ER1 D", "S UW1"]
    pairs = itertools.product("pqrstuvw", range(len(sounds)), range(2))
    text = "".join(
        f"{a}o{b}{c} {a.upper()} {sounds[b]} {'MN'[c]}\n" for a, b, c in pairs
    )
    assert infer(table(write(text)), ColumnHints()) == Schema(
        "rewrite", ("word",), (), "pronunciation"
    )


@pytest.mark.parametrize(
    "text",
    [
        "Call me Ishmael.\nSome years ago, never mind how long.\n",
        "A B C\nD E F\n",  # no mark of stress
        "THE CAT SAT ON THE MAT\nAND THE DOG TOO\n",
    ],
)
def test_prose_is_none(write: Callable[..., Path], text: str) -> None:
    assert isinstance(read(write(text)), Document)


def test_the_name_tells_one_without_stress_and_a_word_without_sounds_is_a_fault(
    write: Callable[..., Path],
) -> None:
    path = write("hund h u n t\nkatze\nmaus m au s\n", "german.dict")
    with pytest.raises(
        DataError, match=r"german\.dict:2: expected a word, a blank and its sounds"
    ):
        read(path)
    dataset = table(path, on_error="skip")
    assert dataset.rows == [("hund", "h u n t"), ("maus", "m au s")]
    assert len(dataset.skipped) == 1
