"""Trees in the brackets of the Penn Treebank (Marcus et al. 1993), on one line or on several.

A tree is kept flat, so that none is too deep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from unrolled.core.errors import DataError, UserError, shown
from unrolled.data.lines import SKIP_HINT, Report
from unrolled.scores.brackets import OUTERMOST, Span

COLUMNS = ("words", "tree")
NAME = re.compile(r"\.(ptb|mrg|penn|trees?)(\.gz)?$", re.IGNORECASE)
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
    for place, leaf in enumerate(leaves):
        while following < len(spans) and spans[following][1] == place:
            label, _, end = spans[following]
            yield f"({label}"
            ends.append(end)
            following += 1
        yield leaf
        while ends and ends[-1] == place + 1:
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
    place = 0
    tokens = [*tokens, "", ""]
    while token := tokens[place]:
        if token == CLOSE:
            if not opened:
                raise UserError(
                    "a bracket is closed that was not opened; mend the tree"
                )
            label, start, _ = spans[opened[-1]]
            if start == len(words):
                raise UserError(f"the bracket ({label[:40]} ) is empty; remove it")
            spans[opened.pop()] = (label, start, len(words))
            place += 1
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
        label = "" if tokens[place + 1] in "()" else tokens[place + 1]
        if not label and opened:
            raise UserError("a bracket within the tree has no label; write (LABEL ...)")
        place += 1 + bool(label)
        if tokens[place] in ("(", CLOSE, ""):
            opened.append(len(spans))
            spans.append((label, len(words), -1))
        elif tokens[place + 1] == CLOSE:
            words.append(tokens[place])
            tags.append(label)
            place += 2
        else:
            raise UserError(
                f"({label[:40]} {tokens[place][:40]} is not closed after its word"
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


# ---------------------------------------------------------------------- files of trees


def looks_like_trees(lines: Sequence[str]) -> bool:
    """Return whether most of the first stretches of these lines, two or more, are trees."""
    first = next((line for line in lines if line.strip()), "")
    if not first.startswith("("):
        return False
    pieces = [text for _, text, _ in _pieces(enumerate(lines[:2000], 1), {})][:50]
    return sum(map(_is_tree, pieces)) >= max(2, len(pieces) / 2)


def _is_tree(text: str) -> bool:
    try:
        return bool(parse(text).spans)
    except UserError:
        return False


def trees(
    lines: Iterable[tuple[int, str]],
    path: str,
    report: Report,
    lost: Mapping[int, DataError],
) -> Iterator[tuple[int, tuple[list[str], str]]]:
    """Yield (line it starts on, (its words without traces, the tree on one line)) for every tree.

    A tree with a fault is reported where it starts, and left out whole. The next one begins on a
    line that starts with a bracket, or after an empty line.

    Args:
        lines: the numbered lines of the file.
        path: the file, for its errors.
        report: takes the errors, one a tree.
        lost: what is wrong with the lines that stand empty since they do not decode.
    """
    for line, text, fault in _pieces(lines, lost):
        if fault is None:
            try:
                tree = parse(text)
                row = list(plain(tree).words), str(tree)
            except UserError as error:
                fault = DataError(f"{error}, {SKIP_HINT}", path, line)
        if fault is not None:
            report(fault)
            continue
        yield line, row


def _pieces(
    lines: Iterable[tuple[int, str]], lost: Mapping[int, DataError]
) -> Iterator[tuple[int, str, DataError | None]]:
    """Yield (first line, text, fault) for the stretches of a file that are to be one tree each."""
    held = list[str]()
    first = 0
    depth = 0
    fault = None
    for line, text in lines:
        blank = not text.strip() and line not in lost
        if held and (blank or text.startswith("(")):
            yield first, "\n".join(held), fault
            held = []
            depth = 0
            fault = None
        if blank:
            continue
        first = first if held else line
        held.append(text)
        fault = fault or lost.get(line)
        depth += text.count("(") - text.count(")")
        if depth <= 0 and fault is None:
            yield first, "\n".join(held), None
            held = []
            depth = 0
    if held:
        yield first, "\n".join(held), fault
