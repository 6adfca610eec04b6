"""Tables with a word a row: which column tells sentences apart, and what is no such table."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import read

SENTENCES = [
    [("Kim", "NN", "B-PER"), ("lives", "VB", "O"), ("here", "RB", "O")],
    [("It", "PP", "O"), ("rains", "VB", "O")],
] * 10
EXPECTED = [
    tuple([word[column] for word in words] for column in range(3))
    for words in SENTENCES
]


def written(header: str, cells: Any, between: str = ",", end: str = "\n") -> str:
    lines = [header]
    for number, words in enumerate(SENTENCES):
        rows = [cells(number, index, word) for index, word in enumerate(words)]
        lines += [between.join(row) for row in rows]
    return end.join([*lines, ""])


def first_alone(number: int, index: int, word: tuple[str, ...]) -> list[str]:
    return [f"Sentence: {number + 1}" if index == 0 else "", *word]


def in_all(number: int, index: int, word: tuple[str, ...]) -> list[str]:
    return [str(number), *word]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (written("Sentence #,Word,POS,Tag", first_alone), ["Word", "POS", "Tag"]),
        (written("sentence_id,word,pos,tag", in_all), ["word", "pos", "tag"]),
        (
            written("sent_id\ttoken\tpos\tner", in_all, "\t", "\r\n"),
            ["token", "pos", "ner"],
        ),
        (
            written("Sentence;Word;POS;label", first_alone, ";"),
            ["Word", "POS", "label"],
        ),
        (
            "\ufeff" + written("Sentence #,Word,POS,Tag", first_alone),
            ["Word", "POS", "Tag"],
        ),
        (
            written(
                "sentence,word,pos,tag",
                lambda number, index, word: [
                    f"{number}" if not index else "NaN",
                    *word,
                ],
            ),
            ["word", "pos", "tag"],
        ),
        (
            written(
                "word,pos,tag,sentence_id",
                lambda number, index, word: [*word, str(number)],
            ),
            ["word", "pos", "tag"],
        ),
    ],
)
def test_rows_become_sentences(write: Any, text: str, columns: list[str]) -> None:
    dataset = table(write(text, "d.csv"))
    assert (dataset.format.kind, dataset.columns) == ("word_table", columns)
    assert dataset.rows == EXPECTED
    assert dataset.lines[:3] == [2, 5, 7]
    schema = infer(dataset, ColumnHints())
    assert (schema.task, schema.inputs) == ("tag", (columns[0],))
    assert schema.answer == columns[-1]


def test_other_columns_are_kept_as_lists(write: Any) -> None:
    def cells(number: int, index: int, word: tuple[str, ...]) -> list[str]:
        return [str(number // 5), str(number), *word]

    dataset = table(write(written("doc_id,sentence_id,token,pos,ner", cells)))
    assert dataset.columns == ["token", "doc_id", "pos", "ner"]
    assert dataset.rows[5][1] == ["1", "1"]
    schema = infer(dataset, ColumnHints())
    assert (schema.inputs, schema.answer) == (("token",), "ner")


def test_words_that_are_commas_or_quotes(write: Any) -> None:
    text = "sentence_id,word,tag\n" + '1,"""",O\n1,",",O\n1,a,B-X\n2,b,O\n' * 5
    dataset = table(write(text))
    assert dataset.rows[0] == (['"', ",", "a"], ["O", "O", "B-X"])
    assert len(dataset.rows) == 10


def test_words_before_the_first_sentence_are_an_error(write: Any) -> None:
    body = written("Sentence #,Word,POS,Tag", first_alone)
    header, _, rest = body.partition("\n")
    path = write(f"{header}\n,lost,NN,O\n{rest}")
    with pytest.raises(DataError, match="empty before the first sentence") as caught:
        read(path)
    assert caught.value.line == 2
    assert table(path, on_error="skip").rows == EXPECTED


def test_a_table_of_sentences_and_a_word_of_each_is_none(write: Any) -> None:
    rows = "".join(
        f"this is sentence {row},w{row % 5},{'ab'[row % 2]}\n" for row in range(40)
    )
    dataset = table(write(f"sentence,word,label\n{rows}", "d.csv"))
    assert (dataset.format.kind, len(dataset.rows)) == ("table", 40)
