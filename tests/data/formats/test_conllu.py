"""CoNLL-U: sentences and their tags, exact lines, and errors that name the faulty line."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import table
from unrolled.core.errors import DataError, UsageError
from unrolled.data.schema import ColumnHints, Schema, infer
from unrolled.data.sources import Table, parse_row, read

FIRST = """\
# sent_id = 1
# text = vámonos al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\tV\tMood=Imp|Number=Plur\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\tCase=Acc\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\tE\t_\t5\tcase\t_\t_
4\tel\tel\tDET\tD\t_\t5\tdet\t_\t_
5\tmar\tmar\tNOUN\tN\t_\t1\tobl\t_\t_
"""
SECOND = """\
# text = Sue likes coffee and Bill tea
1\tSue\tSue\tPROPN\tNNP\t_\t2\tnsubj\t2:nsubj\t_
2\tlikes\tlike\tVERB\tVBZ\t_\t0\troot\t0:root\t_
3\tcoffee\tcoffee\tNOUN\tNN\t_\t2\tobj\t2:obj\t_
4\tand\tand\tCCONJ\tCC\t_\t5\tcc\t5:cc\t_
5\tBill\tBill\tPROPN\tNNP\t_\t2\tconj\t5.1:nsubj\t_
5.1\tlikes\tlike\tVERB\tVBZ\t_\t_\t_\t2:conj\tCopyOf=2
6\ttea\ttea\tNOUN\tNN\t_\t5\torphan\t5.1:obj\t_
"""
BOTH = f"{FIRST}\n{SECOND}\n"


def column(dataset: Table, name: str) -> list[Any]:
    return [row[dataset.columns.index(name)] for row in dataset.rows]


@pytest.mark.parametrize("name", ["data.txt", "data.csv", "data.conllu", "data"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_content_tells_and_words_are_words(
    write: Any, name: str, newline: str
) -> None:
    dataset = table(write(BOTH.replace("\n", newline), name))
    assert dataset.format.kind == "conllu"
    assert dataset.format.describe() == "CoNLL-U, UTF-8"
    assert column(dataset, "words") == [
        ["vamos", "nos", "a", "el", "mar"],
        ["Sue", "likes", "coffee", "and", "Bill", "tea"],
    ]
    assert column(dataset, "upos")[0] == ["VERB", "PRON", "ADP", "DET", "NOUN"]
    assert column(dataset, "xpos")[1] == ["NNP", "VBZ", "NN", "CC", "NNP", "NN"]
    assert column(dataset, "feats")[0][:2] == ["Mood=Imp|Number=Plur", "Case=Acc"]
    assert column(dataset, "head")[1] == ["2", "0", "2", "5", "2", "5"]
    assert column(dataset, "deprel")[1][-1] == "orphan"
    assert dataset.lines == [3, 12]


def test_the_name_tells_where_the_content_does_not(write: Any) -> None:
    for name in ("data.conllu", "data.CONLL"):
        with pytest.raises(
            DataError, match=r":1: a word of CoNLL-U has 10 columns .* found 4"
        ):
            read(write("EU\tNNP\tB-NP\tB-ORG\n", name))
    zipped = table(write(gzip.compress(BOTH.encode()), "data.conllu.gz"))
    assert zipped.format.describe() == "CoNLL-U, UTF-8, gzip"
    assert len(zipped.rows) == 2


def test_a_table_of_ten_columns_stays_a_table(write: Any) -> None:
    rows = "".join(
        "\t".join(str(n * k) for k in range(1, 11)) + "\n" for n in range(7, 20)
    )
    assert table(write(rows)).format.kind == "table"
    named = "\t".join(f"name{k}" for k in range(10)) + "\n"
    assert table(write(named + rows)).format.kind == "table"


def test_tagging_is_the_task_and_any_column_can_be_the_answer(write: Any) -> None:
    dataset = table(write(BOTH))
    assert infer(dataset, ColumnHints()) == Schema("tag", ("words",), (), "upos")
    assert infer(dataset, ColumnHints(label="xpos")) == Schema(
        "tag", ("words",), (), "xpos"
    )
    with pytest.raises(UsageError, match="did you mean 'deprel'"):
        infer(dataset, ColumnHints(label="deprell"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("2\tlikes", "10 columns separated by tabs, found 2"),
        ("2 likes like VERB VBZ _ 0 root _ _", "10 columns separated by tabs, found 1"),
        (
            "3\tlikes\tlike\tVERB\tVBZ\t_\t0\troot\t_\t_",
            "numbered 3 where 2 is expected",
        ),
        (
            "1\tlikes\tlike\tVERB\tVBZ\t_\t0\troot\t_\t_",
            "an empty line ends a sentence",
        ),
        (
            "x\tlikes\tlike\tVERB\tVBZ\t_\t0\troot\t_\t_",
            "'x' is not the number of a word",
        ),
        ("2-1\tlikes\t_\t_\t_\t_\t_\t_\t_\t_", "numbered 2-1"),
        ("2\t\tlike\tVERB\tVBZ\t_\t0\troot\t_\t_", "FORM"),
        ("\udc80", "not valid UTF-8"),
    ],
)
def test_a_faulty_line_is_named_and_its_sentence_left_out(
    write: Any, bad: str, message: str
) -> None:
    lines = SECOND.split("\n")
    faulty = "\n".join([*lines[:2], bad, *lines[3:]]).encode("utf-8", "surrogateescape")
    path = write(FIRST.encode() + b"\n" + faulty + b"\n" + BOTH.encode())
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.line == 13
    assert "data.on_error=skip" in str(caught.value)
    dataset = table(path, on_error="skip")
    assert [len(words) for words in column(dataset, "words")] == [5, 5, 6]
    assert [error.line for error in dataset.skipped] == [13]
    assert dataset.lines == [3, 22, 31]


def test_two_lost_lines_of_a_sentence_are_one_fault(write: Any) -> None:
    lines = SECOND.split("\n")
    bad = "\n".join([lines[0] + "\udcff", *lines[1:3], "\udc80", *lines[4:]])
    path = write(f"{FIRST}\n{bad}\n{BOTH}".encode("utf-8", "surrogateescape"))
    dataset = table(path, on_error="skip")
    assert [error.line for error in dataset.skipped] == [11]
    assert len(dataset.rows) == 3


def test_a_number_of_any_length_is_an_error(write: Any) -> None:
    path = write(FIRST + "\n" + "9" * 5_000 + "\ta" + "\t_" * 8 + "\n\n" + BOTH)
    with pytest.raises(
        DataError, match=r":11: '9+ ... 9+' is not the number of a word"
    ):
        read(path)
    assert len(table(path, on_error="skip").rows) == 3


word = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8
)


@given(
    st.lists(
        st.lists(st.tuples(word, word), min_size=1, max_size=6), min_size=1, max_size=6
    )
)
@settings(max_examples=60, deadline=None)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, corpus: list[list[tuple[str, str]]]
) -> None:
    import unicodedata

    path = tmp_path_factory.getbasetemp() / "any.txt"
    lines = [
        "".join(
            f"{i}\t{form}\t_\t{tag}\t_\t_\t{i - 1}\tdep\t_\t_\n"
            for i, (form, tag) in enumerate(sentence, 1)
        )
        for sentence in corpus
    ]
    path.write_text("\n".join(lines), "utf-8", newline="\n")
    dataset = table(path)
    composed = [
        [
            [unicodedata.normalize("NFC", cell) for cell in cells]
            for cells in zip(*s, strict=True)
        ]
        for s in corpus
    ]
    assert [[row[0], row[2]] for row in dataset.rows] == composed


def test_limit_counts_sentences(write: Any) -> None:
    assert len(table(write(BOTH), limit=1).rows) == 1


def test_a_row_to_predict_is_words_with_blanks_between(write: Any) -> None:
    dataset = table(write(BOTH))
    assert parse_row("Sue likes  tea", dataset.format, dataset.columns) == (
        ["Sue", "likes", "tea"],
    )
