"""Holds the code to its budgets, which count code tokens: squeezing a line gains nothing.

A function has at most 400 tokens and 60 lines, a file 4,000 tokens, and a file of more than 100
lines at most 9 tokens a line of code on average. Comments, docstrings and line ends are no tokens.
The size of the package is printed; a rise is explained in CHANGELOG.md.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FUNCTION_TOKENS = 400
FUNCTION_LINES = 60
FILE_TOKENS = 4_000
LINE_TOKENS = 9
SHORT_FILE = 100  # lines up to which the average a line is not looked at
SOURCE = Path(__file__).parent.parent / "src" / "unrolled"
NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def docstring_lines(tree: ast.AST) -> set[int]:
    """Return the lines that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | Function):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def tokens_by_line(text: str, tree: ast.AST) -> Counter[int]:
    """Return how many code tokens begin on each line that has any."""
    documented = docstring_lines(tree)
    counts: Counter[int] = Counter()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type not in NO_CODE and line not in documented:
            counts[line] += 1
    return counts


def functions(tree: ast.AST) -> Iterator[tuple[Function, int]]:
    """Yield every function with how many lines it has."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node, (node.end_lineno or 0) - node.lineno + 1


def over_budget(path: Path) -> tuple[Counter[int], list[str]]:
    """Return the tokens of a file by line, and what of it exceeds a budget."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    counts = tokens_by_line(text, tree)
    name = str(path.relative_to(SOURCE))
    over: list[str] = []
    tokens = counts.total()
    if tokens > FILE_TOKENS:
        over.append(f"{name}: {tokens:,} tokens (budget {FILE_TOKENS:,})")
    if text.count("\n") > SHORT_FILE and tokens > LINE_TOKENS * len(counts):
        average = tokens / len(counts)
        over.append(f"{name}: {average:.2f} tokens a line (budget {LINE_TOKENS})")
    for function, lines in functions(tree):
        where = f"{name}:{function.lineno} {function.name}"
        inside = range(function.lineno, function.lineno + lines)
        size = sum(counts[line] for line in inside)
        if size > FUNCTION_TOKENS:
            over.append(f"{where}: {size} tokens (budget {FUNCTION_TOKENS})")
        if lines > FUNCTION_LINES:
            over.append(f"{where}: {lines} lines (budget {FUNCTION_LINES})")
    return counts, over


def main() -> int:
    """Print the size of the package and what exceeds its budget; return the exit code."""
    tokens = 0
    lines = 0
    over: list[str] = []
    for path in sorted(SOURCE.rglob("*.py")):
        counts, exceeding = over_budget(path)
        tokens += counts.total()
        lines += len(counts)
        over += exceeding
    for line in over:
        print(f"over budget: {line}", file=sys.stderr)
    print(
        f"budgets: the package has {tokens:,} tokens in {lines:,} lines of code, "
        f"{tokens / lines:.2f} a line; {len(over)} over budget"
    )
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
