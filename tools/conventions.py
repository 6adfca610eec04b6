"""Holds the code to what no general linter knows.

- One class a name in the package, and the words of the glossary in CONTRIBUTING.md: what they
  replace does not come back as an identifier of the package, its tests, benchmarks or tools, nor
  "slope" in prose.
- One statement a line: no assignment of one tuple to another, but to exchange two values; at most
  one ``for`` a comprehension; no conditional expression inside another.
- Nothing outside ``tasks/`` asks which task it has: neither its class nor its name, but what the
  task says of itself (``is_generative``, ``reads_pairs`` ...), so that a new task is one file.
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
PYTHON = ("src", "tests", "benchmarks", "tools")
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
    weights: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Parameter"):
            weights.update(map(id, ast.walk(node)))
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


def keys_in(tree: ast.AST) -> set[int]:
    """Return the names (by id) that are keys of a recipe: what people write in files stays."""
    keys: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        if any(ast.unparse(base).endswith("Config") for base in node.bases):
            keys.update(
                id(line.target) for line in node.body if isinstance(line, ast.AnnAssign)
            )
    return keys


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every class, function, argument and variable that is made."""
    keys = keys_in(tree)
    for node in ast.walk(tree):
        if id(node) in keys:
            continue
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
    advice = "see the glossary of CONTRIBUTING.md"
    for folder in PYTHON:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, name in names_in(ast.parse(path.read_text("utf-8"))):
                if name in replaced:
                    yield f"{path.relative_to(ROOT)}:{line}: {name}; {advice}"
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
            inside = [inner for inner in ast.walk(node) if inner is not node]
            if any(isinstance(inner, ast.IfExp) for inner in inside):
                yield node.lineno, "a conditional expression inside another"


def squeezed_lines() -> Iterator[str]:
    """Yield where code says several things in one line."""
    for folder in ("src", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, message in squeezed(ast.parse(path.read_text("utf-8"))):
                yield f"{path.relative_to(ROOT)}:{line}: {message}"


def repeated_classes() -> Iterator[str]:
    """Yield the names that several classes of the package have."""
    lines_of: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                line = f"{path.relative_to(ROOT)}:{node.lineno}"
                lines_of[node.name].append(line)
    for name, lines in lines_of.items():
        if len(lines) > 1:
            yield f"{', '.join(lines)}: several classes are named {name}"


def task_classes() -> set[str]:
    """Return the classes of ``tasks/`` that derive from ``Task``."""
    bases: dict[str, set[str]] = {}
    for path in sorted((SOURCE / "tasks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = (ast.unparse(base).split(".")[-1] for base in node.bases)
                bases[node.name] = set(names)
    classes: set[str] = set()
    while True:
        known = classes | {"Task"}
        more = {name for name, parents in bases.items() if parents & known}
        if more == classes:
            return classes
        classes = more


def is_name_of_task(node: ast.AST) -> bool:
    """Whether an expression is the name or the pattern of a task, as ``recipe.task`` is."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = ast.unparse(node.value).split(".")[-1]
    if node.attr in ("name", "pattern"):
        return owner == "task"
    return node.attr == "task" and owner in ("schema", "recipe", "requested")


def is_fixed(node: ast.AST) -> bool:
    """Whether an expression is a text, or several of them, that stand in the code."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    several = isinstance(node, ast.Tuple | ast.List | ast.Set)
    return several and any(map(is_fixed, node.elts))


def told_apart(tree: ast.AST, classes: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and message of code that tells tasks apart by their class or their name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in ("isinstance", "issubclass"):
                named = {
                    ast.unparse(inner).split(".")[-1]
                    for inner in ast.walk(node.args[1])
                }
                for name in sorted(named & classes):
                    yield node.lineno, f"the class of a task is asked for: {name}"
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(is_name_of_task, sides)) and any(map(is_fixed, sides)):
                yield node.lineno, f"tasks are told apart by name: {ast.unparse(node)}"
            if any(ast.unparse(side).startswith("type(") for side in sides):
                named = {ast.unparse(side).split(".")[-1] for side in sides}
                for name in sorted(named & classes):
                    yield node.lineno, f"the class of a task is asked for: {name}"
        elif isinstance(node, ast.Match) and is_name_of_task(node.subject):
            yield node.lineno, "tasks are told apart by name"


def tasks_told_apart() -> Iterator[str]:
    """Yield where something outside ``tasks/`` asks which task it has.

    ``data/schema.py`` may: it infers the task of a file, before there is one.
    """
    classes = task_classes()
    assert classes
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE)
        if name.parts[0] == "tasks" or name == Path("data", "schema.py"):
            continue
        for line, message in told_apart(ast.parse(path.read_text("utf-8")), classes):
            yield f"{path.relative_to(ROOT)}:{line}: {message}"


def main() -> int:
    """Print what breaks a convention; return the exit code."""
    broken = [
        *old_words(),
        *repeated_classes(),
        *squeezed_lines(),
        *tasks_told_apart(),
    ]
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
