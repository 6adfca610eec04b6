"""Trees: what is read, what is refused and where, what parsers learn, and the way back."""

from __future__ import annotations

import random

import pytest

from unrolled.core.errors import UserError
from unrolled.data.trees import Tree, escape, linearise, parse, plain, spans_of

ONE = "(S (NP (DT the) (NN cat)) (VP (VBZ sits)) (. .))"


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
