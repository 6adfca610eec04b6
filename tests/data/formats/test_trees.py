"""Files of trees: on one line or on several, told from text, and errors that name the line."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.sources import parse_row, read
from unrolled.data.trees import linearise, parse, plain, spans_of

ONE = "(S (NP (DT the) (NN cat)) (VP (VBZ sits)) (. .))"


LINES = """\
(ROOT
  (S
    (NP-SBJ (DT the) (NN cat))
    (VP (VBZ sits))
    (. .)))

(ROOT (NP (NN rain)))
( (S (NP-SBJ (-NONE- *)) (VP (VB go) (NP (-LRB- -LRB-) (NN x) (-RRB- -RRB-)))) )
"""


@pytest.mark.parametrize("name", ["data.txt", "data.ptb", "data"])
@pytest.mark.parametrize("packed", [False, True])
def test_trees_on_one_line_and_on_several_are_read(
    write: Any, name: str, packed: bool
) -> None:
    content = LINES.replace("\n", "\r\n").encode("utf-8-sig")
    dataset = table(write(gzip.compress(content) if packed else content, name))
    assert dataset.format.kind == "trees"
    assert dataset.format.describe() == "Penn trees, UTF-8" + ", gzip" * packed
    assert dataset.columns == ["words", "tree"]
    assert dataset.lines == [1, 7, 8]
    assert dataset.rows[0] == (
        ["the", "cat", "sits", "."],
        f"(ROOT {ONE.replace('NP', 'NP-SBJ')})",
    )
    assert dataset.rows[2][0] == ["go", "-LRB-", "x", "-RRB-"]
    assert dataset.rows[2][1].startswith("( (S (NP-SBJ (-NONE- *)) (VP")


def test_text_and_tables_that_begin_with_a_bracket_are_no_trees(write: Any) -> None:
    assert read(write(f"{ONE}\n")).format.kind == "text"  # one alone may be anything
    assert read(write(f"{ONE}\n", "x.mrg")).format.kind == "trees"
    assert read(write("(see below)\n(and above)\nso (it) goes\n")).format.kind == "text"
    assert read(write("(a (b c))\nis a list\nin Lisp\n")).format.kind == "text"
    assert (
        read(write("(a, b),1\n(b, c),2\n(c, d),1\n(e, f),2\n", "x.csv")).format.kind
        == "table"
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("(S (NP (NN a))", "1 bracket not closed"),
        ("(S (NP\n  (NN a))", "1 bracket not closed"),
        ("(S (NN a)))", "closed that was not opened"),
        ("(S (NN a) (NP ))", "is empty"),
        ("stray", "'stray' stands outside"),
        ("(S (-NONE- *))", "traces and no word"),
        ("(S (NP (NN \udcff)\n  (NN a)))", "not valid UTF-8"),
        ("(S\n  \udcff\n  (NN a))", "not valid UTF-8"),
    ],
)
def test_a_faulty_tree_is_named_and_left_out(
    write: Any, bad: str, message: str
) -> None:
    # the good trees around it follow without an empty line, too
    for between in ("\n", "\n\n"):
        text = f"{ONE}{between}{bad}{between}{ONE}\n(ROOT\n  {ONE})\n"
        path = write(text.encode("utf-8", "surrogateescape"), "data.ptb")
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        line = 1 + between.count("\n") + (bad.startswith("(S\n") and "\udcff" in bad)
        assert caught.value.line == line
        assert "data.on_error=skip" in str(caught.value)
        dataset = table(path, on_error="skip")
        assert [row[0] for row in dataset.rows] == [list(parse(ONE).words)] * 3
        assert [error.line for error in dataset.skipped] == [line]


def test_nul_bytes_are_refused_with_their_line_or_counted(write: Any) -> None:
    path = write(f"{ONE}\n(S (NN \x00))\n{ONE}\n")
    with pytest.raises(DataError, match=":2: NUL bytes"):
        read(path)
    dataset = table(path, on_error="skip")
    assert (dataset.lines, [error.line for error in dataset.skipped]) == ([1, 3], [2])


def test_a_row_to_predict_is_words_with_blanks_between(write: Any) -> None:
    dataset = table(write(LINES))
    assert parse_row("the  cat sits", dataset.format, dataset.columns) == (
        ["the", "cat", "sits"],
    )


GUM = Path(os.environ.get("UNROLLED_DATA", "")) / "gum_const"


@pytest.mark.skipif(not GUM.exists(), reason="UNROLLED_DATA holds no gum_const")
@pytest.mark.parametrize(
    ("name", "count"), [("train.ptb.gz", 10224), ("dev.ptb", 1575)]
)
def test_every_tree_of_gum_survives(name: str, count: int) -> None:
    dataset = table(GUM / name)
    assert len(dataset.rows) == count
    for words, text in dataset.rows:
        tree = plain(parse(text))
        assert list(tree.words) == words
        assert tuple(spans_of(linearise(tree))) == tree.spans
        assert parse(str(tree)) == tree
