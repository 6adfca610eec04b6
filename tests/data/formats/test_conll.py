"""CoNLL files: columns, what stands between them, tags of several schemes, documents, errors."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import Document, read

Word = tuple[str, ...]
SENTENCES: list[list[Word]] = [
    [
        ("Kim", "NN", "I-NP", "B-PER"),
        ("lives", "VB", "O", "O"),
        ("in", "IN", "O", "O"),
        ("Busan", "NN", "I-NP", "B-LOC"),
        ("Bay", "NN", "I-NP", "I-LOC"),
    ],
    [("It", "PP", "O", "O"), ("rains", "VB", "O", "O")],
]
SCHEMES = {
    "BIO": ["B-PER", "O", "O", "B-LOC", "I-LOC"],
    "IOB1": ["I-PER", "O", "O", "I-LOC", "I-LOC"],
    "BIOES": ["S-PER", "O", "O", "B-LOC", "E-LOC"],
    "BILOU": ["U-PER", "O", "O", "B-LOC", "L-LOC"],
    "underscores": ["B_PER", "O", "O", "B_LOC", "I_LOC"],
    "lower case": ["b-per", "o", "o", "b-loc", "i-loc"],
}


def sentence(
    words: list[Word], columns: tuple[int, ...], between: str, end: str = ""
) -> str:
    lines = [between.join(word[column] for column in columns) for word in words]
    return "".join(f"{line}{end}\n" for line in lines)


def text(
    columns: tuple[int, ...] = (0, 3), between: str = " ", gap: str = "", end: str = ""
) -> str:
    parts = [sentence(words, columns, between, end) for words in SENTENCES * 10]
    return f"{gap}\n".join(parts)


def expected(columns: tuple[int, ...]) -> list[tuple[list[str], ...]]:
    rows = []
    for words in SENTENCES * 10:
        cells = ([word[column] for word in words] for column in columns)
        rows.append(tuple(cells))
    return rows


@pytest.mark.parametrize("name", ["d.conll", "d.txt", "d.tsv", "d.csv", "d.bio", "d"])
@pytest.mark.parametrize("between", [" ", "\t", "  "])
@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ((0, 3), ["words", "tags"]),
        ((0, 1, 3), ["words", "pos", "tags"]),
        ((0, 1, 2, 3), ["words", "pos", "chunk", "ner"]),
        ((0, 1, 1, 2, 3), ["words", "column2", "column3", "column4", "tags"]),
    ],
)
def test_columns(
    write: Any, name: str, between: str, columns: tuple[int, ...], names: list[str]
) -> None:
    dataset = table(write(text(columns, between), name))
    assert (dataset.format.kind, dataset.columns) == ("conll", names)
    assert dataset.rows == expected(columns)
    assert dataset.lines[:3] == [1, 7, 10]
    schema = infer(dataset, ColumnHints())
    assert (schema.task, schema.inputs, schema.answer) == ("tag", ("words",), names[-1])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_of_tags(write: Any, scheme: str) -> None:
    words = [word[0] for word in SENTENCES[0]]
    pairs = zip(words, SCHEMES[scheme], strict=True)
    lines = "".join(f"{word} {tag}\n" for word, tag in pairs)
    dataset = table(write(f"{lines}\n" * 9))
    assert dataset.rows == [(words, SCHEMES[scheme])] * 9


@pytest.mark.parametrize(
    "written",
    [
        text().replace("\n", "\r\n"),
        "\ufeff" + text(),
        text(gap=" "),
        text(between="\t", gap="\t"),
        text(end=" "),
        text(between="\t", end="\t"),
        text().rstrip("\n"),
        text() + "\n\n\n",
        "\n\n" + text().replace("\n\n", "\n\n\n"),
    ],
)
def test_blanks_and_line_ends(write: Any, written: str) -> None:
    assert table(write(written)).rows == expected((0, 3))


@pytest.mark.parametrize("mark", ["-DOCSTART- -X- O O", "-DOCSTART- O", "-DOCSTART-"])
def test_documents_and_comments_are_no_words(write: Any, mark: str) -> None:
    parts = [f"{mark}\n\n", text(), f"\n{mark}\n\n# sent_id = d 5\n", text()]
    dataset = table(write("".join(parts)))
    assert dataset.rows == expected((0, 3)) * 2
    assert dataset.lines[0] == 3


@pytest.mark.parametrize("gap", ["", "\n"])
def test_a_header_is_no_word(write: Any, gap: str) -> None:
    dataset = table(write(f"word\ttag\n{gap}{text(between=chr(9))}", "d.tsv"))
    assert dataset.rows == expected((0, 3))


def test_tags_of_a_closed_set_between_tabs_or_by_the_name_of_the_file(
    write: Any,
) -> None:
    for path in (write(text((0, 1), "\t")), write(text((0, 1)), "d.conll")):
        assert table(path).rows == expected((0, 1))
    assert isinstance(read(write(text((0, 1)), "prose.txt")), Document)


def test_words_that_are_quotes_or_numbers(write: Any) -> None:
    lines = '"\tO\n5\tB-NUM\n#\tO\n,\tO\n\n'
    dataset = table(write(lines * 9, "d.tsv"))
    assert dataset.rows == [(['"', "5", "#", ","], ["O", "B-NUM", "O", "O"])] * 9


@pytest.mark.parametrize("line", ["oops", "three of them"])
def test_a_line_of_another_width_is_named(write: Any, line: str) -> None:
    path = write(f"{text()}\nwell O\n{line}\n\n{text()}")
    with pytest.raises(
        DataError, match=r"expected 2 columns \(words, tags\)"
    ) as caught:
        read(path)
    assert caught.value.line == text().count("\n") + 3
    dataset = table(path, on_error="skip")
    assert dataset.rows == expected((0, 3)) * 2
    assert len(dataset.skipped) == 1


def test_a_line_that_does_not_decode_loses_its_sentence_alone(write: Any) -> None:
    bad = b"well O\n\xff\xfe O\nso O\n\n"
    path = write(text().encode() + b"\n" + bad + text().encode())
    dataset = table(path, on_error="skip", encoding="utf-8")
    assert dataset.rows == expected((0, 3)) * 2
    assert [error.line for error in dataset.skipped] == [text().count("\n") + 3]


@pytest.mark.parametrize(
    "written",
    [
        "a line of text\n\nand one more line\n" * 9,
        "film good\n\nfilm bad\n\n" * 9,
        "a\t1\n\nb\t2\n" * 9,
        "good film\tpos\nbad film\tneg\n" * 9,
    ],
)
def test_other_files_are_none(write: Any, written: str) -> None:
    assert read(write(written)).format.kind != "conll"
