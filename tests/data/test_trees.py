"""Trees: what is read, what is refused and where, what parsers learn, and the way back."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path
from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataError, UserError
from unrolled.data.sources import parse_row, read
from unrolled.data.trees import Tree, escape, linearise, parse, plain, spans_of

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


def test_a_tree_is_its_words_tags_and_brackets() -> None:
    tree = parse(ONE)
    assert tree.words == ("the", "cat", "sits", ".")
    assert tree.tags == ("DT", "NN", "VBZ", ".")
    assert tree.spans == (("S", 0, 4), ("NP", 0, 2), ("VP", 2, 3))
    assert str(tree) == ONE
    assert parse("(NN rain)") == Tree(("rain",), ("NN",), ())
    assert str(parse(" ( (S\n\t(X\n(Y  y) ))  )")) == "( (S (X (Y y))))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(S (NP (NN a))", "1 bracket not closed"),
        ("(S (NP (NN a)", "2 brackets not closed"),
        ("(S (NN a)))", "closed that was not opened"),
        (")", "closed that was not opened"),
        ("(S (NN a) (NP ))", r"\(NP \) is empty"),
        ("(S ())", "within the tree has no label"),
        ("(S ((NN a)))", "within the tree has no label"),
        ("(S (NN a b))", r"\(NN a is not closed after its word"),
        ("(NN a", r"\(NN a is not closed"),
        ("(S (NN a) b)", "'b' stands outside of a tree or beside brackets"),
        ("a", "'a' stands outside"),
        ("(S (NN a)) b", "'b' stands outside"),
        ("(S (NN a)) (S (NN b))", "a second tree begins"),
        ("(NN a) (NN b)", "a second tree begins"),
        ("", "there is no tree"),
        ("(", "1 bracket not closed"),
    ],
)
def test_what_is_no_tree_is_told(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("given", "plain_tree"),
    [
        (f"(ROOT {ONE})", ONE),
        (f"( {ONE})", ONE),
        (f"(TOP (ROOT {ONE}))", ONE),
        ("(S (NP-SBJ-1 (NN a)) (NP=2 (NN b)))", "(S (NP (NN a)) (NP (NN b)))"),
        ("(S (-LRB- (-LRB- -LRB-) (NN-X a)))", "(S (-LRB- (-LRB- -LRB-) (NN-X a)))"),
        (
            "(S (NP (-NONE- *)) (VP (VB go) (SBAR (-NONE- 0) (S (-NONE- *T*-1)))))",
            "(S (VP (VB go)))",
        ),
        # without one bracket around all of it, ROOT stays or comes
        ("(ROOT (NP (NN a)) (NP (NN b)))", "(ROOT (NP (NN a)) (NP (NN b)))"),
        ("( (NP (NN a)) (. .))", "(ROOT (NP (NN a)) (. .))"),
        ("(ROOT (NN a))", "(ROOT (NN a))"),
        ("(NN a)", "(ROOT (NN a))"),
        ("(S (S (S (NN a))))", "(S (S (S (NN a))))"),
    ],
)
def test_what_parsers_learn(given: str, plain_tree: str) -> None:
    assert str(plain(parse(given))) == plain_tree
    assert str(plain(parse(plain_tree))) == plain_tree


def test_traces_alone_are_no_tree() -> None:
    with pytest.raises(UserError, match="traces and no word"):
        plain(parse("(S (NP (-NONE- *)))"))


def test_linearised_and_back() -> None:
    assert linearise(parse(ONE)) == [
        "(S",
        "(NP",
        "XX",
        "XX",
        ")",
        "(VP",
        "XX",
        ")",
        "XX",
        ")",
    ]
    assert tuple(spans_of(linearise(parse(ONE)))) == parse(ONE).spans


@pytest.mark.parametrize(
    "tokens",
    [
        "",
        "XX",
        "( S",
        "(S",
        "(S )",
        "(S XX",
        "(S XX ) )",
        "(S XX ) XX",
        "(S XX ) (S XX )",
        "(S XX (NP ) )",
        "(S XX X )",
    ],
)
def test_what_is_no_linearised_tree_is_refused(tokens: str) -> None:
    with pytest.raises(UserError):
        spans_of(tokens.split())


def draw(generator: random.Random, deep: int = 0) -> str:
    """Return a drawn tree with chains of single children."""
    count = generator.choices([1, 2, 3], [3, 2, 1])[0]
    parts = [
        f"(N w{generator.randrange(99)})"
        if deep > 12 or generator.random() < 0.45
        else draw(generator, deep + 1)
        for _ in range(count)
    ]
    return f"({generator.choice('ABC')} {' '.join(parts)})"


def test_every_drawn_tree_survives() -> None:
    generator = random.Random(7)
    for _ in range(500):
        text = draw(generator)
        tree = parse(text)
        assert str(tree) == text
        assert plain(tree) == tree
        assert tuple(spans_of(linearise(tree))) == tree.spans


def test_a_deep_and_a_long_tree_are_read() -> None:
    deep = "(A " * 100_000 + "(N a)" + ")" * 100_000
    assert len(plain(parse(deep)).spans) == 100_000
    assert len(parse(f"(S {'(N a) ' * 100_000})").words) == 100_000


def test_round_brackets_in_words_are_escaped() -> None:
    assert [escape(word) for word in ("(", ")", "f(x)", "[")] == [
        "-LRB-",
        "-RRB-",
        "f-LRB-x-RRB-",
        "[",
    ]


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["data.txt", "data.ptb", "data"])
@pytest.mark.parametrize("packed", [False, True])
def test_trees_on_one_line_and_on_several_are_read(
    write: Any, name: str, packed: bool
) -> None:
    content = LINES.replace("\n", "\r\n").encode("utf-8-sig")
    found = table(write(gzip.compress(content) if packed else content, name))
    assert found.format.kind == "trees"
    assert found.format.describe() == "Penn trees, UTF-8" + ", gzip" * packed
    assert found.columns == ["words", "tree"]
    assert found.lines == [1, 7, 8]
    assert found.rows[0] == (
        ["the", "cat", "sits", "."],
        f"(ROOT {ONE.replace('NP', 'NP-SBJ')})",
    )
    assert found.rows[2][0] == ["go", "-LRB-", "x", "-RRB-"]
    assert found.rows[2][1].startswith("( (S (NP-SBJ (-NONE- *)) (VP")


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
        found = table(path, on_error="skip")
        assert [row[0] for row in found.rows] == [list(parse(ONE).words)] * 3
        assert [error.line for error in found.skipped] == [line]


def test_nul_bytes_are_refused_with_their_line_or_counted(write: Any) -> None:
    path = write(f"{ONE}\n(S (NN \x00))\n{ONE}\n")
    with pytest.raises(DataError, match=":2: NUL bytes"):
        read(path)
    found = table(path, on_error="skip")
    assert (found.lines, [error.line for error in found.skipped]) == ([1, 3], [2])


def test_a_row_to_predict_is_words_with_blanks_between(write: Any) -> None:
    found = table(write(LINES))
    assert parse_row("the  cat sits", found.format, found.columns) == (
        ["the", "cat", "sits"],
    )


GUM = Path(os.environ.get("UNROLLED_DATA", "")) / "gum_const"


@pytest.mark.skipif(not GUM.exists(), reason="UNROLLED_DATA holds no gum_const")
@pytest.mark.parametrize(
    ("name", "count"), [("train.ptb.gz", 10224), ("dev.ptb", 1575)]
)
def test_every_tree_of_gum_survives(name: str, count: int) -> None:
    found = table(GUM / name)
    assert len(found.rows) == count
    for words, text in found.rows:
        tree = plain(parse(text))
        assert list(tree.words) == words
        assert tuple(spans_of(linearise(tree))) == tree.spans
        assert parse(str(tree)) == tree
