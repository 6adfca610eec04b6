"""Holds the code to what no general linter knows.

- One class a name in the package, and the words of the glossary in CONTRIBUTING.md: what they
  replace does not come back as an identifier, nor "slope" in prose.
- One statement a line: no assignment of one tuple to another, but to exchange two values; at most
  one ``for`` a comprehension; no conditional expression inside another.
- Numbers made by ``ops`` and ``nn`` say their device, and their precision where it does not follow
  from what they are made of: torch.set_default_dtype and set_default_device change neither memory
  that the native core writes nor any result. Weights alone follow the defaults, as torch.nn's do.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "unrolled"
# what each function of torch must be told
BUFFERS = {
    **dict.fromkeys(
        ("empty", "zeros", "ones", "rand", "randn", "eye", "empty_strided"), "both"
    ),
    **dict.fromkeys(
        ("arange", "full", "tensor", "as_tensor", "randperm", "randint"), "device"
    ),
}
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def unsaid_buffers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and message of each buffer that follows torch's defaults."""
    weights = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Parameter")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in weights:
            continue
        module, _, name = ast.unparse(node.func).rpartition(".")
        if module != "torch" or name not in BUFFERS:
            continue
        said = {keyword.arg for keyword in node.keywords}
        needed = ("device",) if BUFFERS[name] == "device" else ("device", "dtype")
        lacking = [word for word in needed if word not in said]
        if lacking:
            yield node.lineno, f"torch.{name} without {' and '.join(lacking)}"


def glossary() -> set[str]:
    """Return the names that the glossary replaces."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
    return set(re.findall(r"\w+", " ".join(rows)))


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every class, function, argument and variable that is made."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def old_words() -> Iterator[str]:
    """Yield where a name or a word of before the glossary stands."""
    replaced = glossary()
    for path in sorted(SOURCE.rglob("*.py")):
        for line, name in names_in(ast.parse(path.read_text("utf-8"))):
            if name in replaced:
                told = f"{name}; see the glossary of CONTRIBUTING.md"
                yield f"{path.relative_to(ROOT)}:{line}: {told}"
    for folder in ("src", "native", "tests", "docs", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".py", ".h", ".cpp", ".md"):
                continue
            for line, text in enumerate(path.read_text("utf-8").splitlines(), 1):
                if re.search("slope", text, re.IGNORECASE):
                    yield f"{path.relative_to(ROOT)}:{line}: a slope is a gradient here"


def squeezed(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and message of what puts several statements into one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            targets = [
                target for target in node.targets if isinstance(target, ast.Tuple)
            ]
            values = sorted(map(ast.unparse, node.value.elts))
            exchanged = all(
                sorted(map(ast.unparse, target.elts)) == values for target in targets
            )
            if targets and not exchanged:
                yield node.lineno, "one assignment a line"
        elif isinstance(node, COMPREHENSIONS) and len(node.generators) > 1:
            yield node.lineno, "one for a comprehension"
        elif isinstance(node, ast.IfExp):
            parts = (node.test, node.body, node.orelse)
            if any(
                isinstance(inner, ast.IfExp)
                for part in parts
                for inner in ast.walk(part)
            ):
                yield node.lineno, "a conditional expression inside another"


def squeezed_lines() -> Iterator[str]:
    """Yield where code says several things in one line."""
    for folder in ("src", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, message in squeezed(ast.parse(path.read_text("utf-8"))):
                yield f"{path.relative_to(ROOT)}:{line}: {message}"


def repeated_classes() -> Iterator[str]:
    """Yield the names that several classes of the package have."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    for name, places in found.items():
        if len(places) > 1:
            yield f"{', '.join(places)}: several classes are named {name}"


def main() -> int:
    """Print what breaks a convention; return the exit code."""
    broken = [*old_words(), *repeated_classes(), *squeezed_lines()]
    for folder in ("ops", "nn"):
        for path in sorted((SOURCE / folder).rglob("*.py")):
            for line, message in unsaid_buffers(ast.parse(path.read_text("utf-8"))):
                broken.append(f"{path.relative_to(SOURCE)}:{line}: {message}")
    for line in broken:
        print(line, file=sys.stderr)
    print(f"conventions: {len(broken)} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
