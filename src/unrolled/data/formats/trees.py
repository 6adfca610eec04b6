"""Files of trees in the brackets of the Penn Treebank, on one line or on several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from unrolled.core.errors import DataError, UserError
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.lines import SKIP_HINT, Report, lines_with_errors
from unrolled.data.trees import parse, plain

COLUMNS = ("words", "tree")
# what tells: so many lines, and of these so many stretches
_SNIFFED_LINES = 2000
_PIECES = 50


class TreesFormat(FileFormat):
    kind = "trees"
    title = "Penn trees"
    suffixes = ("ptb", "mrg", "penn", "tree", "trees")

    def sniff(self, head: Head) -> Sniffed | None:
        if not self.names(head.name) and not looks_like_trees(head.lines):
            return None
        return Sniffed(replace(head.format, kind=self.kind), list(COLUMNS))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        lines, lost = lines_with_errors(file.origin, file.format)
        yield from trees(lines, file.name, report, lost)

    def parse_row(
        self, line: str, format: Format, columns: Sequence[str]
    ) -> tuple[list[str]]:
        return (line.split(),)


def looks_like_trees(lines: Sequence[str]) -> bool:
    """Return whether most of the first stretches of these lines, two or more, are trees."""
    first = next((line for line in lines if line.strip()), "")
    if not first.startswith("("):
        return False
    stretches = _pieces(enumerate(lines[:_SNIFFED_LINES], 1), {})
    pieces = [text for _, text, _ in stretches][:_PIECES]
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

    A tree with an error is reported where it starts, and left out whole. The next one begins on a
    line that starts with a bracket, or after an empty line.

    Args:
        lines: the numbered lines of the file.
        path: the file, for its errors.
        report: takes the errors, one a tree.
        lost: what is wrong with the lines that stand empty since they do not decode.
    """
    for line, text, damage in _pieces(lines, lost):
        if damage is not None:
            report(damage)
            continue
        try:
            tree = parse(text)
            row = list(plain(tree).words), str(tree)
        except UserError as error:
            report(DataError(f"{error}, {SKIP_HINT}", path, line))
            continue
        yield line, row


def _pieces(
    lines: Iterable[tuple[int, str]], lost: Mapping[int, DataError]
) -> Iterator[tuple[int, str, DataError | None]]:
    """Yield (first line, text, damage) for the stretches of a file that are to be one tree each."""
    held = list[str]()
    first = 0
    depth = 0
    damage = None
    for line, text in lines:
        blank = not text.strip() and line not in lost
        if held and (blank or text.startswith("(")):
            yield first, "\n".join(held), damage
            held = []
            depth = 0
            damage = None
        if blank:
            continue
        first = first if held else line
        held.append(text)
        damage = damage or lost.get(line)
        depth += text.count("(") - text.count(")")
        if depth <= 0 and damage is None:
            yield first, "\n".join(held), None
            held = []
            depth = 0
    if held:
        yield first, "\n".join(held), damage
