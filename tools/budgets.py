"""Holds the code to its budgets: 60 lines a function, 560 a file, 29,600 for the package."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

# 29,600 since minGRU, plugins and JSON arrays came in;
# 29,300 since everything that is read is bounded and checked first (digests, claims and links of
# run folders, edits before a resume, terminals and shells, hooks in every form of a layer); with it
# 560 lines a file, from which those that grew most are to come back when they are taken apart;
# 26,000 since sequence to sequence came in: decoders and their memory, search with its constraints
# (1,000 lines), three tasks with their readers and scorers, training in several processes, export;
# 19,000 since the native core came in (its loader, layouts, gradients, traced operators and
# streams; the C++ itself is not counted), 18,000 before that for readers of nine formats, shards,
# series of numbers and the doctor; the first design foresaw 15,000 without them
FUNCTION, FILE, PACKAGE = 60, 560, 29_600
SOURCE = Path(__file__).parent.parent / "src" / "unrolled"


def main() -> int:
    """Print the sizes and what exceeds them; return the exit code."""
    total, longest_file, longest_function = 0, (0, ""), (0, "")
    over = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text("utf-8")
        lines = text.count("\n")
        total += lines
        name = str(path.relative_to(SOURCE))
        longest_file = max(longest_file, (lines, name))
        if lines > FILE:
            over.append(f"{name}: {lines} lines (budget {FILE})")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                longest_function = max(longest_function, (size, f"{name}:{node.name}"))
                if size > FUNCTION:
                    over.append(
                        f"{name}:{node.lineno} {node.name}: {size} lines (budget {FUNCTION})"
                    )
    if total > PACKAGE:
        over.append(f"the package: {total} lines (budget {PACKAGE})")
    print(
        f"budgets: package {total:,} of {PACKAGE:,} lines; longest file {longest_file[1]} "
        f"{longest_file[0]} of {FILE}; longest function {longest_function[1]} "
        f"{longest_function[0]} of {FUNCTION}"
    )
    for line in over:
        print(f"over budget: {line}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
