"""Trees in the brackets of the Penn Treebank (Marcus et al. 1993): read, simplified, linearised.

A tree is kept flat, so that none is too deep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from unrolled.core.errors import UserError, shown
from unrolled.scores.brackets import OUTERMOST, Span

TRACE = "-NONE-"
ROOT = "ROOT"
# of a linearised tree; every other token opens a bracket: (NP
WORD = "XX"
CLOSE = ")"
_TOKEN = re.compile(r"[()]|[^\s()]+")
_FUNCTION = re.compile(r"[-=].*")


@dataclass(frozen=True, slots=True)
class Tree:
    """Words with their tags, and the brackets over them.

    ``spans`` stand in the order in which brackets open: (label, first word, the word after the
    last). None is empty, so that they tell the whole tree.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    spans: tuple[Span, ...]

    def __str__(self) -> str:
        """Return the tree on one line: (S (NP (DT the) (NN cat)) (VP (VBZ sits)))."""
        leaves = (
            f"({tag} {word})" for tag, word in zip(self.tags, self.words, strict=True)
        )
        return " ".join(_tokens(self.spans, leaves)).replace(" )", ")")


def _tokens(spans: Sequence[Span], leaves: Iterable[str]) -> Iterator[str]:
    """Yield the brackets of a tree with its leaves between them."""
    ends = list[int]()
    following = 0
    for position, leaf in enumerate(leaves):
        while following < len(spans) and spans[following][1] == position:
            label, _, end = spans[following]
            yield f"({label}"
            ends.append(end)
            following += 1
        yield leaf
        while ends and ends[-1] == position + 1:
            ends.pop()
            yield CLOSE


def parse(text: str) -> Tree:
    """Read one tree.

    Raises:
        UserError: a bracket is not closed, is empty, has no label or holds a word beside others;
            a word stands outside of brackets; or this is more than one tree, or none.
    """
    words = list[str]()
    tags = list[str]()
    spans = list[Span]()
    opened = list[int]()
    tokens = _TOKEN.findall(text)
    index = 0
    tokens = [*tokens, "", ""]
    while token := tokens[index]:
        if token == CLOSE:
            if not opened:
                raise UserError(
                    "a bracket is closed that was not opened; mend the tree"
                )
            label, start, _ = spans[opened[-1]]
            if start == len(words):
                raise UserError(f"the bracket ({label[:40]} ) is empty; remove it")
            spans[opened.pop()] = (label, start, len(words))
            index += 1
            continue
        if token != "(":
            raise UserError(
                f"{shown(token)} stands outside of a tree or beside brackets in it; "
                "write words as (TAG word)"
            )
        if words and not opened:
            raise UserError(
                "a second tree begins where the first has ended; begin a new line"
            )
        label = "" if tokens[index + 1] in "()" else tokens[index + 1]
        if not label and opened:
            raise UserError("a bracket within the tree has no label; write (LABEL ...)")
        index += 1 + bool(label)
        if tokens[index] in ("(", CLOSE, ""):
            opened.append(len(spans))
            spans.append((label, len(words), -1))
        elif tokens[index + 1] == CLOSE:
            words.append(tokens[index])
            tags.append(label)
            index += 2
        else:
            raise UserError(
                f"({label[:40]} {tokens[index][:40]} is not closed after its word"
            )
    if opened:
        raise UserError(
            f"{len(opened)} bracket{'s' * (len(opened) > 1)} not closed; mend the tree"
        )
    if not words:
        raise UserError(
            "there is no tree; write it as (S (NP (DT the) (NN cat)) (VP (VBZ sits)))"
        )
    return Tree(tuple(words), tuple(tags), tuple(spans))


# ---------------------------------------------------------------------- what is parsed


def plain(tree: Tree) -> Tree:
    """Return the tree as parsers learn it.

    Traces go, with the brackets that hold nothing else, and so do function tags and indices
    (NP-SBJ-1 is NP; -LRB- stays) and the outermost bracket where it is ROOT, TOP or without a
    label. ROOT stays, or comes, where without it the tree would not be one bracket.

    Raises:
        UserError: the tree holds nothing but traces.
    """
    kept = list(accumulate((tag != TRACE for tag in tree.tags), initial=0))
    if not kept[-1]:
        raise UserError("the tree holds traces and no word; remove it")
    leaves = zip(tree.words, tree.tags, strict=True)
    words, tags = zip(
        *((word, tag) for word, tag in leaves if tag != TRACE), strict=True
    )
    spans = [
        (_named(label), kept[start], kept[end])
        for label, start, end in tree.spans
        if kept[start] < kept[end]
    ]
    whole = [end - start == len(words) for _, start, end in spans]
    outer = next(
        (i for i, span in enumerate(spans) if span[0] not in OUTERMOST), len(spans)
    )
    if outer == len(spans) or not whole[outer]:
        return Tree(words, tags, ((ROOT, 0, len(words)), *spans[outer:]))
    return Tree(words, tags, tuple(spans[outer:]))


def _named(label: str) -> str:
    return label if label.startswith("-") else _FUNCTION.sub("", label)


def linearise(tree: Tree) -> list[str]:
    """Return a plain tree as tokens, a word as XX: (S (NP XX XX ) (VP XX ) )."""
    return list(_tokens(tree.spans, [WORD] * len(tree.words)))


def spans_of(tokens: Iterable[str]) -> list[Span]:
    """Return the brackets of a linearised tree.

    Raises:
        UserError: this is not one bracket, closed at its end, with a word in each bracket.
    """
    spans = list[Span]()
    opened = list[int]()
    words = 0
    for token in tokens:
        if spans and not opened:
            raise UserError(f"{shown(token)} stands after the end of the tree")
        if token == WORD and opened:
            words += 1
        elif token.startswith("("):
            opened.append(len(spans))
            spans.append((token[1:], words, -1))
        elif token == CLOSE and opened and spans[opened[-1]][1] < words:
            label, start, _ = spans[opened[-1]]
            spans[opened.pop()] = (label, start, words)
        else:
            raise UserError(f"{shown(token)} stands where a tree cannot go on with it")
    if opened or not spans:
        raise UserError(f"the tree ends with {len(opened)} open brackets")
    return spans


def escape(word: str) -> str:
    """Return a word as it stands in a tree: -LRB- for a round bracket that opens."""
    return word.replace("(", "-LRB-").replace(")", "-RRB-")
