"""Holds the code to what no general linter knows.

- Numbers made by ``ops`` and ``nn`` say their device, and their precision where it does not follow
  from what they are made of: torch.set_default_dtype and set_default_device change neither memory
  that the native core writes nor any result. Weights alone follow the defaults, as torch.nn's do.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "unrolled"
# what each function of torch must be told
BUFFERS = {
    **dict.fromkeys(("empty", "zeros", "ones", "rand", "randn", "eye", "empty_strided"), "both"),
    **dict.fromkeys(("arange", "full", "tensor", "as_tensor", "randperm", "randint"), "device"),
}


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


def main() -> int:
    """Print what breaks a convention; return the exit code."""
    broken = []
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
